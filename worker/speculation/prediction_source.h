// PredictionSource drafts from what a request said its output will be (OpenAI's predicted outputs): as long as the
// output follows the prediction, what comes next there is the draft. In process, no model, answers at once.
//
// It keeps a place in each sequence's prediction. Where the output leaves it, the place is found anew: behind the
// longest run of n_max..n_min last output tokens that stands in the prediction within `window` tokens of where it would
// be, the nearest, later ones first among equals. While there is none, it drafts nothing. Cost: O(1) a token that
// follows, else a pass over the window, however long the prediction is.
//
// Thread safety: none.
#pragma once

#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "worker/speculation/draft_source.h"

namespace outrider {

struct PredictionOptions {
  int n_max = 8;
  int n_min = 2;
  int window = 4096;  // tokens looked through, each way
};

// The place after the match described above; `from` is where it is thought to be. -1: there is none.
int FindPlace(absl::Span<const TokenId> prediction, absl::Span<const TokenId> output, int from,
              const PredictionOptions& options);

class PredictionSource final : public DraftSource {
 public:
  explicit PredictionSource(const PredictionOptions& options = {}) : options_(options) {}

  uint64_t connection() const override { return 1; }
  void Open(const Opening& opening) override;
  void Commit(const Advance& advance) override;
  void Close(SequenceId sequence, uint32_t epoch) override;
  void Flush() override {}
  // Every request has its answer here at once; off the prediction, one without tokens.
  void TakeProposals(std::vector<Proposal>& proposals) override;

 private:
  struct Known {
    uint32_t epoch = 0;
    std::vector<TokenId> prediction;
    std::vector<TokenId> output;
    int num_prompt_tokens = 0;
    int place = 0;      // of what comes next in the prediction
    bool lost = false;  // the output is somewhere else
  };
  void Follow(Known& known, absl::Span<const TokenId> tokens) const;
  void Propose(SequenceId sequence, const Known& known, int lookahead);

  const PredictionOptions options_;
  absl::flat_hash_map<SequenceId, Known> sequences_;
  std::vector<Proposal> proposals_;
};

}  // namespace outrider
