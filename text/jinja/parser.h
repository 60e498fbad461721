// Template source to its tree: the grammar of Jinja 3.1, less inheritance and imports.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "text/jinja/ast.h"

namespace outrider::text::jinja {

// Bounds that keep every later recursion over the tree shallow.
inline constexpr int kMaxBlockNesting = 100;       // {% %} blocks within blocks
inline constexpr int kMaxExpressionNesting = 100;  // brackets and prefix operators within one another
inline constexpr int kMaxExpressionDepth = 300;    // operators applied to operators: a + b + ... too

// Errors: INVALID_ARGUMENT "chat template line N: ...".
absl::StatusOr<Block> Parse(absl::string_view source);

}  // namespace outrider::text::jinja
