#include "kernels/attention/device_attention_plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

using Kernel = DeviceAttentionPlan::Kernel;

constexpr int kMultiprocessors = 132;

struct Step {
  std::vector<AttentionSpan> spans;
  std::vector<int32_t> offsets;
  int num_heads = 32, num_kv_heads = 8;
  int64_t num_partials_max = 8192;

  void Add(int first_position, int num_rows) {
    const int first_row = spans.empty() ? 0 : spans.back().first_row + spans.back().num_rows;
    spans.push_back({.first_row = first_row, .num_rows = num_rows, .first_position = first_position});
    offsets.push_back(static_cast<int32_t>(100 * offsets.size()));
  }
  int group() const { return num_heads / num_kv_heads; }
};

// What a plan says, so that a test can spoil it.
struct Plan {
  std::vector<DeviceAttentionTile> tiles;
  int num_narrow, num_splits, num_wide_splits, narrow_pairs_max;
  Kernel kernel;
};

Plan Make(const Step& step) {
  DeviceAttentionPlan plan;
  plan.Make(step.spans, step.offsets, step.num_heads, step.num_kv_heads, kMultiprocessors, step.num_partials_max);
  return {{plan.tiles().begin(), plan.tiles().end()},
          plan.num_narrow(),
          plan.num_splits(),
          plan.num_wide_splits(),
          plan.narrow_pairs_max(),
          plan.kernel()};
}

int NumRanges(const Step& step, const DeviceAttentionTile& tile) {
  return (tile.first_position + (tile.first_pair + tile.num_pairs - 1) / step.group()) / kAttentionRangeSize + 1;
}

// What the kernels rely on; empty if it holds.
std::string Violation(const Step& step, const Plan& plan) {
  std::map<int32_t, size_t> span_of_row;
  for (size_t i = 0; i < step.spans.size(); ++i) span_of_row[step.spans[i].first_row] = i;
  std::map<int32_t, int64_t> num_pairs_of;  // by span
  std::set<std::pair<int32_t, int32_t>> pairs;
  std::set<int64_t> partials;
  int ranges_max = 0, wide_ranges_max = 0, pairs_max = 0;
  for (size_t i = 0; i < plan.tiles.size(); ++i) {
    const DeviceAttentionTile& tile = plan.tiles[i];
    const bool wide = i >= static_cast<size_t>(plan.num_narrow);
    const auto found = span_of_row.find(tile.first_row);
    if (found == span_of_row.end()) return "a tile of no span";
    const AttentionSpan& span = step.spans[found->second];
    if (tile.first_position != span.first_position || tile.block_table != step.offsets[found->second]) {
      return "a tile is not where its span is";
    }
    const int pairs_limit = wide ? DeviceAttentionPlan::kWidePairs : DeviceAttentionPlan::kNarrowPairs;
    if (tile.num_pairs < 1 || tile.num_pairs > pairs_limit) return "a tile has too few or too many pairs";
    for (int p = tile.first_pair; p < tile.first_pair + tile.num_pairs; ++p) {
      if (p >= span.num_rows * step.group()) return "a pair beyond its span";
      if (!pairs.emplace(tile.first_row, p).second) return "a pair in two tiles";
    }
    num_pairs_of[tile.first_row] += tile.num_pairs;
    const int num_ranges = NumRanges(step, tile);
    (wide ? wide_ranges_max : ranges_max) = std::max(wide ? wide_ranges_max : ranges_max, num_ranges);
    if (!wide) pairs_max = std::max(pairs_max, tile.num_pairs);
    const bool writes_partials =
        wide ? plan.num_wide_splits > 1 : plan.num_splits > 1 || plan.kernel == Kernel::kBlocks;
    if (!writes_partials) continue;
    for (int64_t n = 0; n < int64_t{num_ranges} * ((tile.num_pairs + 15) / 16); ++n) {
      const int64_t partial = tile.first_partial + n;
      if (!partials.insert(partial).second) return "a partial result of two tiles";
      if (partial < 0 || (partial + 1) * step.num_kv_heads > step.num_partials_max)
        return "more partial results than fit";
    }
  }
  for (const AttentionSpan& span : step.spans) {
    if (num_pairs_of[span.first_row] != int64_t{span.num_rows} * step.group()) return "a pair in no tile";
  }
  // A grid that splits has a block for every range of every tile.
  const bool narrow_splits = plan.num_splits > 1 || plan.kernel == Kernel::kBlocks;
  if (narrow_splits && plan.num_splits < ranges_max) return "a range without a block";
  if (plan.num_wide_splits > 1 && plan.num_wide_splits < wide_ranges_max) return "a range without a block";
  if (plan.narrow_pairs_max != pairs_max) return "the most pairs of a tile are said wrongly";
  return "";
}

