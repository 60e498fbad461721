// Reads the JSON that clients send: typed fields by name, each wrong one an INVALID_ARGUMENT that names it, with the
// field as error_reason.h carries it. null counts as absent everywhere, as OpenAI has it.
//
// Thread safety: none. Pure.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace outrider::router {

// Ordered, since chat templates show the order of keys.
using Json = nlohmann::ordered_json;

// INVALID_ARGUMENT about `field`. `message` names it again, for people.
absl::Status FieldError(absl::string_view field, const std::string& message);

// What a value is, for messages: "a string", "an array", ...
absl::string_view KindOf(const Json& value);

// A request's body. INVALID_ARGUMENT: not JSON (saying at which byte), not an object, nested deeper than
// kMaxJsonDepth.
absl::StatusOr<Json> ParseObject(const std::string& body);

// The fields of one object. The first error stays, and what is read after it is absent.
class FieldReader {
 public:
  // `object` outlives this. `prefix` stands before names in messages, such as "stream_options.".
  explicit FieldReader(const Json& object, std::string prefix = "") : object_(object), prefix_(std::move(prefix)) {}

  std::optional<bool> Bool(const char* name);
  // Of a double, before a float would round it into the range.
  std::optional<double> Number(const char* name, double low = -std::numeric_limits<double>::infinity(),
                               double high = std::numeric_limits<double>::infinity());
  std::optional<std::string> String(const char* name);
  // A whole number; 3.0 is one.
  std::optional<int64_t> Integer(const char* name, int64_t low = std::numeric_limits<int64_t>::min(),
                                 int64_t high = std::numeric_limits<int64_t>::max());
  // Of strings, or one string that stands for a list of one.
  std::vector<std::string> Strings(const char* name);
  std::vector<int32_t> Ids(const char* name);
  // Null if absent. An error unless it is an object.
  const Json* Object(const char* name);
  // Null if absent; of any kind.
  const Json* Any(const char* name);

  // It is known, and nothing follows from it.
  void Ignore(const char* name) { known_.insert(name); }
  // An error if it is there with a value that asks for something: not null, false, empty, or `neutral`.
  void NotOffered(const char* name, const char* instead, const Json& neutral = nullptr);
  // `code`: for programs, as OpenAI has them.
  void Fail(absl::string_view name, const std::string& message, absl::string_view code = "invalid_value");
  // Takes on what went wrong elsewhere.
  void Fail(absl::Status status);
  // Takes on what `part`, of an object within this one, found wrong, and the names that it knows.
  void Absorb(const FieldReader& part);

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  // Names in the object that nobody asked for.
  std::vector<std::string> UnknownFields() const;
  // Names that were asked for, whether the object has them or not; sorted.
  std::vector<std::string> KnownFields() const;

 private:
  void WrongKind(const char* name, const Json& value, absl::string_view wanted);

  const Json& object_;
  const std::string prefix_;
  absl::flat_hash_set<std::string> known_;
  absl::Status status_;
};

}  // namespace outrider::router
