#include "cli/config_loader.h"

#include <yaml-cpp/yaml.h>

#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "cli/config_schema.h"
#include "cli/leader_worker_set.h"
#include "proto/config.pb.h"

namespace outrider {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr int64_t kMaxConfigFileBytes = 1 << 20;

std::vector<std::string> FieldNames(const Message& config) {
  std::vector<std::string> names;
  for (int i = 0; i < config.GetDescriptor()->field_count(); ++i) {
    names.push_back(config.GetDescriptor()->field(i)->name());
  }
  return names;
}

absl::Status UnknownSetting(const std::string& place, const std::string& name, const Message& config) {
  const std::string nearest = NearestName(name, FieldNames(config));
  return absl::InvalidArgumentError(absl::StrCat(place, ": unknown setting '", name, "'",
                                                 nearest.empty() ? std::string("; proto/config.proto lists them all")
                                                                 : absl::StrCat("; did you mean '", nearest, "'?")));
}

absl::Status LoadFile(const std::string& path, Message* config, SettingOrigins& origins) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("config file '", path, "' can not be read; check --config"));
  std::string text(kMaxConfigFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad() || (file.gcount() == 0 && !file.eof())) {
    return absl::NotFoundError(absl::StrCat("config file '", path, "' can not be read; is it a directory?"));
  }
  text.resize(file.gcount());
  if (static_cast<int64_t>(text.size()) > kMaxConfigFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": larger than ", kMaxConfigFileBytes, " bytes"));
  }
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ":", error.mark.line + 1, ": not YAML: ", error.msg));
  }
  if (root.IsNull()) return absl::OkStatus();
  if (!root.IsMap()) return absl::InvalidArgumentError(absl::StrCat(path, ":1: expected 'name: value' lines"));
  std::set<std::string> seen;
  for (const auto& entry : root) {
    const std::string place = absl::StrCat(path, ":", entry.first.Mark().line + 1);
    if (!entry.first.IsScalar()) return absl::InvalidArgumentError(absl::StrCat(place, ": a name must be plain text"));
    const std::string name = entry.first.Scalar();
    if (config->GetDescriptor()->FindFieldByName(name) == nullptr) return UnknownSetting(place, name, *config);
    if (!seen.insert(name).second) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": '", name, "' is set twice; keep one"));
    }
    if (!entry.second.IsScalar()) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": '", name, "' takes one value"));
    }
    RETURN_IF_ERROR(SetFromText(place, name, entry.second.Scalar(), config));
    origins[name] = {SettingOrigin::Source::kFile, place};
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SetFromText(const std::string& place, const std::string& name, const std::string& value, Message* config) {
  const FieldDescriptor* field = config->GetDescriptor()->FindFieldByName(name);
  if (field == nullptr) return UnknownSetting(place, name, *config);
  const auto wrong = [&](const char* expected) {
    return absl::InvalidArgumentError(absl::StrCat(place, ": ", name, " = '", value, "' is not ", expected));
  };
  const auto& reflection = *config->GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      reflection.SetString(config, field, value);
      break;
    case FieldDescriptor::CPPTYPE_BOOL: {
      bool parsed;
      if (!absl::SimpleAtob(value, &parsed)) return wrong("true or false");
      reflection.SetBool(config, field, parsed);
      break;
    }
    case FieldDescriptor::CPPTYPE_UINT32: {
      uint32_t parsed;
      if (!absl::SimpleAtoi(value, &parsed)) return wrong("a whole number from 0 to 4294967295");
      reflection.SetUInt32(config, field, parsed);
      break;
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t parsed;
      if (!absl::SimpleAtoi(value, &parsed)) return wrong("a whole number from 0 to 18446744073709551615");
      reflection.SetUInt64(config, field, parsed);
      break;
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double parsed;
      if (!absl::SimpleAtod(value, &parsed) || !std::isfinite(parsed)) return wrong("a number");
      reflection.SetDouble(config, field, parsed);
      break;
    }
    default:
      return absl::InternalError(
          absl::StrCat("config.proto: setting '", name, "' has a type the loader does not know"));
  }
  return absl::OkStatus();
}

absl::Status LoadConfig(const ConfigSources& sources, Message* config, SettingOrigins* origins) {
  SettingOrigins unused;
  SettingOrigins& told = origins == nullptr ? unused : *origins;
  if (!sources.file.empty()) RETURN_IF_ERROR(LoadFile(sources.file, config, told));
  for (const Setting& setting : SettingsOf(*config->GetDescriptor())) {
    if (!sources.variable) break;
    const char* value = sources.variable(setting.variable);
    if (value == nullptr) continue;
    absl::Status status = SetFromText(setting.variable, setting.name, value, config);
    if (!status.ok() && absl::StartsWith(value, "tcp://")) {
      status = absl::InvalidArgumentError(absl::StrCat(
          status.message(), "; Kubernetes sets such variables for its services: enableServiceLinks: false"));
    }
    RETURN_IF_ERROR(status);
    told[setting.name] = {SettingOrigin::Source::kEnvironment, setting.variable};
  }
  for (const auto& [name, value] : sources.flags) {
    const std::string flag = absl::StrCat("--", absl::StrReplaceAll(name, {{"_", "-"}}));
    RETURN_IF_ERROR(SetFromText(flag, name, value, config));
    told[name] = {SettingOrigin::Source::kFlag, flag};
  }
  auto* const target = dynamic_cast<v1::TargetConfig*>(config);
  if (target == nullptr || !sources.variable) return absl::OkStatus();
  std::map<std::string, std::string> taken;
  RETURN_IF_ERROR(ApplyLeaderWorkerSet(sources.variable, *target, taken));
  for (const auto& [name, variable] : taken) told[name] = {SettingOrigin::Source::kEnvironment, variable};
  return absl::OkStatus();
}

}  // namespace outrider
