#include "kernels/attention/device_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/append_kv.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/rope/rope.h"
#include "kernels/testing/device_buffer.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/tensor_compare.h"

namespace outrider::kernels {
namespace {

using testing::CompareTensors;
using testing::DeviceBuffer;
using testing::kUnitRoundoff;
using testing::RandomTensor;
using testing::RoundedToBf16;
using testing::ToBf16;

constexpr int64_t kNumPartials = 4096;
constexpr int kMultiprocessors = 132;

struct Heads {
  int num_heads, num_kv_heads, head_dim;
  int group() const { return num_heads / num_kv_heads; }
};

// One sequence's keys and values on the device and, for the oracle, on the host; other slots hold NaN.
struct Cache {
  Cache(Heads h, int num_positions, uint64_t seed)
      : heads(h),
        layout{.num_blocks = (num_positions + 15) / 16 + 3, .num_kv_heads = h.num_kv_heads, .head_dim = h.head_dim},
        k_storage(layout.bytes()),
        v_storage(layout.bytes()),
        row_size(int64_t{h.num_kv_heads} * h.head_dim) {
    const int num_blocks = layout.num_blocks - 3;
    for (int b = 0; b < num_blocks; ++b) table.push_back(b + 2);
    testing::Random random(seed);
    for (size_t b = table.size(); b > 1; --b) {
      std::swap(table[b - 1], table[static_cast<size_t>(random.Integer(0, static_cast<int64_t>(b)))]);
    }
    k = RoundedToBf16(RandomTensor(num_positions * row_size, seed + 1, {.num_outliers = 5, .outlier_factor = 5}));
    v = RoundedToBf16(RandomTensor(num_positions * row_size, seed + 2, {.num_outliers = 20, .outlier_factor = 1e3}));
    Append(num_positions);
  }

