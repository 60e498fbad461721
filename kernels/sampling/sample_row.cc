#include "kernels/sampling/sample_row.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/sampling/coupled_noise.h"
#include "kernels/sampling/philox.h"
#include "kernels/sampling/row_candidates.h"
#include "kernels/sampling/row_processing.h"
#include "kernels/sampling/row_scan.h"

namespace outrider::kernels {
namespace {

using Candidate = SamplingScratch::Candidate;

constexpr float kNone = -std::numeric_limits<float>::infinity();

// Weights are 0 on the grid below this delta: exp(-25) < 2^-35.
constexpr float kDeltaOfNoWeight = -25.0f;
// Windows below the highest logit' in which candidates are looked for, one after the other: wide enough for most rows
// at once, narrow enough that few tokens are collected. The last holds everything.
constexpr float kDeltaWindows[] = {-6.0f, -12.0f, kDeltaOfNoWeight, -50.0f, -100.0f, kNone};
// Up to this many candidates are scored one by one, more in a pass over the row.
constexpr size_t kScoredCandidatesMax = 256;

// ---- steps 5 to 7

// A row after step 4, and which tokens steps 5 to 7 keep.
struct KeptRow {
  const float* logits = nullptr;
  int vocab_size = 0;
  float scale = 1;
  float max = 0;           // largest logit'
  int32_t first_best = 0;  // the first id that has it
  bool is_filtered = false;
  TokenFloor floor;  // the same set as scratch.candidates() if is_filtered; else everything
};

// Fills scratch.candidates() and kept->floor if a filter is on.
void Filter(const SamplingRow& row, SamplingScratch& scratch, KeptRow* kept) {
  const bool has_top_k = row.top_k > 0 && row.top_k < kept->vocab_size;
  const bool has_top_p = row.top_p < 1.0f;
  kept->is_filtered = has_top_k || has_top_p || row.min_p > 0.0f;
  if (!kept->is_filtered) return;
  std::vector<Candidate>& candidates = scratch.candidates();
  const auto collect = [&](float delta_min) {
    CollectAtLeast(kept->logits, kept->vocab_size, kept->scale, kept->max, delta_min, &candidates);
  };
  const float delta_min = MinPDelta(row);

  if (has_top_k) {
    for (const float window : kDeltaWindows) {
      collect(std::max(window, delta_min));
      if (candidates.size() >= static_cast<size_t>(row.top_k) || window <= delta_min) break;
    }
    KeepFirst(static_cast<size_t>(row.top_k), &candidates);
    if (has_top_p) KeepMass(static_cast<double>(row.top_p) * MassOf(candidates, kept->max), kept->max, &candidates);
  } else if (has_top_p) {
    const double wanted =
        static_cast<double>(row.top_p) * SumWeights(kept->logits, kept->vocab_size, kept->scale, kept->max, delta_min);
    for (const float window : kDeltaWindows) {
      collect(std::max(window, delta_min));
      if (MassOf(candidates, kept->max) >= wanted || window <= delta_min) break;
    }
    KeepMass(wanted, kept->max, &candidates);
  } else {
    collect(delta_min);
  }

  Candidate last = candidates.front();
  for (const Candidate& candidate : candidates) {
    if (ComesBefore(last, candidate)) last = candidate;
  }
  kept->floor = {.logit = last.logit, .last_id = last.token_id};
}

// ---- step 8

int32_t Choose(const SamplingRow& row, const KeptRow& kept, DrawPurpose purpose, int32_t excluded_id,
               SamplingScratch& scratch) {
  const DrawKey key{.seed = row.seed, .lane = row.lane, .position = row.position};
  if (!kept.is_filtered || scratch.candidates().size() > kScoredCandidatesMax) {
    const int32_t likely_id = kept.first_best == excluded_id ? -1 : kept.first_best;
    return CoupledArgMax(kept.logits, kept.vocab_size, kept.scale, key, purpose, kept.floor, excluded_id, likely_id);
  }
  int32_t best_id = -1;
  float best_score = kNone;
  for (const Candidate& candidate : scratch.candidates()) {
    if (candidate.token_id == excluded_id) continue;
    const float score = CoupledScore(candidate.logit, key, purpose, candidate.token_id);
    if (score > best_score || (score == best_score && candidate.token_id < best_id)) {
      best_score = score;
      best_id = candidate.token_id;
    }
  }
  return best_id;
}

// ---- logprobs

void FillLogprobs(const SamplingRow& row, const float* raw, int vocab_size, float raw_max, SamplingScratch& scratch,
                  SampledToken* token) {
  if (row.num_logprobs < 0) return;
  const double log_total = std::log(SumWeights(raw, vocab_size, 1.0f, raw_max, kNone));
  const auto logprob_of = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(raw[id]) - raw_max - log_total);
  };
  token->logprob = logprob_of(token->token_id);
  token->num_top = std::min(row.num_logprobs, vocab_size);
  if (token->num_top == 0) return;
  std::vector<Candidate>& candidates = scratch.candidates();
  const size_t num_top = static_cast<size_t>(token->num_top);
  for (const float window : kDeltaWindows) {
    CollectAtLeast(raw, vocab_size, 1.0f, raw_max, window, &candidates);
    if (candidates.size() >= num_top) break;
  }
  std::partial_sort(candidates.begin(), candidates.begin() + token->num_top, candidates.end(), ComesBefore);
  for (size_t i = 0; i < num_top; ++i) {
    token->top[i] = {.token_id = candidates[i].token_id, .logprob = logprob_of(candidates[i].token_id)};
  }
}

