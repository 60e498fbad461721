#include "router/http/json_reader.h"

#include <algorithm>
#include <cmath>

#include "router/error_reason.h"
#include "router/json_depth.h"

namespace outrider::router {
namespace {

// The value as a whole number in the range of int64, if it is one.
std::optional<int64_t> WholeNumber(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (!(std::abs(number) <= 9007199254740992.0) || number != std::floor(number)) return std::nullopt;
  return static_cast<int64_t>(number);
}

}  // namespace

absl::Status FieldError(absl::string_view field, const std::string& message) {
  return WithField(absl::InvalidArgumentError(message), field);
}

absl::string_view KindOf(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::object:
      return "an object";
    default:
      return "a number";
  }
}

absl::StatusOr<Json> ParseObject(const std::string& body) {
  if (const int depth = JsonDepth(body); depth > kMaxJsonDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body nests ", depth, " deep; at most ", kMaxJsonDepth, " is allowed"));
  }
  Json json;
  try {
    json = Json::parse(body);
  } catch (const Json::parse_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body is not valid JSON at byte ", error.byte, " of ", body.size()));
  } catch (const Json::exception&) {  // a number that no double can hold
    return absl::InvalidArgumentError("the body is not valid JSON: a number in it is out of range");
  }
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("the body is ", KindOf(json), "; it takes a JSON object"));
  }
  return json;
}

void FieldReader::Fail(absl::string_view name, const std::string& message, absl::string_view code) {
  if (!status_.ok()) return;
  const std::string field = absl::StrCat(prefix_, name);
  status_ = WithReason(FieldError(field, absl::StrCat(field, " ", message)), code);
}

void FieldReader::WrongKind(const char* name, const Json& value, absl::string_view wanted) {
  Fail(name, absl::StrCat("is ", KindOf(value), "; it takes ", wanted), "invalid_type");
}

void FieldReader::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void FieldReader::Absorb(const FieldReader& part) {
  Fail(part.status_);
  for (const std::string& name : part.known_) known_.insert(absl::StrCat(part.prefix_, name));
}

const Json* FieldReader::Any(const char* name) {
  known_.insert(name);
  if (!status_.ok()) return nullptr;
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

std::optional<bool> FieldReader::Bool(const char* name) {
  const Json* const value = Any(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  WrongKind(name, *value, "true or false");
  return std::nullopt;
}

std::optional<double> FieldReader::Number(const char* name, double low, double high) {
  const Json* const value = Any(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) {
    WrongKind(name, *value, "a number");
    return std::nullopt;
  }
  const double number = value->get<double>();
  if (number >= low && number <= high) return number;
  Fail(name, absl::StrCat("= ", value->dump(), " is out of range; it takes ", low, " to ", high));
  return std::nullopt;
}

std::optional<std::string> FieldReader::String(const char* name) {
  const Json* const value = Any(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  WrongKind(name, *value, "a string");
  return std::nullopt;
}

std::optional<int64_t> FieldReader::Integer(const char* name, int64_t low, int64_t high) {
  const Json* const value = Any(name);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> number = WholeNumber(*value);
  if (number.has_value() && *number >= low && *number <= high) return number;
  if (!value->is_number()) {
    WrongKind(name, *value, "a whole number");
  } else if (low == std::numeric_limits<int64_t>::min() && high == std::numeric_limits<int64_t>::max()) {
    Fail(name, absl::StrCat("= ", value->dump(), " is not a whole number of 64 bits"));
  } else {
    Fail(name, absl::StrCat("= ", value->dump(), " is out of range; it takes ", low, " to ", high));
  }
  return std::nullopt;
}

std::vector<std::string> FieldReader::Strings(const char* name) {
  const Json* const value = Any(name);
  std::vector<std::string> strings;
  if (value == nullptr) return strings;
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) {
    WrongKind(name, *value, "a string or an array of strings");
    return strings;
  }
  for (const Json& item : *value) {
    if (!item.is_string()) {
      Fail(name,
           absl::StrCat("has ", KindOf(item), " at ", strings.size(), "; it takes a string or an array of strings"),
           "invalid_type");
      return {};
    }
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

std::vector<int32_t> FieldReader::Ids(const char* name) {
  const Json* const value = Any(name);
  std::vector<int32_t> ids;
  if (value == nullptr) return ids;
  if (!value->is_array()) {
    WrongKind(name, *value, "an array of token ids");
    return ids;
  }
  ids.reserve(value->size());
  for (const Json& item : *value) {
    const std::optional<int64_t> id = WholeNumber(item);
    if (!id.has_value() || *id < 0 || *id > std::numeric_limits<int32_t>::max()) {
      Fail(name, absl::StrCat("has what is no token id at ", ids.size(), "; it takes an array of token ids"));
      return {};
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

const Json* FieldReader::Object(const char* name) {
  const Json* const value = Any(name);
  if (value == nullptr || value->is_object()) return value;
  WrongKind(name, *value, "an object");
  return nullptr;
}

void FieldReader::NotOffered(const char* name, const char* instead, const Json& neutral) {
  const Json* const value = Any(name);
  if (value == nullptr || *value == neutral) return;
  if (value->is_boolean() && !value->get<bool>()) return;
  if ((value->is_array() || value->is_object() || value->is_string()) &&
      (value->is_string() ? value->get_ref<const std::string&>().empty() : value->empty())) {
    return;
  }
  Fail(name, absl::StrCat("is not offered", *instead == '\0' ? "" : "; ", instead), "unsupported_parameter");
}

std::vector<std::string> FieldReader::UnknownFields() const {
  std::vector<std::string> unknown;
  for (const auto& [name, value] : object_.items()) {
    if (known_.count(name) == 0) unknown.push_back(name);
  }
  return unknown;
}

std::vector<std::string> FieldReader::KnownFields() const {
  std::vector<std::string> known(known_.begin(), known_.end());
  std::sort(known.begin(), known.end());
  return known;
}

}  // namespace outrider::router
