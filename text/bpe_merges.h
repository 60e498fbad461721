// The merges of a byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909) and how they are applied to a row of
// tokens: the best first, of equals the leftmost, until none is left.
//
// Thread safety: immutable once filled; a Workspace belongs to one caller.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"

namespace outrider::text {

class BpeMerges {
 public:
  // Space that Apply uses again.
  class Workspace {
   public:
    void Clear() { symbols_.clear(); }
    void Add(TokenId id) {
      const int32_t index = static_cast<int32_t>(symbols_.size());
      symbols_.push_back({id, index - 1, index + 1, kNoMerge, -1});
    }

   private:
    friend class BpeMerges;
    // A symbol of a doubly linked list.
    struct Symbol {
      TokenId id;
      int32_t previous;  // -1: none
      int32_t next;      // -1: none
      uint32_t rank;     // of the merge with the next symbol; kNoMerge, also once merged into its left neighbour
      TokenId merged;    // what that merge makes
    };
    std::vector<Symbol> symbols_;
    // The merges that are possible now as a binary heap of rank << 32 | index of the left symbol: lowest rank first,
    // then leftmost. An entry is void when its symbol's rank has changed since; it is then skipped rather than removed.
    std::vector<uint64_t> heap_;
  };

  void Reserve(size_t count) { merges_.reserve(count); }
  // False if the pair has a merge; `rank` of that one is then in *other. Lower ranks merge first.
  bool Add(TokenId left, TokenId right, uint32_t rank, TokenId merged, uint32_t* other);

  // Appends what the workspace's tokens merge to. O(n log n).
  void Apply(Workspace* workspace, std::vector<TokenId>* ids) const;

 private:
  static constexpr uint32_t kNoMerge = 0xFFFFFFFF;
  struct Merge {
    uint32_t rank;
    TokenId merged;
  };
  absl::flat_hash_map<uint64_t, Merge> merges_;  // left id << 32 | right id
};

}  // namespace outrider::text