  void Append(int num_positions) {
    // Without rotation keys and values are stored as they are.
    const int64_t stride = row_size * (heads.group() + 2);
    std::vector<float> qkv(static_cast<size_t>(num_positions * stride));
    std::vector<int32_t> positions, slots;
    for (int p = 0; p < num_positions; ++p) {
      std::copy_n(k.data() + p * row_size, row_size, qkv.data() + p * stride + row_size * heads.group());
      std::copy_n(v.data() + p * row_size, row_size, qkv.data() + p * stride + row_size * (heads.group() + 1));
      positions.push_back(0);
      slots.push_back(table[static_cast<size_t>(p / 16)] * 16 + p % 16);
    }
    const DeviceBuffer<uint16_t> device_qkv(ToBf16(qkv));
    const DeviceBuffer<int32_t> device_positions(positions), device_slots(slots);
    const DeviceBuffer<float> no_rotation(1);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_EQ(DeviceRopeAppend({.qkv = device_qkv.data(),
                                .qkv_stride = stride,
                                .num_rows = num_positions,
                                .num_heads = heads.num_heads,
                                .positions = device_positions.data(),
                                .kv_slots = device_slots.data(),
                                .cos_sin = no_rotation.data(),
                                .layout = layout,
                                .k_storage = k_storage.data(),
                                .v_storage = v_storage.data()},
                               nullptr),
              KernelError::kOk);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  Heads heads;
  DeviceKvLayout layout;
  std::vector<int32_t> table;
  DeviceBuffer<uint8_t> k_storage, v_storage;
  std::vector<float> k, v;
  int64_t row_size;
};

// A step over sequences that share a cache's table, each with its own rows.
struct Step {
  std::vector<AttentionSpan> spans;
  int num_rows = 0;
  void Add(int first_position, int rows) {
    spans.push_back({.first_row = num_rows, .num_rows = rows, .first_position = first_position});
    num_rows += rows;
  }
};

std::vector<uint16_t> ToF16(const std::vector<float>& values) {
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) bits[i] = F32ToF16(values[i]);
  return bits;
}

std::vector<uint16_t> Attend(const Cache& cache, const Step& step, const std::vector<uint16_t>& q,
                             int64_t num_partials_max = kNumPartials, int sliding_window = 0) {
  const int64_t stride = int64_t{cache.heads.num_heads} * cache.heads.head_dim;
  DeviceAttentionPlan plan;
  const std::vector<int32_t> offsets(step.spans.size(), 0);
  plan.Make(step.spans, offsets, cache.heads.num_heads, cache.heads.num_kv_heads, kMultiprocessors, num_partials_max);
  // At an address that is a multiple of no more than its fields are.
  std::vector<int32_t> tile_words(1 + plan.tiles().size() * sizeof(DeviceAttentionTile) / sizeof(int32_t));
  std::memcpy(tile_words.data() + 1, plan.tiles().data(), plan.tiles().size_bytes());
  const DeviceBuffer<int32_t> tiles(tile_words);
  const DeviceBuffer<int32_t> table(cache.table);
  const DeviceBuffer<uint16_t> device_q(q);
  DeviceBuffer<uint16_t> out(step.num_rows * stride);
  DeviceBuffer<uint8_t> workspace(DeviceAttentionWorkspaceBytes(cache.layout, kNumPartials));
  workspace.Zero();
  const DeviceAttentionArgs args{.q = device_q.data(),
                                 .out = out.data(),
                                 .q_stride = stride,
                                 .out_stride = stride,
                                 .num_heads = cache.heads.num_heads,
                                 .scale = 1.0f / std::sqrt(static_cast<float>(cache.heads.head_dim)),
                                 .sliding_window = sliding_window,
                                 .layout = cache.layout,
                                 .k_storage = cache.k_storage.data(),
                                 .v_storage = cache.v_storage.data(),
                                 .tiles = reinterpret_cast<const DeviceAttentionTile*>(tiles.data() + 1),
                                 .block_tables = table.data(),
                                 .plan = &plan,
                                 .workspace = workspace.data(),
                                 .num_partials_max = kNumPartials};
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);  // inputs are read early
  // Twice: the counters of split tiles must be left as they were found.
  EXPECT_EQ(DeviceAttention(args, nullptr), KernelError::kOk);
  EXPECT_EQ(DeviceAttention(args, nullptr), KernelError::kOk);
  return out.Download();
}

// The oracle over the same values, and over their magnitudes: what errors are relative to.
std::vector<float> Reference(const Cache& cache, const Step& step, const std::vector<float>& q, bool magnitudes,
                             int sliding_window = 0) {
  const KvLayout layout{.dtype = DType::kF16,
                        .num_blocks = cache.layout.num_blocks,
                        .block_size = 16,
                        .num_kv_heads = cache.heads.num_kv_heads,
                        .head_dim = cache.heads.head_dim};
  std::vector<char> k_storage(static_cast<size_t>(layout.k_bytes())), v_storage(static_cast<size_t>(layout.v_bytes()));
  std::vector<float> v = cache.v;
  if (magnitudes) {
    for (float& value : v) value = std::fabs(value);
  }
  const AttentionSpan all{.num_rows = static_cast<int>(cache.v.size() / cache.row_size),
                          .block_table = cache.table.data()};
  EXPECT_EQ(AppendKvReference({.k = cache.k.data(),
                               .v = v.data(),
                               .k_stride = cache.row_size,
                               .v_stride = cache.row_size,
                               .layout = layout,
                               .k_storage = k_storage.data(),
                               .v_storage = v_storage.data(),
                               .spans = {&all, 1}}),
            KernelError::kOk);
  std::vector<AttentionSpan> spans = step.spans;
  for (AttentionSpan& span : spans) span.block_table = cache.table.data();
  const int64_t stride = int64_t{cache.heads.num_heads} * cache.heads.head_dim;
  std::vector<float> out(static_cast<size_t>(step.num_rows * stride));
  EXPECT_EQ(PagedAttentionReference({.q = q.data(),
                                     .out = out.data(),
                                     .q_stride = stride,
                                     .out_stride = stride,
                                     .num_q_heads = cache.heads.num_heads,
                                     .layout = layout,
                                     .k_storage = k_storage.data(),
                                     .v_storage = v_storage.data(),
                                     .spans = spans,
                                     .scale = 1.0f / std::sqrt(static_cast<float>(cache.heads.head_dim)),
                                     .sliding_window = sliding_window}),
            KernelError::kOk);
  return out;
}

std::vector<float> RandomQueries(const Cache& cache, int num_rows, uint64_t seed) {
  std::vector<float> q = RandomTensor(int64_t{num_rows} * cache.heads.num_heads * cache.heads.head_dim, seed,
                                      {.num_outliers = 3, .outlier_factor = 5});
  for (float& value : q) value = F16ToF32(F32ToF16(value));
  return q;
}

TEST(DeviceAttention, AgreesWithReferenceForDecodeVerifyAndPrompts) {
  const uint64_t seed = testing::TestSeed(51);
  for (const Heads heads : {Heads{9, 3, 64}, {32, 8, 128}, {4, 4, 32}, {4, 2, 16}, {17, 1, 64}}) {
    SCOPED_TRACE(::testing::Message() << heads.num_heads << " heads, " << heads.num_kv_heads << " KV heads of "
                                      << heads.head_dim);
    const Cache cache(heads, 1200, seed);
    Step step;
    step.Add(0, 1);      // the first token
    step.Add(1023, 1);   // decode at the end of a range
    step.Add(1024, 5);   // verify
    step.Add(250, 12);   // across a range
    step.Add(0, 70);     // prompt
    step.Add(500, 130);  // chunk of a prompt
    const std::vector<float> q = RandomQueries(cache, step.num_rows, seed + 9);
    // A score's error, as a share of a weight: (head_dim + 2) u, twice for the tensor cores' cut-off, times |q| |k| *
    // scale. The exponential 2^-21 and its argument's rounding, at most 88 u; weights rounded to F16 2^-11, or 2^-25 of
    // the largest where they are subnormal; sums over a range and merges (256 + 60) 2 u. Then bf16.
    float k_max = 0, q_max = 0, v_max = 0;
    for (const float value : cache.k) k_max = std::max(k_max, std::fabs(value));
    for (const float value : q) q_max = std::max(q_max, std::fabs(value));
    for (const float value : cache.v) v_max = std::max(v_max, std::fabs(value));
    const double score_error = 2 * (heads.head_dim + 2) * kUnitRoundoff *
                               std::sqrt(static_cast<double>(heads.head_dim)) * double{q_max} * k_max;
    for (const int window : {0, 1, 7, 256, 300}) {
      const std::vector<float> actual = testing::FromBf16(Attend(cache, step, ToF16(q), kNumPartials, window));
      const std::vector<float> expected = Reference(cache, step, q, false, window);
      const std::vector<float> weighted = Reference(cache, step, q, true, window);
      std::vector<double> tolerance;
      for (size_t i = 0; i < expected.size(); ++i) {
        tolerance.push_back((2 * score_error + 0x1.0p-11 + 2 * (0x1.0p-21 + 88 * kUnitRoundoff) + 632 * kUnitRoundoff) *
                                std::fabs(weighted[i]) +
                            1200 * 0x1.0p-25 * v_max + testing::kBf16Roundoff * std::fabs(expected[i]));
      }
      EXPECT_EQ(CompareTensors(actual, expected, tolerance), "") << "window " << window;
    }
  }
}

TEST(DeviceAttention, BitsOfARowDoNotDependOnItsSpanItsNeighboursOrTheSplit) {
  const uint64_t seed = testing::TestSeed(52);
  struct Case {
    Heads heads;
    int window;
  };
  for (const auto& [heads, window] : {Case{{9, 3, 64}, 0}, {{32, 8, 128}, 0}, {{9, 3, 64}, 270}}) {
    constexpr int kPositions = 2048;
    const Cache cache(heads, kPositions, seed);
    const int64_t stride = int64_t{heads.num_heads} * heads.head_dim;
    const std::vector<uint16_t> q = ToF16(RandomQueries(cache, kPositions, seed + 9));
    Step all;
    all.Add(0, kPositions);
    const std::vector<uint16_t> expected = Attend(cache, all, q, kNumPartials, window);
    // Rows of a step are whatever their spans say; each is compared with the same position's row in the whole prompt.
    const auto check = [&, heads = heads, window = window](const Step& step, int64_t num_partials_max,
                                                           const char* what) {
      std::vector<uint16_t> rows;
      for (const AttentionSpan& span : step.spans) {
        rows.insert(rows.end(), q.begin() + span.first_position * stride,
                    q.begin() + (span.first_position + span.num_rows) * stride);
      }
      const std::vector<uint16_t> out = Attend(cache, step, rows, num_partials_max, window);
      int64_t different = 0;
      for (const AttentionSpan& span : step.spans) {
        for (int64_t i = 0; i < span.num_rows * stride; ++i) {
          different += out[span.first_row * stride + i] != expected[span.first_position * stride + i];
        }
      }
      EXPECT_EQ(different, 0) << what << ", " << step.num_rows << " rows, head_dim " << heads.head_dim;
    };
    for (const int64_t num_partials_max : {kNumPartials, int64_t{0}}) {
      for (const int position : {0, 15, 255, 256, 1000, 2047}) {
        Step one;
        one.Add(position, 1);
        check(one, num_partials_max, "decode");
      }
      for (const int rows : {2, 5, 8, 16, 64, 65, 256}) {
        for (const int first : {0, 250, 1500}) {
          Step step;
          step.Add(first, rows);
          check(step, num_partials_max, "span");
        }
      }
      Step batch;
      for (int i = 0; i < 64; ++i) batch.Add(i * 31, 1 + i % 5);
      check(batch, num_partials_max, "batch");
      Step large;
      for (int i = 0; i < 256; ++i) large.Add(i * 8 % 2000, 1);
      check(large, num_partials_max, "large batch");
    }
  }
}

// A step of sequences with earlier positions, run by one call or by two.
struct TurnedCase {
  Heads heads;
  std::vector<std::pair<int, int>> spans;  // first position, rows
  int rotary_dim;
  bool interleaved;
  int sliding_window = 0;
  bool keeps_first_row = false;  // its keys and values are not written
};
struct TurnedResult {
  std::vector<uint16_t> out;
  std::vector<uint8_t> k, v;
  bool whole_spans = false;
};
TurnedResult TurnAppendAttend(const TurnedCase& c, bool together, uint64_t angles) {
  const Heads& h = c.heads;
  std::vector<AttentionSpan> spans;
  std::vector<int32_t> offsets, table, positions, slots;
  int num_rows = 0;
  for (const auto& [first_position, rows] : c.spans) {
    spans.push_back({.first_row = num_rows, .num_rows = rows, .first_position = first_position});
    offsets.push_back(static_cast<int32_t>(table.size()));
    const int num_blocks = (first_position + rows + 15) / 16;
    for (int b = 0; b < num_blocks; ++b) table.push_back(1 + offsets.back() + (num_blocks - 1 - b));
    for (int r = 0; r < rows; ++r) {
      const int position = first_position + r;
      positions.push_back(position);
      slots.push_back(table[offsets.back() + position / 16] * 16 + position % 16);
    }
    num_rows += rows;
  }
  if (c.keeps_first_row) slots[0] = -1;
  const DeviceKvLayout layout{
      .num_blocks = static_cast<int>(table.size()) + 2, .num_kv_heads = h.num_kv_heads, .head_dim = h.head_dim};
  const int64_t elements = layout.bytes() / 2;
  DeviceBuffer<uint16_t> k(ToF16(RandomTensor(elements, 5, {.num_outliers = 9}))),
      v(ToF16(RandomTensor(elements, 6, {.num_outliers = 9})));
  const int64_t q_size = int64_t{h.num_heads} * h.head_dim;
  const int64_t stride = q_size + 2 * int64_t{h.num_kv_heads} * h.head_dim + 8;
  const DeviceBuffer<uint16_t> qkv(ToBf16(RandomTensor(num_rows * stride, 7, {.num_outliers = 9})));
  const DeviceBuffer<float> cos_sin(RandomTensor(1500 * int64_t{c.rotary_dim}, angles, {}));
  DeviceAttentionPlan plan;
  plan.Make(spans, offsets, h.num_heads, h.num_kv_heads, kMultiprocessors, kNumPartials);
  const DeviceBuffer<DeviceAttentionTile> tiles(
      std::vector<DeviceAttentionTile>(plan.tiles().begin(), plan.tiles().end()));
  const DeviceBuffer<int32_t> device_table(table), device_positions(positions), device_slots(slots);
  DeviceBuffer<uint16_t> out(num_rows * q_size);
  DeviceBuffer<uint8_t> workspace(DeviceAttentionWorkspaceBytes(layout, kNumPartials));
  workspace.Zero();
  const DeviceRopeAppendArgs rope{.qkv = qkv.data(),
                                  .qkv_stride = stride,
                                  .num_rows = num_rows,
                                  .num_heads = h.num_heads,
                                  .positions = device_positions.data(),
                                  .kv_slots = device_slots.data(),
                                  .cos_sin = cos_sin.data(),
                                  .rotary_dim = c.rotary_dim,
                                  .interleaved = c.interleaved,
                                  .layout = layout,
                                  .k_storage = k.data(),
                                  .v_storage = v.data()};
  const DeviceAttentionArgs args{.q = qkv.data(),
                                 .out = out.data(),
                                 .q_stride = stride,
                                 .out_stride = q_size,
                                 .num_heads = h.num_heads,
                                 .scale = 1.0f / std::sqrt(static_cast<float>(h.head_dim)),
                                 .sliding_window = c.sliding_window,
                                 .layout = layout,
                                 .k_storage = k.data(),
                                 .v_storage = v.data(),
                                 .tiles = tiles.data(),
                                 .block_tables = device_table.data(),
                                 .plan = &plan,
                                 .workspace = workspace.data(),
                                 .num_partials_max = kNumPartials};
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);  // inputs are read early
  if (together) {
    EXPECT_EQ(DeviceRopeAppendAttend(rope, args, nullptr), KernelError::kOk);
  } else {
    EXPECT_EQ(DeviceRopeAppend(rope, nullptr), KernelError::kOk);
    EXPECT_EQ(DeviceAttention(args, nullptr), KernelError::kOk);
  }
  TurnedResult result{.out = out.Download(), .whole_spans = plan.whole_spans()};
  const auto bytes = [](const DeviceBuffer<uint16_t>& buffer) {
    const std::vector<uint16_t> values = buffer.Download();
    return std::vector<uint8_t>(reinterpret_cast<const uint8_t*>(values.data()),
                                reinterpret_cast<const uint8_t*>(values.data() + values.size()));
  };
  result.k = bytes(k);
  result.v = bytes(v);
  return result;
}

