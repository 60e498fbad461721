// Settings of a process from its three sources: a YAML file, OUTRIDER_ variables, flags; the later wins.
//
// All sources use the names of proto/config.proto. What is unknown, doubled, of the wrong type or out of range is
// INVALID_ARGUMENT, naming the place (file:line, variable or flag), the name, the value, and the nearest known name.
#pragma once

#include <google/protobuf/message.h>

#include <functional>
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

// Fills `config`, a message of config.proto, over its defaults.
absl::Status LoadConfig(const ConfigSources& sources, google::protobuf::Message* config);

// Sets one field from text. `place` begins the error message.
absl::Status SetFromText(const std::string& place, const std::string& name, const std::string& value,
                         google::protobuf::Message* config);

}  // namespace outrider
