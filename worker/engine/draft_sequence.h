// DraftSequence is a draft worker's view of one sequence of a target group: what is committed, how much of it is in the
// draft model's KV cache, and what has been drafted since. PURE.
//
// The draft model's backend mirrors sequences like a rank of a target group does and knows no rollback. What a commit
// makes wrong is left behind instead: the mirrored sequence ends and a new one starts with the committed tokens over
// the same blocks, computing from the first position whose KV is not right. A mirror stays in use while the commit
// agrees with what it drafted.
//
// Invariants:
//   - positions [0, num_computed()) of the KV cache hold committed() followed by draft();
//   - a draft follows from all committed tokens: a commit voids what it contradicts.
//
// Thread safety: none. Owned by the drafter's thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/ids.h"
#include "worker/sequence/sampling_params.h"
#include "worker/step/step_plan.h"

namespace outrider {

class DraftSequence {
 public:
  // REQUIRES: prompt is not empty; all ids are of the vocabulary; prompt and output together are at most max_model_len.
  struct Start {
    uint32_t epoch = 0;
    std::vector<TokenId> prompt;
    std::vector<TokenId> output;
    SamplingParams params;
    int max_model_len = 0;
  };
  explicit DraftSequence(Start start);

  enum class CommitOutcome {
    kTaken,
    kGap,            // begins beyond the committed length: something in between was lost
    kContradiction,  // differs from what was committed before
    kTooLong,        // would exceed max_model_len
  };
  // Takes note of what is decided at [first_position, first_position + ids.size()), known tokens included. Only kTaken
  // changes anything. A draft that was asked for before is void, and none is wanted until WantDraft.
  // REQUIRES: ids are of the vocabulary.
  CommitOutcome Commit(int first_position, absl::Span<const TokenId> ids);

  // Asks for a draft of `lookahead` tokens after the committed ones; 0 asks for none.
  void WantDraft(int lookahead);

  // Asks, after the last draft was taken, to draft on as if all of it and one token more were accepted: a path from the
  // same base that covers the next draft too. Anything asked for, or a commit, ends it. REQUIRES: !wants_draft().
  void DraftAhead();

  bool wants_draft() const { return wants_draft_; }
  // What is wanted was not asked for.
  bool drafts_ahead() const { return wants_draft_ && ahead_; }
  // The draft that is wanted is as long as it can be: asked length, an end token, the context or max_tokens.
  bool draft_is_ready() const;
  // Positions to compute before the next draft token; >= 1 while a draft is wanted and not ready.
  int num_tokens_to_compute() const;

  // What the backend mirrors under `mirror()` is not these tokens (or nothing): a new start must come first.
  bool needs_start() const { return needs_start_; }
  SequenceId mirror() const { return mirror_; }
  // Begins a new mirror. REQUIRES: needs_start().
  SequenceStart StartMirror(SequenceId mirror);

  // The next num_tokens positions were computed. `drafted` is the token chosen after them (-1: none was asked for);
  // `ended` that it ends the sequence. REQUIRES: drafted >= 0 only if num_tokens == num_tokens_to_compute().
  void Computed(int num_tokens, TokenId drafted, bool ended);

  // The draft that is ready, from the committed length on; may have no tokens. Nothing is wanted afterwards.
  DraftPath TakeDraft();

  // The blocks are gone: all KV must be computed again, from a new mirror.
  void DropKv();

  uint32_t epoch() const { return epoch_; }
  int num_computed() const { return num_computed_; }
  int num_tokens() const { return static_cast<int>(committed_.size() + draft_.size()); }
  absl::Span<const TokenId> committed() const { return committed_; }
  absl::Span<const TokenId> draft() const { return draft_; }

 private:
  int LongestDraft() const;

  const uint32_t epoch_;
  const int num_prompt_tokens_;
  const int max_model_len_;
  const SamplingParams params_;
  std::vector<TokenId> committed_;  // prompt, then output
  std::vector<TokenId> draft_;
  bool draft_ended_ = false;  // its last token ends the sequence
  int num_computed_ = 0;
  bool wants_draft_ = false;
  bool ahead_ = false;
  int lookahead_ = 0;
  SequenceId mirror_;
  bool needs_start_ = true;
};

}  // namespace outrider
