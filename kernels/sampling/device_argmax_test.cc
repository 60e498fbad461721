#include "kernels/sampling/device_argmax.h"

#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/sampling/sample_row.h"
#include "kernels/testing/device_buffer.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

TEST(DeviceArgMax, ChoosesAsTheCpuDoes) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const int vocab_size : {1, 31, 1000, 49152}) {
    std::vector<std::vector<float>> rows;
    for (uint64_t seed = 0; seed < 4; ++seed) rows.push_back(testing::RandomTensor(vocab_size, seed + 81));
    rows.push_back(std::vector<float>(static_cast<size_t>(vocab_size), -2.0f));  // ties
    rows.push_back(std::vector<float>(static_cast<size_t>(vocab_size), -kInfinity));
    rows.push_back(rows[0]);
    rows.back()[static_cast<size_t>(vocab_size) / 2] = std::numeric_limits<float>::quiet_NaN();
    rows.push_back(rows[0]);
    rows.back()[static_cast<size_t>(vocab_size) / 2] = -std::numeric_limits<float>::quiet_NaN();
    rows.push_back(rows[0]);
    rows.back()[static_cast<size_t>(vocab_size) - 1] = kInfinity;
    rows.push_back(std::vector<float>(static_cast<size_t>(vocab_size), -kInfinity));
    rows.back()[static_cast<size_t>(vocab_size) - 1] = -std::numeric_limits<float>::max();
    rows.push_back(std::vector<float>(static_cast<size_t>(vocab_size), -1.0f));
    rows.back()[static_cast<size_t>(vocab_size) / 3] = -0.0f;
    rows.back()[static_cast<size_t>(vocab_size) - 1] = 0.0f;
    std::vector<float> logits;
    for (const std::vector<float>& row : rows) logits.insert(logits.end(), row.begin(), row.end());
    const testing::DeviceBuffer<float> device_logits(logits);
    const testing::DeviceBuffer<int32_t> ids(static_cast<int64_t>(rows.size()));
    const testing::DeviceBuffer<float> best_logits(static_cast<int64_t>(rows.size()));
    ASSERT_EQ(DeviceArgMax({.logits = device_logits.data(),
                            .logits_stride = vocab_size,
                            .num_rows = static_cast<int>(rows.size()),
                            .vocab_size = vocab_size,
                            .token_ids = ids.data(),
                            .best_logits = best_logits.data()},
                           nullptr),
              KernelError::kOk);
    const std::vector<int32_t> actual = ids.Download();
    const std::vector<float> best = best_logits.Download();
    for (size_t r = 0; r < rows.size(); ++r) {
      EXPECT_EQ(actual[r], ArgMax(rows[r].data(), vocab_size)) << "row " << r << " of " << vocab_size;
      if (actual[r] < 0) continue;
      EXPECT_EQ(best[r], rows[r][static_cast<size_t>(actual[r])]) << "row " << r << " of " << vocab_size;
    }
  }
}

}  // namespace
}  // namespace outrider::kernels
