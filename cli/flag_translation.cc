#include "cli/flag_translation.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

enum class Kind {
  kValue,       // takes a value, which `ours` takes as it is
  kTokens,      // takes a number of tokens, which may be 16k or auto
  kSwitch,      // takes none; becomes `ours`
  kNoEffect,    // takes none; what it asks for is so anyway: `why`
  kOnly,        // takes a value; those of `ours`, split at commas, are so anyway, others are refused: `why`
  kRefused,     // takes a value or none; `why`
  kModel,       // the command's MODEL
  kSpeculation  // --speculative-config
};

struct VllmFlag {
  const char* name;
  Kind kind;
  const char* ours = "";
  const char* why = "";
};

// Names and meanings: docs.vllm.ai, "vllm serve" and "Engine Arguments".
constexpr VllmFlag kVllmFlags[] = {
    {"--model", Kind::kModel},
    {"-tp", Kind::kValue, "--tensor-parallel-size"},
    {"-dp", Kind::kValue, "--groups"},
    {"--data-parallel-size", Kind::kValue, "--groups"},
    {"-pp", Kind::kOnly, "1", "layers are not divided over stages; use --tensor-parallel-size"},
    {"--pipeline-parallel-size", Kind::kOnly, "1", "layers are not divided over stages; use --tensor-parallel-size"},
    {"--max-model-len", Kind::kTokens, "--max-model-len"},
    {"--max-num-seqs", Kind::kValue, "--max-sequences"},
    {"--max-num-batched-tokens", Kind::kTokens, "--max-step-tokens"},
    {"--kv-cache-memory-bytes", Kind::kValue, "--kv-cache-bytes"},
    {"--enable-prefix-caching", Kind::kSwitch, "--prefix-cache=true"},
    {"--no-enable-prefix-caching", Kind::kSwitch, "--prefix-cache=false"},
    {"--speculative-config", Kind::kSpeculation},
    {"-sc", Kind::kSpeculation},
    {"--speculative-model", Kind::kValue, "--draft-model"},
    {"--num-speculative-tokens", Kind::kValue, "--lookahead"},
    {"--otlp-traces-endpoint", Kind::kValue, "--otlp-endpoint"},
    {"--enable-chunked-prefill", Kind::kNoEffect, "", "prompts are always cut to steps"},
    {"--trust-remote-code", Kind::kNoEffect, "", "no code that comes with a model is ever run"},
    {"--disable-log-requests", Kind::kNoEffect, "", "prompts are never logged"},
    {"--no-enable-log-requests", Kind::kNoEffect, "", "prompts are never logged"},
    {"--enable-log-requests", Kind::kRefused, "",
     "prompts are never logged; request_log of `outrider router` keeps who"},
    {"--disable-log-stats", Kind::kNoEffect, "", "figures are on the metrics page"},
    {"--enforce-eager", Kind::kNoEffect, "", "it decides nothing here"},
    {"--dtype", Kind::kOnly, "auto",
     "weights are computed in the type that numerics_id says; --numerics has the choices"},
    {"--kv-cache-dtype", Kind::kOnly, "auto", "keys and values are kept in the type that numerics_id says"},
    {"--quantization", Kind::kRefused, "", "the model's file says how its weights are stored; give such a file"},
    {"-q", Kind::kRefused, "", "the model's file says how its weights are stored; give such a file"},
    {"--tokenizer", Kind::kRefused, "", "the tokenizer is the model's own"},
    {"--tokenizer-mode", Kind::kOnly, "auto", "the tokenizer is the model's own"},
    {"--chat-template", Kind::kRefused, "", "the chat template is the model's own"},
    {"--generation-config", Kind::kOnly, "auto", "defaults of sampling are the model's own; requests say others"},
    {"--seed", Kind::kOnly, "0", "seeds belong to requests: seed of a request, --seed of `outrider generate`"},
    {"--cpu-offload-gb", Kind::kOnly, "0", "weights stay on their device; use more --tensor-parallel-size"},
    {"--swap-space", Kind::kOnly, "0,4", "a preempted sequence is computed again, not swapped"},
    {"--distributed-executor-backend", Kind::kOnly, "mp",
     "ranks are processes; on several machines run `outrider target`"},
    {"--config", Kind::kRefused, "",
     "files of settings are for `outrider router`, `target` and `draft`: --config FILE"},
    {"--port", Kind::kValue, "--http-port"},
    {"--api-key", Kind::kRefused, "",
     "keys lie in a file, so that nobody reads them off the command line: `outrider key NAME >> FILE`, then --api-keys "
     "FILE"},
    {"--ssl-certfile", Kind::kValue, "--tls-certificate"},
    {"--ssl-keyfile", Kind::kValue, "--tls-private-key"},
    {"--ssl-ca-certs", Kind::kValue, "--tls-authorities"},
    {"--enable-lora", Kind::kRefused, "", "adapters are not served"},
    {"--lora-modules", Kind::kRefused, "", "adapters are not served"},
    {"--enable-auto-tool-choice", Kind::kRefused, "", "tools are not served"},
    {"--tool-call-parser", Kind::kRefused, "", "tools are not served"},
    {"--reasoning-parser", Kind::kRefused, "", "text is served as the model writes it"},
    {"--limit-mm-per-prompt", Kind::kRefused, "", "text alone is served"},
};

