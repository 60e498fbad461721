// Walks a template's tree.
#pragma once

#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "text/jinja/ast.h"
#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace outrider::text::jinja {

// The text of `block`, with `variables` as the names it can see beside Jinja's functions. `block` outlives the call.
// Errors: those of Runtime.
absl::StatusOr<std::string> Render(const Block& block, const absl::flat_hash_map<std::string, Value>& variables,
                                   Runtime* runtime);

}  // namespace outrider::text::jinja
