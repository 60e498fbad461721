#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/sampling/philox.h"
#include "kernels/sampling/sample_row.h"

namespace outrider::kernels {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

struct Token {
  int32_t id;
  double logit;
};

bool ComesBefore(const Token& a, const Token& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

void Reduce(double* margin, double distance) {
  if (margin != nullptr) *margin = std::min(*margin, distance);
}

void FillLogprobs(const SamplingRow& row, const float* logits, int vocab_size, SampledToken* token) {
  if (row.num_logprobs < 0) return;
  std::vector<Token> sorted;
  for (int v = 0; v < vocab_size; ++v) sorted.push_back({v, logits[v]});
  std::sort(sorted.begin(), sorted.end(), ComesBefore);
  long double total = 0;
  for (const Token& t : sorted) total += std::exp(static_cast<long double>(t.logit) - sorted[0].logit);
  const double log_total = static_cast<double>(sorted[0].logit + std::log(total));
  token->logprob = static_cast<float>(logits[token->token_id] - log_total);
  token->num_top = std::min(row.num_logprobs, vocab_size);
  for (int i = 0; i < token->num_top; ++i) {
    const Token& t = sorted[static_cast<size_t>(i)];
    token->top[static_cast<size_t>(i)] = {.token_id = t.id, .logprob = static_cast<float>(t.logit - log_total)};
  }
}

}  // namespace

SampledToken SampleRowReference(const SamplingRow& row, const float* logits, int vocab_size, double* margin) {
  if (margin != nullptr) *margin = std::numeric_limits<double>::infinity();
  SampledToken result;
  bool any_finite = false;
  for (int v = 0; v < vocab_size; ++v) {
    if (std::isnan(logits[v]) || logits[v] == std::numeric_limits<float>::infinity()) {
      result.status = RowStatus::kNotFinite;
      return result;
    }
    any_finite = any_finite || std::isfinite(logits[v]);
  }
  if (!any_finite) {
    result.status = RowStatus::kNotFinite;
    return result;
  }

  if (row.given_token >= 0) {
    result.token_id = row.given_token;
    result.rank = 1;
    for (int v = 0; v < vocab_size; ++v) result.rank += logits[v] > logits[row.given_token];
    FillLogprobs(row, logits, vocab_size, &result);
    return result;
  }

  // 1, 2.
  std::vector<double> processed(logits, logits + vocab_size);
  const auto in_vocabulary = [&](int32_t id) { return id >= 0 && id < vocab_size; };
  for (const auto& [id, bias] : row.bias) {
    if (in_vocabulary(id)) processed[static_cast<size_t>(id)] += bias;
  }
  for (const int32_t id : row.masked_ids) {
    if (in_vocabulary(id)) processed[static_cast<size_t>(id)] = kNone;
  }
  for (int v = 0; v < vocab_size && row.allowed_tokens != nullptr; ++v) {
    if ((row.allowed_tokens[v / 32] >> (v % 32) & 1) == 0) processed[static_cast<size_t>(v)] = kNone;
  }

  // 3.
  std::vector<int> output_counts(static_cast<size_t>(vocab_size), 0);
  std::vector<bool> is_present(static_cast<size_t>(vocab_size), false);
  if (row.counts != nullptr) {
    for (const TokenCounts::Entry& entry : row.counts->entries()) {
      if (!in_vocabulary(entry.token_id)) continue;
      is_present[static_cast<size_t>(entry.token_id)] = true;
      output_counts[static_cast<size_t>(entry.token_id)] = entry.output_count;
    }
  }
  for (const int32_t id : row.extra_tokens) {
    if (!in_vocabulary(id)) continue;
    is_present[static_cast<size_t>(id)] = true;
    ++output_counts[static_cast<size_t>(id)];
  }
  for (size_t v = 0; v < processed.size(); ++v) {
    double& logit = processed[v];
    if (is_present[v]) logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (output_counts[v] > 0)
      logit -= row.presence_penalty + static_cast<double>(row.frequency_penalty) * output_counts[v];
  }

  std::vector<Token> sorted;
  for (int v = 0; v < vocab_size; ++v) {
    if (processed[static_cast<size_t>(v)] > kNone) sorted.push_back({v, processed[static_cast<size_t>(v)]});
  }
  if (sorted.empty()) {
    result.status = RowStatus::kNothingLeft;
    return result;
  }

  // 4.
  std::sort(sorted.begin(), sorted.end(), ComesBefore);
  if (row.temperature < kTemperatureMin) {
    if (sorted.size() > 1) Reduce(margin, sorted[0].logit - sorted[1].logit);
    result.token_id = sorted[0].id;
    FillLogprobs(row, logits, vocab_size, &result);
    return result;
  }
  for (Token& t : sorted) t.logit /= row.temperature;
  const double max = sorted[0].logit;

  // 5.
  if (row.min_p > 0) {
    const double limit = max + std::log(static_cast<double>(row.min_p));
    for (const Token& t : sorted) Reduce(margin, std::fabs(t.logit - limit));
    while (sorted.size() > 1 && sorted.back().logit < limit) sorted.pop_back();
  }
  // 6.
  if (row.top_k > 0 && sorted.size() > static_cast<size_t>(row.top_k)) {
    const size_t k = static_cast<size_t>(row.top_k);
    if (sorted[k - 1].logit != sorted[k].logit) Reduce(margin, sorted[k - 1].logit - sorted[k].logit);
    sorted.resize(k);
  }
  // 7.
  if (row.top_p < 1) {
    long double total = 0;
    for (const Token& t : sorted) total += std::exp(static_cast<long double>(t.logit) - max);
    const long double wanted = row.top_p * total;
    long double sum = 0;
    size_t kept = 0;
    while (kept < sorted.size() && sum < wanted) {
      sum += std::exp(static_cast<long double>(sorted[kept++].logit) - max);
      Reduce(margin, static_cast<double>(std::fabs(sum - wanted) / total));
    }
    sorted.resize(std::max<size_t>(kept, 1));
  }

  // 8.
  const DrawKey key{.seed = row.seed, .lane = row.lane, .position = row.position};
  double best = kNone, second = kNone;
  for (const Token& t : sorted) {
    const uint32_t bits = Draw(key, DrawPurpose::kCoupled, static_cast<uint32_t>(t.id));
    const long double u = (bits + 0.5L) / 4294967296.0L;
    const double score = static_cast<double>(t.logit - std::log(-std::log1p(-u)));
    if (score > best || (score == best && t.id < result.token_id)) {
      second = best;
      best = score;
      result.token_id = t.id;
    } else {
      second = std::max(second, score);
    }
  }
  if (sorted.size() > 1) Reduce(margin, best - second);
  FillLogprobs(row, logits, vocab_size, &result);
  return result;
}

}  // namespace outrider::kernels