Step RandomStep(testing::Random& random) {
  constexpr std::pair<int, int> kHeads[] = {{32, 8}, {9, 3}, {4, 4}, {16, 8}, {17, 1}, {64, 8}, {32, 4}};
  Step step;
  std::tie(step.num_heads, step.num_kv_heads) = kHeads[random.Integer(0, 7)];
  step.num_partials_max = random.Integer(0, 4) == 0 ? 0 : random.Integer(0, 8192);
  const int64_t rows_max = random.Integer(1, 4) == 1 ? 600 : random.Integer(1, 40);
  for (int64_t n = random.Integer(1, random.Integer(0, 2) == 0 ? 4 : 300); n > 0; --n) {
    step.Add(static_cast<int>(random.Integer(0, 5000)), static_cast<int>(random.Integer(1, rows_max + 1)));
  }
  return step;
}

TEST(DeviceAttentionPlan, EveryPairIsInOneTileAndEveryPartialResultHasItsPlace) {
  testing::Random random(testing::TestSeed(61));
  std::set<std::tuple<Kernel, bool, bool>> seen;  // kernel, narrow tiles split, wide tiles split
  for (int i = 0; i < 200; ++i) {
    const Step step = RandomStep(random);
    const Plan plan = Make(step);
    ASSERT_EQ(Violation(step, plan), "") << "step " << i;
    seen.insert({plan.kernel, plan.num_splits > 1, plan.num_wide_splits > 1});
  }
  for (const Kernel kernel : {Kernel::kBlocks, Kernel::kWarps, Kernel::kDeepWarps}) {
    EXPECT_TRUE(std::any_of(seen.begin(), seen.end(), [&](const auto& s) { return std::get<0>(s) == kernel; }))
        << "kernel " << static_cast<int>(kernel) << " was never chosen";
  }
  EXPECT_TRUE(std::any_of(seen.begin(), seen.end(), [](const auto& s) { return std::get<2>(s); }));
}

TEST(DeviceAttentionPlan, PlantedFaultsAreFound) {
  Step step;
  step.Add(1000, 1);
  step.Add(700, 2);
  step.Add(300, 200);
  const Plan good = Make(step);
  ASSERT_EQ(Violation(step, good), "");
  ASSERT_GE(good.num_narrow, 2);
  ASSERT_GT(good.num_splits, 1);
  ASSERT_GT(good.tiles.size(), static_cast<size_t>(good.num_narrow));
  const auto spoiled = [&](auto spoil) {
    Plan plan = good;
    spoil(plan);
    return Violation(step, plan);
  };
  EXPECT_EQ(spoiled([](Plan& p) { p.tiles.pop_back(); }), "a pair in no tile");
  EXPECT_EQ(spoiled([](Plan& p) { p.tiles.push_back(p.tiles.back()); }), "a pair in two tiles");
  EXPECT_EQ(spoiled([](Plan& p) { p.tiles[1].first_partial = p.tiles[0].first_partial; }),
            "a partial result of two tiles");
  EXPECT_EQ(spoiled([](Plan& p) { p.tiles[1].first_partial = 1 << 20; }), "more partial results than fit");
  EXPECT_EQ(spoiled([](Plan& p) { --p.num_splits; }), "a range without a block");
  EXPECT_EQ(spoiled([](Plan& p) { ++p.tiles[0].block_table; }), "a tile is not where its span is");
  EXPECT_EQ(spoiled([](Plan& p) { ++p.num_narrow; }), "a tile has too few or too many pairs");
}

