// Settings of a process from its three sources: a YAML file, OUTRIDER_ variables, flags; the later wins.
//
// All sources use the names of proto/config.proto. What is unknown, doubled, of the wrong type or out of range is
// INVALID_ARGUMENT, naming the place (file:line, variable or flag), the name, the value, and the nearest known name.
#pragma once

#include <google/protobuf/message.h>

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace outrider {

struct ConfigSources {
  std::string file;                                         // empty: none
  std::vector<std::pair<std::string, std::string>> flags;   // setting name (snake_case) to value
  std::function<const char*(const std::string&)> variable;  // value of an environment variable or nullptr
};

// Where the value of a setting comes from.
struct SettingOrigin {
  enum class Source { kDefault, kFile, kEnvironment, kFlag };
  Source source = Source::kDefault;
  std::string place;  // router.yaml:3, OUTRIDER_GRPC_PORT, --grpc-port; empty: the default
};
// By setting name; a setting that is not in it has its default.
using SettingOrigins = std::map<std::string, SettingOrigin>;

// Fills `config`, a message of config.proto, over its defaults; `origins` says from where, unless it is null. In a pod
// of a LeaderWorkerSet its variables count too (cli/leader_worker_set.h), below all of these.
absl::Status LoadConfig(const ConfigSources& sources, google::protobuf::Message* config,
                        SettingOrigins* origins = nullptr);

// Sets one field from text. `place` begins the error message.
absl::Status SetFromText(const std::string& place, const std::string& name, const std::string& value,
                         google::protobuf::Message* config);

}  // namespace outrider
