#include "kernels/sampling/token_counts.h"

#include <map>

#include "gtest/gtest.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

TEST(TokenCounts, AgreesWithAMapOverRandomTokens) {
  testing::Random random(testing::TestSeed(71));
  TokenCounts counts;
  std::map<int32_t, int32_t> expected;
  for (int i = 0; i < 5000; ++i) {
    // Some many times, some never, ids far apart.
    const int32_t id = static_cast<int32_t>(random.Integer(0, 1 << (1 + i % 17))) * 3;
    if (i % 3 == 0) {
      counts.AddPromptToken(id);
      expected[id] += 0;
    } else {
      counts.AddOutputToken(id);
      ++expected[id];
    }
  }
  ASSERT_EQ(counts.entries().size(), expected.size());
  for (const auto& entry : counts.entries()) EXPECT_EQ(entry.output_count, expected.at(entry.token_id));
  for (int32_t id = 0; id < 1000; ++id) {
    const auto* entry = counts.Find(id);
    ASSERT_EQ(entry != nullptr, expected.count(id) == 1) << id;
    if (entry != nullptr) {
      EXPECT_EQ(entry->output_count, expected[id]);
    }
  }
  counts.Clear();
  EXPECT_TRUE(counts.entries().empty());
  EXPECT_EQ(counts.Find(3), nullptr);
}

}  // namespace
}  // namespace outrider::kernels
