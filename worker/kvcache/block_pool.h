// BlockPool counts who holds which KV block. It knows block numbers only; the memory belongs to the ranks.
//
// A block is free, held (by one or more handles), or kept: nobody holds it, but its content may be wanted again. Kept
// blocks count as free: Allocate takes free blocks first, then kept ones, longest unheld first.
//
// Invariants: free, held and kept are disjoint and make up the pool; a block is held iff handles to it live.
//
// Thread safety: none.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"

namespace outrider {

class BlockPool;

// One hold on a block; dropping it gives the hold back. Move only. The pool outlives its handles.
class Block {
 public:
  Block(Block&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_) {}
  Block& operator=(Block&& other) noexcept;
  ~Block();

  BlockId id() const { return id_; }

 private:
  friend class BlockPool;
  Block(BlockPool* pool, BlockId id) : pool_(pool), id_(id) {}
  BlockPool* pool_;
  BlockId id_;
};

class BlockPool {
 public:
  // Who keeps content of blocks that nobody holds.
  class Keeper {
   public:
    virtual ~Keeper() = default;
    // The block is about to be used for something else.
    virtual void OnEvicted(BlockId block) = 0;
  };

  // `keeper` may be null; outlives this.
  explicit BlockPool(int num_blocks, Keeper* keeper = nullptr);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  int num_blocks() const { return static_cast<int>(blocks_.size()); }
  int num_free() const { return num_blocks() - num_held_; }  // kept ones included
  int num_held() const { return num_held_; }
  int num_holds(BlockId block) const { return blocks_[block].num_holds; }

  // Empty if every block is held.
  std::optional<Block> Allocate();
  // Another hold on a block that is held or kept. REQUIRES: so.
  Block Share(BlockId block);
  // From now on the block is kept when the last hold goes. REQUIRES: held.
  void Keep(BlockId block);

  // INTERNAL naming what is wrong: the lists against the counts.
  absl::Status CheckInvariants() const;

 private:
  friend class Block;
  static constexpr BlockId kNone = -1;
  struct State {
    int num_holds = 0;
    bool kept = false;
    BlockId previous = kNone;  // in the list of kept blocks without holds, longest unheld first
    BlockId next = kNone;
  };
  void Release(BlockId block);
  void Unlink(BlockId block);

  Keeper* const keeper_;
  std::vector<State> blocks_;
  std::vector<BlockId> free_;  // neither held nor kept
  BlockId first_kept_ = kNone;
  BlockId last_kept_ = kNone;
  int num_held_ = 0;
};

}  // namespace outrider
