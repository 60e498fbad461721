#include "router/stats_line.h"

#include <gtest/gtest.h>

namespace outrider::router {
namespace {

constexpr TimePoint kStart{};

TEST(StatsLine, IsSilentWhileIdle) {
  StatsLine line(kStart);
  EXPECT_FALSE(line.IsDue(kStart + std::chrono::milliseconds(9999)));
  EXPECT_TRUE(line.IsDue(kStart + kStatsInterval));
  EXPECT_EQ(line.Tell(kStart + kStatsInterval, {}), std::nullopt);
  EXPECT_FALSE(line.IsDue(kStart + kStatsInterval));
  // Old work is no work.
  EXPECT_NE(line.Tell(kStart + 2 * kStatsInterval, {.num_output_tokens = 50}), std::nullopt);
  EXPECT_EQ(line.Tell(kStart + 3 * kStatsInterval, {.num_output_tokens = 50}), std::nullopt);
}

TEST(StatsLine, TellsWhatGrewASecondAndWhatIs) {
  StatsLine line(kStart);
  line.Tell(kStart, {.num_prompt_tokens = 100, .num_output_tokens = 10});
  EXPECT_EQ(line.Tell(kStart + kStatsInterval, {.num_prompt_tokens = 225,
                                                .num_output_tokens = 60,
                                                .num_requests_waiting = 2,
                                                .num_sequences_running = 3,
                                                .num_sequences_waiting = 1,
                                                .kv_cache_used_ratio_max = 0.125}),
            "prompt 12.5 tokens/s, output 5.0 tokens/s, running 3, waiting 3, KV cache 12.5 %");
}

TEST(StatsLine, TellsOfDraftsByPosition) {
  StatsLine line(kStart);
  line.Tell(kStart, {.num_draft_rounds = 100, .num_drafted = {100}, .num_accepted = {90}});
  EXPECT_EQ(
      line.Tell(
          kStart + kStatsInterval,
          {.num_output_tokens = 40, .num_draft_rounds = 110, .num_drafted = {110, 10, 0}, .num_accepted = {98, 4, 0}}),
      "prompt 0.0 tokens/s, output 4.0 tokens/s, running 0, waiting 0, KV cache 0.0 %; drafts: acceptance length "
      "2.20, rate 0.60, accepted a round by position 0.80 0.40");
}

}  // namespace
}  // namespace outrider::router
