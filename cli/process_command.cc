#include "cli/process_command.h"

#include <cstdlib>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/log.h"
#include "cli/config_loader.h"
#include "cli/config_schema.h"
#include "cli/supervisor.h"  // kExitUsage
#include "proto/config.pb.h"
#include "router/router_main.h"
#include "worker/draft_main.h"
#include "worker/target_main.h"

namespace outrider {
namespace {

struct ProcessFlags {
  std::string config_file;
  std::map<std::string, std::string> values;  // by setting name
};

// One subcommand: flags from the message's schema, then `run` with the loaded config.
template <typename Config, typename Run>
void AddProcess(CLI::App& app, int& exit_code, const char* name, const char* description, const char* example,
                Run run) {
  CLI::App* command = app.add_subcommand(name, description);
  auto flags = std::make_shared<ProcessFlags>();
  command->add_option("--config", flags->config_file, "YAML file with the settings below under the same names")
      ->type_name("FILE");
  for (const Setting& setting : SettingsOf(*Config::descriptor())) {
    const std::string underscored = absl::StrCat("--", setting.name);
    const std::string names = underscored == setting.flag ? setting.flag : absl::StrCat(setting.flag, ",", underscored);
    CLI::Option* option = command->add_option(names, flags->values[setting.name], setting.help);
    option->type_name(setting.default_value.empty() ? "VALUE" : absl::StrCat("[", setting.default_value, "]"));
  }
  command->footer(
      absl::StrCat("Every setting is also read from OUTRIDER_<NAME>, such as OUTRIDER_GRPC_PORT; flags win over\n"
                   "variables, variables over the file.\n\nExample:\n  ",
                   example));
  command->callback([=, &exit_code] {
    ConfigSources sources;
    sources.file = flags->config_file;
    sources.variable = [](const std::string& variable) -> const char* { return std::getenv(variable.c_str()); };
    for (const CLI::Option* option : command->get_options()) {
      const std::string setting = absl::StrReplaceAll(option->get_single_name(), {{"-", "_"}});
      if (option->count() > 0 && flags->values.count(setting)) {
        sources.flags.emplace_back(setting, flags->values.at(setting));
      }
    }
    Config config;
    absl::Status status = LoadConfig(sources, &config);
    if (!status.ok()) {
      LogError(status.message());
      exit_code = kExitUsage;
      return;
    }
    status = run(config);
    if (!status.ok()) {
      LogError(status.message());
      exit_code = status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : 1;
    }
  });
}

}  // namespace

void AddProcessCommands(CLI::App& app, int& exit_code) {
  AddProcess<v1::RouterConfig>(app, exit_code, "router", "Take requests and dispatch them to target groups",
                               "outrider router --config deploy/config/router.yaml --grpc-port 9000", RunRouter);
  AddProcess<v1::TargetConfig>(app, exit_code, "target", "Run one rank of a target group",
                               "outrider target --config deploy/config/target.yaml --rank 0", RunTarget);
  AddProcess<v1::DraftConfig>(app, exit_code, "draft", "Run a draft worker",
                              "outrider draft --config deploy/config/draft.yaml", RunDraft);
}

}  // namespace outrider
