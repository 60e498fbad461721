// From a row of logits to a token. The same function is the target's choice and the draft's guess.
//
// The token is a pure function of (row, logits): it does not depend on neighbours, threads or instruction set.
// Order of processing:
//   1. bias;  2. masks: allowed_tokens, and masked_ids (end and stop ids while the output is shorter than min_tokens)
//   3. penalties: repetition over prompt and output (logit > 0 ? logit / r : logit * r), presence, frequency over the
//      output, `extra_tokens` counted as output
//   4. temperature 0: the highest logit. Otherwise logit' = logit * (1 / temperature), and
//   5. min_p: keep logit' - max >= log(min_p);  6. top_k: the k first by (logit' descending, id ascending)
//   7. top_p: the shortest prefix in that order whose probabilities sum to at least top_p of the kept ones'
//   8. the highest logit' - log E (coupled_noise.h)
// Ties go to the lowest id everywhere. Logprobs are of the raw logits.
//
// Sums of probabilities are exact: exp(logit' - max) is rounded to a multiple of 2^-34, so any order of adding up to
// 2^19 of them gives the same double, "summed in sorted order" included, and nothing needs a full sort.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/common/stream.h"  // KernelError
#include "kernels/common/thread_pool.h"
#include "kernels/sampling/token_counts.h"

namespace outrider::kernels {

inline constexpr int kMaxTopLogprobs = 20;
// Bounds the exact sums above.
inline constexpr int kMaxVocabSize = 1 << 19;
// Temperatures below this are greedy: 1 / temperature would lose the logits' low bits, then overflow.
inline constexpr float kTemperatureMin = 1e-5f;

// What shapes one row's choice. Pointed-to data outlives the call.
struct SamplingRow {
  float temperature = 1.0f;  // below kTemperatureMin: greedy
  int top_k = 0;             // 0: off
  float top_p = 1.0f;        // 1: off
  float min_p = 0.0f;        // 0: off
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;

  uint64_t seed = 0;
  uint32_t lane = 0;
  uint32_t position = 0;  // absolute position t of the token that is chosen, prompt included

  std::span<const std::pair<int32_t, float>> bias;  // ids outside the vocabulary are ignored, here and below
  std::span<const int32_t> masked_ids;              // never chosen in this row
  // Bit v % 32 of word v / 32 set: token v may be chosen. Null: all. Where a grammar's mask comes in.
  const uint32_t* allowed_tokens = nullptr;

  const TokenCounts* counts = nullptr;    // of the committed tokens; may be null without penalties
  std::span<const int32_t> extra_tokens;  // draft tokens before this row's position: as if they were output

  int num_logprobs = -1;  // -1: none; 0: the chosen token's; N <= kMaxTopLogprobs: and the N best
  // At least 0: this token stands there already, of a prompt, say. Nothing is chosen or processed: only its rank and
  // the logprobs are told.
  int32_t given_token = -1;
};

struct TokenLogprob {
  int32_t token_id = -1;
  float logprob = 0;
};

enum class RowStatus : uint8_t {
  kOk,
  kNotFinite,    // a logit is NaN or +infinity, or all are -infinity
  kNothingLeft,  // masks exclude every token
};

struct SampledToken {
  RowStatus status = RowStatus::kOk;
  int32_t token_id = -1;                               // -1 unless kOk
  float logprob = 0;                                   // of token_id, if num_logprobs >= 0
  int rank = 0;                                        // of a given token: 1 + how many have a higher logit; else 0
  int num_top = 0;                                     // min(num_logprobs, vocab_size)
  std::array<TokenLogprob, kMaxTopLogprobs> top = {};  // best first, ties by id
};

// Scratch memory of a row. Grows to the vocabulary once.
//
// Thread safety: none; one per concurrent caller.
class SamplingScratch {
 public:
  std::vector<float>& logits(int vocab_size);

  struct Candidate {
    float logit;
    int32_t token_id;
  };
  std::vector<Candidate>& candidates() { return candidates_; }

 private:
  std::vector<float> logits_;
  std::vector<Candidate> candidates_;
};

// REQUIRES: 1 <= vocab_size <= kMaxVocabSize; logits [vocab_size], not written; num_logprobs <= kMaxTopLogprobs;
// given_token < vocab_size; penalties, temperature, top_p, min_p finite, repetition_penalty > 0.
SampledToken SampleRow(const SamplingRow& row, const float* logits, int vocab_size, SamplingScratch& scratch);

// The oracle: the eight steps one after the other over a sorted copy of the vocabulary, probabilities in long double.
// Equal tokens except where top_p's boundary or two scores are closer than rounding; *margin (may be null) is the
// distance between the two best scores, or to that boundary if it is less.
SampledToken SampleRowReference(const SamplingRow& row, const float* logits, int vocab_size, double* margin);

// rows[i] from logits + i * logits_stride, rows in parallel. results.size() == rows.size(); scratch grows to one entry
// a thread. kInvalidShape: vocab_size, sizes or stride out of range.
KernelError SampleRows(std::span<const SamplingRow> rows, const float* logits, int64_t logits_stride, int vocab_size,
                       std::span<SampledToken> results, ThreadPool& pool, std::vector<SamplingScratch>& scratch);

// The greedy choice alone: the highest logit, ties to the lowest id; -1 if a logit is NaN or +infinity, or all are
// -infinity.
int32_t ArgMax(const float* logits, int vocab_size);

// Rejection sampling with a point-mass draft (Leviathan et al., arXiv:2211.17192; Chen et al., arXiv:2302.01318):
// the draft token is kept with its probability p(draft) after all processing, else the token is drawn from p without
// it. Exact in distribution, whatever the draft. Greedy rows: kept iff it is the row's token. Uses noise of purposes 1
// and 2, so the draft may have been chosen with purpose 0. A position without a draft is SampleRow's.
struct RejectionOutcome {
  bool accepted = false;
  SampledToken token;  // the draft token if accepted
};
// REQUIRES: as SampleRow; 0 <= draft_token_id < vocab_size.
RejectionOutcome AcceptOrResample(const SamplingRow& row, const float* logits, int vocab_size, int32_t draft_token_id,
                                  SamplingScratch& scratch);

}  // namespace outrider::kernels
