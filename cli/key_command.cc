#include "cli/key_command.h"

#include <sys/random.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "security/api_keys.h"

namespace outrider {

void AddKeyCommand(CLI::App& app, int& exit_code) {
  struct Flags {
    std::string name;
    KeyLimits limits;
    bool json = false;
  };
  CLI::App* const command = app.add_subcommand("key", "Draw an API key and print its line for the file of --api-keys");
  const auto flags = std::make_shared<Flags>();
  const auto add_limit = [&](const char* name, uint64_t& limit, const char* help) {
    command->add_option(name, limit, help)->type_name("N")->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40));
  };
  command->add_option("NAME", flags->name, "Whose key it is: letters, digits and -_.")->required();
  add_limit("--requests-per-minute", flags->limits.requests_per_minute, "Requests that may begin in a minute");
  add_limit("--tokens-per-minute", flags->limits.tokens_per_minute, "Tokens of prompts and outputs in a minute");
  add_limit("--max-concurrent-requests", flags->limits.max_concurrent_requests, "Requests that may be open at once");
  command->add_flag("--json", flags->json, "As JSON: name, key, line");
  command->footer(
      "The key goes to standard error, this once; the line, which does not tell the key, to standard output. A server "
      "reads\n"
      "a changed file within a second.\n\n"
      "Examples:\n"
      "  outrider key alice >> keys && outrider serve model.gguf --api-keys keys\n"
      "  outrider key batch --requests-per-minute 600 --tokens-per-minute 1000000 --max-concurrent-requests 64 >> "
      "keys\n"
      "  OUTRIDER_API_KEY=or-... outrider generate --address 127.0.0.1:9000 --prompt Hello");
  command->callback([=, &exit_code] {
    std::array<uint8_t, 32> random_bytes;
    if (::getrandom(random_bytes.data(), random_bytes.size(), 0) != static_cast<ssize_t>(random_bytes.size())) {
      std::perror("outrider: the system gives no random bytes");
      exit_code = 1;
      return;
    }
    const absl::StatusOr<NewApiKey> made = MakeApiKey(flags->name, flags->limits, random_bytes);
    if (!made.ok()) throw CLI::ValidationError(std::string(made.status().message()));
    if (flags->json) {
      std::printf(
          "%s\n",
          nlohmann::ordered_json{{"name", flags->name}, {"key", made->key}, {"line", made->line}}.dump().c_str());
      return;
    }
    std::printf("%s\n", made->line.c_str());
    std::fprintf(stderr, "the key of %s, shown this once: %s\n", flags->name.c_str(), made->key.c_str());
  });
}

}  // namespace outrider
