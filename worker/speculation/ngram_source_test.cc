#include "worker/speculation/ngram_source.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <random>

namespace outrider {
namespace {

std::vector<TokenId> LookUp(const std::vector<TokenId>& tokens, int lookahead, const NgramOptions& options = {}) {
  const auto draft = LookUpNgram(tokens, lookahead, options);
  return {draft.begin(), draft.end()};
}

TEST(LookUpNgram, ContinuesTheLongestLatestMatch) {
  EXPECT_EQ(LookUp({1, 2, 3, 4, 5, 1, 2, 3}, 2), (std::vector<TokenId>{4, 5}));
  // "2 3" stands twice before; the later is followed by 8. "1 2 3" stands once, followed by 4: it is longer.
  EXPECT_EQ(LookUp({1, 2, 3, 4, 2, 3, 8, 1, 2, 3}, 1), (std::vector<TokenId>{4}));
  EXPECT_EQ(LookUp({2, 3, 4, 2, 3, 8, 1, 2, 3}, 1), (std::vector<TokenId>{8}));
}

TEST(LookUpNgram, HasNothingToSayWithoutAMatch) {
  EXPECT_TRUE(LookUp({1, 2, 3, 4}, 4).empty());
  EXPECT_TRUE(LookUp({1}, 4).empty());
  EXPECT_TRUE(LookUp({}, 4).empty());
  EXPECT_TRUE(LookUp({5, 1, 6, 1}, 4, {.n_max = 3, .n_min = 2}).empty());
  EXPECT_EQ(LookUp({5, 1, 6, 1}, 1, {.n_max = 3, .n_min = 1}), (std::vector<TokenId>{6}));
  EXPECT_TRUE(LookUp({5, 1, 6, 1}, 0, {.n_min = 1}).empty());
}

TEST(LookUpNgram, LooksOnlyThroughItsWindow) {
  std::vector<TokenId> tokens = {1, 2, 3};
  for (int i = 0; i < 20; ++i) tokens.push_back(100 + i);
  tokens.insert(tokens.end(), {1, 2});
  EXPECT_EQ(LookUp(tokens, 1), (std::vector<TokenId>{3}));
  EXPECT_TRUE(LookUp(tokens, 1, {.window = 10}).empty());
}

// Against the obvious: every length from the longest, every end from the latest.
TEST(LookUpNgram, AgreesWithTheSlowSearchOnRandomText) {
  const char* text = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device()();
  std::cout << "OUTRIDER_TEST_SEED=" << seed << std::endl;
  std::mt19937_64 random(seed);
  for (int round = 0; round < 3000; ++round) {
    std::vector<TokenId> tokens(random() % 30);
    for (TokenId& token : tokens) token = random() % 3;
    const NgramOptions options{.n_max = 1 + static_cast<int>(random() % 4), .n_min = 1, .window = 20};
    const int lookahead = random() % 6;
    const int num_tokens = tokens.size();
    const int first = std::max(0, num_tokens - options.window);
    std::vector<TokenId> expected;
    for (int n = options.n_max; n >= options.n_min && expected.empty(); --n) {
      for (int end = num_tokens - 1; end - n >= first && expected.empty(); --end) {
        if (!std::equal(tokens.end() - n, tokens.end(), tokens.begin() + end - n)) continue;
        expected.assign(tokens.begin() + end, tokens.begin() + std::min(num_tokens, end + lookahead));
      }
      if (lookahead == 0) break;
    }
    ASSERT_EQ(LookUp(tokens, lookahead, options), expected);
  }
}

TEST(NgramSource, AnswersEachRequestAtOnceFromWhatItWasTold) {
  NgramSource source;
  const SamplingParams params;
  std::vector<DraftSource::Proposal> proposals;
  const std::vector<TokenId> prompt = {1, 2, 3, 9}, output = {1}, more = {2};
  source.Open({SequenceId(7), 1, prompt, output, &params, 4});
  source.Commit({SequenceId(7), 1, 5, more, 4});
  source.TakeProposals(proposals);
  ASSERT_EQ(proposals.size(), 2u);
  EXPECT_TRUE(proposals[0].path.tokens.empty());
  EXPECT_EQ(proposals[1].path.base_position, 6);
  EXPECT_EQ(proposals[1].path.tokens, (std::vector<TokenId>{3, 9, 1, 2}));
  source.Close(SequenceId(7), 1);
  source.Commit({SequenceId(7), 1, 6, more, 4});
  proposals.clear();
  source.TakeProposals(proposals);
  EXPECT_TRUE(proposals.empty());
}

}  // namespace
}  // namespace outrider
