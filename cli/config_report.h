// The settings of a process as `outrider config dump` shows them: each with its value and where that comes from. Pure.
#pragma once

#include <google/protobuf/message.h>

#include <string>

#include "cli/config_loader.h"

namespace outrider {

// YAML that --config takes again: a comment above each setting would be long, so it says only whence, after the value.
// Settings that have no value (an absent metrics_port) are commented out. `only_set`: without those that have defaults.
std::string ConfigYaml(const google::protobuf::Message& config, const SettingOrigins& origins, bool only_set);

// [{"name", "value", "default", "source": default | file | environment | flag, "place"}], in config.proto's order.
// Values have their type; null: none.
std::string ConfigJson(const google::protobuf::Message& config, const SettingOrigins& origins, bool only_set);

}  // namespace outrider