// A token that stands there: its place among all, and the logprobs.
SampledToken RateGivenToken(const SamplingRow& row, const float* logits, int vocab_size, SamplingScratch& scratch) {
  SampledToken token;
  const RowExtent extent = ScanExtent(logits, vocab_size);
  if (extent.has_nan || !(std::fabs(extent.max) < std::numeric_limits<float>::infinity())) {
    token.status = RowStatus::kNotFinite;
    return token;
  }
  token.token_id = row.given_token;
  const float given = logits[row.given_token];
  token.rank = 1 + static_cast<int>(std::count_if(logits, logits + vocab_size, [given](float x) { return x > given; }));
  FillLogprobs(row, logits, vocab_size, extent.max, scratch, &token);
  return token;
}

// ---- a row

struct PreparedRow {
  RowStatus status = RowStatus::kOk;
  float raw_max = 0;
  bool is_greedy = false;
  KeptRow kept;
};

PreparedRow Prepare(const SamplingRow& row, const float* logits, int vocab_size, SamplingScratch& scratch) {
  PreparedRow prepared;
  RowExtent extent = ScanExtent(logits, vocab_size);
  const auto is_finite = [](const RowExtent& e) {
    return !e.has_nan && e.max < std::numeric_limits<float>::infinity();
  };
  if (!is_finite(extent) || extent.max == kNone) {
    prepared.status = RowStatus::kNotFinite;
    return prepared;
  }
  prepared.raw_max = extent.max;

  KeptRow& kept = prepared.kept;
  kept.logits = ProcessedLogits(row, logits, vocab_size, scratch);
  kept.vocab_size = vocab_size;
  if (kept.logits != logits) {
    extent = ScanExtent(kept.logits, vocab_size);
    // Penalties and bias are finite, but may overflow.
    if (!is_finite(extent)) prepared.status = RowStatus::kNotFinite;
    if (extent.max == kNone) prepared.status = RowStatus::kNothingLeft;
    if (prepared.status != RowStatus::kOk) return prepared;
  }
  kept.first_best = FindFirst(kept.logits, vocab_size, extent.max);
  prepared.is_greedy = row.temperature < kTemperatureMin;
  if (prepared.is_greedy) return prepared;
  kept.scale = 1.0f / row.temperature;
  kept.max = extent.max * kept.scale;
  if (!(std::fabs(kept.max) < std::numeric_limits<float>::infinity())) {
    prepared.status = RowStatus::kNotFinite;
    return prepared;
  }
  Filter(row, scratch, &kept);
  return prepared;
}

}  // namespace

std::vector<float>& SamplingScratch::logits(int vocab_size) {
  if (logits_.size() < static_cast<size_t>(vocab_size)) logits_.resize(static_cast<size_t>(vocab_size));
  return logits_;
}

