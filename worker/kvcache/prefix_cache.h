// PrefixCache finds full blocks again by their tokens and all tokens before them.
//
// A block's name is the chain (name of the block before, its own tokens); tokens are compared, not only hashed, so two
// prefixes are never taken for one another. Chains of different salts share nothing. Blocks stay as long as the pool
// has others to give; the pool evicts the longest unheld.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "worker/kvcache/block_pool.h"
#include "worker/kvcache/block_table.h"

namespace outrider {

class PrefixCache final : public BlockPool::Keeper {
 public:
  explicit PrefixCache(int block_size) : block_size_(block_size) {}

  // Appends to the empty `table` the longest known chain of full blocks that `tokens` begins with.
  void Find(absl::Span<const TokenId> tokens, uint64_t salt, BlockPool& pool, BlockTable& table);

  // Makes the first num_full_blocks blocks of `table` known. REQUIRES: they hold the KV of `tokens`, all of it.
  void Publish(absl::Span<const TokenId> tokens, uint64_t salt, int num_full_blocks, BlockPool& pool,
               BlockTable& table);

  void OnEvicted(BlockId block) override;

  int num_blocks() const { return static_cast<int>(nodes_.size()); }

 private:
  struct Key {
    uint64_t previous = 0;  // node of the block before; 0: none
    uint64_t salt = 0;      // of the first block; 0 for others
    std::vector<TokenId> tokens;
  };
  struct KeyView {
    uint64_t previous;
    uint64_t salt;
    absl::Span<const TokenId> tokens;
  };
  static KeyView View(const Key& key) { return {key.previous, key.salt, key.tokens}; }
  static KeyView View(const KeyView& key) { return key; }
  struct Hash {
    using is_transparent = void;
    template <typename K>
    size_t operator()(const K& key) const {
      const KeyView view = View(key);
      return absl::Hash<std::tuple<uint64_t, uint64_t, absl::Span<const TokenId>>>()(
          {view.previous, view.salt, view.tokens});
    }
  };
  struct Equal {
    using is_transparent = void;
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      const KeyView x = View(a), y = View(b);
      return x.previous == y.previous && x.salt == y.salt && x.tokens == y.tokens;
    }
  };
  struct Node {
    uint64_t name = 0;  // never used twice
    BlockId block = 0;
  };
  KeyView KeyOf(absl::Span<const TokenId> tokens, uint64_t salt, int block_index, uint64_t previous) const;

  const int block_size_;
  absl::flat_hash_map<Key, Node, Hash, Equal> nodes_;
  absl::flat_hash_map<BlockId, Key> key_of_block_;
  uint64_t last_name_ = 0;
};

}  // namespace outrider
