#include "cli/setting_flags.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cli/config_schema.h"

namespace outrider {

std::shared_ptr<SettingFlags> SettingFlags::Add(CLI::App& command, const google::protobuf::Descriptor& message) {
  std::shared_ptr<SettingFlags> flags(new SettingFlags(command));
  command.add_option("--config", flags->config_file_, "YAML file with the settings below under the same names")
      ->type_name("FILE");
  for (const Setting& setting : SettingsOf(message)) {
    const std::string underscored = absl::StrCat("--", setting.name);
    const std::string names = underscored == setting.flag ? setting.flag : absl::StrCat(setting.flag, ",", underscored);
    command.add_option(names, flags->values_[setting.name], setting.help)
        ->type_name(setting.default_value.empty() ? "VALUE" : absl::StrCat("[", setting.default_value, "]"));
  }
  return flags;
}

ConfigSources SettingFlags::Sources() const {
  ConfigSources sources;
  sources.file = config_file_;
  sources.variable = [](const std::string& variable) -> const char* { return std::getenv(variable.c_str()); };
  for (const CLI::Option* option : command_.get_options()) {
    const std::string setting = absl::StrReplaceAll(option->get_single_name(), {{"-", "_"}});
    const auto value = values_.find(setting);
    if (option->count() > 0 && value != values_.end()) sources.flags.emplace_back(setting, value->second);
  }
  return sources;
}

}  // namespace outrider
