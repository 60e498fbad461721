#include "cli/doctor_command.h"

#include <unistd.h>

#include <cstdio>
#include <memory>

#include "cli/host_diagnosis.h"
#include "cli/host_facts.h"
#include "cli/terminal.h"

namespace outrider {

void AddDoctorCommand(CLI::App& app, int& exit_code) {
  CLI::App* const command = app.add_subcommand("doctor", "Look for what would go wrong on this host");
  const auto questions = std::make_shared<HostQuestions>();
  const auto json = std::make_shared<bool>(false);
  command->add_option("--host", questions->host, "Where ports would be listened on")->type_name("[127.0.0.1]");
  command->add_option("--grpc-port", questions->grpc_port, "That must be free; 0: not looked at")
      ->type_name("[9000]")
      ->check(CLI::Range(0, 65535));
  command->add_option("--http-port", questions->http_port, "That must be free; 0: not looked at")
      ->type_name("[8000]")
      ->check(CLI::Range(0, 65535));
  command->add_option("--metrics-port", questions->metrics_port, "That must be free; 0: not looked at")
      ->type_name("[9100]")
      ->check(CLI::Range(0, 65535));
  command->add_option("--peers", questions->peers, "Routers, leaders, draft workers that must be reached")
      ->type_name("HOST:PORT,...")
      ->delimiter(',');
  command->add_option("--timeout", questions->peer_timeout_s, "Seconds for each peer")
      ->type_name("[2]")
      ->check(CLI::Range(0.01, 60.0));
  command->add_flag("--json", *json, "As JSON: check, level, found and remedy of each");
  command->footer(
      "Exit code 0: no errors; 1: some; 2: a wrong flag. Warnings cost speed, notes nothing.\n\n"
      "Examples:\n"
      "  outrider doctor\n"
      "  outrider doctor --peers router:9000,group-1:9001 --json");
  command->callback([=, &exit_code] {
    const std::vector<Finding> findings = DiagnoseHost(LookAtHost(*questions));
    std::printf("%s",
                *json ? DiagnosisJson(findings).c_str() : DiagnosisText(findings, UseColour(STDOUT_FILENO)).c_str());
    exit_code = HasErrors(findings) ? 1 : 0;
  });
}

}  // namespace outrider
