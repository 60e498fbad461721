#include "kernels/embedding/device_embedding.h"

#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/device_buffer.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

using testing::DeviceBuffer;

TEST(DeviceEmbedding, GivesTheTablesRowsExactly) {
  for (const int hidden : {32, 100, 576}) {
    constexpr int kVocab = 77;
    const std::vector<float> values = testing::RoundedToBf16(testing::RandomTensor(kVocab * hidden, 71));
    DeviceMatrix table{.out_features = kVocab, .in_features = hidden};
    const DeviceBuffer<uint8_t> memory(table.bytes());
    table.data = memory.data();
    const DeviceBuffer<uint16_t> rows(testing::ToBf16(values));
    ASSERT_EQ(PackDeviceMatrix({.rows = rows.data(), .num_rows = kVocab, .matrix = table}, nullptr), KernelError::kOk);
    const std::vector<int32_t> ids = {0, 76, 15, 16, 33, 0};
    const DeviceBuffer<int32_t> device_ids(ids);
    const int64_t stride = hidden + 6;
    const DeviceBuffer<float> out(static_cast<int64_t>(ids.size()) * stride);
    ASSERT_EQ(DeviceEmbedding({.table = table,
                               .token_ids = device_ids.data(),
                               .out = out.data(),
                               .out_stride = stride,
                               .num_rows = static_cast<int>(ids.size()),
                               .scale = 2.0f},
                              nullptr),
              KernelError::kOk);
    const std::vector<float> actual = out.Download();
    for (size_t r = 0; r < ids.size(); ++r) {
      for (int i = 0; i < hidden; ++i) EXPECT_EQ(actual[r * stride + i], 2 * values[ids[r] * hidden + i]);
    }
  }
}

}  // namespace
}  // namespace outrider::kernels
