#include "cli/inspect_command.h"

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "text/tokenizer_definition.h"
#include "worker/model/model_description.h"

namespace outrider {
namespace {

using Json = nlohmann::ordered_json;

std::string Megabytes(int64_t bytes) { return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6); }

std::string DescribeJson(const ModelDescription& model) {
  Json json;
  json["format"] = model.format;
  json["file_bytes"] = model.file_bytes;
  json["architecture"] = model.architecture;
  json["name"] = model.name;
  json["num_parameters"] = model.num_parameters;
  json["servable"] = model.servable.ok();
  if (!model.servable.ok()) json["not_servable_because"] = std::string(model.servable.message());
  if (model.servable.ok()) {
    const ModelConfig& config = model.config;
    json["config"] = {{"num_layers", config.num_layers},
                      {"hidden_size", config.hidden_size},
                      {"intermediate_size", config.intermediate_size},
                      {"num_heads", config.num_heads},
                      {"num_kv_heads", config.num_kv_heads},
                      {"head_dim", config.head_dim},
                      {"vocab_size", config.vocab_size},
                      {"max_model_len", config.max_positions},
                      {"tied_embedding", config.tied_embedding},
                      {"attention_bias", config.attention_bias},
                      {"qk_norm", config.qk_norm}};
    if (!config.layer_windows.empty()) json["config"]["layer_windows"] = config.layer_windows;
  }
  json["tokenizer"] = {{"kind", model.tokenizer.model},
                       {"pre_tokenizer", model.tokenizer.pre},
                       {"num_tokens", model.tokenizer.tokens.size()},
                       {"num_merges", model.tokenizer.merges.size()},
                       {"fingerprint", model.tokenizer.tokens.empty() ? "" : text::Fingerprint(model.tokenizer)}};
  if (!model.tokenizer_not_known.empty()) json["tokenizer"]["not_known_because"] = model.tokenizer_not_known;
  json["chat_template"] = model.tokenizer.chat_template;
  json["dtypes"] = Json::array();
  for (const DtypeTotal& total : model.dtypes) {
    json["dtypes"].push_back({{"dtype", total.dtype},
                              {"num_tensors", total.num_tensors},
                              {"num_parameters", total.num_parameters},
                              {"bytes", total.bytes}});
  }
  json["memory"] = Json::array();
  for (const RankMemory& memory : model.memory) {
    json["memory"].push_back({{"tensor_parallel_size", memory.tensor_parallel_size},
                              {"weight_bytes_max", memory.weight_bytes_max},
                              {"kv_bytes_per_token_max", memory.kv_bytes_per_token_max}});
  }
  json["tensors"] = Json::array();
  for (const TensorDescription& tensor : model.tensors) {
    json["tensors"].push_back({{"name", tensor.name},
                               {"dtype", tensor.dtype},
                               {"shape", Json::parse(tensor.shape)},
                               {"bytes", tensor.bytes}});
  }
  json["metadata"] = Json::object();
  for (const auto& [key, value] : model.metadata) json["metadata"][key] = value;
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

void PrintDescription(const ModelDescription& model, bool all_tensors) {
  std::printf("%s, %s, architecture %s, %.1f M parameters, %s\n", model.name.c_str(), model.format.c_str(),
              model.architecture.c_str(), static_cast<double>(model.num_parameters) / 1e6,
              Megabytes(model.file_bytes).c_str());
  if (model.servable.ok()) {
    const ModelConfig& config = model.config;
    std::printf(
        "  %d layers, hidden %d, intermediate %d, %d query heads, %d KV heads of %d, vocabulary %d, context %d, %s "
        "head\n",
        config.num_layers, config.hidden_size, config.intermediate_size, config.num_heads, config.num_kv_heads,
        config.head_dim, config.vocab_size, config.max_positions, config.tied_embedding ? "tied" : "own");
  } else {
    std::printf("  can not be served: %s\n", std::string(model.servable.message()).c_str());
  }
  const auto& tokenizer = model.tokenizer;
  if (tokenizer.tokens.empty()) {
    std::printf("tokenizer: none%s\n",
                model.tokenizer_not_known.empty()
                    ? ": serves token ids, not text"
                    : absl::StrCat(" that this build knows: ", model.tokenizer_not_known).c_str());
  } else {
    std::printf("tokenizer: %s, split by %s, %zu tokens, %zu merges, fingerprint %s\n", tokenizer.model.c_str(),
                tokenizer.pre.c_str(), tokenizer.tokens.size(), tokenizer.merges.size(),
                text::Fingerprint(tokenizer).c_str());
  }
  std::printf("chat template: %s\n", tokenizer.chat_template.empty()
                                         ? "none"
                                         : absl::StrCat(tokenizer.chat_template.size(), " bytes").c_str());
  std::printf("weights:\n");
  for (const DtypeTotal& total : model.dtypes) {
    std::printf("  %-6s %4d tensors %10.1f M parameters %12s\n", total.dtype.c_str(), total.num_tensors,
                static_cast<double>(total.num_parameters) / 1e6, Megabytes(total.bytes).c_str());
  }
  if (!model.memory.empty()) std::printf("memory a rank needs:\n");
  for (const RankMemory& memory : model.memory) {
    std::printf("  --tensor-parallel-size %d: weights %s, KV %.1f KB a token\n", memory.tensor_parallel_size,
                Megabytes(memory.weight_bytes_max).c_str(), static_cast<double>(memory.kv_bytes_per_token_max) / 1e3);
  }
  if (!all_tensors) {
    std::printf("%zu tensors (--tensors lists them)\n", model.tensors.size());
    return;
  }
  for (const TensorDescription& tensor : model.tensors) {
    std::printf("  %-48s %-6s %s %s\n", tensor.name.c_str(), tensor.dtype.c_str(), tensor.shape.c_str(),
                Megabytes(tensor.bytes).c_str());
  }
}

}  // namespace

void AddInspectCommand(CLI::App& app, int& exit_code) {
  struct Flags {
    std::string model, load_format = "auto";
    bool json = false, tensors = false;
  };
  CLI::App* command = app.add_subcommand("inspect", "Say what a model holds and what it needs");
  auto flags = std::make_shared<Flags>();
  command->add_option("MODEL", flags->model, "GGUF file or Hugging Face folder")->required();
  command->add_option("--load-format", flags->load_format, "auto; dummy: a folder with a config.json and no weights")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->type_name("[auto]");
  command->add_flag("--json", flags->json, "As JSON, with every tensor and all metadata");
  command->add_flag("--tensors", flags->tensors, "List every tensor");
  command->footer("Example:\n  outrider inspect model.gguf --json | jq .config");
  command->callback([=, &exit_code] {
    const absl::StatusOr<ModelDescription> model =
        DescribeModel(flags->model, flags->load_format == "dummy" ? LoadFormat::kDummy : LoadFormat::kAuto);
    if (!model.ok()) {
      std::fprintf(stderr, "outrider inspect: %s\n", std::string(model.status().message()).c_str());
      exit_code = 1;
      return;
    }
    if (flags->json) {
      std::printf("%s\n", DescribeJson(*model).c_str());
    } else {
      PrintDescription(*model, flags->tensors);
    }
  });
}

}  // namespace outrider
