// Python's methods of str, list and dict, and the functions templates can call by name.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace outrider::text::jinja {

// Whether Python's type of `self` has the method. Methods that change their object exist and fail: values do not
// change.
bool HasMethod(const Value& self, absl::string_view name);
// REQUIRES: HasMethod(self, name).
absl::StatusOr<Value> CallMethod(Runtime& runtime, const Value& self, absl::string_view name, Arguments arguments);
// The method as a value.
Value BindMethod(const Value& self, absl::string_view name);

// range, dict, namespace, cycler, joiner, raise_exception, strftime_now; nothing for other names.
std::optional<Value> FindFunction(const Runtime& runtime, absl::string_view name);

// format % values, with the conversions s r d i f x X % and the flags - + 0 and space.
absl::StatusOr<std::string> PercentFormat(Runtime& runtime, absl::string_view format, const std::vector<Value>& values);

// Case, character by character (utf8proc's simple mappings; "ß" becomes "SS").
std::string ToUpper(absl::string_view text);
std::string ToLower(absl::string_view text);
// First character upper, the others lower.
std::string Capitalize(absl::string_view text);

}  // namespace outrider::text::jinja
