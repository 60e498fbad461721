#include "worker/kvcache/block_pool.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <random>
#include <set>

namespace outrider {
namespace {

uint64_t TestSeed() {
  const char* text = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device()();
  std::cout << "OUTRIDER_TEST_SEED=" << seed << std::endl;
  return seed;
}

struct EvictionLog : BlockPool::Keeper {
  std::vector<BlockId> evicted;
  void OnEvicted(BlockId block) override { evicted.push_back(block); }
};

TEST(BlockPool, GivesEachBlockOnceAndThenNone) {
  BlockPool pool(3);
  std::vector<Block> held;
  std::set<BlockId> ids;
  for (int i = 0; i < 3; ++i) held.push_back(*pool.Allocate()), ids.insert(held.back().id());
  EXPECT_EQ(ids.size(), 3u);
  EXPECT_FALSE(pool.Allocate().has_value());
  held.pop_back();
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_TRUE(pool.Allocate().has_value());
}

TEST(BlockPool, SharedBlockIsFreeOnlyWhenTheLastHoldGoes) {
  BlockPool pool(1);
  auto first = std::make_unique<Block>(*pool.Allocate());
  auto second = std::make_unique<Block>(pool.Share(first->id()));
  first.reset();
  EXPECT_EQ(pool.num_free(), 0);
  second.reset();
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(BlockPool, MovedHandleHoldsOnce) {
  BlockPool pool(2);
  Block a = *pool.Allocate();
  Block b = *pool.Allocate();
  const BlockId id = b.id();
  a = std::move(b);
  EXPECT_EQ(a.id(), id);
  EXPECT_EQ(pool.num_held(), 1);
}

TEST(BlockPool, EvictsKeptBlocksLongestUnheldFirstAndOnlyWhenNoneIsFree) {
  EvictionLog log;
  BlockPool pool(3, &log);
  BlockId first, second;
  {
    Block a = *pool.Allocate(), b = *pool.Allocate();
    first = b.id(), second = a.id();  // b is dropped before a
    pool.Keep(a.id()), pool.Keep(b.id());
  }
  EXPECT_EQ(pool.num_free(), 3);
  Block x = *pool.Allocate();
  EXPECT_TRUE(log.evicted.empty());
  Block y = *pool.Allocate();
  EXPECT_EQ(log.evicted, std::vector<BlockId>{first});
  { Block again = pool.Share(second); }
  Block z = *pool.Allocate();
  EXPECT_EQ(log.evicted, (std::vector<BlockId>{first, second}));
}

TEST(BlockPool, RandomHoldsAgreeWithPlainCounts) {
  std::mt19937_64 random(TestSeed());
  EvictionLog log;
  BlockPool pool(13, &log);
  std::vector<Block> held;
  for (int i = 0; i < 20000; ++i) {
    switch (random() % 4) {
      case 0:
        if (std::optional<Block> block = pool.Allocate()) held.push_back(std::move(*block));
        break;
      case 1:
        if (!held.empty()) held.push_back(pool.Share(held[random() % held.size()].id()));
        break;
      case 2:
        if (!held.empty()) pool.Keep(held[random() % held.size()].id());
        break;
      default:
        if (held.empty()) break;
        std::swap(held[random() % held.size()], held.back());
        held.pop_back();
    }
    std::vector<int> counts(pool.num_blocks(), 0);
    int num_held = 0;
    for (const Block& block : held) num_held += counts[block.id()]++ == 0;
    ASSERT_EQ(pool.num_held(), num_held);
    for (BlockId b = 0; b < pool.num_blocks(); ++b) ASSERT_EQ(pool.num_holds(b), counts[b]);
    ASSERT_EQ(pool.CheckInvariants(), absl::OkStatus());
  }
}

TEST(BlockPoolDeathTest, KeepingAFreeBlockIsABug) {
  BlockPool pool(1);
  EXPECT_DEATH(pool.Keep(0), "invariant broken");
  EXPECT_DEATH(pool.Share(0), "invariant broken");
}

}  // namespace
}  // namespace outrider
