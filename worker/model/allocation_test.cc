// What a step allocates beyond its buffers: its result, and attention's work list in each layer. Counted through the
// global allocator.
#include "base/testing/allocation_count.h"
#include "gtest/gtest.h"
#include "worker/model/testing/gguf_writer.h"
#include "worker/model/testing/model_group.h"

namespace outrider {
namespace {

// Allocations of a decode step after a warm-up.
int64_t AllocationsOfAStep(int num_layers, int num_rows) {
  auto group = ModelGroup::Create(WriteTinyModel({.num_layers = num_layers}), {});
  EXPECT_TRUE(group.ok()) << group.status();
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = 100;
  int num_tokens = 3;
  int64_t least = 1 << 30;
  for (int i = 0; i < 6; ++i) {
    StepPlan plan;
    plan.step = StepId(i + 1);
    Span span{.sequence = SequenceId(1), .samples = true};
    if (i == 0) {
      plan.starts.push_back({SequenceId(1), {1, 2, 3}, {}, params});
      span.num_committed_tokens = 3;
      span.blocks = {0, 1, 2, 3, 4, 5};
    } else {
      span.first_position = num_tokens - 1;
      span.num_committed_tokens = 1;
      span.lookahead = num_rows - 1;
      span.paths.push_back({.base_position = num_tokens, .tokens = std::vector<TokenId>(num_rows - 1, 7)});
    }
    plan.spans.push_back(span);
    const int64_t before = NumAllocations();
    const auto result = (*group)->Step(plan);
    if (i > 1) least = std::min(least, NumAllocations() - before);
    EXPECT_TRUE(result.ok()) << result.status();
    num_tokens += static_cast<int>(result->spans[0].tokens.size());
  }
  return least;
}

TEST(ModelRunner, AllocatesOnlyForResultsAndAttentionWork) {
  const int64_t one_layer = AllocationsOfAStep(1, 1);
  const int64_t six_layers = AllocationsOfAStep(6, 1);
  EXPECT_LE(one_layer, 16);
  // The work list of three KV heads grows to 1, 2 and 4 entries, and its longest row once.
  EXPECT_LE(six_layers - one_layer, 5 * 4) << "something else allocates in every layer";
  EXPECT_LE(AllocationsOfAStep(6, 8), six_layers + 2) << "something allocates for every row";
}

}  // namespace
}  // namespace outrider
