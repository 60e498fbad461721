// Finds given strings in text: the leftmost, and of those the longest.
//
// Thread safety: immutable once filled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "base/ids.h"

namespace outrider::text {

class SpecialTokenTrie {
 public:
  // REQUIRES: `bytes` is not empty.
  void Add(absl::string_view bytes, TokenId id);
  struct Match {
    size_t num_bytes = 0;  // 0: none
    TokenId id = -1;
  };
  // The longest string that `text` begins with.
  Match LongestPrefix(absl::string_view text) const;

  // Calls plain(text, offset) for what lies between matches, pieces that are not empty, and special(id) for each match,
  // in order.
  template <typename Plain, typename Special>
  void Split(absl::string_view text, const Plain& plain, const Special& special) const {
    size_t first_plain = 0;
    const auto flush = [&](size_t end) {
      if (end > first_plain) plain(text.substr(first_plain, end - first_plain), first_plain);
    };
    for (size_t i = 0; i < text.size();) {
      const Match match = roots_[static_cast<uint8_t>(text[i])] ? LongestPrefix(text.substr(i)) : Match();
      if (match.num_bytes == 0) {
        ++i;
        continue;
      }
      flush(i);
      special(match.id);
      i += match.num_bytes;
      first_plain = i;
    }
    flush(text.size());
  }

 private:
  struct Node {
    TokenId id = -1;
  };
  bool roots_[256] = {};
  std::vector<Node> nodes_ = std::vector<Node>(1);
  absl::flat_hash_map<uint64_t, uint32_t> children_;  // node << 8 | byte -> node
};

}  // namespace outrider::text
