#include "kernels/sampling/token_counts.h"

#include <algorithm>

namespace outrider::kernels {
namespace {

constexpr size_t kSlotsMin = 64;

}  // namespace

void TokenCounts::Clear() {
  entries_.clear();
  std::fill(slots_.begin(), slots_.end(), -1);
}

size_t TokenCounts::SlotOf(int32_t token_id) const {
  // Fibonacci hashing, then the next slots; at most half are taken.
  const size_t mask = slots_.size() - 1;
  size_t slot = static_cast<size_t>((static_cast<uint32_t>(token_id) * 0x9E3779B97F4A7C15u) >> 32) & mask;
  while (slots_[slot] >= 0 && entries_[static_cast<size_t>(slots_[slot])].token_id != token_id)
    slot = (slot + 1) & mask;
  return slot;
}

const TokenCounts::Entry* TokenCounts::Find(int32_t token_id) const {
  if (slots_.empty()) return nullptr;
  const int32_t index = slots_[SlotOf(token_id)];
  return index < 0 ? nullptr : &entries_[static_cast<size_t>(index)];
}

TokenCounts::Entry& TokenCounts::FindOrAdd(int32_t token_id) {
  if (2 * (entries_.size() + 1) > slots_.size()) Grow();
  int32_t& index = slots_[SlotOf(token_id)];
  if (index < 0) {
    index = static_cast<int32_t>(entries_.size());
    entries_.push_back({.token_id = token_id});
  }
  return entries_[static_cast<size_t>(index)];
}

void TokenCounts::Grow() {
  slots_.assign(std::max(kSlotsMin, 2 * slots_.size()), -1);
  for (size_t i = 0; i < entries_.size(); ++i) slots_[SlotOf(entries_[i].token_id)] = static_cast<int32_t>(i);
}

}  // namespace outrider::kernels