const VllmFlag* Find(const std::string& name) {
  for (const VllmFlag& flag : kVllmFlags) {
    if (name == flag.name) return &flag;
  }
  return nullptr;
}

// Commands that run processes of a cluster; others have flags of their own.
bool RunsACluster(const std::string& command) {
  for (const char* const name : {"serve", "router", "target", "draft", "generate"}) {
    if (command == name) return true;
  }
  return false;
}

bool Has(const CLI::App& command, const std::string& flag) { return command.get_option_no_throw(flag) != nullptr; }

std::string Destination(const VllmFlag& flag) {
  const std::string ours = flag.ours;
  return ours.substr(0, ours.find('='));
}

// vLLM's human-readable numbers: k, m, g are powers of 1000 and may follow a fraction, K, M, G are powers of 1024. What
// is none stays as it is, for the option itself to refuse.
std::string Tokens(const std::string& text) {
  if (text == "auto" || text == "-1") return "0";  // the model's own
  if (text.empty() || absl::ascii_isdigit(text.back())) return text;
  const size_t letter = std::string("kmgKMG").find(text.back());
  double number = 0;
  if (letter == std::string::npos || !absl::SimpleAtod(text.substr(0, text.size() - 1), &number)) return text;
  const double unit = std::pow(letter < 3 ? 1000.0 : 1024.0, static_cast<double>(letter % 3 + 1));
  if (!(number >= 0) || number * unit > 1e15) return text;
  return absl::StrCat(static_cast<int64_t>(number * unit));
}

// --speculative-config in our flags.
absl::StatusOr<std::vector<std::string>> Speculation(const CLI::App& command, const std::string& value,
                                                     std::vector<std::string>& notes) {
  using Json = nlohmann::json;
  const Json config = Json::parse(value, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("--speculative-config '", value,
                                                   "' is no JSON object; write '{\"model\": \"draft.gguf\"}', or use "
                                                   "--draft-model and --lookahead"));
  }
  std::vector<std::string> flags;
  const std::string method = config.value("method", Json("draft_model")).is_string()
                                 ? config.value("method", std::string("draft_model"))
                                 : std::string("?");
  if (method != "draft_model" && method != "ngram") {
    return absl::InvalidArgumentError(
        absl::StrCat("--speculative-config: method '", method,
                     "' is not offered; drafts come from a model (--draft-model) and from the text itself (ngram)"));
  }
  for (const auto& [key, entry] : config.items()) {
    const std::string text = entry.is_string() ? entry.get<std::string>() : entry.dump();
    if (key == "method") continue;
    if (key == "model" && method == "ngram") continue;
    if (key == "model") {
      flags.push_back(absl::StrCat("--draft-model=", text));
    } else if (key == "num_speculative_tokens") {
      flags.push_back(absl::StrCat("--lookahead=", text));
    } else if (key == "prompt_lookup_max" || key == "prompt_lookup_min") {
      notes.push_back(
          absl::StrCat("--speculative-config: ", key, ": how much text is looked up decides itself; ignored"));
    } else if (key == "draft_tensor_parallel_size" && text == "1") {
      continue;  // a draft worker is one process
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("--speculative-config: '", key, "' = ", text,
                       " has no counterpart; --draft-model, --draft-workers and --lookahead are what there is"));
    }
  }
  for (const std::string& flag : flags) {
    const std::string name = flag.substr(0, flag.find('='));
    if (!Has(command, name)) {
      return absl::InvalidArgumentError(absl::StrCat("--speculative-config: ", name, " is not a flag of `",
                                                     command.get_name(), "`; `outrider serve` has it"));
    }
  }
  return flags;
}

}  // namespace

