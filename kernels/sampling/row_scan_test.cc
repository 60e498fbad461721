#include "kernels/sampling/row_scan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/sampling/coupled_noise.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/targets.h"

namespace outrider::kernels {
namespace {

using testing::RandomTensor;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(ScanExtent, FindsMaximumAndNanAtEveryPlace) {
  testing::ForEachTarget([](const char* target) {
    for (const int size : {1, 15, 16, 33, 100}) {
      for (int at = 0; at < size; ++at) {
        std::vector<float> row(static_cast<size_t>(size), -3.0f);
        row[static_cast<size_t>(at)] = 2.0f;
        RowExtent extent = ScanExtent(row.data(), size);
        EXPECT_EQ(extent.max, 2.0f) << target << " " << size << " " << at;
        EXPECT_FALSE(extent.has_nan);
        EXPECT_EQ(FindFirst(row.data(), size, 2.0f), at);
        row[static_cast<size_t>(at)] = NAN;
        extent = ScanExtent(row.data(), size);
        EXPECT_TRUE(extent.has_nan) << target << " " << size << " " << at;
        EXPECT_EQ(FindFirst(row.data(), size, 2.0f), -1);
      }
    }
  });
}

TEST(SumWeights, IsExactAndTheSameInAnyOrderOnEveryTarget) {
  const uint64_t seed = testing::TestSeed(81);
  auto row = RandomTensor(5003, seed, {.scale = 6});
  row[17] = -kInfinity;
  const float scale = 1.0f / 0.7f;
  const float max = *std::max_element(row.begin(), row.end()) * scale;
  for (const float delta_min : {-kInfinity, -8.0f, 0.0f}) {
    double expected = 0;
    for (size_t i = row.size(); i-- > 0;) {  // descending, where the kernel ascends
      const float delta = row[i] * scale - max;
      if (delta >= delta_min) expected += WeightOf(delta);
    }
    testing::ForEachTarget([&](const char* target) {
      EXPECT_EQ(SumWeights(row.data(), 5003, scale, max, delta_min), expected) << target;
    });
  }
}

TEST(WeightOf, LiesOnTheGrid) {
  EXPECT_EQ(WeightOf(0.0f), 1.0);
  EXPECT_EQ(WeightOf(-25.0f), 0.0);
  const double weight = WeightOf(-3.3f);
  EXPECT_NEAR(weight, std::exp(-3.3), 1e-8);
  EXPECT_EQ(weight * 0x1.0p34, std::floor(weight * 0x1.0p34));
}

TEST(CollectAtLeast, TakesAllTokensOfTheWindowInOrder) {
  auto row = RandomTensor(1003, 5, {.scale = 3});
  row[1002] = 20.0f;
  row[44] = -kInfinity;
  testing::ForEachTarget([&](const char* target) {
    for (const float delta_min : {0.0f, -15.0f, -kInfinity}) {
      std::vector<SamplingScratch::Candidate> found;
      CollectAtLeast(row.data(), 1003, 2.0f, 40.0f, delta_min, &found);
      size_t next = 0;
      for (int id = 0; id < 1003; ++id) {
        const float scaled = row[static_cast<size_t>(id)] * 2.0f;
        if (!(scaled - 40.0f >= delta_min)) continue;
        ASSERT_LT(next, found.size()) << target;
        EXPECT_EQ(found[next].token_id, id);
        EXPECT_EQ(found[next].logit, scaled);
        ++next;
      }
      EXPECT_EQ(next, found.size());
    }
  });
}

// Every token scored, none skipped.
int32_t PlainCoupledArgMax(const std::vector<float>& row, float scale, const DrawKey& key, DrawPurpose purpose,
                           const TokenFloor& floor, int32_t excluded_id) {
  int32_t best_id = -1;
  float best = -kInfinity;
  for (int32_t id = 0; id < static_cast<int32_t>(row.size()); ++id) {
    const float scaled = row[static_cast<size_t>(id)] * scale;
    if (id == excluded_id || scaled < floor.logit || (scaled == floor.logit && id > floor.last_id)) continue;
    const float score = scaled + GumbelFromBits(Draw(key, purpose, static_cast<uint32_t>(id)));
    if (score > best) {
      best = score;
      best_id = id;
    }
  }
  return best_id;
}

TEST(CoupledArgMax, SkipsOnlyWhatCannotWin) {
  const uint64_t seed = testing::TestSeed(82);
  testing::Random random(seed);
  testing::ForEachTarget([&](const char* target) {
    for (int round = 0; round < 400; ++round) {
      const int size = static_cast<int>(random.Integer(1, 2000));
      // From rows where noise decides everything to rows where it decides nothing.
      const double spread = std::pow(10.0, random.Uniform() * 4 - 2);
      auto row = RandomTensor(size, random.Next(), {.scale = spread, .num_outliers = 2, .outlier_factor = 5});
      if (round % 4 == 0) {
        for (float& logit : row) logit = std::round(logit);  // ties of logits
      }
      if (round % 5 == 0) row[static_cast<size_t>(random.Integer(0, size))] = -kInfinity;
      const float scale = static_cast<float>(0.2 + 3 * random.Uniform());
      const DrawKey key{
          .seed = random.Next(), .lane = static_cast<uint32_t>(round % 3), .position = static_cast<uint32_t>(round)};
      TokenFloor floor;
      if (round % 3 == 0) {
        const int32_t id = static_cast<int32_t>(random.Integer(0, size));
        floor = {.logit = row[static_cast<size_t>(id)] * scale, .last_id = id};
      }
      const int32_t excluded_id = round % 2 == 0 ? -1 : static_cast<int32_t>(random.Integer(0, size));
      const int32_t first_best = FindFirst(row.data(), size, ScanExtent(row.data(), size).max);
      const int32_t expected = PlainCoupledArgMax(row, scale, key, DrawPurpose::kResidual, floor, excluded_id);
      for (const int32_t likely_id : {-1, first_best}) {
        if (likely_id == excluded_id && likely_id >= 0) continue;
        EXPECT_EQ(CoupledArgMax(row.data(), size, scale, key, DrawPurpose::kResidual, floor, excluded_id, likely_id),
                  expected)
            << target << " round " << round << " size " << size << " spread " << spread;
      }
    }
  });
}

TEST(CoupledArgMax, GivesTiesToTheLowestId) {
  // 1e8 + noise rounds to 1e8 or the next float 8 above: scores tie often, and the noise still differs.
  const std::vector<float> row(300, 1e9f);
  testing::ForEachTarget([&](const char* target) {
    for (uint32_t position = 0; position < 20; ++position) {
      const DrawKey key{.seed = 9, .position = position};
      for (const int32_t likely_id : {-1, 0, 299}) {
        EXPECT_EQ(CoupledArgMax(row.data(), 300, 1.0f, key, DrawPurpose::kCoupled, {}, -1, likely_id),
                  PlainCoupledArgMax(row, 1.0f, key, DrawPurpose::kCoupled, {}, -1))
            << target << " position " << position;
      }
    }
  });
}

}  // namespace
}  // namespace outrider::kernels
