#include "kernels/attention/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/append_kv.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/targets.h"
#include "kernels/testing/tensor_compare.h"

namespace outrider::kernels {
namespace {

using testing::CompareBits;
using testing::CompareTensors;
using testing::kUnitRoundoff;
using testing::RandomTensor;

// One sequence of `num_positions` in storage full of NaN elsewhere, its blocks in seeded order.
struct Cache {
  Cache(KvLayout l, int num_positions, uint64_t seed) : layout(l) {
    const int num_blocks = (num_positions + layout.block_size - 1) / layout.block_size;
    layout.num_blocks = num_blocks + 3;
    for (int b = 0; b < num_blocks; ++b) table.push_back(b + 2);
    testing::Random random(seed);
    for (size_t b = table.size(); b > 1; --b) {
      std::swap(table[b - 1], table[static_cast<size_t>(random.Integer(0, static_cast<int64_t>(b)))]);
    }
    k_storage.assign(static_cast<size_t>(layout.k_bytes()), '\xff');
    v_storage.assign(static_cast<size_t>(layout.v_bytes()), '\xff');
    row_size = int64_t{layout.num_kv_heads} * layout.head_dim;
    k = RandomTensor(num_positions * row_size, seed + 1, {.num_outliers = 5, .outlier_factor = 5});
    v = RandomTensor(num_positions * row_size, seed + 2, {.num_outliers = 20, .outlier_factor = 1e3});
    Append(0, num_positions, k, v);
  }

  void Append(int first_position, int num_rows, const std::vector<float>& k_rows, const std::vector<float>& v_rows) {
    const AttentionSpan span{.num_rows = num_rows, .first_position = first_position, .block_table = table.data()};
    ASSERT_EQ(AppendKvReference({.k = k_rows.data(),
                                 .v = v_rows.data(),
                                 .k_stride = row_size,
                                 .v_stride = row_size,
                                 .layout = layout,
                                 .k_storage = k_storage.data(),
                                 .v_storage = v_storage.data(),
                                 .spans = {&span, 1}}),
              KernelError::kOk);
  }

