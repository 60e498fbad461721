// L1: the tokens that come out follow the target's distribution, for each filter and each acceptance rule. Chi-square
// over a vocabulary of 16 tokens and 100,000 samples; the limit is the quantile that a right sampler exceeds once in a
// million.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/sampling/verify_draft.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

constexpr int kVocabSize = 16;
#ifdef OUTRIDER_SANITIZED
constexpr int kNumSamples = 10000;  // sanitizers look at the code, not at the distribution
#else
constexpr int kNumSamples = 100000;
#endif

// Upper quantile of chi-square with `dof` degrees of freedom at 1e-6 (z = 4.7534), Wilson and Hilferty (1931).
double ChiSquareLimit(int dof) {
  const double a = 2.0 / (9.0 * dof);
  return dof * std::pow(1 - a + 4.7534 * std::sqrt(a), 3);
}

// Step 4 to 7 in doubles: what is left of the distribution.
std::vector<double> Distribution(const SamplingRow& row, const std::vector<float>& logits) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]; });
  std::vector<double> p;
  for (const float logit : logits) p.push_back(std::exp(static_cast<double>(logit) / row.temperature));
  const double highest = *std::max_element(p.begin(), p.end());
  size_t kept = order.size();
  if (row.min_p > 0) {
    while (p[static_cast<size_t>(order[kept - 1])] < row.min_p * highest) --kept;
  }
  if (row.top_k > 0) kept = std::min(kept, static_cast<size_t>(row.top_k));
  if (row.top_p < 1) {
    double total = 0, sum = 0;
    for (size_t i = 0; i < kept; ++i) total += p[static_cast<size_t>(order[i])];
    size_t prefix = 0;
    while (prefix < kept && sum < row.top_p * total) sum += p[static_cast<size_t>(order[prefix++])];
    kept = prefix;
  }
  std::vector<double> out(p.size(), 0);
  double total = 0;
  for (size_t i = 0; i < kept; ++i) total += p[static_cast<size_t>(order[i])];
  for (size_t i = 0; i < kept; ++i) out[static_cast<size_t>(order[i])] = p[static_cast<size_t>(order[i])] / total;
  return out;
}

void ExpectFollows(const std::vector<int64_t>& counts, const std::vector<double>& p) {
  const double num_samples = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  double chi_square = 0;
  int dof = -1;
  for (size_t v = 0; v < p.size(); ++v) {
    if (p[v] == 0) {
      EXPECT_EQ(counts[v], 0) << "token " << v << " was filtered out";
      continue;
    }
    const double expected = p[v] * num_samples;
    chi_square += (static_cast<double>(counts[v]) - expected) * (static_cast<double>(counts[v]) - expected) / expected;
    ++dof;
  }
  if (dof > 0) {
    EXPECT_LT(chi_square, ChiSquareLimit(dof)) << dof << " degrees of freedom";
  }
}

std::vector<SamplingRow> AllFilters() {
  return {{.temperature = 1.0f},
          {.temperature = 0.6f},
          {.temperature = 1.7f},
          {.temperature = 0.8f, .top_k = 5},
          {.temperature = 0.8f, .top_p = 0.7f},
          {.temperature = 1.0f, .min_p = 0.1f},
          {.temperature = 1.1f, .top_k = 12, .top_p = 0.9f, .min_p = 0.02f}};
}

std::vector<float> ToyLogits() { return testing::RandomTensor(kVocabSize, 7, {.scale = 1.2}); }

TEST(CoupledSampling, FollowsTheFilteredDistribution) {
  const uint64_t seed = testing::TestSeed(111);
  const auto logits = ToyLogits();
  SamplingScratch scratch;
  for (SamplingRow row : AllFilters()) {
    SCOPED_TRACE(::testing::Message() << "T " << row.temperature << " k " << row.top_k << " p " << row.top_p);
    row.seed = seed;
    std::vector<int64_t> counts(kVocabSize, 0);
    for (uint32_t position = 0; position < kNumSamples; ++position) {
      row.position = position;
      ++counts[static_cast<size_t>(SampleRow(row, logits.data(), kVocabSize, scratch).token_id)];
    }
    ExpectFollows(counts, Distribution(row, logits));
  }
}

TEST(CoupledSampling, FollowsTheDistributionAcrossSeedsAndLanes) {
  const auto logits = ToyLogits();
  SamplingScratch scratch;
  std::vector<int64_t> by_seed(kVocabSize, 0), by_lane(kVocabSize, 0);
  for (uint32_t i = 0; i < kNumSamples; ++i) {
    const SamplingRow seeded{.seed = i, .position = 12};
    ++by_seed[static_cast<size_t>(SampleRow(seeded, logits.data(), kVocabSize, scratch).token_id)];
    const SamplingRow laned{.seed = 5, .lane = i, .position = 12};
    ++by_lane[static_cast<size_t>(SampleRow(laned, logits.data(), kVocabSize, scratch).token_id)];
  }
  ExpectFollows(by_seed, Distribution({}, logits));
  ExpectFollows(by_lane, Distribution({}, logits));
}

