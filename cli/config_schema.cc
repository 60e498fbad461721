#include "cli/config_schema.h"

#include <google/protobuf/descriptor.pb.h>

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

// The FileDescriptorSet of config.proto with its comments.
constexpr unsigned char kSchema[] = {
#include "cli/config_schema.inc"
};

constexpr int kMessageTypeField = 4;  // FileDescriptorProto.message_type
constexpr int kFieldField = 2;        // DescriptorProto.field

// "Message.field" to its comment.
const std::map<std::string, std::string>& Comments() {
  static const auto* comments = [] {
    auto* result = new std::map<std::string, std::string>;
    google::protobuf::FileDescriptorSet files;
    CHECK(files.ParseFromArray(kSchema, sizeof(kSchema)));
    for (const auto& file : files.file()) {
      for (const auto& location : file.source_code_info().location()) {
        if (location.path_size() != 4 || location.path(0) != kMessageTypeField || location.path(2) != kFieldField)
          continue;
        const auto& message = file.message_type(location.path(1));
        std::string text = absl::StrReplaceAll(location.leading_comments(), {{"\n", " "}, {"  ", " "}});
        absl::StripAsciiWhitespace(&text);
        (*result)[absl::StrCat(message.name(), ".", message.field(location.path(3)).name())] = text;
      }
    }
    return result;
  }();
  return *comments;
}

std::string DefaultValue(const google::protobuf::FieldDescriptor& field) {
  using Field = google::protobuf::FieldDescriptor;
  if (!field.has_default_value()) return "";
  switch (field.cpp_type()) {
    case Field::CPPTYPE_STRING:
      return field.default_value_string();
    case Field::CPPTYPE_BOOL:
      return field.default_value_bool() ? "true" : "false";
    case Field::CPPTYPE_UINT32:
      return absl::StrCat(field.default_value_uint32());
    case Field::CPPTYPE_UINT64:
      return absl::StrCat(field.default_value_uint64());
    case Field::CPPTYPE_DOUBLE:
      return absl::StrCat(field.default_value_double());
    default:
      return "";
  }
}

}  // namespace

std::vector<Setting> SettingsOf(const google::protobuf::Descriptor& message) {
  std::vector<Setting> settings;
  for (int i = 0; i < message.field_count(); ++i) {
    const auto& field = *message.field(i);
    Setting setting;
    setting.name = field.name();
    setting.flag = absl::StrCat("--", absl::StrReplaceAll(field.name(), {{"_", "-"}}));
    setting.variable = absl::StrCat("OUTRIDER_", absl::AsciiStrToUpper(field.name()));
    const auto comment = Comments().find(absl::StrCat(message.name(), ".", field.name()));
    if (comment != Comments().end()) setting.help = comment->second;
    setting.default_value = DefaultValue(field);
    settings.push_back(std::move(setting));
  }
  return settings;
}

int EditDistance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

std::string NearestName(const std::string& name, const std::vector<std::string>& candidates) {
  std::string best;
  int best_distance = static_cast<int>(name.size()) / 3 + 1;
  for (const std::string& candidate : candidates) {
    const int distance = EditDistance(name, candidate);
    if (distance < best_distance || (distance == best_distance && best.empty())) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace outrider
