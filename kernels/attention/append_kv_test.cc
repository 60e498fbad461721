#include "kernels/attention/append_kv.h"

#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/targets.h"

namespace outrider::kernels {
namespace {

TEST(AppendKv, WritesTheSlotsOfTheReferenceAndNoOthers) {
  const uint64_t seed = testing::TestSeed(51);
  testing::ForEachTarget([&](const char* target) {
    for (const DType dtype : {DType::kF32, DType::kF16}) {
      for (const int block_size : {1, 4, 16, 256}) {
        for (const int head_dim : {8, 64, 80}) {
          SCOPED_TRACE(::testing::Message()
                       << target << " " << DTypeName(dtype) << " block " << block_size << " dim " << head_dim);
          const KvLayout layout{.dtype = dtype,
                                .num_blocks = 400 / block_size + 4,
                                .block_size = block_size,
                                .num_kv_heads = 3,
                                .head_dim = head_dim};
          // A prompt chunk that starts inside a block, a decode row, an empty span.
          std::vector<int32_t> first_table, second_table;
          for (int b = 0; b <= 150 / block_size; ++b) first_table.push_back(layout.num_blocks - 1 - b);
          for (int b = 0; b <= 130 / block_size; ++b) second_table.push_back(b);
          const std::vector<AttentionSpan> spans = {
              {.first_row = 0, .num_rows = 70, .first_position = 77, .block_table = first_table.data()},
              {.first_row = 70, .num_rows = 0},
              {.first_row = 70, .num_rows = 1, .first_position = 130, .block_table = second_table.data()}};
          const int64_t stride = 3 * head_dim + 1;
          // Values beyond the range of F16 and subnormal in it.
          const auto k = testing::RandomTensor(71 * stride, seed, {.num_outliers = 40, .outlier_factor = 1e5});
          const auto v = testing::RandomTensor(71 * stride, seed + 1, {.num_outliers = 40, .outlier_factor = 1e-7});
          std::vector<char> k_actual(static_cast<size_t>(layout.k_bytes()), 0x55), k_expected = k_actual;
          std::vector<char> v_actual(static_cast<size_t>(layout.v_bytes()), 0x55), v_expected = v_actual;
          AppendKvArgs args{.k = k.data(),
                            .v = v.data(),
                            .k_stride = stride,
                            .v_stride = stride,
                            .layout = layout,
                            .k_storage = k_actual.data(),
                            .v_storage = v_actual.data(),
                            .spans = spans};
          ThreadPool pool(2);
          ASSERT_EQ(AppendKv(args, pool), KernelError::kOk);
          args.k_storage = k_expected.data();
          args.v_storage = v_expected.data();
          ASSERT_EQ(AppendKvReference(args), KernelError::kOk);
          EXPECT_TRUE(k_actual == k_expected);
          EXPECT_TRUE(v_actual == v_expected);
        }
      }
    }
  });
}

TEST(AppendKv, RefusesBlocksOutsideTheStorage) {
  const KvLayout layout{.num_blocks = 2, .block_size = 16, .num_kv_heads = 1, .head_dim = 16};
  std::vector<float> row(16), k(static_cast<size_t>(layout.k_bytes())), v(static_cast<size_t>(layout.v_bytes()));
  ThreadPool pool(1);
  for (const int32_t block : {-1, 2}) {
    const AttentionSpan span{.num_rows = 1, .first_position = 3, .block_table = &block};
    EXPECT_EQ(AppendKv({.k = row.data(),
                        .v = row.data(),
                        .layout = layout,
                        .k_storage = k.data(),
                        .v_storage = v.data(),
                        .spans = {&span, 1}},
                       pool),
              KernelError::kInvalidShape);
  }
  KvLayout odd = layout;
  odd.block_size = 24;
  EXPECT_EQ(odd.Check(), KernelError::kInvalidShape);
  odd.dtype = DType::kQ8_0;
  EXPECT_EQ(odd.Check(), KernelError::kUnsupportedDType);
}

}  // namespace
}  // namespace outrider::kernels
