// BlockTable: a sequence's blocks in the order of its positions; entry i holds positions
// [i * block_size, (i + 1) * block_size).
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "base/status_macros.h"
#include "worker/kvcache/block_pool.h"

namespace outrider {

class BlockTable {
 public:
  BlockTable() = default;
  BlockTable(BlockTable&&) = default;
  BlockTable& operator=(BlockTable&&) = delete;
  // Later blocks go first, so that of kept ones the later are evicted first: they are worth nothing without the
  // earlier.
  ~BlockTable() { Truncate(0); }

  int num_blocks() const { return static_cast<int>(blocks_.size()); }
  BlockId id(int index) const { return blocks_[index].id(); }
  void Append(Block block) { blocks_.push_back(std::move(block)); }
  // Gives back all blocks from index num_blocks on. REQUIRES: none of them is published, or all go.
  void Truncate(int num_blocks) {
    while (this->num_blocks() > num_blocks) blocks_.pop_back();
    CHECK(num_blocks == 0 || num_published_blocks <= num_blocks);
    if (num_blocks == 0) num_published_blocks = 0, last_prefix = 0;
  }

  // Kept by PrefixCache: the first num_published_blocks are known to it, the last of them as node last_prefix.
  int num_published_blocks = 0;
  uint64_t last_prefix = 0;

 private:
  std::vector<Block> blocks_;
};

}  // namespace outrider
