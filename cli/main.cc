// outrider: one binary for the serving cluster and its tools.

#include <CLI/CLI.hpp>

#include "cli/bench_command.h"
#include "cli/command_line.h"
#include "cli/generate_command.h"
#include "cli/inspect_command.h"
#include "cli/process_command.h"
#include "cli/serve_command.h"

int main(int argc, char** argv) {
  CLI::App app("Outrider serves large language models: exact output, speculation on other processes and machines.",
               "outrider");
  app.require_subcommand(1);
  app.footer(
      "Examples:\n"
      "  outrider serve model.gguf --draft-model draft.gguf --tensor-parallel-size 2\n"
      "  outrider generate --address 127.0.0.1:9000 --chat 'Why is the sky blue?' --stats\n"
      "  outrider inspect model.gguf\n"
      "`outrider COMMAND --help` explains each.");
  app.set_version_flag("--version", "outrider 0.1.0");
  int exit_code = 0;
  outrider::AddServeCommand(app, exit_code);
  outrider::AddGenerateCommand(app, exit_code);
  outrider::AddInspectCommand(app, exit_code);
  outrider::AddBenchCommand(app, exit_code);
  outrider::AddProcessCommands(app, exit_code);
  if (const auto code = outrider::ParseCommandLine(app, argc, argv)) return *code;
  return exit_code;
}
