// Flags as vLLM names them, said in ours, so that command lines that people have keep working. What has no counterpart
// is refused with the name of what to use instead. Pure.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace outrider {

struct TranslatedArguments {
  std::vector<std::string> arguments;
  // About flags that were accepted and have no effect, a line each.
  std::vector<std::string> notes;
};

// `arguments` without the program's name. A flag that the chosen command of `app` has itself is left alone, as is all
// after "--". INVALID_ARGUMENT names the flag, why it can not be, and ours.
//
// Values are vLLM's too: --max-model-len takes 16k, 16K and auto, --speculative-config its JSON.
absl::StatusOr<TranslatedArguments> TranslateVllmFlags(const CLI::App& app, const std::vector<std::string>& arguments);

}  // namespace outrider
