#include "text/bpe_merges.h"

#include <algorithm>
#include <functional>

namespace outrider::text {
namespace {

uint64_t PairKey(TokenId left, TokenId right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

bool BpeMerges::Add(TokenId left, TokenId right, uint32_t rank, TokenId merged, uint32_t* other) {
  const auto [entry, inserted] = merges_.try_emplace(PairKey(left, right), Merge{rank, merged});
  if (!inserted) *other = entry->second.rank;
  return inserted;
}

void BpeMerges::Apply(Workspace* workspace, std::vector<TokenId>* ids) const {
  std::vector<Workspace::Symbol>& symbols = workspace->symbols_;
  std::vector<uint64_t>& heap = workspace->heap_;
  heap.clear();
  if (symbols.empty()) return;
  symbols.back().next = -1;

  const auto find_merge = [&](int32_t left) {
    Workspace::Symbol& symbol = symbols[left];
    symbol.rank = kNoMerge;
    if (symbol.next < 0) return false;
    const auto merge = merges_.find(PairKey(symbol.id, symbols[symbol.next].id));
    if (merge == merges_.end()) return false;
    symbol.rank = merge->second.rank;
    symbol.merged = merge->second.merged;
    return true;
  };
  const auto entry = [&](int32_t left) { return uint64_t{symbols[left].rank} << 32 | static_cast<uint32_t>(left); };
  for (int32_t i = 0; i < static_cast<int32_t>(symbols.size()); ++i) {
    if (find_merge(i)) heap.push_back(entry(i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](int32_t left) {
    if (!find_merge(left)) return;
    heap.push_back(entry(left));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t best = heap.back();
    heap.pop_back();
    const int32_t index = static_cast<int32_t>(best & 0xFFFFFFFF);
    Workspace::Symbol& left = symbols[index];
    if (left.rank != best >> 32) continue;
    Workspace::Symbol& right = symbols[left.next];
    left.id = left.merged;
    left.next = right.next;
    right.rank = kNoMerge;
    if (left.next >= 0) symbols[left.next].previous = index;
    if (left.previous >= 0) push(left.previous);
    push(index);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace outrider::text