  KvLayout layout;
  std::vector<int32_t> table;
  std::vector<char> k_storage, v_storage;
  std::vector<float> k, v;
  int64_t row_size = 0;
};

PagedAttentionArgs ArgsFor(const Cache& cache, int num_q_heads, const float* q, float* out,
                           std::span<const AttentionSpan> spans) {
  const int64_t stride = int64_t{num_q_heads} * cache.layout.head_dim;
  return {.q = q,
          .out = out,
          .q_stride = stride,
          .out_stride = stride,
          .num_q_heads = num_q_heads,
          .layout = cache.layout,
          .k_storage = cache.k_storage.data(),
          .v_storage = cache.v_storage.data(),
          .spans = spans,
          .scale = 1.0f / std::sqrt(static_cast<float>(cache.layout.head_dim))};
}

// Error of an output, per (row, head): a score's error e_s = (head_dim + 2) u * scale * |q|.|k| makes each weight wrong
// by a factor within 2 (e_s + 5 u) (numerator and denominator; 5 u is Exp); the sums over at most 256 positions a range
// and the merges of r ranges add (256 + 6 r + 10) u. All relative to the weighted sum of |v|, at most max |v|. The soft
// cap adds its cancellation near 0, 4 u cap, to a score.
double Tolerance(const Cache& cache, const PagedAttentionArgs& args, int row, int position, int head) {
  const int head_dim = cache.layout.head_dim;
  const int kv_head = head / (args.num_q_heads / cache.layout.num_kv_heads);
  const float* q = args.q + row * args.q_stride + head * head_dim;
  const int first = args.sliding_window > 0 ? std::max(0, position - args.sliding_window + 1) : 0;
  double score_magnitude_max = 0, value_max = 0;
  for (int s = first; s <= position; ++s) {
    double magnitude = 0;
    for (int i = 0; i < head_dim; ++i) {
      const size_t element = static_cast<size_t>(s * cache.row_size + kv_head * head_dim + i);
      magnitude += std::fabs(static_cast<double>(q[i]) * cache.k[element]);
      value_max = std::max<double>(value_max, std::fabs(cache.v[element]));
    }
    score_magnitude_max = std::max(score_magnitude_max, magnitude);
  }
  const double score_error = (head_dim + 2) * kUnitRoundoff * std::fabs(args.scale) * score_magnitude_max +
                             4 * kUnitRoundoff * args.logit_softcap;
  const double ranges = position / kAttentionRangeSize + 1.0;
  // F16 storage: the values that are compared are rounded alike in both; |k|, |v| grow by a rounding at most.
  return 1.001 * value_max * (2 * (score_error + 5 * kUnitRoundoff) + (256 + 6 * ranges + 10) * kUnitRoundoff);
}

struct Case {
  KvLayout layout;
  int num_q_heads;
  int sliding_window = 0;
  float softcap = 0;
  bool sinks = false;
};

TEST(PagedAttention, AgreesWithReferenceOnEveryTarget) {
  const uint64_t seed = testing::TestSeed(61);
  const std::vector<Case> cases = {
      {{.block_size = 16, .num_kv_heads = 3, .head_dim = 64}, 9},
      {{.dtype = DType::kF16, .block_size = 16, .num_kv_heads = 2, .head_dim = 64}, 4},
      {{.block_size = 4, .num_kv_heads = 1, .head_dim = 16}, 7},
      {{.block_size = 1, .num_kv_heads = 1, .head_dim = 8}, 1},
      {{.dtype = DType::kF16, .block_size = 32, .num_kv_heads = 2, .head_dim = 80}, 10},
      {{.block_size = 256, .num_kv_heads = 1, .head_dim = 128}, 30},
      {{.block_size = 16, .num_kv_heads = 2, .head_dim = 64}, 4, 100},
      {{.block_size = 16, .num_kv_heads = 2, .head_dim = 64}, 4, 300, 30.0f},
      {{.block_size = 16, .num_kv_heads = 2, .head_dim = 48}, 4, 7, 0, true},
  };
  testing::ForEachTarget([&](const char* target) {
    for (size_t c = 0; c < cases.size(); ++c) {
      const Case& test = cases[c];
      if (std::string_view(target) == "SCALAR" && c > 2) continue;  // slow, and the same code
      const Cache cache(test.layout, 700, seed + c);
      // A prompt chunk across two range boundaries, a verify span over one, decode rows at the edges of a range.
      const std::vector<AttentionSpan> spans = {
          {.first_row = 0, .num_rows = 60, .first_position = 0, .block_table = cache.table.data()},
          {.first_row = 60, .num_rows = 40, .first_position = 240, .block_table = cache.table.data()},
          {.first_row = 100, .num_rows = 9, .first_position = 507, .block_table = cache.table.data()},
          {.first_row = 109, .num_rows = 1, .first_position = 255, .block_table = cache.table.data()},
          {.first_row = 110, .num_rows = 1, .first_position = 256, .block_table = cache.table.data()},
          {.first_row = 111, .num_rows = 1, .first_position = 699, .block_table = cache.table.data()}};
      const int num_rows = 112;
      const int64_t row_size = int64_t{test.num_q_heads} * test.layout.head_dim;
      const auto q = RandomTensor(num_rows * row_size, seed + 7, {.num_outliers = 10, .outlier_factor = 10});
      const auto sinks = RandomTensor(test.num_q_heads, seed + 8);
      std::vector<float> actual(q.size(), NAN), expected(q.size(), NAN);
      PagedAttentionArgs args = ArgsFor(cache, test.num_q_heads, q.data(), actual.data(), spans);
      args.sliding_window = test.sliding_window;
      args.logit_softcap = test.softcap;
      args.sinks = test.sinks ? sinks.data() : nullptr;
      ThreadPool pool(2);
      AttentionWorkspace workspace;
      ASSERT_EQ(PagedAttention(args, pool, workspace), KernelError::kOk);
      args.out = expected.data();
      ASSERT_EQ(PagedAttentionReference(args), KernelError::kOk);
      std::vector<double> tolerance(q.size());
      for (const AttentionSpan& span : spans) {
        for (int r = 0; r < span.num_rows; ++r) {
          for (int h = 0; h < test.num_q_heads; ++h) {
            const int row = span.first_row + r;
            std::fill_n(tolerance.begin() + row * row_size + h * test.layout.head_dim, test.layout.head_dim,
                        Tolerance(cache, args, row, span.first_position + r, h));
          }
        }
      }
      EXPECT_EQ(CompareTensors(actual, expected, tolerance), "") << target << " case " << c;
    }
  });
}

TEST(PagedAttention, BitsOfARowDoNotDependOnSpansNeighboursBlocksOrThreads) {
  const uint64_t seed = testing::TestSeed(62);
  testing::ForEachTarget([&](const char* target) {
    for (const DType dtype : {DType::kF32, DType::kF16}) {
      for (const int window : {0, 200}) {
        // The scalar target is some thirty times slower, and has no lanes to mix up.
        if (std::string_view(target) == "SCALAR" && (dtype == DType::kF16 || window == 0)) continue;
#ifdef OUTRIDER_SANITIZED
        constexpr int kRows = 300;  // still two ranges
#else
        constexpr int kRows = 600;
#endif
        constexpr int kHeads = 9;
        const Cache cache({.dtype = dtype, .block_size = 16, .num_kv_heads = 3, .head_dim = 64}, kRows, seed);
        // The same keys and values in blocks of another size and place.
        const Cache other({.dtype = dtype, .block_size = 32, .num_kv_heads = 3, .head_dim = 64}, kRows, seed);
        const int64_t row_size = kHeads * 64;
        const auto q = RandomTensor(kRows * row_size, seed + 7, {.num_outliers = 10, .outlier_factor = 10});
        ThreadPool one(1), three(3);
        AttentionWorkspace workspace;

        // Each row alone, one thread.
        std::vector<float> alone(q.size());
        for (int r = 0; r < kRows; ++r) {
          const AttentionSpan span{.num_rows = 1, .first_position = r, .block_table = cache.table.data()};
          PagedAttentionArgs args =
              ArgsFor(cache, kHeads, q.data() + r * row_size, alone.data() + r * row_size, {&span, 1});
          args.sliding_window = window;
          ASSERT_EQ(PagedAttention(args, one, workspace), KernelError::kOk);
        }
        // In spans of many sizes, several a call, on three threads.
        for (const int span_rows : {1, 5, 64, 65, 256, kRows}) {
          for (const Cache* storage : {&cache, &other}) {
            std::vector<AttentionSpan> spans;
            for (int first = 0; first < kRows; first += span_rows) {
              spans.push_back({.first_row = first,
                               .num_rows = std::min(span_rows, kRows - first),
                               .first_position = first,
                               .block_table = storage->table.data()});
            }
            std::vector<float> out(q.size());
            PagedAttentionArgs args = ArgsFor(*storage, kHeads, q.data(), out.data(), spans);
            args.sliding_window = window;
            ASSERT_EQ(PagedAttention(args, three, workspace), KernelError::kOk);
            EXPECT_EQ(CompareBits(out, alone), "") << target << " spans of " << span_rows;
          }
        }
        // One decode row, so that its ranges become tasks of their own.
        const AttentionSpan last{.num_rows = 1, .first_position = kRows - 1, .block_table = cache.table.data()};
        std::vector<float> out(static_cast<size_t>(row_size));
        PagedAttentionArgs args = ArgsFor(cache, kHeads, q.data() + (kRows - 1) * row_size, out.data(), {&last, 1});
        args.sliding_window = window;
        ASSERT_EQ(PagedAttention(args, three, workspace), KernelError::kOk);
        EXPECT_EQ(CompareBits(out, std::span(alone).last(out.size())), "") << target;
      }
    }
  });
}

TEST(PagedAttention, GivesTheSameBitsOnEveryTargetWithFma) {
  for (const DType dtype : {DType::kF32, DType::kF16}) {
    const Cache cache({.dtype = dtype, .block_size = 16, .num_kv_heads = 2, .head_dim = 80}, 530, 8);
    const auto q = RandomTensor(30 * 8 * 80, 9);
    const AttentionSpan span{.num_rows = 30, .first_position = 500, .block_table = cache.table.data()};
    ThreadPool pool(1);
    AttentionWorkspace workspace;
    std::vector<float> first;
    testing::ForEachTarget([&](const char* target) {
      if (!std::string_view(target).starts_with("AVX")) return;
      std::vector<float> out(q.size());
      ASSERT_EQ(PagedAttention(ArgsFor(cache, 8, q.data(), out.data(), {&span, 1}), pool, workspace), KernelError::kOk);
      if (first.empty()) first = out;
      EXPECT_EQ(CompareBits(out, first), "") << target;
    });
  }
}

TEST(PagedAttention, LaterRowsCannotReachEarlierOnes) {
  // A draft token whose value overflowed must not touch the rows before it, although they share a tile.
  Cache cache({.block_size = 16, .num_kv_heads = 1, .head_dim = 64}, 300, 3);
  const auto q = RandomTensor(8 * 64, 4);
  const AttentionSpan span{.num_rows = 8, .first_position = 292, .block_table = cache.table.data()};
  ThreadPool pool(1);
  AttentionWorkspace workspace;
  std::vector<float> before(q.size()), after(q.size());
  ASSERT_EQ(PagedAttention(ArgsFor(cache, 1, q.data(), before.data(), {&span, 1}), pool, workspace), KernelError::kOk);
  const std::vector<float> bad(64, std::numeric_limits<float>::infinity());
  cache.Append(297, 1, bad, bad);
  ASSERT_EQ(PagedAttention(ArgsFor(cache, 1, q.data(), after.data(), {&span, 1}), pool, workspace), KernelError::kOk);
  EXPECT_EQ(CompareBits(std::span(after).first(5 * 64), std::span(before).first(5 * 64)), "");
  EXPECT_TRUE(std::isnan(after[5 * 64]));
}

TEST(PagedAttention, MayWriteOverItsQueries) {
  const Cache cache({.block_size = 16, .num_kv_heads = 1, .head_dim = 32}, 600, 5);
  const auto q = RandomTensor(20 * 2 * 32, 6);
  const AttentionSpan span{.num_rows = 20, .first_position = 570, .block_table = cache.table.data()};
  ThreadPool pool(3);
  AttentionWorkspace workspace;
  std::vector<float> apart(q.size()), in_place = q;
  ASSERT_EQ(PagedAttention(ArgsFor(cache, 2, q.data(), apart.data(), {&span, 1}), pool, workspace), KernelError::kOk);
  ASSERT_EQ(PagedAttention(ArgsFor(cache, 2, in_place.data(), in_place.data(), {&span, 1}), pool, workspace),
            KernelError::kOk);
  EXPECT_EQ(CompareBits(in_place, apart), "");
}

TEST(PagedAttention, RefusesShapesThatDoNotFit) {
  const Cache cache({.block_size = 16, .num_kv_heads = 2, .head_dim = 16}, 40, 7);
  std::vector<float> q(64), out(64);
  ThreadPool pool(1);
  AttentionWorkspace workspace;
  AttentionSpan span{.num_rows = 1, .first_position = 39, .block_table = cache.table.data()};
  const PagedAttentionArgs good = ArgsFor(cache, 4, q.data(), out.data(), {&span, 1});
  EXPECT_EQ(PagedAttention(good, pool, workspace), KernelError::kOk);
  PagedAttentionArgs args = good;
  args.num_q_heads = 3;
  EXPECT_EQ(PagedAttention(args, pool, workspace), KernelError::kInvalidShape);
  const std::vector<int32_t> outside = {0, 1, 99};
  span.block_table = outside.data();
  EXPECT_EQ(PagedAttention(good, pool, workspace), KernelError::kInvalidShape);
  span.block_table = nullptr;
  EXPECT_EQ(PagedAttention(good, pool, workspace), KernelError::kNullPointer);
  args = good;
  args.spans = {};
  EXPECT_EQ(PagedAttention(args, pool, workspace), KernelError::kOk);
}

}  // namespace
}  // namespace outrider::kernels
