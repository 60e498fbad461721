#include "kernels/sampling/device_row_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/device_buffer.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

using testing::DeviceBuffer;
using testing::Random;
using testing::RandomTensor;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Batch {
  int vocab_size = 0;
  int64_t stride = 0;
  std::vector<float> logits;
  std::vector<int32_t> rows;
  std::vector<SummaryRequest> requests;
};

SamplingRow RandomParameters(Random& random, int vocab_size) {
  SamplingRow row;
  row.temperature = random.Uniform() < 0.15 ? 0.0f : static_cast<float>(0.1 + 1.5 * random.Uniform());
  if (random.Uniform() < 0.4) row.top_k = static_cast<int>(random.Integer(1, 60));
  if (random.Uniform() < 0.5) row.top_p = static_cast<float>(0.05 + 0.9499 * random.Uniform());
  if (random.Uniform() < 0.3) row.min_p = static_cast<float>(0.3 * random.Uniform());
  row.seed = random.Next();
  row.lane = static_cast<uint32_t>(random.Integer(0, 4));
  row.position = static_cast<uint32_t>(random.Integer(0, 100000));
  row.num_logprobs = static_cast<int>(random.Integer(-1, 21));
  if (random.Uniform() < 0.15) row.given_token = static_cast<int32_t>(random.Integer(0, vocab_size));
  return row;
}

// Rows of every kind, one kind after the other.
std::vector<float> LogitsOfKind(int kind, int vocab_size, Random& random) {
  std::vector<float> logits = RandomTensor(
      vocab_size, random.Next(), {.scale = 0.02 + 8 * random.Uniform(), .num_outliers = 3, .outlier_factor = 4});
  float& any = logits[static_cast<size_t>(random.Integer(0, vocab_size))];
  switch (kind % 10) {
    case 0:  // ties
      for (float& logit : logits) logit = static_cast<float>(static_cast<int>(logit));
      break;
    case 1:
      for (float& logit : logits) logit = random.Uniform() < 0.9 ? -kInfinity : logit;
      any = 1.0f;
      break;
    case 2:
      std::fill(logits.begin(), logits.end(), 2.0f);
      break;
    case 3:
      any = std::numeric_limits<float>::quiet_NaN();
      break;
    case 4:
      any = kInfinity;
      break;
    case 5:
      std::fill(logits.begin(), logits.end(), -kInfinity);
      if (random.Uniform() < 0.5) logits[static_cast<size_t>(random.Integer(0, vocab_size))] = -3e4f;
      break;
    default:
      break;
  }
  return logits;
}

std::vector<RowSummary> OnDevice(const Batch& batch) {
  const DeviceBuffer<float> logits(batch.logits);
  const DeviceBuffer<int32_t> rows(batch.rows);
  const DeviceBuffer<SummaryRequest> requests(batch.requests);
  const DeviceBuffer<RowSummary> summaries(static_cast<int64_t>(batch.requests.size()));
  EXPECT_EQ(DeviceRowSummary({.logits = logits.data(),
                              .logits_stride = batch.stride,
                              .vocab_size = batch.vocab_size,
                              .num_requests = static_cast<int>(batch.requests.size()),
                              .rows = rows.data(),
                              .requests = requests.data(),
                              .summaries = summaries.data()},
                             nullptr),
            KernelError::kOk);
  std::vector<RowSummary> result = summaries.Download();
  for (RowSummary& summary : result) {
    const int count = std::clamp(summary.num_candidates, 0, kSummaryCandidatesMax);
    std::sort(summary.candidates, summary.candidates + count,
              [](const SummaryCandidate& a, const SummaryCandidate& b) { return a.token_id < b.token_id; });
  }
  return result;
}

// Candidates ids ascending in both.
bool AreEqual(const SummaryRequest& request, const RowSummary& a, const RowSummary& b) {
  if (a.has_nan != b.has_nan || a.num_candidates != b.num_candidates || a.num_buckets != b.num_buckets) return false;
  if (a.weight_sum != b.weight_sum || a.raw_weight_sum != b.raw_weight_sum) return false;
  if (a.has_nan == 0 && a.max_logit != b.max_logit) return false;
  const bool decides_best = !request.has_noise || !(std::fabs(a.max_logit * request.scale) > kSummaryMagnitudeMax);
  if (decides_best && (a.best_id != b.best_id || a.best_logit != b.best_logit)) return false;
  if (a.given_logit != b.given_logit || a.given_rank != b.given_rank) return false;
  for (int i = 0; i < a.num_candidates; ++i) {
    if (a.candidates[i].token_id != b.candidates[i].token_id || a.candidates[i].logit != b.candidates[i].logit) {
      return false;
    }
  }
  return true;
}

int NumWrong(const Batch& batch, const std::vector<RowSummary>& actual) {
  int wrong = 0;
  for (size_t i = 0; i < batch.requests.size(); ++i) {
    RowSummary expected;
    SummarizeRow(batch.requests[i], batch.logits.data() + batch.rows[i] * batch.stride, batch.vocab_size, &expected);
    wrong += !AreEqual(batch.requests[i], actual[i], expected);
  }
  return wrong;
}

