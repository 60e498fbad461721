#include "worker/kvcache/prefix_cache.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

namespace outrider {
namespace {

constexpr int kBlockSize = 4;

std::vector<TokenId> Iota(int count, TokenId first = 0) {
  std::vector<TokenId> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

class PrefixCacheTest : public testing::Test {
 protected:
  // Computes `tokens` in new blocks and publishes the full ones.
  std::vector<BlockId> Fill(const std::vector<TokenId>& tokens, uint64_t salt = 0) {
    BlockTable table;
    for (size_t i = 0; i < tokens.size(); i += kBlockSize) table.Append(*pool_.Allocate());
    cache_.Publish(tokens, salt, static_cast<int>(tokens.size()) / kBlockSize, pool_, table);
    std::vector<BlockId> ids;
    for (int i = 0; i < table.num_blocks(); ++i) ids.push_back(table.id(i));
    return ids;
  }
  std::vector<BlockId> Find(const std::vector<TokenId>& tokens, uint64_t salt = 0) {
    BlockTable table;
    cache_.Find(tokens, salt, pool_, table);
    std::vector<BlockId> ids;
    for (int i = 0; i < table.num_blocks(); ++i) ids.push_back(table.id(i));
    return ids;
  }

  PrefixCache cache_{kBlockSize};
  BlockPool pool_{8, &cache_};
};

TEST_F(PrefixCacheTest, FindsFullBlocksOnly) {
  const std::vector<BlockId> blocks = Fill(Iota(10));
  EXPECT_EQ(Find(Iota(20)), (std::vector<BlockId>{blocks[0], blocks[1]}));
  EXPECT_EQ(Find(Iota(7)), (std::vector<BlockId>{blocks[0]}));
  EXPECT_TRUE(Find(Iota(3)).empty());
}

TEST_F(PrefixCacheTest, ABlockIsFoundOnlyAfterTheTokensBeforeIt) {
  Fill(Iota(8));
  std::vector<TokenId> other = Iota(8);
  other[0] = 99;
  EXPECT_TRUE(Find(other).empty());
  EXPECT_TRUE(Find(Iota(4, 4)).empty());  // the second block's tokens, at the start
}

TEST_F(PrefixCacheTest, SaltsShareNothing) {
  const std::vector<BlockId> blocks = Fill(Iota(8), 1);
  EXPECT_TRUE(Find(Iota(8), 2).empty());
  EXPECT_TRUE(Find(Iota(8)).empty());
  EXPECT_EQ(Find(Iota(8), 1), blocks);
}

TEST_F(PrefixCacheTest, KeepsTheFirstOfTwoEqualPrefixes) {
  const std::vector<BlockId> blocks = Fill(Iota(4));
  BlockTable table;
  table.Append(*pool_.Allocate());
  table.Append(*pool_.Allocate());
  cache_.Publish(Iota(8), 0, 2, pool_, table);
  EXPECT_EQ(Find(Iota(8)), (std::vector<BlockId>{blocks[0], table.id(1)}));
  EXPECT_EQ(cache_.num_blocks(), 2);
}

TEST_F(PrefixCacheTest, EvictsTheEndOfAChainBeforeItsStart) {
  const std::vector<BlockId> blocks = Fill(Iota(12));
  std::vector<Block> others;
  for (int i = 0; i < 5 + 1; ++i) others.push_back(*pool_.Allocate());
  EXPECT_EQ(Find(Iota(12)), (std::vector<BlockId>{blocks[0], blocks[1]}));
  others.push_back(*pool_.Allocate());
  others.push_back(*pool_.Allocate());
  EXPECT_TRUE(Find(Iota(12)).empty());
  EXPECT_EQ(cache_.num_blocks(), 0);
}

TEST_F(PrefixCacheTest, ABlockSharedBehindAnEvictedOneKeepsItsName) {
  Fill(Iota(4));
  BlockTable first;
  first.Append(*pool_.Allocate());
  first.Append(*pool_.Allocate());
  cache_.Publish(Iota(8), 0, 2, pool_, first);  // its first block doubles the one that is known
  std::vector<Block> others;
  while (std::optional<Block> block = pool_.Allocate()) others.push_back(std::move(*block));
  BlockTable second;
  for (int i = 0; i < 2; ++i) second.Append(pool_.Share(first.id(i)));
  cache_.Publish(Iota(8), 0, 2, pool_, second);
  EXPECT_EQ(Find(Iota(8)), std::vector<BlockId>{first.id(0)});
  EXPECT_EQ(cache_.num_blocks(), 2);
}

TEST_F(PrefixCacheTest, AHeldBlockIsNotEvicted) {
  Fill(Iota(4));
  BlockTable table;
  cache_.Find(Iota(4), 0, pool_, table);
  ASSERT_EQ(table.num_blocks(), 1);
  std::vector<Block> others;
  while (std::optional<Block> block = pool_.Allocate()) others.push_back(std::move(*block));
  EXPECT_EQ(others.size(), 7u);
  EXPECT_EQ(Find(Iota(4)).size(), 1u);
}

}  // namespace
}  // namespace outrider
