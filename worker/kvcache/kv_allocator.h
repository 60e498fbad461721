// KvAllocator gives sequences their KV blocks: found again by prefix, shared between choices, or new. Everything is all
// or nothing.
//
// Thread safety: none.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "worker/kvcache/block_pool.h"
#include "worker/kvcache/block_table.h"
#include "worker/kvcache/prefix_cache.h"

namespace outrider {

class KvAllocator {
 public:
  struct Options {
    int num_blocks = 0;   // > 0
    int block_size = 16;  // > 0; positions a block
    bool prefix_cache = true;
  };
  explicit KvAllocator(const Options& options);

  int block_size() const { return options_.block_size; }
  int num_blocks() const { return pool_.num_blocks(); }
  int num_free_blocks() const { return pool_.num_free(); }
  int num_used_blocks() const { return pool_.num_held(); }
  int num_cached_blocks() const { return prefixes_.num_blocks(); }
  int BlocksFor(int num_tokens) const { return (num_tokens + options_.block_size - 1) / options_.block_size; }

  // Fills an empty table with known full blocks that `tokens` begins with, and leaves at least one token to compute: if
  // all of it is known, the last block is dropped. Returns the number of tokens found.
  int FindPrefix(absl::Span<const TokenId> tokens, uint64_t salt, BlockTable& table);

  // Shares the first num_blocks blocks of `from` with the empty table `to`. REQUIRES: from has them, full and computed.
  void Fork(const BlockTable& from, int num_blocks, BlockTable& to);

  // Extends the table to hold num_tokens positions. False, and nothing changed, if blocks are lacking.
  bool CanReserve(const BlockTable& table, int num_tokens) const;
  bool Reserve(BlockTable& table, int num_tokens);

  // Makes full computed blocks known to others. REQUIRES: positions [0, num_computed_tokens) hold the KV of `tokens`.
  void Publish(absl::Span<const TokenId> tokens, uint64_t salt, int num_computed_tokens, BlockTable& table);

  // Gives back whole blocks that hold no position below num_tokens.
  void Truncate(BlockTable& table, int num_tokens) { table.Truncate(BlocksFor(num_tokens)); }
  void Release(BlockTable& table) { table.Truncate(0); }

  // INTERNAL naming what is wrong, `tables` being all that live: each block has as many holds as tables name it, and no
  // other block is held.
  absl::Status CheckInvariants(absl::Span<const BlockTable* const> tables) const;

 private:
  const Options options_;
  PrefixCache prefixes_;
  BlockPool pool_;
};

}  // namespace outrider