Batch RandomBatch(int num_rows, int vocab_size, int64_t stride, Random& random) {
  Batch batch{.vocab_size = vocab_size, .stride = stride};
  for (int r = 0; r < num_rows; ++r) {
    const std::vector<float> logits = LogitsOfKind(num_rows == 1 ? 9 : r, vocab_size, random);
    batch.logits.insert(batch.logits.end(), logits.begin(), logits.end());
    batch.logits.resize(static_cast<size_t>((r + 1) * stride), std::numeric_limits<float>::quiet_NaN());
    batch.rows.push_back(r);
    batch.requests.push_back(RequestOf(RandomParameters(random, vocab_size), vocab_size));
  }
  return batch;
}

TEST(DeviceRowSummary, HasTheBitsOfTheHost) {
  Random random(testing::TestSeed(421));
  for (const int vocab_size : {1, 3, 31, 1000, 4099, 49152, 128256}) {
    for (const int padding : {0, 1, 4}) {
      const int num_rows = vocab_size > 10000 ? 12 : 64;
      const Batch batch = RandomBatch(num_rows, vocab_size, vocab_size + padding, random);
      EXPECT_EQ(NumWrong(batch, OnDevice(batch)), 0) << "vocabulary " << vocab_size << ", padding " << padding;
    }
  }
}

TEST(DeviceRowSummary, SeesNeitherNeighboursNorRowIndexNorRowCount) {
  Random random(testing::TestSeed(422));
  constexpr int kVocabSize = 8000;
  Batch all = RandomBatch(256, kVocabSize, kVocabSize, random);
  const std::vector<RowSummary> expected = OnDevice(all);
  EXPECT_EQ(NumWrong(all, expected), 0);
  // Backwards, so that no row keeps its index, and some alone.
  Batch turned = all;
  std::reverse(turned.rows.begin(), turned.rows.end());
  std::reverse(turned.requests.begin(), turned.requests.end());
  const std::vector<RowSummary> actual = OnDevice(turned);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(AreEqual(all.requests[i], actual[expected.size() - 1 - i], expected[i])) << "row " << i;
  }
  for (size_t i = 0; i < expected.size(); i += 37) {
    Batch alone = all;
    alone.rows = {all.rows[i]};
    alone.requests = {all.requests[i]};
    EXPECT_TRUE(AreEqual(all.requests[i], OnDevice(alone)[0], expected[i])) << "row " << i;
  }
}

TEST(DeviceRowSummary, PlantedFaultsAreSeen) {
  Random random(testing::TestSeed(423));
  Batch batch = RandomBatch(1, 5000, 5000, random);
  batch.requests[0] = RequestOf({.temperature = 0.7f, .top_p = 0.9f, .num_logprobs = 5}, 5000);
  std::vector<RowSummary> summaries = OnDevice(batch);
  ASSERT_EQ(NumWrong(batch, summaries), 0);
  ++summaries[0].weight_sum;
  EXPECT_EQ(NumWrong(batch, summaries), 1);
  summaries = OnDevice(batch);
  ASSERT_GT(summaries[0].num_candidates, 0);
  summaries[0].candidates[0].logit += 1;
  EXPECT_EQ(NumWrong(batch, summaries), 1);
  batch.requests[0] = RequestOf({.given_token = 321}, 5000);
  summaries = OnDevice(batch);
  ASSERT_EQ(NumWrong(batch, summaries), 0);
  ++summaries[0].given_rank;
  EXPECT_EQ(NumWrong(batch, summaries), 1);
  // Noise of the next position is another winner's, in nearly every row.
  Batch noisy = RandomBatch(1, 5000, 5000, random);
  int num_other = 0;
  for (uint32_t position = 0; position < 20; ++position) {
    noisy.requests[0] = RequestOf({.seed = 3, .position = position}, 5000);
    const std::vector<RowSummary> right = OnDevice(noisy);
    EXPECT_EQ(NumWrong(noisy, right), 0);
    ++noisy.requests[0].position;
    num_other += NumWrong(noisy, right);
  }
  EXPECT_GT(num_other, 0);
}

TEST(DeviceRowSummary, RefusesImpossibleArguments) {
  EXPECT_EQ(DeviceRowSummary({.vocab_size = 0}, nullptr), KernelError::kInvalidShape);
  EXPECT_EQ(DeviceRowSummary({.logits_stride = 7, .vocab_size = 8}, nullptr), KernelError::kInvalidShape);
  EXPECT_EQ(DeviceRowSummary({.logits_stride = 8, .vocab_size = 8}, nullptr), KernelError::kOk);
  EXPECT_EQ(DeviceRowSummary({.logits_stride = 8, .vocab_size = 8, .num_requests = 1}, nullptr),
            KernelError::kNullPointer);
}

}  // namespace
}  // namespace outrider::kernels
