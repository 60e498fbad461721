// StepPlan: what every rank of a group computes in one step. The contract between deciding and computing.
//
// Ranks mirror each live sequence (prompt, output, parameters), so a plan names token positions, not tokens; only draft
// tokens travel. Every rank that runs the same plans from the start of an epoch holds the same mirror.
//
// A span is a run of positions of one sequence: `num_committed_tokens` committed tokens, then draft tokens. Prompt
// chunk, decode and verify are the same thing with other numbers.
//
// One step may be outstanding: a span planned before the result of the step before it names that step as `predecessor`.
// Its start and last token are then resolved by whoever runs it (ResolveSpan), from its mirror; its blocks are reserved
// for the longest outcome; if its sequence turns out finished it is discarded (no result tokens).
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "base/ids.h"
#include "worker/sequence/sampling_params.h"

namespace outrider {

// The first mention of a sequence.
struct SequenceStart {
  SequenceId sequence;
  std::vector<TokenId> prompt;  // not empty
  std::vector<TokenId> output;  // already delivered by an earlier attempt
  SamplingParams params;        // lane included
};

// Guessed tokens for positions base_position, base_position + 1, ...
struct DraftPath {
  int base_position = 0;
  std::vector<TokenId> tokens;
};

struct Span {
  SequenceId sequence;
  StepId predecessor;            // 0: first_position is known
  int first_position = 0;        // with a predecessor: the least it can be
  int num_committed_tokens = 0;  // >= 1; with a predecessor exactly 1, the last committed token
  bool samples = false;          // the committed tokens reach the sequence's end: target tokens are chosen
  int lookahead = 0;             // draft rows at most; 0 unless samples
  std::vector<DraftPath> paths;  // where drafts come from; the longest usable one is taken, ties to the first
  // Block table entries [first_block_index, first_block_index + blocks.size()) from now on; earlier ones stand.
  int first_block_index = 0;
  std::vector<BlockId> blocks;
};

struct StepPlan {
  StepId step;
  std::vector<SequenceStart> starts;
  std::vector<SequenceId> ends;  // forget these before the spans run; never named again
  std::vector<Span> spans;       // at most one a sequence
  bool empty() const { return spans.empty() && starts.empty() && ends.empty(); }
};

// The draft that `path` holds for a sequence with `committed` tokens (prompt and output): what follows the committed
// ones, if it begins with them; empty otherwise, and for paths whose base lies beyond the committed length.
absl::Span<const TokenId> UsableDraft(const DraftPath& path, absl::Span<const TokenId> committed);

// A span with nothing left open.
struct ResolvedSpan {
  int first_position = 0;
  int num_committed_tokens = 0;
  absl::Span<const TokenId> draft;  // of the chosen path; lives as long as the span
};

// REQUIRES: committed holds all committed tokens of the sequence, the predecessor's outcome included.
ResolvedSpan ResolveSpan(const Span& span, absl::Span<const TokenId> committed);

}  // namespace outrider
