// The page at /: its files, which are part of the program (made of router/http/page by page/embed.py).
//
// Thread safety: pure functions.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace outrider::router {

struct PageFile {
  absl::string_view path;  // of the URL: "/" or "/page/NAME"
  absl::string_view content_type;
  absl::string_view etag;  // of its content, with quotes
  absl::string_view body;
};
absl::Span<const PageFile> PageFiles();

}  // namespace outrider::router
