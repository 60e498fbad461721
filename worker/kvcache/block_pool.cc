#include "worker/kvcache/block_pool.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {

Block& Block::operator=(Block&& other) noexcept {
  if (this != &other) {
    if (pool_ != nullptr) pool_->Release(id_);
    pool_ = std::exchange(other.pool_, nullptr);
    id_ = other.id_;
  }
  return *this;
}

Block::~Block() {
  if (pool_ != nullptr) pool_->Release(id_);
}

BlockPool::BlockPool(int num_blocks, Keeper* keeper) : keeper_(keeper), blocks_(num_blocks) {
  free_.reserve(num_blocks);
  for (BlockId block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

std::optional<Block> BlockPool::Allocate() {
  BlockId block = kNone;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (first_kept_ != kNone) {
    block = first_kept_;
    Unlink(block);
    blocks_[block].kept = false;
    if (keeper_ != nullptr) keeper_->OnEvicted(block);
  } else {
    return std::nullopt;
  }
  CHECK(blocks_[block].num_holds == 0);
  blocks_[block].num_holds = 1;
  ++num_held_;
  return Block(this, block);
}

Block BlockPool::Share(BlockId block) {
  State& state = blocks_[block];
  CHECK(state.num_holds > 0 || state.kept);
  if (state.num_holds == 0) {
    Unlink(block);
    ++num_held_;
  }
  ++state.num_holds;
  return Block(this, block);
}

void BlockPool::Keep(BlockId block) {
  CHECK(blocks_[block].num_holds > 0);
  blocks_[block].kept = true;
}

void BlockPool::Release(BlockId block) {
  State& state = blocks_[block];
  CHECK(state.num_holds > 0);
  if (--state.num_holds > 0) return;
  --num_held_;
  if (!state.kept) {
    free_.push_back(block);
    return;
  }
  state.previous = last_kept_;
  state.next = kNone;
  (last_kept_ == kNone ? first_kept_ : blocks_[last_kept_].next) = block;
  last_kept_ = block;
}

void BlockPool::Unlink(BlockId block) {
  const State& state = blocks_[block];
  (state.previous == kNone ? first_kept_ : blocks_[state.previous].next) = state.next;
  (state.next == kNone ? last_kept_ : blocks_[state.next].previous) = state.previous;
}

absl::Status BlockPool::CheckInvariants() const {
  std::vector<int> lists(blocks_.size(), 0);
  for (const BlockId block : free_) {
    ++lists[block];
    if (blocks_[block].kept) return absl::InternalError(absl::StrCat("block ", block, " is free and kept"));
  }
  BlockId previous = kNone;
  for (BlockId block = first_kept_; block != kNone; previous = block, block = blocks_[block].next) {
    if (++lists[block] > 1 || !blocks_[block].kept || blocks_[block].previous != previous) {
      return absl::InternalError(absl::StrCat("the list of kept blocks is broken at block ", block));
    }
  }
  if (previous != last_kept_) return absl::InternalError("the list of kept blocks does not end where it should");
  int num_held = 0;
  for (BlockId block = 0; block < num_blocks(); ++block) {
    const int num_holds = blocks_[block].num_holds;
    num_held += num_holds > 0;
    if (num_holds < 0 || lists[block] != (num_holds == 0 ? 1 : 0)) {
      return absl::InternalError(
          absl::StrCat("block ", block, " has ", num_holds, " holds and is on ", lists[block], " lists"));
    }
  }
  if (num_held != num_held_) {
    return absl::InternalError(absl::StrCat(num_held, " blocks are held, ", num_held_, " are counted"));
  }
  return absl::OkStatus();
}

}  // namespace outrider
