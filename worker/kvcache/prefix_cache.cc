#include "worker/kvcache/prefix_cache.h"

#include "base/status_macros.h"

namespace outrider {

PrefixCache::KeyView PrefixCache::KeyOf(absl::Span<const TokenId> tokens, uint64_t salt, int block_index,
                                        uint64_t previous) const {
  return {previous, block_index == 0 ? salt : 0,
          tokens.subspan(static_cast<size_t>(block_index) * block_size_, block_size_)};
}

void PrefixCache::Find(absl::Span<const TokenId> tokens, uint64_t salt, BlockPool& pool, BlockTable& table) {
  CHECK(table.num_blocks() == 0);
  const int num_full_blocks = static_cast<int>(tokens.size()) / block_size_;
  uint64_t previous = 0;
  for (int i = 0; i < num_full_blocks; ++i) {
    const auto node = nodes_.find(KeyOf(tokens, salt, i, previous));
    if (node == nodes_.end()) break;
    previous = node->second.name;
    table.Append(pool.Share(node->second.block));
    table.num_published_blocks = i + 1;
    table.last_prefix = previous;
  }
}

void PrefixCache::Publish(absl::Span<const TokenId> tokens, uint64_t salt, int num_full_blocks, BlockPool& pool,
                          BlockTable& table) {
  for (int i = table.num_published_blocks; i < num_full_blocks; ++i) {
    const BlockId block = table.id(i);
    const auto known = key_of_block_.find(block);
    // A shared block may be known already, perhaps behind one that was evicted since: it keeps its name.
    auto node =
        nodes_.find(known != key_of_block_.end() ? View(known->second) : KeyOf(tokens, salt, i, table.last_prefix));
    if (node == nodes_.end()) {
      const KeyView key = KeyOf(tokens, salt, i, table.last_prefix);
      Key owned{key.previous, key.salt, {key.tokens.begin(), key.tokens.end()}};
      key_of_block_.emplace(block, owned);
      node = nodes_.emplace(std::move(owned), Node{++last_name_, block}).first;
      pool.Keep(block);
    }
    // Else a prefix that another sequence published first keeps its block; this table's own stays unknown.
    table.last_prefix = node->second.name;
    table.num_published_blocks = i + 1;
  }
}

void PrefixCache::OnEvicted(BlockId block) {
  const auto key = key_of_block_.find(block);
  CHECK(key != key_of_block_.end());
  CHECK(nodes_.erase(key->second) == 1);
  key_of_block_.erase(key);
}

}  // namespace outrider
