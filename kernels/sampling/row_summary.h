// The summary of a row of logits: a few KB that decide what SampleRow chooses from all of it. A device makes it beside
// the logits, so that rows do not cross to the host; what the row's token is is decided here, by the code that
// SampleRow itself runs. Rows that the summary does not decide are said to be so, and take the way of whole rows.
//
// Notation as in row_scan.h: logit', delta, weight. Every field is exact or the bits of a stated sequence of roundings,
// and none depends on an order of adding, so a summary is a function of (request, row).
//
// Thread safety: pure functions of their arguments.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/sampling/row_edits.h"
#include "kernels/sampling/sample_row.h"

namespace outrider::kernels {

// Candidates a summary holds at most: 4 KB.
inline constexpr int kSummaryCandidatesMax = 512;

// Candidates are taken by the whole bucket of delta, best first: 64 buckets of 1/8, then 64 of 1/2.
inline constexpr int kSummaryBuckets = 128;
inline constexpr int kSummaryFineBuckets = 64;
inline constexpr float kSummaryDeltaEnd = -40.0f;  // tokens at or below it are in no bucket
static_assert(kSummaryFineBuckets / 8 + (kSummaryBuckets - kSummaryFineBuckets) / 2 == -kSummaryDeltaEnd);

// The bucket of a delta <= 0, or kSummaryBuckets: not in one (-infinity too). Products with powers of two are exact.
constexpr int SummaryBucket(float delta) {
  if (!(delta > kSummaryDeltaEnd)) return kSummaryBuckets;
  if (delta > -8.0f) return static_cast<int>(delta * -8.0f);
  return kSummaryFineBuckets + static_cast<int>((delta + 8.0f) * -2.0f);
}

// No token with a delta below this wins: the highest logit' scores at least itself - 3.14, no token more than its
// logit' + 22.874. Half a unit covers the roundings up to kSummaryMagnitudeMax.
inline constexpr float kScoredDeltaMin = -26.6f;
// A row whose highest logit' is beyond this is not decided by a summary.
inline constexpr float kSummaryMagnitudeMax = 1048576.0f;

inline constexpr int kAllCandidates = kSummaryCandidatesMax + 1;

// What is asked of a row. Plain memory: it crosses to devices.
struct SummaryRequest {
  uint64_t seed = 0;
  uint32_t lane = 0;
  uint32_t position = 0;
  float scale = 1.0f;        // logit' = logit * scale
  float delta_min = 0.0f;    // weight_sum is of tokens with at least this delta; may be -infinity
  int32_t given_token = -1;  // at least 0: its logit and rank are asked for
  // Best tokens that are to be among the candidates, if they fit: 0: none; kAllCandidates: as many as fit.
  int32_t num_candidates_wanted = 0;
  uint8_t has_noise = 0;  // best_id is of the highest logit' - log E, else of the highest logit
  uint8_t wants_sum = 0;  // weight_sum
  uint8_t wants_raw_sum = 0;
};

struct SummaryCandidate {
  float logit = 0;  // raw
  int32_t token_id = -1;
};

// Sums count units of 2^-34. Plain memory: it crosses from devices.
struct RowSummary {
  uint64_t weight_sum = 0;      // if asked for
  uint64_t raw_weight_sum = 0;  // with scale 1, of all tokens; if asked for
  float max_logit = 0;          // of what is not NaN
  uint32_t has_nan = 0;
  // Over the whole row, ties to the lowest id. -1 where max_logit or max_logit * scale is not finite.
  int32_t best_id = -1;
  float best_logit = 0;  // raw, of best_id
  // Of a given token; 0 where best_id is -1.
  float given_logit = 0;
  int32_t given_rank = 0;  // 1 + how many tokens have a higher logit
  // Every token whose bucket is below num_buckets, in any order; num_buckets is the most that fit, or fewer that hold
  // num_candidates_wanted.
  int32_t num_buckets = 0;
  int32_t num_candidates = 0;
  SummaryCandidate candidates[kSummaryCandidatesMax];
};

// Whether steps 1 to 3 leave the row as it is, or its token is given: a summary of its own logits is enough.
bool IsSummarizable(const SamplingRow& row);

// REQUIRES: IsSummarizable(row); as SampleRow.
SummaryRequest RequestOf(const SamplingRow& row, int vocab_size);

// The summary of a row: the reference for devices. REQUIRES: as SampleRow.
void SummarizeRow(const SummaryRequest& request, const float* logits, int vocab_size, RowSummary* summary);

// A row whose logits are edited (row_edits.h) has up to two summaries: after the edits with ChoiceOf(row), and if
// logprobs are asked for before them with RatingOf(row). REQUIRES: row.given_token < 0.
SamplingRow ChoiceOf(const SamplingRow& row);
SamplingRow RatingOf(const SamplingRow& row);

// What a device tells of a row.
struct SummarizedRow {
  const RowSummary* summary = nullptr;  // of RequestOf(row), or of RequestOf(ChoiceOf(row)) if there are edits
  std::span<const RowEdit> edits;       // empty: the row is as it was
  const float* raw_logits = nullptr;    // [edits.size()] of their tokens, before the edits
  const RowSummary* raw = nullptr;      // of RequestOf(RatingOf(row)), if there are edits and logprobs are asked for
};

// What SampleRow(row, logits, ...) gives, to the bit, into *token; false if the summary does not decide it, and then
// *token is not to be used.
bool SampleFromSummary(const SamplingRow& row, const SummarizedRow& summarized, int vocab_size,
                       SamplingScratch& scratch, SampledToken* token);

}  // namespace outrider::kernels
