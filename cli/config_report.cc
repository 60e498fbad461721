#include "cli/config_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace outrider {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::ordered_json;

bool HasValue(const Message& config, const FieldDescriptor& field) {
  return field.has_default_value() || config.GetReflection()->HasField(config, &field);
}

Json Value(const Message& config, const FieldDescriptor& field) {
  const auto& reflection = *config.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.GetString(config, &field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(config, &field);
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection.GetUInt32(config, &field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.GetUInt64(config, &field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.GetDouble(config, &field);
    default:
      return nullptr;
  }
}

SettingOrigin OriginOf(const SettingOrigins& origins, const std::string& name) {
  const auto found = origins.find(name);
  return found == origins.end() ? SettingOrigin() : found->second;
}

const char* SourceName(SettingOrigin::Source source) {
  switch (source) {
    case SettingOrigin::Source::kDefault:
      return "default";
    case SettingOrigin::Source::kFile:
      return "file";
    case SettingOrigin::Source::kEnvironment:
      return "environment";
    case SettingOrigin::Source::kFlag:
      return "flag";
  }
  return "";
}

std::vector<const FieldDescriptor*> Fields(const Message& config, const SettingOrigins& origins, bool only_set) {
  std::vector<const FieldDescriptor*> fields;
  for (int i = 0; i < config.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* const field = config.GetDescriptor()->field(i);
    if (!only_set || origins.count(field->name()) > 0) fields.push_back(field);
  }
  return fields;
}

// JSON's strings are YAML's double-quoted ones.
std::string Scalar(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

std::string ConfigYaml(const Message& config, const SettingOrigins& origins, bool only_set) {
  std::vector<std::pair<std::string, std::string>> lines;  // setting, whence
  size_t width = 0;
  for (const FieldDescriptor* const field : Fields(config, origins, only_set)) {
    const SettingOrigin origin = OriginOf(origins, field->name());
    const std::string line = HasValue(config, *field) ? absl::StrCat(field->name(), ": ", Scalar(Value(config, *field)))
                                                      : absl::StrCat("# ", field->name(), ":");
    const std::string whence = origin.source == SettingOrigin::Source::kDefault
                                   ? std::string("default")
                                   : absl::StrCat(SourceName(origin.source), " ", origin.place);
    lines.emplace_back(line, whence);
    width = std::max(width, std::min<size_t>(line.size(), 48));
  }
  std::string yaml;
  for (const auto& [line, whence] : lines) absl::StrAppendFormat(&yaml, "%-*s  # %s\n", width, line, whence);
  return yaml;
}

std::string ConfigJson(const Message& config, const SettingOrigins& origins, bool only_set) {
  const std::unique_ptr<Message> defaults(config.New());
  Json list = Json::array();
  for (const FieldDescriptor* const field : Fields(config, origins, only_set)) {
    const SettingOrigin origin = OriginOf(origins, field->name());
    Json entry;
    entry["name"] = field->name();
    entry["value"] = HasValue(config, *field) ? Value(config, *field) : Json();
    entry["default"] = HasValue(*defaults, *field) ? Value(*defaults, *field) : Json();
    entry["source"] = SourceName(origin.source);
    entry["place"] = origin.place;
    list.push_back(std::move(entry));
  }
  return list.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace outrider