TEST(DeviceRopeAppendAttend, GivesTheBitsOfTurningAndAppendingBefore) {
  int num_together = 0;
  for (const TurnedCase& c : {TurnedCase{{32, 8, 128}, {{1049, 1}}, 128, false},
                              {{32, 8, 64}, {{0, 1}}, 64, true},
                              {{32, 8, 128}, {{254, 4}}, 128, true},
                              {{32, 8, 64}, {{511, 1}, {767, 2}}, 64, false},
                              {{4, 4, 32}, {{40, 9}, {0, 16}}, 16, false},
                              {{4, 2, 16}, {{250, 8}}, 16, true},
                              {{32, 8, 128}, {{1000, 3}}, 64, false, 300},
                              {{32, 8, 128}, {{700, 2}}, 128, false, 0, true},
                              {{17, 1, 64}, {{20, 1}}, 64, false},      // more pairs than a tile has
                              {{32, 8, 128}, {{100, 40}}, 128, false},  // a prompt
                              {{9, 3, 64}, {{1024, 5}}, 64, true}}) {
    SCOPED_TRACE(::testing::Message() << c.heads.num_heads << " heads of " << c.heads.head_dim << ", first position "
                                      << c.spans[0].first << ", rows " << c.spans[0].second);
    const TurnedResult together = TurnAppendAttend(c, true, 8), apart = TurnAppendAttend(c, false, 8);
    num_together += together.whole_spans;
    EXPECT_EQ(together.out, apart.out);
    EXPECT_EQ(together.k, apart.k);
    EXPECT_EQ(together.v, apart.v);
    // These comparisons see other angles.
    const TurnedResult other = TurnAppendAttend(c, false, 9);
    EXPECT_NE(together.k, other.k);
    // Of a single position all of the weight is its, whatever the angle.
    if (c.spans != std::vector<std::pair<int, int>>{{0, 1}}) {
      EXPECT_NE(together.out, other.out);
    }
  }
  EXPECT_EQ(num_together, 9);
}

