#include "worker/kvcache/kv_allocator.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <list>
#include <numeric>
#include <random>

namespace outrider {
namespace {

std::vector<TokenId> Iota(int count) {
  std::vector<TokenId> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

TEST(KvAllocator, ReservesAllOrNothing) {
  KvAllocator kv({.num_blocks = 4, .block_size = 4});
  BlockTable a, b;
  EXPECT_TRUE(kv.Reserve(a, 9));
  EXPECT_EQ(a.num_blocks(), 3);
  EXPECT_FALSE(kv.CanReserve(b, 5));
  EXPECT_FALSE(kv.Reserve(b, 5));
  EXPECT_EQ(b.num_blocks(), 0);
  EXPECT_TRUE(kv.Reserve(b, 4));
  EXPECT_TRUE(kv.Reserve(b, 2));
  EXPECT_EQ(kv.num_free_blocks(), 0);
}

TEST(KvAllocator, TruncateKeepsTheBlockThatIsPartlyNeeded) {
  KvAllocator kv({.num_blocks = 4, .block_size = 4});
  BlockTable table;
  ASSERT_TRUE(kv.Reserve(table, 16));
  kv.Truncate(table, 9);
  EXPECT_EQ(table.num_blocks(), 3);
  kv.Truncate(table, 8);
  EXPECT_EQ(table.num_blocks(), 2);
  kv.Release(table);
  EXPECT_EQ(kv.num_used_blocks(), 0);
}

TEST(KvAllocator, AFullPrefixHitDropsItsLastBlock) {
  KvAllocator kv({.num_blocks = 4, .block_size = 4});
  BlockTable first, second, third;
  ASSERT_TRUE(kv.Reserve(first, 8));
  kv.Publish(Iota(8), 0, 8, first);
  EXPECT_EQ(kv.FindPrefix(Iota(8), 0, second), 4);
  EXPECT_EQ(kv.FindPrefix(Iota(9), 0, third), 8);
}

TEST(KvAllocator, PublishesOnlyFullComputedBlocks) {
  KvAllocator kv({.num_blocks = 4, .block_size = 4});
  BlockTable first, second;
  ASSERT_TRUE(kv.Reserve(first, 12));
  kv.Publish(Iota(12), 0, 7, first);
  EXPECT_EQ(kv.FindPrefix(Iota(12), 0, second), 4);
}

TEST(KvAllocator, WithoutPrefixCacheNothingIsFoundAndNothingKept) {
  KvAllocator kv({.num_blocks = 4, .block_size = 4, .prefix_cache = false});
  {
    BlockTable first, second;
    ASSERT_TRUE(kv.Reserve(first, 8));
    kv.Publish(Iota(8), 0, 8, first);
    EXPECT_EQ(kv.FindPrefix(Iota(8), 0, second), 0);
    kv.Fork(first, 2, second);
    EXPECT_EQ(kv.num_used_blocks(), 2);
  }
  EXPECT_EQ(kv.num_cached_blocks(), 0);
  EXPECT_EQ(kv.num_free_blocks(), 4);
}

TEST(KvAllocator, CachedBlocksWithoutUsersCountAsFree) {
  KvAllocator kv({.num_blocks = 2, .block_size = 4});
  {
    BlockTable table;
    ASSERT_TRUE(kv.Reserve(table, 8));
    kv.Publish(Iota(8), 0, 8, table);
  }
  EXPECT_EQ(kv.num_free_blocks(), 2);
  EXPECT_EQ(kv.num_cached_blocks(), 2);
  BlockTable other;
  EXPECT_TRUE(kv.Reserve(other, 8));
  EXPECT_EQ(kv.num_cached_blocks(), 0);
}

// What each block holds is tracked as the tokens that were written; a prefix that is found must hold its tokens.
TEST(KvAllocator, RandomUseKeepsHoldsAndContentsRight) {
  const char* text = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device()();
  std::cout << "OUTRIDER_TEST_SEED=" << seed << std::endl;
  std::mt19937_64 random(seed);
  constexpr int kBlockSize = 2;
  KvAllocator kv({.num_blocks = 17, .block_size = kBlockSize});
  std::vector<std::vector<TokenId>> content(17);  // all tokens up to and with the block's
  struct User {
    BlockTable table;
    std::vector<TokenId> tokens;
  };
  std::list<User> users;
  for (int i = 0; i < 20000; ++i) {
    if (random() % 2 == 0 && users.size() < 8) {
      User& user = users.emplace_back();
      for (int n = 1 + random() % 9; n > 0; --n) user.tokens.push_back(random() % 2);
      const int num_found = kv.FindPrefix(user.tokens, 0, user.table);
      ASSERT_LT(num_found, static_cast<int>(user.tokens.size()));
      for (int b = 0; b < user.table.num_blocks(); ++b) {
        const std::vector<TokenId> expected(user.tokens.begin(), user.tokens.begin() + (b + 1) * kBlockSize);
        ASSERT_EQ(content[user.table.id(b)], expected);
      }
      const int num_shared = user.table.num_blocks();
      if (!kv.Reserve(user.table, user.tokens.size())) {
        users.pop_back();
        continue;
      }
      for (int b = num_shared; b < user.table.num_blocks(); ++b) {
        const size_t end = std::min<size_t>((b + 1) * kBlockSize, user.tokens.size());
        content[user.table.id(b)].assign(user.tokens.begin(), user.tokens.begin() + end);
      }
      kv.Publish(user.tokens, 0, user.tokens.size(), user.table);
    } else if (!users.empty()) {
      users.erase(std::next(users.begin(), random() % users.size()));
    }
    std::vector<const BlockTable*> tables;
    for (const User& user : users) tables.push_back(&user.table);
    ASSERT_EQ(kv.CheckInvariants(tables), absl::OkStatus());
  }
}

TEST(KvAllocator, CheckerSeesATableThatIsMissing) {
  KvAllocator kv({.num_blocks = 4, .block_size = 4});
  BlockTable a;
  ASSERT_TRUE(kv.Reserve(a, 4));
  EXPECT_FALSE(kv.CheckInvariants({}).ok());
  EXPECT_TRUE(kv.CheckInvariants({&a}).ok());
  EXPECT_FALSE(kv.CheckInvariants({&a, &a}).ok());
}

}  // namespace
}  // namespace outrider
