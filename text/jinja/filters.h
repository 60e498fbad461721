// Jinja's filters and tests, and Hugging Face's tojson.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace outrider::text::jinja {

// value | name(arguments). An unknown name is an error.
absl::StatusOr<Value> ApplyFilter(Runtime& runtime, absl::string_view name, const Value& value, Arguments arguments);
// value is name(arguments). An unknown name is an error.
absl::StatusOr<bool> ApplyTest(Runtime& runtime, absl::string_view name, const Value& value, Arguments arguments);

}  // namespace outrider::text::jinja
