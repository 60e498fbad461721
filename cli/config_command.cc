#include "cli/config_command.h"

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "cli/config_loader.h"
#include "cli/config_report.h"
#include "cli/environment_check.h"
#include "cli/setting_flags.h"
#include "cli/settings_reference.h"
#include "cli/supervisor.h"  // kExitUsage
#include "proto/config.pb.h"

namespace outrider {
namespace {

// The settings of one process, loaded as the process itself does it. Tells what is wrong, and returns false then.
template <typename Config>
bool Load(const std::string& path, const SettingFlags& flags, Config* config, SettingOrigins* origins) {
  const EnvironmentFindings environment = CheckEnvironment(EnvironmentVariables());
  for (const std::string& warning : environment.warnings) {
    std::fprintf(stderr, "%s: warning: %s\n", path.c_str(), warning.c_str());
  }
  absl::Status status = environment.status;
  if (status.ok()) status = LoadConfig(flags.Sources(), config, origins);
  if (!status.ok()) std::fprintf(stderr, "%s: %s\n", path.c_str(), std::string(status.message()).c_str());
  return status.ok();
}

template <typename Config>
void AddCheck(CLI::App& check, int& exit_code, const char* process) {
  CLI::App* const command =
      check.add_subcommand(process, absl::StrCat("Check the settings of `outrider ", process, "`"));
  const auto flags = SettingFlags::Add(*command, *Config::descriptor());
  command->footer(
      absl::StrCat("Example:\n  outrider config check ", process, " --config deploy/config/", process, ".yaml"));
  command->callback([=, &exit_code] {
    Config config;
    SettingOrigins origins;
    if (!Load(absl::StrCat("outrider config check ", process), *flags, &config, &origins)) {
      exit_code = kExitUsage;
      return;
    }
    std::printf("ok: %zu of %d settings of %s are not at their defaults\n", origins.size(),
                Config::descriptor()->field_count(), process);
  });
}

template <typename Config>
void AddDump(CLI::App& dump, int& exit_code, const char* process) {
  CLI::App* const command =
      dump.add_subcommand(process, absl::StrCat("Print the settings of `outrider ", process, "`"));
  const auto flags = SettingFlags::Add(*command, *Config::descriptor());
  struct Form {
    bool json = false, only_set = false;
  };
  const auto form = std::make_shared<Form>();
  command->add_flag("--json", form->json, "As JSON: name, value, default, source and place of each");
  command->add_flag("--only-set", form->only_set, "Without settings that have their defaults");
  command->footer(absl::StrCat("Example:\n  OUTRIDER_LOG_FORMAT=json outrider config dump ", process,
                               " --config deploy/config/", process, ".yaml --only-set"));
  command->callback([=, &exit_code] {
    Config config;
    SettingOrigins origins;
    if (!Load(absl::StrCat("outrider config dump ", process), *flags, &config, &origins)) {
      exit_code = kExitUsage;
      return;
    }
    const std::string text =
        form->json ? ConfigJson(config, origins, form->only_set) : ConfigYaml(config, origins, form->only_set);
    std::printf("%s", text.c_str());
  });
}

}  // namespace

void AddConfigCommand(CLI::App& app, int& exit_code) {
  CLI::App* const config = app.add_subcommand("config", "Say what a process would be set to, and from where");
  config->require_subcommand(1);
  config->footer(
      "Each setting has its default, unless the file of --config, an OUTRIDER_ variable or a flag sets it; the later\n"
      "wins. A name that is none is refused in all three.\n\n"
      "Examples:\n"
      "  outrider config check router --config deploy/config/router.yaml\n"
      "  outrider config dump target --config deploy/config/target.yaml --json");
  CLI::App* const reference = config->add_subcommand("reference", "Print every setting as Markdown: docs/settings.md");
  reference->footer("Example:\n  outrider config reference > docs/settings.md");
  reference->callback([] { std::printf("%s", SettingsReference().c_str()); });
  CLI::App* const check = config->add_subcommand("check", "Check a process's settings; exit code 2 if one is wrong");
  check->require_subcommand(1);
  AddCheck<v1::RouterConfig>(*check, exit_code, "router");
  AddCheck<v1::TargetConfig>(*check, exit_code, "target");
  AddCheck<v1::DraftConfig>(*check, exit_code, "draft");
  CLI::App* const dump = config->add_subcommand("dump", "Print a process's settings as YAML, each with its source");
  dump->require_subcommand(1);
  AddDump<v1::RouterConfig>(*dump, exit_code, "router");
  AddDump<v1::TargetConfig>(*dump, exit_code, "target");
  AddDump<v1::DraftConfig>(*dump, exit_code, "draft");
}

}  // namespace outrider
