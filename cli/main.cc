// outrider: one binary for the serving cluster and its tools.

#include "cli/command_line.h"
#include "cli/outrider_app.h"

int main(int argc, char** argv) {
  int exit_code = 0;
  const auto app = outrider::MakeOutriderApp(exit_code);
  if (const auto code = outrider::ParseCommandLine(*app, argc, argv)) return *code;
  return exit_code;
}
