// DraftReplay gives a draft worker's drafts a chosen quality: what a target put out in an earlier run is drafted again,
// each token wrong by a chance. The draft model computes all the same; its own choice counts for nothing. So the cost
// of speculation can be measured at any acceptance, also of models without sense (random weights).
//
// For benches. What is served does not change: drafts never change it. PURE.
//
// Thread safety: constant after construction.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/ids.h"
#include "worker/sequence/sampling_params.h"

namespace outrider {

class DraftReplay {
 public:
  struct Options {
    double acceptance = 1;  // [0, 1] chance that a token is the recorded one
    int vocab_size = 0;
  };
  // `lines` are JSON, one a request, as `outrider generate --json` prints them: "seed", by which a request is known
  // again, and "output_token_ids"; all else is ignored. INVALID_ARGUMENT naming the line and what is wrong with it.
  static absl::StatusOr<DraftReplay> Parse(absl::string_view lines, const Options& options);

  // What stands at position `index` of the output of the request with these parameters; `chosen` where nothing was
  // recorded. Whether it is wrong is a function of the seed and the position.
  TokenId TokenAt(const SamplingParams& params, int index, TokenId chosen) const;

  size_t num_requests() const { return outputs_.size(); }

 private:
  explicit DraftReplay(const Options& options) : options_(options) {}

  Options options_;
  absl::flat_hash_map<uint64_t, std::vector<TokenId>> outputs_;  // by seed
};

}  // namespace outrider