TEST(DeviceRopeAppend, AgreesWithReferenceAndWritesOnlyItsSlots) {
  const uint64_t seed = testing::TestSeed(53);
  for (const bool interleaved : {true, false}) {
    constexpr int kRows = 7, kHeads = 4, kKvHeads = 2, kHeadDim = 64, kRotary = 48;
    const DeviceKvLayout layout{.num_blocks = 3, .num_kv_heads = kKvHeads, .head_dim = kHeadDim};
    const RopeParams params{.rotary_dim = kRotary,
                            .layout = interleaved ? RopeLayout::kInterleaved : RopeLayout::kHalves};
    RopeTable table;
    ASSERT_EQ(RopeTable::Create(params, 4096, &table), KernelError::kOk);
    std::vector<float> cos_sin(4096 * kRotary);
    for (int p = 0; p < 4096; ++p) {
      table.CosSin(p, cos_sin.data() + p * kRotary, cos_sin.data() + p * kRotary + kRotary / 2);
    }
    constexpr int64_t kStride = (kHeads + 2 * kKvHeads) * kHeadDim;
    std::vector<float> qkv = RoundedToBf16(RandomTensor(kRows * kStride, seed));
    qkv[5] = 3e38f;  // beyond F16: clamped
    const std::vector<int32_t> positions = {0, 1, 255, 256, 1000, 4094, 4095};
    const std::vector<int32_t> slots = {47, 0, 16, 3, 31, -1, 20};
    DeviceBuffer<uint16_t> device_qkv(ToBf16(qkv));
    const DeviceBuffer<int32_t> device_positions(positions), device_slots(slots);
    const DeviceBuffer<float> device_cos_sin(cos_sin);
    const DeviceBuffer<uint16_t> k_storage(layout.bytes() / 2), v_storage(layout.bytes() / 2);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_EQ(DeviceRopeAppend({.qkv = device_qkv.data(),
                                .qkv_stride = kStride,
                                .num_rows = kRows,
                                .num_heads = kHeads,
                                .positions = device_positions.data(),
                                .kv_slots = device_slots.data(),
                                .cos_sin = device_cos_sin.data(),
                                .rotary_dim = kRotary,
                                .interleaved = interleaved,
                                .layout = layout,
                                .k_storage = k_storage.data(),
                                .v_storage = v_storage.data()},
                               nullptr),
              KernelError::kOk);
    std::vector<float> expected = qkv;
    ASSERT_EQ(RopeReference(params, {.x = expected.data(),
                                     .x_stride = kStride,
                                     .positions = positions.data(),
                                     .table = &table,
                                     .num_rows = kRows,
                                     .num_heads = kHeads + kKvHeads,
                                     .head_dim = kHeadDim}),
              KernelError::kOk);
    const std::vector<uint16_t> q = device_qkv.Download(), k = k_storage.Download(), v = v_storage.Download();
    std::vector<bool> written(k.size());
    const auto expect_near = [&](uint16_t bits, float value, float magnitude) {
      const double clamped = std::clamp(double{value}, -65504.0, 65504.0);
      EXPECT_NEAR(F16ToF32(bits), clamped, 0x1.0p-11 * std::fabs(clamped) + 4 * kUnitRoundoff * magnitude + 0x1.0p-25);
    };
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kHeads * kHeadDim; ++i) {
        expect_near(q[r * kStride + i], expected[r * kStride + i], 20);
      }
      if (slots[r] < 0) continue;
      for (int h = 0; h < kKvHeads; ++h) {
        for (int i = 0; i < kHeadDim; ++i) {
          const int64_t at = layout.slot(slots[r] / 16, h, slots[r] % 16) + layout.place(slots[r] % 16, i);
          written[at] = true;
          expect_near(k[at], expected[r * kStride + (kHeads + h) * kHeadDim + i], 20);
          EXPECT_EQ(v[at], F32ToF16(qkv[r * kStride + (kHeads + kKvHeads + h) * kHeadDim + i]));
        }
      }
    }
    for (size_t i = 0; i < k.size(); ++i) {
      if (written[i]) continue;
      EXPECT_EQ(k[i], 0xFFFF);
      EXPECT_EQ(v[i], 0xFFFF);
    }
  }
}

}  // namespace
}  // namespace outrider::kernels
