#include "cli/health_command.h"

#include <cstdio>
#include <memory>
#include <string>

#include "cli/client_access.h"
#include "cli/health_query.h"

namespace outrider {

void AddHealthCommand(CLI::App& app, int& exit_code) {
  struct Flags {
    std::string metrics_address = "127.0.0.1:9100", grpc_address, service;
    double timeout_s = 3;
    bool live = false, json = false;
    ClientAccess access;
  };
  CLI::App* const command = app.add_subcommand("health", "Say whether a process is alive and takes work");
  const auto flags = std::make_shared<Flags>();
  CLI::Option* const pages = command
                                 ->add_option("--metrics-address", flags->metrics_address,
                                              "Its metrics port, or unix:PATH: asks /livez and /readyz")
                                 ->type_name("[127.0.0.1:9100]");
  CLI::Option* const rpc =
      command->add_option("--address", flags->grpc_address, "Its gRPC port instead: asks the gRPC health service")
          ->type_name("HOST:PORT")
          ->excludes(pages);
  AddTlsFlags(*command, flags->access);
  command->add_option("--service", flags->service, "With --address: this service rather than the server as a whole")
      ->type_name("NAME")
      ->needs(rpc)
      ->check(CLI::Validator(
          [](const std::string& name) { return name.size() < 128 ? std::string() : "longer than 127 bytes"; }, ""));
  command->add_flag("--live", flags->live, "Enough if it is alive, as for a liveness probe");
  command->add_option("--timeout", flags->timeout_s, "Seconds to wait for an answer")
      ->type_name("[3]")
      ->check(CLI::Range(0.001, 3600.0));
  command->add_flag("--json", flags->json, "As JSON: address, live, ready, reason");
  command->footer(
      "Exit code 0: yes; 1: no, or no answer; 2: a wrong flag.\n\n"
      "Examples:\n"
      "  outrider health                                        # of `outrider serve` on this machine\n"
      "  outrider health --metrics-address router:9100 --json\n"
      "  outrider health --address 127.0.0.1:9000 --service outrider.v1.Inference");
  command->callback([=, &exit_code] {
    const Duration bound = FromMillis(1000 * flags->timeout_s);
    const auto credentials = Credentials(flags->access);
    if (!credentials.ok()) throw CLI::ValidationError(std::string(credentials.status().message()));
    const HealthAnswer answer = rpc->count() > 0
                                    ? QueryHealthService(flags->grpc_address, *credentials, flags->service, bound)
                                    : QueryHealthPages(flags->metrics_address, bound);
    exit_code = (flags->live ? answer.live : answer.ready) ? 0 : 1;
    if (flags->json) {
      std::printf("%s\n", HealthJson(answer).c_str());
    } else if (answer.reason.empty()) {
      std::printf("ready\n");
    } else {
      std::printf("%s: %s\n", answer.live ? "live" : "down", answer.reason.c_str());
    }
  });
}

}  // namespace outrider
