// PrefixIndex knows which groups were sent which beginnings of prompts, so that a prompt can go where its beginning is
// cached already. What a group still holds it does not know: it is a guess that costs nothing when wrong.
//
// A prompt is a chain of hashes, one for each full kPrefixBlockTokens, each of all tokens up to there.
//
// Bounded: at least the last kMaxBlocks / 2 blocks learned are known, at most kMaxBlocks are kept, and kMaxHolders of
// each.
//
// Thread safety: none. Pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "base/ids.h"

namespace outrider::router {

inline constexpr size_t kPrefixBlockTokens = 64;
// Blocks of a prompt that are looked at: longer beginnings count as these.
inline constexpr size_t kMaxPrefixBlocks = 64;

// The chain of a prompt, at most kMaxPrefixBlocks long.
std::vector<uint64_t> PrefixChain(absl::Span<const TokenId> prompt);

class PrefixIndex {
 public:
  static constexpr size_t kMaxBlocks = 1 << 17;
  static constexpr size_t kMaxHolders = 4;
  // Lives of groups (GroupView::life), the last that learned first; 0 where there are fewer.
  using Holders = std::array<uint32_t, kMaxHolders>;

  // The group in that life was sent a prompt of this chain.
  void Learn(absl::Span<const uint64_t> chain, uint32_t life);

  // How many blocks of the chain are known, about: found by halving, so a chain with a gap may be known further.
  size_t KnownBlocks(absl::Span<const uint64_t> chain) const;
  // Of the block with this hash; none if it is not known.
  Holders HoldersOf(uint64_t hash) const;

  size_t size() const { return young_.size() + old_.size(); }

 private:
  using Blocks = absl::flat_hash_map<uint64_t, Holders>;
  const Holders* Find(uint64_t hash) const;

  // When the young are many, they become the old, and those are forgotten: what is learned again stays.
  Blocks young_;
  Blocks old_;
};

}  // namespace outrider::router
