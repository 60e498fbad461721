// SettingFlags gives a command a flag for every setting of a message of config.proto, and --config for a file of them.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <string>

#include "cli/config_loader.h"

namespace outrider {

class SettingFlags {
 public:
  // Adds them to `command`, which outlives this.
  static std::shared_ptr<SettingFlags> Add(CLI::App& command, const google::protobuf::Descriptor& message);

  // What was given, with this process's environment. Call once the command line is parsed.
  ConfigSources Sources() const;

 private:
  SettingFlags(CLI::App& command) : command_(command) {}
  CLI::App& command_;
  std::string config_file_;
  std::map<std::string, std::string> values_;  // by setting name
};

}  // namespace outrider
