#include "kernels/sampling/row_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/sampling/coupled_noise.h"
#include "kernels/sampling/philox.h"
#include "kernels/sampling/row_candidates.h"
#include "kernels/sampling/row_processing.h"
#include "kernels/sampling/row_scan.h"

namespace outrider::kernels {
namespace {

using Candidate = SamplingScratch::Candidate;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kUnitsOfOne = 17179869184.0;  // 2^34

bool IsGreedy(const SamplingRow& row) { return row.temperature < kTemperatureMin; }

struct Filters {
  bool top_k, top_p, min_p;
  bool any() const { return top_k || top_p || min_p; }
};

Filters FiltersOf(const SamplingRow& row, int vocab_size) {
  if (IsGreedy(row)) return {};
  return {.top_k = row.top_k > 0 && row.top_k < vocab_size, .top_p = row.top_p<1.0f, .min_p = row.min_p> 0.0f};
}

bool IsFinite(float value) { return std::fabs(value) < kInfinity; }

double SumOf(uint64_t units) { return static_cast<double>(units) / kUnitsOfOne; }
uint64_t UnitsOf(double sum) { return static_cast<uint64_t>(sum * kUnitsOfOne); }

// Whether tokens outside the summary's buckets lie below `delta_min`, so that none of them passes it.
bool HoldsAllFrom(const RowSummary& summary, float delta_min) { return SummaryBucket(delta_min) < summary.num_buckets; }

// Steps 5 to 8 over the candidates. False: a token outside them might be kept, and chosen.
bool ChooseFiltered(const SamplingRow& row, const RowSummary& summary, const SummaryRequest& request,
                    const Filters& filters, SamplingScratch& scratch, int32_t* token_id) {
  const float max = summary.max_logit * request.scale;
  // What the buckets leave out has no weight and cannot win.
  const bool holds_contenders = summary.num_buckets == kSummaryBuckets;
  const bool is_complete = holds_contenders || HoldsAllFrom(summary, request.delta_min);
  std::vector<Candidate>& kept = scratch.candidates();
  kept.clear();
  for (int i = 0; i < summary.num_candidates; ++i) {
    const SummaryCandidate& candidate = summary.candidates[i];
    const float scaled = candidate.logit * request.scale;
    if (scaled - max >= request.delta_min) kept.push_back({scaled, candidate.token_id});
  }
  if (kept.empty()) return false;
  if (filters.top_k) {
    const size_t top_k = static_cast<size_t>(row.top_k);
    if (kept.size() < top_k && !is_complete) return false;
    KeepFirst(top_k, &kept);
    if (filters.top_p) KeepMass(static_cast<double>(row.top_p) * MassOf(kept, max), max, &kept);
  } else if (filters.top_p) {
    const double wanted = static_cast<double>(row.top_p) * SumOf(summary.weight_sum);
    if (MassOf(kept, max) < wanted && !is_complete) return false;
    KeepMass(wanted, max, &kept);
  } else if (!is_complete) {
    return false;
  }
  const DrawKey key{.seed = row.seed, .lane = row.lane, .position = row.position};
  float best_score = -kInfinity;
  *token_id = -1;
  for (const Candidate& candidate : kept) {
    const float score = CoupledScore(candidate.logit, key, DrawPurpose::kCoupled, candidate.token_id);
    if (score > best_score || (score == best_score && candidate.token_id < *token_id)) {
      best_score = score;
      *token_id = candidate.token_id;
    }
  }
  return true;
}

// As FillLogprobs of sample_row.cc. False: one of the best might be outside the candidates.
bool FillLogprobs(const SamplingRow& row, const RowSummary& summary, float chosen_logit, int vocab_size,
                  SamplingScratch& scratch, SampledToken* token) {
  const double log_total = std::log(SumOf(summary.raw_weight_sum));
  const auto logprob_of = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - summary.max_logit - log_total);
  };
  token->logprob = logprob_of(chosen_logit);
  token->num_top = std::min(row.num_logprobs, vocab_size);
  if (token->num_top > summary.num_candidates) return false;
  std::vector<Candidate>& best = scratch.candidates();
  best.clear();
  for (int i = 0; i < summary.num_candidates; ++i) {
    best.push_back({summary.candidates[i].logit, summary.candidates[i].token_id});
  }
  std::partial_sort(best.begin(), best.begin() + token->num_top, best.end(), ComesBefore);
  for (size_t i = 0; i < static_cast<size_t>(token->num_top); ++i) {
    token->top[i] = {.token_id = best[i].token_id, .logprob = logprob_of(best[i].logit)};
  }
  return true;
}

