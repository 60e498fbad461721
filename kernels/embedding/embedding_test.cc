#include "kernels/embedding/embedding.h"

#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/tensor_compare.h"

namespace outrider::kernels {
namespace {

using testing::CompareBits;
using testing::RandomTensor;

constexpr int kVocabSize = 50;
constexpr int kHiddenSize = 96;

std::vector<char> Table(DType dtype, uint64_t seed) {
  const auto values = RandomTensor(kVocabSize * kHiddenSize, seed, {.num_outliers = 5});
  std::vector<char> table(static_cast<size_t>(kVocabSize * RowBytes(dtype, kHiddenSize)));
  EXPECT_EQ(QuantizeRow(dtype, values.data(), kVocabSize * kHiddenSize, table.data()), KernelError::kOk);
  return table;
}

TEST(Embedding, GivesTheTablesValuesExactlyForAnyNumberOfRows) {
  const uint64_t seed = testing::TestSeed(31);
  ThreadPool pool(3);
  for (int d = 0; d < kNumDTypes; ++d) {
    const auto table = Table(static_cast<DType>(d), seed);
    for (const int num_rows : {1, 5, 64, 65, 256}) {
      testing::Random random(seed + 1);
      std::vector<int32_t> ids(static_cast<size_t>(num_rows));
      for (int32_t& id : ids) id = static_cast<int32_t>(random.Integer(0, kVocabSize));
      std::vector<float> actual(static_cast<size_t>(num_rows) * (kHiddenSize + 3)), expected(actual.size());
      EmbeddingArgs args{.dtype = static_cast<DType>(d),
                         .table = table.data(),
                         .vocab_size = kVocabSize,
                         .hidden_size = kHiddenSize,
                         .token_ids = ids.data(),
                         .out = actual.data(),
                         .out_stride = kHiddenSize + 3,
                         .num_rows = num_rows,
                         .scale = 3.0f};
      ASSERT_EQ(Embedding(args, pool), KernelError::kOk);
      args.out = expected.data();
      ASSERT_EQ(EmbeddingReference(args), KernelError::kOk);
      EXPECT_EQ(CompareBits(actual, expected), "") << DTypeName(args.dtype);
    }
  }
}

TEST(Embedding, RefusesTokensOutsideTheVocabularyAndRowsThatCutABlock) {
  ThreadPool pool(1);
  const auto table = Table(DType::kQ8_0, 1);
  std::vector<float> out(kHiddenSize);
  for (const int32_t id : {-1, kVocabSize}) {
    EXPECT_EQ(Embedding({.dtype = DType::kQ8_0,
                         .table = table.data(),
                         .vocab_size = kVocabSize,
                         .hidden_size = kHiddenSize,
                         .token_ids = &id,
                         .out = out.data(),
                         .num_rows = 1},
                        pool),
              KernelError::kInvalidShape);
  }
  const int32_t id = 0;
  EXPECT_EQ(Embedding({.dtype = DType::kQ8_0,
                       .table = table.data(),
                       .vocab_size = kVocabSize,
                       .hidden_size = 40,
                       .token_ids = &id,
                       .out = out.data(),
                       .num_rows = 1},
                      pool),
            KernelError::kInvalidShape);
}

}  // namespace
}  // namespace outrider::kernels
