#include "cli/bench_command.h"

#include "cli/bench_cluster_command.h"
#include "cli/bench_engine_command.h"
#include "cli/bench_serve_command.h"

namespace outrider {

void AddBenchCommand(CLI::App& app, int& exit_code) {
  CLI::App* const bench = app.add_subcommand("bench", "Measure a model or a cluster");
  bench->require_subcommand(1);
  AddBenchEngineCommand(*bench, exit_code);
  AddBenchClusterCommand(*bench, exit_code);
  AddBenchServeCommand(*bench, exit_code);
}

}  // namespace outrider
