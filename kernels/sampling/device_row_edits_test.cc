#include "kernels/sampling/device_row_edits.h"

#include <algorithm>
#include <bit>
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

struct Batch {
  int64_t stride = 0;
  std::vector<float> logits;
  std::vector<EditedRow> rows;
  std::vector<RowEdit> edits;
};

// Rows in another order than their edits, some without any.
Batch RandomBatch(int num_rows, int vocab_size, Random& random) {
  Batch batch{.stride = vocab_size + random.Integer(0, 5)};
  batch.logits = RandomTensor(num_rows * batch.stride, random.Next(), {.scale = 6});
  for (float& logit : batch.logits) {
    if (random.Uniform() < 0.02) logit = -std::numeric_limits<float>::infinity();
    if (random.Uniform() < 0.001) logit = std::numeric_limits<float>::quiet_NaN();
  }
  for (int r = num_rows - 1; r >= 0; --r) {
    EditedRow row{.logits_row = r, .first_edit = static_cast<int32_t>(batch.edits.size())};
    if (random.Uniform() < 0.7) row.penalties.repetition = static_cast<float>(0.5 + 2 * random.Uniform());
    if (random.Uniform() < 0.7) row.penalties.presence = static_cast<float>(3 * random.Uniform() - 1);
    if (random.Uniform() < 0.7) row.penalties.frequency = static_cast<float>(random.Uniform());
    const int64_t edits_max = RowEditsMax(vocab_size);
    const int64_t num_edits = r % 7 == 3 ? 0 : r % 7 == 4 ? edits_max : random.Integer(1, edits_max + 1);
    const int64_t step = vocab_size / std::max<int64_t>(num_edits, 1);
    for (int64_t i = 0; i < num_edits; ++i) {
      batch.edits.push_back({.token_id = static_cast<int32_t>(i * step + random.Integer(0, step)),
                             .bias = static_cast<float>(10 * random.Uniform() - 5),
                             .output_count = static_cast<int32_t>(random.Integer(0, 30)),
                             .has_bias = random.Uniform() < 0.5,
                             .is_masked = random.Uniform() < 0.1,
                             .is_penalized = random.Uniform() < 0.8});
    }
    row.num_edits = static_cast<int32_t>(num_edits);
    batch.rows.push_back(row);
  }
  return batch;
}

struct Outcome {
  std::vector<float> edited, raw, restored;
};

Outcome OnDevice(const Batch& batch) {
  const DeviceBuffer<float> logits(batch.logits);
  const DeviceBuffer<EditedRow> rows(batch.rows);
  const DeviceBuffer<RowEdit> edits(batch.edits);
  const DeviceBuffer<OriginalLogit> originals(static_cast<int64_t>(batch.edits.size()));
  const DeviceBuffer<float> raw(static_cast<int64_t>(batch.edits.size()));
  const DeviceRowEditsArgs args{.logits = logits.data(),
                                .logits_stride = batch.stride,
                                .num_rows = static_cast<int>(batch.rows.size()),
                                .rows = rows.data(),
                                .edits = edits.data(),
                                .originals = originals.data(),
                                .raw_logits = raw.data()};
  EXPECT_EQ(DeviceApplyRowEdits(args, nullptr), KernelError::kOk);
  Outcome outcome{.edited = logits.Download(), .raw = raw.Download(), .restored = {}};
  EXPECT_EQ(DeviceRestoreRows(args, nullptr), KernelError::kOk);
  outcome.restored = logits.Download();
  return outcome;
}

bool SameBits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (a != a && b != b);
}

int NumDifferent(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  int num_different = 0;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) num_different += !SameBits(a[i], b[i]);
  return num_different;
}

std::vector<float> OnHost(const Batch& batch) {
  std::vector<float> logits = batch.logits;
  for (const EditedRow& row : batch.rows) {
    for (int i = row.first_edit; i < row.first_edit + row.num_edits; ++i) {
      const RowEdit& edit = batch.edits[static_cast<size_t>(i)];
      float& logit = logits[static_cast<size_t>(row.logits_row * batch.stride + edit.token_id)];
      logit = EditedLogit(row.penalties, edit, logit);
    }
  }
  return logits;
}

TEST(DeviceRowEdits, HaveTheBitsOfTheHostAndAreUndone) {
  Random random(testing::TestSeed(441));
  for (const int vocab_size : {8, 31, 1000, 49152, 128256}) {
    for (int round = 0; round < 4; ++round) {
      const Batch batch = RandomBatch(vocab_size > 10000 ? 8 : 100, vocab_size, random);
      const Outcome outcome = OnDevice(batch);
      EXPECT_EQ(NumDifferent(outcome.edited, OnHost(batch)), 0) << "vocabulary " << vocab_size;
      EXPECT_EQ(NumDifferent(outcome.restored, batch.logits), 0) << "vocabulary " << vocab_size;
      for (const EditedRow& row : batch.rows) {
        for (int i = row.first_edit; i < row.first_edit + row.num_edits; ++i) {
          const int32_t id = batch.edits[static_cast<size_t>(i)].token_id;
          const float raw = batch.logits[static_cast<size_t>(row.logits_row * batch.stride + id)];
          ASSERT_TRUE(SameBits(outcome.raw[static_cast<size_t>(i)], raw));
        }
      }
    }
  }
}

TEST(DeviceRowEdits, PlantedFaultsAreSeen) {
  Random random(testing::TestSeed(442));
  Batch batch = RandomBatch(5, 2000, random);
  const Outcome outcome = OnDevice(batch);
  ASSERT_EQ(NumDifferent(outcome.edited, OnHost(batch)), 0);
  batch.edits[3].is_masked ^= 1;
  EXPECT_EQ(NumDifferent(outcome.edited, OnHost(batch)), 1);
  batch.edits[3].is_masked ^= 1;
  batch.rows[0].penalties.repetition += 0.01f;
  EXPECT_GT(NumDifferent(outcome.edited, OnHost(batch)), 0);
}

TEST(DeviceRowEdits, RefuseImpossibleArguments) {
  EXPECT_EQ(DeviceApplyRowEdits({.logits_stride = 0}, nullptr), KernelError::kInvalidShape);
  EXPECT_EQ(DeviceApplyRowEdits({.logits_stride = 8, .num_rows = -1}, nullptr), KernelError::kInvalidShape);
  EXPECT_EQ(DeviceApplyRowEdits({.logits_stride = 8}, nullptr), KernelError::kOk);
  EXPECT_EQ(DeviceApplyRowEdits({.logits_stride = 8, .num_rows = 1}, nullptr), KernelError::kNullPointer);
  EXPECT_EQ(DeviceRestoreRows({.logits_stride = 8, .num_rows = 1}, nullptr), KernelError::kNullPointer);
}

}  // namespace
}  // namespace outrider::kernels
