#include "router/prefix_index.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "router/testing/test_random.h"

namespace outrider::router {
namespace {

std::vector<TokenId> Prompt(size_t num_tokens, TokenId first = 1) {
  std::vector<TokenId> prompt(num_tokens);
  for (size_t i = 0; i < num_tokens; ++i) prompt[i] = first + static_cast<TokenId>(i);
  return prompt;
}

TEST(PrefixChain, HasOneHashForEachFullBlockOfAllTokensUpToThere) {
  EXPECT_TRUE(PrefixChain(Prompt(kPrefixBlockTokens - 1)).empty());
  const auto chain = PrefixChain(Prompt(3 * kPrefixBlockTokens + 1));
  ASSERT_EQ(chain.size(), 3);
  EXPECT_EQ(PrefixChain(Prompt(kPrefixBlockTokens)), std::vector<uint64_t>{chain[0]});
  std::vector<TokenId> other = Prompt(3 * kPrefixBlockTokens);
  other[kPrefixBlockTokens] += 1;
  const auto other_chain = PrefixChain(other);
  EXPECT_EQ(other_chain[0], chain[0]);
  EXPECT_NE(other_chain[1], chain[1]);
  EXPECT_NE(other_chain[2], chain[2]);
  EXPECT_EQ(PrefixChain(Prompt((kMaxPrefixBlocks + 9) * kPrefixBlockTokens)).size(), kMaxPrefixBlocks);
}

TEST(PrefixIndex, KnowsWhoLearnedLastAndNotMoreThanItsHolders) {
  PrefixIndex index;
  for (uint32_t life = 1; life <= 6; ++life) index.Learn({{77}}, life);
  EXPECT_EQ(index.HoldersOf(77), (PrefixIndex::Holders{6, 5, 4, 3}));
  index.Learn({{77}}, 4);
  EXPECT_EQ(index.HoldersOf(77), (PrefixIndex::Holders{4, 6, 5, 3}));
  EXPECT_EQ(index.HoldersOf(78), PrefixIndex::Holders{});
}

TEST(PrefixIndex, FindsHowFarAChainIsKnown) {
  std::mt19937_64 random(TestSeed());
  std::vector<uint64_t> chain(kMaxPrefixBlocks);
  for (uint64_t& hash : chain) hash = random();
  for (size_t known = 0; known <= chain.size(); ++known) {
    PrefixIndex index;
    index.Learn(absl::MakeConstSpan(chain).subspan(0, known), 1);
    EXPECT_EQ(index.KnownBlocks(chain), known);
  }
}

// Against a plain list of all that was learned.
TEST(PrefixIndex, StaysWithinItsBoundAndKeepsWhatIsNew) {
  std::mt19937_64 random(TestSeed());
  PrefixIndex index;
  std::vector<uint64_t> learned;
  for (size_t i = 0; i < 2 * PrefixIndex::kMaxBlocks; ++i) {
    learned.push_back(random());
    index.Learn({{learned.back()}}, 1 + i % 7);
    ASSERT_LE(index.size(), PrefixIndex::kMaxBlocks);
  }
  for (size_t i = learned.size() - PrefixIndex::kMaxBlocks / 2; i < learned.size(); ++i) {
    ASSERT_EQ(index.HoldersOf(learned[i])[0], 1 + i % 7) << i;
  }
}

}  // namespace
}  // namespace outrider::router