TEST(CoupledSampling, AcceptsADraftAtLeastAsOftenAsItsBound) {
  // Shared noise: P(equal) >= (1 - TV) / (1 + TV) (arXiv:2408.07978); far above the chance of independent draws.
  const auto target = ToyLogits();
  auto draft = target;
  const auto shift = testing::RandomTensor(kVocabSize, 8, {.scale = 0.5});
  for (size_t v = 0; v < draft.size(); ++v) draft[v] += shift[v];
  const auto p = Distribution({}, target), q = Distribution({}, draft);
  double distance = 0;
  for (size_t v = 0; v < p.size(); ++v) distance += std::fabs(p[v] - q[v]) / 2;
  SamplingScratch scratch;
  int num_equal = 0;
  for (uint32_t position = 0; position < kNumSamples; ++position) {
    const SamplingRow row{.seed = testing::Random(3).Next(), .position = position};
    num_equal += SampleRow(row, target.data(), kVocabSize, scratch).token_id ==
                 SampleRow(row, draft.data(), kVocabSize, scratch).token_id;
  }
  const double rate = num_equal / static_cast<double>(kNumSamples);
  EXPECT_GT(rate, (1 - distance) / (1 + distance) - 5 * std::sqrt(0.25 / kNumSamples));
  EXPECT_LE(rate, 1 - distance + 5 * std::sqrt(0.25 / kNumSamples));
}

enum class Drafter { kGreedy, kCoupledNoise, kLeastLikely, kUniform };

TEST(RejectionSampling, FollowsTheFilteredDistributionWhateverTheDraft) {
  const uint64_t seed = testing::TestSeed(112);
  const auto logits = ToyLogits();
  // The draft model's view: another distribution.
  const auto draft_logits = testing::RandomTensor(kVocabSize, 9, {.scale = 1.0});
  const int32_t likely = ArgMax(logits.data(), kVocabSize);
  const int32_t unlikely = static_cast<int32_t>(std::min_element(logits.begin(), logits.end()) - logits.begin());
  SamplingScratch scratch;
  for (SamplingRow row : AllFilters()) {
    row.seed = seed;
    const auto p = Distribution(row, logits);
    for (const Drafter drafter : {Drafter::kGreedy, Drafter::kCoupledNoise, Drafter::kLeastLikely, Drafter::kUniform}) {
      SCOPED_TRACE(::testing::Message() << "T " << row.temperature << " k " << row.top_k << " p " << row.top_p
                                        << " drafter " << static_cast<int>(drafter));
      testing::Random random(seed);
      std::vector<int64_t> counts(kVocabSize, 0);
      int64_t num_accepted = 0;
      for (uint32_t position = 0; position < kNumSamples; ++position) {
        row.position = position;
        int32_t draft = likely;
        if (drafter == Drafter::kLeastLikely) draft = unlikely;
        if (drafter == Drafter::kUniform) draft = static_cast<int32_t>(random.Integer(0, kVocabSize));
        // Chosen with the very noise that coupled sampling would use at this position.
        if (drafter == Drafter::kCoupledNoise) {
          draft = SampleRow(row, draft_logits.data(), kVocabSize, scratch).token_id;
        }
        const auto outcome = AcceptOrResample(row, logits.data(), kVocabSize, draft, scratch);
        ++counts[static_cast<size_t>(outcome.token.token_id)];
        num_accepted += outcome.accepted;
      }
      ExpectFollows(counts, p);
      if (drafter == Drafter::kGreedy) {
        // Accepted with probability p(draft).
        const double rate = static_cast<double>(num_accepted) / kNumSamples;
        EXPECT_NEAR(rate, p[static_cast<size_t>(likely)], 5 * std::sqrt(0.25 / kNumSamples));
      }
    }
  }
}

TEST(RejectionSampling, SecondTokenFollowsItsDistributionGivenTheFirst) {
  // A span of two drafts: pairs of tokens follow p(first) * p(second | first).
  const uint64_t seed = testing::TestSeed(113);
  constexpr int kSmall = 4;
  std::vector<std::vector<float>> after;
  for (int v = 0; v <= kSmall; ++v) after.push_back(testing::RandomTensor(kSmall, 20 + static_cast<uint64_t>(v)));
  SamplingScratch scratch;
  std::vector<int64_t> counts(kSmall * kSmall, 0);
  for (uint32_t sample = 0; sample < kNumSamples; ++sample) {
    const std::vector<int32_t> draft = {static_cast<int32_t>(sample % kSmall),
                                        static_cast<int32_t>(sample / 7 % kSmall)};
    std::vector<float> logits = after[kSmall];
    const auto& second = after[static_cast<size_t>(draft[0])];
    logits.insert(logits.end(), second.begin(), second.end());
    const auto& third = after[static_cast<size_t>(draft[1])];
    logits.insert(logits.end(), third.begin(), third.end());
    VerifySpan span{.row = {.seed = seed + sample, .position = 3},
                    .logits = logits.data(),
                    .logits_stride = kSmall,
                    .draft_ids = draft,
                    .rule = AcceptanceRule::kRejection};
    VerifiedSpan verified;
    VerifyDraft(span, kSmall, scratch, &verified);
    const int32_t first_id = verified.tokens[0].token_id;
    int32_t second_id = -1;
    if (verified.tokens.size() > 1) {
      second_id = verified.tokens[1].token_id;
    } else {  // the next round, without a draft
      second_id = SampleRow({.seed = seed + sample, .position = 4}, after[static_cast<size_t>(first_id)].data(), kSmall,
                            scratch)
                      .token_id;
    }
    ++counts[static_cast<size_t>(first_id * kSmall + second_id)];
  }
  std::vector<double> p;
  const auto first = Distribution({}, after[kSmall]);
  for (int v = 0; v < kSmall; ++v) {
    for (const double given : Distribution({}, after[static_cast<size_t>(v)])) {
      p.push_back(first[static_cast<size_t>(v)] * given);
    }
  }
  ExpectFollows(counts, p);
}

}  // namespace
}  // namespace outrider::kernels