// Steps 4 to 8 of a row whose logits the summary is of, or a given token's rating; *chosen_logit is the token's there.
bool ChooseFrom(const SamplingRow& row, const RowSummary& summary, int vocab_size, SamplingScratch& scratch,
                SampledToken* token, float* chosen_logit) {
  const SummaryRequest request = RequestOf(row, vocab_size);
  *token = {};
  const float max = summary.max_logit * request.scale;
  if (summary.has_nan != 0 || !IsFinite(summary.max_logit) || !IsFinite(max)) {
    token->status = RowStatus::kNotFinite;
    return true;
  }
  if (row.given_token >= 0) {
    token->token_id = row.given_token;
    token->rank = summary.given_rank;
    *chosen_logit = summary.given_logit;
    return true;
  }
  if (std::fabs(max) > kSummaryMagnitudeMax) return false;
  *chosen_logit = summary.best_logit;
  token->token_id = summary.best_id;
  const Filters filters = FiltersOf(row, vocab_size);
  if (!filters.any()) return true;
  if (!ChooseFiltered(row, summary, request, filters, scratch, &token->token_id)) return false;
  for (int i = 0; i < summary.num_candidates; ++i) {
    if (summary.candidates[i].token_id == token->token_id) *chosen_logit = summary.candidates[i].logit;
  }
  return true;
}

// What SampleRow says of an edited row before it chooses from it.
RowStatus StatusOfEdited(const SummarizedRow& row) {
  bool raw_is_finite = true, had_any = false;
  for (size_t i = 0; i < row.edits.size(); ++i) {
    raw_is_finite = raw_is_finite && row.raw_logits[i] < kInfinity;  // nor NaN
    had_any = had_any || row.raw_logits[i] > -kInfinity;
  }
  // What was not edited is in the summary; nothing finite becomes NaN.
  if (!raw_is_finite || row.summary->has_nan != 0 || row.summary->max_logit == kInfinity) return RowStatus::kNotFinite;
  if (row.summary->max_logit > -kInfinity) return RowStatus::kOk;
  return had_any ? RowStatus::kNothingLeft : RowStatus::kNotFinite;
}

}  // namespace

bool IsSummarizable(const SamplingRow& row) { return row.given_token >= 0 || !ChangesLogits(row); }

SummaryRequest RequestOf(const SamplingRow& row, int vocab_size) {
  if (row.given_token >= 0) {
    return {.given_token = row.given_token,
            .num_candidates_wanted = std::max(0, row.num_logprobs),
            .wants_raw_sum = row.num_logprobs >= 0};
  }
  const Filters filters = FiltersOf(row, vocab_size);
  int num_wanted = std::max(0, row.num_logprobs);
  if (filters.any()) num_wanted = filters.top_k ? std::max(num_wanted, row.top_k) : kAllCandidates;
  return {.seed = row.seed,
          .lane = row.lane,
          .position = row.position,
          .scale = IsGreedy(row) ? 1.0f : 1.0f / row.temperature,
          .delta_min = filters.min_p ? MinPDelta(row) : -kInfinity,
          .num_candidates_wanted = std::min(num_wanted, kAllCandidates),
          .has_noise = !IsGreedy(row) && !filters.any(),
          .wants_sum = filters.top_p && !filters.top_k,
          .wants_raw_sum = row.num_logprobs >= 0};
}

