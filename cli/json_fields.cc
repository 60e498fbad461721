#include "cli/json_fields.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cli/config_schema.h"  // NearestName

namespace outrider {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// GenerateRequest goes two levels down; deeper is nothing that a message here has.
constexpr int kMaxDepth = 16;

absl::Status Check(const nlohmann::json& json, const Descriptor& message, const std::string& path, int depth) {
  if (!json.is_object() || depth > kMaxDepth) return absl::OkStatus();
  for (const auto& [name, value] : json.items()) {
    const FieldDescriptor* field = message.FindFieldByName(name);
    if (field == nullptr) field = message.FindFieldByCamelcaseName(name);
    if (field == nullptr) {
      std::vector<std::string> names;
      for (int i = 0; i < message.field_count(); ++i) names.push_back(message.field(i)->name());
      const std::string nearest = NearestName(name, names);
      return absl::InvalidArgumentError(
          absl::StrCat("unknown field '", path, name, "'",
                       nearest.empty() ? absl::StrCat("; ", message.name(), " in proto/inference.proto lists them")
                                       : absl::StrCat("; did you mean '", nearest, "'?")));
    }
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (value.is_array()) {
      for (size_t i = 0; i < value.size(); ++i) {
        RETURN_IF_ERROR(Check(value[i], *field->message_type(), absl::StrCat(path, name, "[", i, "]."), depth + 1));
      }
    } else {
      RETURN_IF_ERROR(Check(value, *field->message_type(), absl::StrCat(path, name, "."), depth + 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckJsonFields(const nlohmann::json& json, const Descriptor& message) {
  return Check(json, message, "", 0);
}

}  // namespace outrider
