// NgramSource drafts by looking the last tokens of a sequence up in its own text (prompt lookup decoding): if the last
// n tokens stood there before, what followed them then is the draft. In process, no model, answers at once.
//
// It looks for the longest match of n_max..n_min tokens within the last `window` tokens, the latest first. Cost of a
// proposal: one pass over the window.
//
// Thread safety: none.
#pragma once

#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "worker/speculation/draft_source.h"

namespace outrider {

struct NgramOptions {
  int n_max = 3;
  int n_min = 2;
  int window = 4096;  // tokens looked through
};

// What followed the latest longest match, at most `lookahead` tokens; empty if there is none.
absl::Span<const TokenId> LookUpNgram(absl::Span<const TokenId> tokens, int lookahead, const NgramOptions& options);

class NgramSource final : public DraftSource {
 public:
  explicit NgramSource(const NgramOptions& options = {}) : options_(options) {}

  uint64_t connection() const override { return 1; }
  void Open(const Opening& opening) override;
  void Commit(const Advance& advance) override;
  void Close(SequenceId sequence, uint32_t epoch) override;
  void Flush() override {}
  // Every request has its answer here at once; without a match, one without tokens.
  void TakeProposals(std::vector<Proposal>& proposals) override;

 private:
  struct Known {
    uint32_t epoch = 0;
    std::vector<TokenId> tokens;
  };
  void Propose(SequenceId sequence, const Known& known, int lookahead);

  const NgramOptions options_;
  absl::flat_hash_map<SequenceId, Known> sequences_;
  std::vector<Proposal> proposals_;
};

}  // namespace outrider
