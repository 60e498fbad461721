#include "router/prefix_index.h"

#include <algorithm>

namespace outrider::router {

std::vector<uint64_t> PrefixChain(absl::Span<const TokenId> prompt) {
  std::vector<uint64_t> chain;
  const size_t num_blocks = std::min(prompt.size() / kPrefixBlockTokens, kMaxPrefixBlocks);
  chain.reserve(num_blocks);
  uint64_t hash = 1469598103934665603ull;  // FNV-1a, by token
  for (size_t block = 0; block < num_blocks; ++block) {
    for (const TokenId id : prompt.subspan(block * kPrefixBlockTokens, kPrefixBlockTokens)) {
      hash = (hash ^ static_cast<uint32_t>(id)) * 1099511628211ull;
    }
    chain.push_back(hash);
  }
  return chain;
}

void PrefixIndex::Learn(absl::Span<const uint64_t> chain, uint32_t life) {
  for (const uint64_t hash : chain) {
    if (young_.size() >= kMaxBlocks / 2) {
      old_ = std::move(young_);
      young_ = Blocks();
    }
    const auto [it, is_new] = young_.try_emplace(hash);
    Holders& holders = it->second;
    if (is_new) {
      if (const auto before = old_.find(hash); before != old_.end()) holders = before->second;
    }
    // To the front; the others move up to where it was, or by one.
    auto place = std::find(holders.begin(), holders.end(), life);
    if (place == holders.end()) place = holders.end() - 1;
    std::move_backward(holders.begin(), place, place + 1);
    holders.front() = life;
  }
}

const PrefixIndex::Holders* PrefixIndex::Find(uint64_t hash) const {
  if (const auto it = young_.find(hash); it != young_.end()) return &it->second;
  if (const auto it = old_.find(hash); it != old_.end()) return &it->second;
  return nullptr;
}

size_t PrefixIndex::KnownBlocks(absl::Span<const uint64_t> chain) const {
  size_t known = 0, unknown = chain.size() + 1;
  while (unknown - known > 1) {
    const size_t middle = known + (unknown - known) / 2;
    (Find(chain[middle - 1]) != nullptr ? known : unknown) = middle;
  }
  return known;
}

PrefixIndex::Holders PrefixIndex::HoldersOf(uint64_t hash) const {
  const Holders* holders = Find(hash);
  return holders == nullptr ? Holders{} : *holders;
}

}  // namespace outrider::router
