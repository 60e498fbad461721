#include "cli/process_command.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "cli/config_loader.h"
#include "cli/environment_check.h"
#include "cli/setting_flags.h"
#include "cli/supervisor.h"  // kExitUsage
#include "proto/config.pb.h"
#include "router/router_main.h"
#include "worker/draft_main.h"
#include "worker/target_main.h"

namespace outrider {
namespace {

// One subcommand: flags from the message's schema, then `run` with the loaded config.
template <typename Config, typename Run>
void AddProcess(CLI::App& app, int& exit_code, const char* name, const char* description, const char* example,
                Run run) {
  CLI::App* command = app.add_subcommand(name, description);
  const auto flags = SettingFlags::Add(*command, *Config::descriptor());
  command->footer(
      absl::StrCat("Every setting is also read from OUTRIDER_<NAME>, such as OUTRIDER_GRPC_PORT; flags win over\n"
                   "variables, variables over the file.\n\nExample:\n  ",
                   example));
  command->callback([=, &exit_code] {
    Config config;
    const EnvironmentFindings environment = CheckEnvironment(EnvironmentVariables());
    for (const std::string& warning : environment.warnings) LogWarning(warning);
    absl::Status status = environment.status;
    if (status.ok()) status = LoadConfig(flags->Sources(), &config);
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
