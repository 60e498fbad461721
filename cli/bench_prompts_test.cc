#include "cli/bench_prompts.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace outrider {
namespace {

absl::StatusOr<int> CountWords(const std::string& text) {
  const std::vector<std::string> words = absl::StrSplit(text, ' ', absl::SkipEmpty());
  return static_cast<int>(words.size());
}

std::string Words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) absl::StrAppend(&text, "w ");
  return text;
}

std::string Conversation(const std::string& prompt, const std::string& answer) {
  return absl::StrCat(R"({"id": "x", "conversations": [{"from": "human", "value": ")", prompt,
                      R"("}, {"from": "gpt", "value": ")", answer, R"("}]})");
}

TEST(BenchPrompts, RandomOnesAreOfTheSeedAndOfTheVocabularyWithoutEnds) {
  const RandomPrompts options{.input_len = 50, .output_len = 7, .prefix_len = 5};
  const auto a = MakeRandomPrompts(options, 20, 10, {3, 4}, 1, {});
  const auto b = MakeRandomPrompts(options, 20, 10, {3, 4}, 1, {});
  const auto c = MakeRandomPrompts(options, 20, 10, {3, 4}, 2, {});
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  ASSERT_EQ(a->size(), 20u);
  std::set<int32_t> seen;
  for (int i = 0; i < 20; ++i) {
    const v1::GenerateRequest& request = (*a)[i];
    EXPECT_EQ(request.SerializeAsString(), (*b)[i].SerializeAsString());
    EXPECT_NE(request.SerializeAsString(), (*c)[i].SerializeAsString());
    EXPECT_EQ(request.prompt_token_ids_size(), 55);
    EXPECT_EQ(request.max_tokens(), 7);
    EXPECT_TRUE(request.ignore_eos());
    EXPECT_TRUE(std::equal(request.prompt_token_ids().begin(), request.prompt_token_ids().begin() + 5,
                           (*a)[0].prompt_token_ids().begin()));
    seen.insert(request.prompt_token_ids().begin(), request.prompt_token_ids().end());
  }
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1, 2, 5, 6, 7, 8, 9}));
}

TEST(BenchPrompts, LengthsKeepToTheRangeAndUseAllOfIt) {
  const auto requests = MakeRandomPrompts({.input_len = 10, .output_len = 4, .range_ratio = 0.5}, 500, 100, {}, 3, {});
  ASSERT_TRUE(requests.ok());
  std::set<int> inputs, outputs;
  for (const v1::GenerateRequest& request : *requests) {
    inputs.insert(request.prompt_token_ids_size());
    outputs.insert(static_cast<int>(request.max_tokens()));
  }
  EXPECT_EQ(*inputs.begin(), 5);
  EXPECT_EQ(*inputs.rbegin(), 15);
  EXPECT_EQ(outputs, (std::set<int>{2, 3, 4, 5, 6}));
}

TEST(BenchPrompts, NamesTheFlagThatIsOutOfRange) {
  const auto message = [](const RandomPrompts& options, uint32_t vocab_size = 10) {
    return std::string(MakeRandomPrompts(options, 1, vocab_size, {}, 0, {}).status().message());
  };
  EXPECT_NE(message({.input_len = 0}).find("--random-input-len 0"), std::string::npos);
  EXPECT_NE(message({.output_len = -5}).find("--random-output-len -5"), std::string::npos);
  EXPECT_NE(message({.range_ratio = 1}).find("--random-range-ratio 1"), std::string::npos);
  EXPECT_NE(message({.prefix_len = -1}).find("--random-prefix-len -1"), std::string::npos);
  EXPECT_NE(message({}, 0).find("no vocabulary"), std::string::npos);
}

TEST(BenchPrompts, ShareGptTakesTheFirstTurnAndTheLengthOfTheSecond) {
  const std::string json = absl::StrCat("[", Conversation(Words(5), Words(8)), ",", Conversation("too short", Words(9)),
                                        ",", Conversation(Words(6), "x"), ",", Conversation(Words(1025), Words(9)), ",",
                                        Conversation(Words(1000), Words(1049)),
                                        R"(,{"conversations": [{"from": "human", "value": "alone"}]}, {}, 7])");
  const auto requests = ShareGptPrompts(json, 3, 0, 1, CountWords, {});
  ASSERT_TRUE(requests.ok()) << requests.status().message();
  ASSERT_EQ(requests->size(), 3u);  // the one that is fit, again and again
  for (const v1::GenerateRequest& request : *requests) {
    EXPECT_EQ(request.prompt(), Words(5));
    EXPECT_EQ(request.max_tokens(), 8);
  }
  const auto fixed = ShareGptPrompts(json, 10, 16, 1, CountWords, {});
  ASSERT_TRUE(fixed.ok());
  EXPECT_EQ((*fixed)[0].max_tokens(), 16);
}

TEST(BenchPrompts, ShareGptNamesAFileThatIsNone) {
  EXPECT_NE(ShareGptPrompts("{}", 1, 0, 1, CountWords, {}).status().message().find("no JSON array"),
            absl::string_view::npos);
  EXPECT_NE(ShareGptPrompts("[]", 1, 0, 1, CountWords, {}).status().message().find("none of 0 conversations"),
            absl::string_view::npos);
  const CountTokens down = [](const std::string&) { return absl::UnavailableError("down"); };
  EXPECT_EQ(ShareGptPrompts(absl::StrCat("[", Conversation("a", "b"), "]"), 1, 0, 1, down, {}).status().message(),
            "down");
}

TEST(BenchPrompts, JsonlTakesOurFieldsAndVllms) {
  const std::string path = testing::TempDir() + "/prompts_" + std::to_string(::getpid()) + ".jsonl";
  std::ofstream(path)
      << "{\"prompt\": \"a\", \"output_tokens\": 9}\n{\"prompt\": \"b\", \"max_tokens\": 3, \"seed\": 1}\n"
         "{\"prompt_token_ids\": [1, 2]}\n";
  const auto requests = JsonlPrompts(path, 4, 256, {});
  ASSERT_TRUE(requests.ok()) << requests.status().message();
  ASSERT_EQ(requests->size(), 4u);
  EXPECT_EQ((*requests)[0].max_tokens(), 9);
  EXPECT_EQ((*requests)[1].max_tokens(), 3);
  EXPECT_EQ((*requests)[2].max_tokens(), 256);
  EXPECT_EQ((*requests)[3].prompt(), "a");
  EXPECT_FALSE(JsonlPrompts("/nowhere.jsonl", 1, 0, {}).ok());
}

}  // namespace
}  // namespace outrider