absl::StatusOr<TranslatedArguments> TranslateVllmFlags(const CLI::App& app, const std::vector<std::string>& arguments) {
  TranslatedArguments result;
  const CLI::App* command = nullptr;
  for (const CLI::App* const one : app.get_subcommands(nullptr)) {
    if (!arguments.empty() && one->get_name() == arguments[0] && RunsACluster(arguments[0])) command = one;
  }
  if (command == nullptr) {
    result.arguments = arguments;
    return result;
  }
  result.arguments.push_back(arguments[0]);
  for (size_t i = 1; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") {
      result.arguments.insert(result.arguments.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i),
                              arguments.end());
      break;
    }
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const VllmFlag* const flag = Find(name);
    // -tp is not -t with the value p; and ours know no 16k.
    const bool is_short = name.size() == 3 && name[0] == '-' && name[1] != '-';
    const bool own = Has(*command, name) && !is_short;
    if (flag == nullptr || (own && flag->kind != Kind::kTokens)) {
      result.arguments.push_back(argument);
      continue;
    }
    const std::string destination =
        flag->kind == Kind::kValue || flag->kind == Kind::kTokens || flag->kind == Kind::kSwitch ? Destination(*flag)
                                                                                                 : "";
    if (!destination.empty() && !Has(*command, destination)) {
      result.arguments.push_back(argument);  // the command knows neither name, and says so
      continue;
    }
    std::string value;
    if (flag->kind != Kind::kSwitch && flag->kind != Kind::kNoEffect && flag->kind != Kind::kRefused) {
      if (equals != std::string::npos) {
        value = argument.substr(equals + 1);
      } else if (i + 1 < arguments.size()) {
        value = arguments[++i];
      } else {
        return absl::InvalidArgumentError(absl::StrCat(name, " takes a value"));
      }
    }
    switch (flag->kind) {
      case Kind::kValue:
        result.arguments.push_back(absl::StrCat(destination, "=", value));
        break;
      case Kind::kTokens:
        result.arguments.push_back(absl::StrCat(destination, "=", Tokens(value)));
        break;
      case Kind::kSwitch:
        result.arguments.push_back(flag->ours);
        break;
      case Kind::kNoEffect:
        result.notes.push_back(absl::StrCat(name, ": ", flag->why, "; ignored"));
        break;
      case Kind::kOnly: {
        const std::vector<std::string> allowed = absl::StrSplit(flag->ours, ',');
        if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
          return absl::InvalidArgumentError(absl::StrCat(name, " ", value, ": ", flag->why));
        }
        break;
      }
      case Kind::kRefused:
        return absl::InvalidArgumentError(absl::StrCat(name, ": ", flag->why));
      case Kind::kModel:
        if (Has(*command, "MODEL")) {
          result.arguments.push_back(value);
        } else {
          result.arguments.push_back(absl::StrCat(name, "=", value));
        }
        break;
      case Kind::kSpeculation: {
        ASSIGN_OR_RETURN(const std::vector<std::string> flags, Speculation(*command, value, result.notes));
        result.arguments.insert(result.arguments.end(), flags.begin(), flags.end());
        break;
      }
    }
  }
  return result;
}

}  // namespace outrider
