// The HTTP API described for programs: an OpenAPI 3.1 document, part of the program (made of router/http/openapi by
// openapi/join.py). openapi_test.cc holds it to the code.
//
// Thread safety: pure functions.
#pragma once

#include "absl/strings/string_view.h"

namespace outrider::router {

// JSON, ASCII.
absl::string_view OpenApiDocument();

}  // namespace outrider::router
