// How deep a JSON text nests, before it is parsed: what follows a parse (copies, templates) may recurse.
//
// Thread safety: pure function.
#pragma once

#include "absl/strings/string_view.h"

namespace outrider::router {

inline constexpr int kMaxJsonDepth = 64;

// The deepest nesting of arrays and objects in `json`; of a text that is not JSON, at least that of any part of it that
// a parser could take before it fails.
inline int JsonDepth(absl::string_view json) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = ++depth > deepest ? depth : deepest;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace outrider::router