TEST(DeviceAttentionPlan, WithoutRoomForPartialResultsNothingIsSplit) {
  Step step;
  step.num_partials_max = 0;
  step.Add(4000, 1);
  step.Add(2000, 300);
  const Plan plan = Make(step);
  EXPECT_EQ(plan.num_splits, 1);
  EXPECT_EQ(plan.num_wide_splits, 1);
  EXPECT_NE(plan.kernel, Kernel::kBlocks);
}

TEST(DeviceAttentionPlan, FewTilesAreBlocksAndManyAreWarps) {
  const auto kernel_of = [](int num_sequences) {
    Step step;
    for (int i = 0; i < num_sequences; ++i) step.Add(1050, 1);
    return Make(step).kernel;
  };
  EXPECT_EQ(kernel_of(1), Kernel::kBlocks);
  EXPECT_EQ(kernel_of(8), Kernel::kBlocks);
  EXPECT_EQ(kernel_of(64), Kernel::kDeepWarps);
  EXPECT_EQ(kernel_of(256), Kernel::kWarps);
}

TEST(DeviceAttentionPlan, SpansAreWholeWhereABlockHasAllTheirRows) {
  const auto make = [](const Step& step) {
    DeviceAttentionPlan plan;
    plan.Make(step.spans, step.offsets, step.num_heads, step.num_kv_heads, kMultiprocessors, step.num_partials_max);
    return plan;
  };
  Step step;
  step.Add(1049, 1);
  step.Add(0, 4);
  DeviceAttentionPlan plan = make(step);
  EXPECT_TRUE(plan.whole_spans());
  EXPECT_EQ(plan.num_rows(), 5);
  const int32_t key = plan.key();

  // As many rows and tiles, but two of them are of one span: other kernels, so another key.
  Step divided;
  divided.Add(1049, 5);
  plan = make(divided);
  EXPECT_EQ(plan.tiles().size(), 2u);
  EXPECT_EQ(plan.num_rows(), 5);
  EXPECT_FALSE(plan.whole_spans());
  EXPECT_NE(plan.key(), key);

  Step many;  // warps
  for (int i = 0; i < 64; ++i) many.Add(1000, 1);
  EXPECT_FALSE(make(many).whole_spans());
  Step with_prompt;
  with_prompt.Add(10, 1);
  with_prompt.Add(0, 300);
  EXPECT_FALSE(make(with_prompt).whole_spans());
}

TEST(DeviceAttentionPlan, APlanThatIsMadeAgainRemembersNothing) {
  testing::Random random(testing::TestSeed(62));
  DeviceAttentionPlan reused;
  std::map<int32_t, std::tuple<int, int, Kernel, bool>> by_key;
  for (int i = 0; i < 300; ++i) {
    const Step step = RandomStep(random);
    reused.Make(step.spans, step.offsets, step.num_heads, step.num_kv_heads, kMultiprocessors, step.num_partials_max);
    const Plan fresh = Make(step);
    ASSERT_EQ(reused.tiles().size(), fresh.tiles.size());
    for (size_t t = 0; t < fresh.tiles.size(); ++t) {
      ASSERT_EQ(reused.tiles()[t].first_partial, fresh.tiles[t].first_partial);
      ASSERT_EQ(reused.tiles()[t].first_pair, fresh.tiles[t].first_pair);
    }
    ASSERT_EQ(std::make_tuple(reused.num_splits(), reused.num_wide_splits(), reused.kernel(), reused.num_narrow()),
              std::make_tuple(fresh.num_splits, fresh.num_wide_splits, fresh.kernel, fresh.num_narrow));
    // Equal keys: equal kernels and splits.
    const std::tuple<int, int, Kernel, bool> launched = {reused.num_splits(), reused.num_wide_splits(), reused.kernel(),
                                                         reused.narrow_pairs_max() <= 8};
    EXPECT_EQ(by_key.emplace(reused.key(), launched).first->second, launched);
  }
}

}  // namespace
}  // namespace outrider::kernels