SampledToken SampleRow(const SamplingRow& row, const float* logits, int vocab_size, SamplingScratch& scratch) {
  if (row.given_token >= 0) return RateGivenToken(row, logits, vocab_size, scratch);
  const PreparedRow prepared = Prepare(row, logits, vocab_size, scratch);
  SampledToken token{.status = prepared.status};
  if (token.status != RowStatus::kOk) return token;
  token.token_id =
      prepared.is_greedy ? prepared.kept.first_best : Choose(row, prepared.kept, DrawPurpose::kCoupled, -1, scratch);
  FillLogprobs(row, logits, vocab_size, prepared.raw_max, scratch, &token);
  return token;
}

RejectionOutcome AcceptOrResample(const SamplingRow& row, const float* logits, int vocab_size, int32_t draft_token_id,
                                  SamplingScratch& scratch) {
  const PreparedRow prepared = Prepare(row, logits, vocab_size, scratch);
  RejectionOutcome outcome{.token = {.status = prepared.status}};
  if (prepared.status != RowStatus::kOk) return outcome;
  const KeptRow& kept = prepared.kept;
  if (prepared.is_greedy) {
    outcome.token.token_id = kept.first_best;
    outcome.accepted = kept.first_best == draft_token_id;
  } else {
    const float draft_logit = kept.logits[draft_token_id] * kept.scale;
    const bool draft_is_kept =
        draft_logit > kept.floor.logit || (draft_logit == kept.floor.logit && draft_token_id <= kept.floor.last_id);
    const double draft_weight = draft_is_kept ? WeightOf(draft_logit - kept.max) : 0.0;
    const double total = kept.is_filtered ? MassOf(scratch.candidates(), kept.max)
                                          : SumWeights(kept.logits, vocab_size, kept.scale, kept.max, kNone);
    const DrawKey key{.seed = row.seed, .lane = row.lane, .position = row.position};
    const uint32_t bits = Draw(key, DrawPurpose::kAccept, static_cast<uint32_t>(draft_token_id));
    const double uniform = (bits + 0.5) * 0x1.0p-32;
    outcome.accepted = uniform * total < draft_weight;
    outcome.token.token_id =
        outcome.accepted ? draft_token_id : Choose(row, kept, DrawPurpose::kResidual, draft_token_id, scratch);
    // All other tokens have weight 0 on the grid: the draft token is the distribution.
    if (outcome.token.token_id < 0) {
      outcome.accepted = true;
      outcome.token.token_id = draft_token_id;
    }
  }
  FillLogprobs(row, logits, vocab_size, prepared.raw_max, scratch, &outcome.token);
  return outcome;
}

int32_t ArgMax(const float* logits, int vocab_size) {
  const RowExtent extent = ScanExtent(logits, vocab_size);
  if (extent.has_nan || !(std::fabs(extent.max) < std::numeric_limits<float>::infinity())) return -1;
  return FindFirst(logits, vocab_size, extent.max);
}

KernelError SampleRows(std::span<const SamplingRow> rows, const float* logits, int64_t logits_stride, int vocab_size,
                       std::span<SampledToken> results, ThreadPool& pool, std::vector<SamplingScratch>& scratch) {
  if (results.size() != rows.size() || vocab_size < 1 || vocab_size > kMaxVocabSize) return KernelError::kInvalidShape;
  if (rows.size() > 1 && logits_stride < vocab_size) return KernelError::kInvalidShape;
  if (rows.empty()) return KernelError::kOk;
  if (logits == nullptr) return KernelError::kNullPointer;
  if (scratch.size() < static_cast<size_t>(pool.num_threads())) {
    scratch.resize(static_cast<size_t>(pool.num_threads()));
  }
  pool.ParallelFor(static_cast<int64_t>(rows.size()), [&](int64_t i, int thread_index) {
    const size_t row = static_cast<size_t>(i);
    results[row] =
        SampleRow(rows[row], logits + i * logits_stride, vocab_size, scratch[static_cast<size_t>(thread_index)]);
  });
  return KernelError::kOk;
}

}  // namespace outrider::kernels
