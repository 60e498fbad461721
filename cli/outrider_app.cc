#include "cli/outrider_app.h"

#include "cli/bench_command.h"
#include "cli/chat_command.h"
#include "cli/command_tree.h"
#include "cli/completion_command.h"
#include "cli/config_command.h"
#include "cli/doctor_command.h"
#include "cli/generate_command.h"
#include "cli/health_command.h"
#include "cli/inspect_command.h"
#include "cli/process_command.h"
#include "cli/serve_command.h"
#include "cli/top_command.h"
#include "cli/version_command.h"

namespace outrider {

std::unique_ptr<CLI::App> MakeOutriderApp(int& exit_code) {
  auto app = std::make_unique<CLI::App>(
      "Outrider serves large language models: exact output, speculation on other processes and machines.", "outrider");
  app->require_subcommand(1);
  app->footer(
      "Examples:\n"
      "  outrider serve model.gguf --draft-model draft.gguf --tensor-parallel-size 2\n"
      "  outrider chat\n"
      "  outrider generate --address 127.0.0.1:9000 --chat 'Why is the sky blue?' --stats\n"
      "  outrider health && outrider inspect model.gguf\n"
      "`outrider COMMAND --help` explains each.");
  AddServeCommand(*app, exit_code);
  AddChatCommand(*app, exit_code);
  AddGenerateCommand(*app, exit_code);
  AddTopCommand(*app, exit_code);
  AddHealthCommand(*app, exit_code);
  AddDoctorCommand(*app, exit_code);
  AddInspectCommand(*app, exit_code);
  AddBenchCommand(*app, exit_code);
  AddConfigCommand(*app, exit_code);
  AddVersionCommand(*app);
  AddCompletionCommands(*app, exit_code);
  AddProcessCommands(*app, exit_code);
  MoveLimitsToHelp(*app);
  return app;
}

}  // namespace outrider
