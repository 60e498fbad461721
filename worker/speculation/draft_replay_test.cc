#include "worker/speculation/draft_replay.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

SamplingParams WithSeed(uint64_t seed) {
  SamplingParams params;
  params.seed = seed;
  return params;
}

TEST(DraftReplay, DraftsWhatWasRecordedForTheSeed) {
  const auto replay = DraftReplay::Parse(
      "{\"seed\": 7, \"output_token_ids\": [3, 4], \"text\": \"x\"}\n\n{\"seed\": 8, \"output_token_ids\": [9]}\n",
      {.acceptance = 1, .vocab_size = 10});
  ASSERT_TRUE(replay.ok()) << replay.status();
  EXPECT_EQ(replay->num_requests(), 2u);
  EXPECT_EQ(replay->TokenAt(WithSeed(7), 0, 1), 3);
  EXPECT_EQ(replay->TokenAt(WithSeed(7), 1, 1), 4);
  EXPECT_EQ(replay->TokenAt(WithSeed(8), 0, 1), 9);
}

TEST(DraftReplay, LeavesTheModelsChoiceWhereNothingWasRecorded) {
  const auto replay =
      DraftReplay::Parse("{\"seed\": 7, \"output_token_ids\": [3, 4]}", {.acceptance = 1, .vocab_size = 10});
  ASSERT_TRUE(replay.ok()) << replay.status();
  EXPECT_EQ(replay->TokenAt(WithSeed(7), 2, 1), 1);
  EXPECT_EQ(replay->TokenAt(WithSeed(6), 0, 1), 1);
}

TEST(DraftReplay, IsWrongByTheChanceThatWasAskedForAndAlwaysAtTheSamePlaces) {
  std::string ids;
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&ids, i == 0 ? "" : ",", 5);
  std::string lines;
  for (int seed = 0; seed < 40; ++seed) {
    absl::StrAppend(&lines, "{\"seed\": ", seed, ", \"output_token_ids\": [", ids, "]}\n");
  }
  for (const double acceptance : {0.0, 0.3, 0.8, 1.0}) {
    const auto replay = DraftReplay::Parse(lines, {.acceptance = acceptance, .vocab_size = 6});
    ASSERT_TRUE(replay.ok()) << replay.status();
    int num_right = 0, num_pairs = 0;
    for (int seed = 0; seed < 40; ++seed) {
      bool was_right = false;
      for (int i = 0; i < 1000; ++i) {
        const TokenId token = replay->TokenAt(WithSeed(seed), i, 1);
        EXPECT_TRUE(token == 5 || token == 0) << token;
        EXPECT_EQ(replay->TokenAt(WithSeed(seed), i, 1), token);
        num_right += token == 5;
        num_pairs += token == 5 && was_right;
        was_right = token == 5;
      }
    }
    // 40,000 draws: five standard deviations of the mean are at most 0.0125.
    EXPECT_NEAR(num_right / 40000.0, acceptance, 0.0125);
    EXPECT_NEAR(num_pairs / 40000.0, acceptance * acceptance, 0.0125);  // neighbours are independent
  }
}

TEST(DraftReplay, NamesTheLineThatIsWrong) {
  const auto message = [](const std::string& lines, double acceptance = 1) {
    return std::string(DraftReplay::Parse(lines, {.acceptance = acceptance, .vocab_size = 10}).status().message());
  };
  const std::string good = "{\"seed\": 1, \"output_token_ids\": []}\n";
  EXPECT_TRUE(absl::StrContains(message(good + "nonsense"), "line 2"));
  EXPECT_TRUE(absl::StrContains(message("{\"seed\": 1}"), "no object with seed and output_token_ids"));
  EXPECT_TRUE(absl::StrContains(message("{\"seed\": 1, \"output_token_ids\": [10]}"), "10, which is no id"));
  EXPECT_TRUE(absl::StrContains(message("{\"seed\": 1, \"output_token_ids\": [\"a\"]}"), "is no id"));
  EXPECT_TRUE(absl::StrContains(message(good + good), "seed 1 a second time"));
  EXPECT_TRUE(absl::StrContains(message(good, 1.5), "acceptance of 1.5"));
  EXPECT_EQ(message(good), "");
}

}  // namespace
}  // namespace outrider