void SummarizeRow(const SummaryRequest& request, const float* logits, int vocab_size, RowSummary* summary) {
  *summary = {};
  const RowExtent extent = ScanExtent(logits, vocab_size);
  summary->max_logit = extent.max;
  summary->has_nan = extent.has_nan;
  const float max = extent.max * request.scale;
  if (extent.has_nan || !IsFinite(extent.max) || !IsFinite(max)) return;

  const int32_t first_best = FindFirst(logits, vocab_size, extent.max);
  const DrawKey key{.seed = request.seed, .lane = request.lane, .position = request.position};
  summary->best_id = request.has_noise ? CoupledArgMax(logits, vocab_size, request.scale, key, DrawPurpose::kCoupled,
                                                       {}, -1, first_best)
                                       : first_best;
  summary->best_logit = logits[summary->best_id];
  if (request.given_token >= 0) {
    const float given = summary->given_logit = logits[request.given_token];
    summary->given_rank =
        1 + static_cast<int32_t>(std::count_if(logits, logits + vocab_size, [given](float x) { return x > given; }));
  }
  if (request.wants_sum) {
    summary->weight_sum = UnitsOf(SumWeights(logits, vocab_size, request.scale, max, request.delta_min));
  }
  if (request.wants_raw_sum) {
    summary->raw_weight_sum = UnitsOf(SumWeights(logits, vocab_size, 1.0f, extent.max, -kInfinity));
  }
  if (request.num_candidates_wanted <= 0) return;

  int counts[kSummaryBuckets + 1] = {};
  const auto bucket_of = [&](int v) { return SummaryBucket(logits[v] * request.scale - max); };
  for (int v = 0; v < vocab_size; ++v) ++counts[bucket_of(v)];
  int total = 0;
  while (summary->num_buckets < kSummaryBuckets && total < request.num_candidates_wanted &&
         total + counts[summary->num_buckets] <= kSummaryCandidatesMax) {
    total += counts[summary->num_buckets++];
  }
  for (int v = 0; v < vocab_size; ++v) {
    if (bucket_of(v) >= summary->num_buckets) continue;
    summary->candidates[summary->num_candidates++] = {.logit = logits[v], .token_id = v};
  }
}

SamplingRow ChoiceOf(const SamplingRow& row) {
  SamplingRow choice = row;
  choice.bias = {};
  choice.masked_ids = {};
  choice.counts = nullptr;
  choice.extra_tokens = {};
  choice.num_logprobs = -1;
  return choice;
}

SamplingRow RatingOf(const SamplingRow& row) { return {.temperature = 0, .num_logprobs = row.num_logprobs}; }

bool SampleFromSummary(const SamplingRow& row, const SummarizedRow& summarized, int vocab_size,
                       SamplingScratch& scratch, SampledToken* token) {
  float chosen_logit = 0;
  if (summarized.edits.empty()) {
    if (!ChooseFrom(row, *summarized.summary, vocab_size, scratch, token, &chosen_logit)) return false;
    return token->status != RowStatus::kOk || row.num_logprobs < 0 ||
           FillLogprobs(row, *summarized.summary, chosen_logit, vocab_size, scratch, token);
  }
  *token = {.status = StatusOfEdited(summarized)};
  if (token->status != RowStatus::kOk) return true;
  if (!ChooseFrom(ChoiceOf(row), *summarized.summary, vocab_size, scratch, token, &chosen_logit)) return false;
  if (token->status != RowStatus::kOk || row.num_logprobs < 0) return true;
  for (size_t i = 0; i < summarized.edits.size(); ++i) {
    if (summarized.edits[i].token_id == token->token_id) chosen_logit = summarized.raw_logits[i];
  }
  return FillLogprobs(row, *summarized.raw, chosen_logit, vocab_size, scratch, token);
}

}  // namespace outrider::kernels
