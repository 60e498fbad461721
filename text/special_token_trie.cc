#include "text/special_token_trie.h"

namespace outrider::text {

void SpecialTokenTrie::Add(absl::string_view bytes, TokenId id) {
  roots_[static_cast<uint8_t>(bytes[0])] = true;
  uint32_t node = 0;
  for (const char byte : bytes) {
    const uint64_t edge = uint64_t{node} << 8 | static_cast<uint8_t>(byte);
    const auto [child, inserted] = children_.try_emplace(edge, static_cast<uint32_t>(nodes_.size()));
    if (inserted) nodes_.emplace_back();
    node = child->second;
  }
  nodes_[node].id = id;
}

SpecialTokenTrie::Match SpecialTokenTrie::LongestPrefix(absl::string_view text) const {
  Match match;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto child = children_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[i]));
    if (child == children_.end()) break;
    node = child->second;
    if (nodes_[node].id >= 0) match = {i + 1, nodes_[node].id};
  }
  return match;
}

}  // namespace outrider::text
