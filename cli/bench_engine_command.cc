#include "cli/bench_engine_command.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cli/engine_bench.h"
#include "worker/worker_setup.h"

namespace outrider {
namespace {

struct EngineFlags {
  EngineBenchOptions options;
  std::string shape, device = "auto", numerics = "invariant", load_format = "auto";
  uint32_t threads = 0;
  bool json = false;
  // Of a rank that the command started.
  int rank = 0;
  std::string leader_address;
};

absl::Status RunEngine(EngineFlags flags) {
  EngineBenchOptions& options = flags.options;
  if (!flags.shape.empty() && !options.model.empty()) {
    return absl::InvalidArgumentError("give either MODEL or --shape, not both");
  }
  ASSIGN_OR_RETURN(options.load_format, ParseLoadFormat(flags.load_format));
  if (!flags.shape.empty()) {
    options.model = flags.shape;
    options.load_format = LoadFormat::kDummy;
  }
  ASSIGN_OR_RETURN(options.numerics, ParseNumerics(flags.numerics));
  ASSIGN_OR_RETURN(const RankDevice place, ResolveRankDevice(flags.device, options.numerics, flags.rank,
                                                             std::max(1, options.tensor_parallel_size)));
  options.device = place.device;
  options.threads = ResolveThreads(flags.threads, 1);
  if (flags.rank > 0) return RunEngineBenchRank(options, flags.rank, flags.leader_address);
  ASSIGN_OR_RETURN(const nlohmann::ordered_json result, BenchEngine(options));
  std::printf("%s", flags.json ? absl::StrCat(result.dump(2), "\n").c_str() : EngineBenchText(result).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddBenchEngineCommand(CLI::App& bench, int& exit_code) {
  CLI::App* const command =
      bench.add_subcommand("engine", "Steps of a model by batch and rows, and prompts: no network, no scheduler");
  auto flags = std::make_shared<EngineFlags>();
  EngineBenchOptions& options = flags->options;
  command->add_option("MODEL", options.model, "GGUF file or Hugging Face folder");
  command->add_option("--shape", flags->shape, "Folder with a config.json, run on random weights")->type_name("F");
  command->add_option("--load-format", flags->load_format, "auto or dummy; --shape says dummy")->type_name("[auto]");
  command->add_option("--device", flags->device, "auto, cpu or cuda")->type_name("[auto]");
  command->add_option("--numerics", flags->numerics, "invariant or reference")->type_name("[invariant]");
  command
      ->add_option("--tensor-parallel-size,-t", options.tensor_parallel_size,
                   "Ranks, a process each; on GPUs with one each")
      ->type_name("[1]");
  command->add_option("--threads", flags->threads, "Divided over the ranks; 0: all cores")->type_name("[0]");
  command->add_option("--batch", options.batch, "Sequences of a decode step")->delimiter(',')->type_name("[1]");
  command->add_option("--rows", options.rows, "Rows of a verify step: 1 + K, all drafts wrong")
      ->delimiter(',')
      ->type_name("[1,2,4,8,16,32]");
  command->add_option("--context", options.context, "Tokens of each sequence")->type_name("[1024]");
  command->add_option("--prompt", options.prompt, "Tokens of the prompts that are measured; 0: 512, on GPUs 2048")
      ->type_name("[0]");
  command->add_option("--chunk", options.chunk, "Tokens of a prompt a step; 0: 256, on GPUs 2048")->type_name("[0]");
  command->add_option("--steps", options.steps, "Steps measured of each kind")->type_name("[40]");
  command->add_option("--temperature", options.sampling.temperature, "0: the highest logit is chosen")
      ->type_name("[0]");
  command->add_option("--top-k", options.sampling.top_k, "0: off")->type_name("[0]");
  command->add_option("--top-p", options.sampling.top_p, "1: off")->type_name("[1]");
  command->add_option("--repetition-penalty", options.sampling.repetition_penalty, "1: off")->type_name("[1]");
  command->add_option("--logprobs", options.sampling.num_logprobs, "Of the chosen token and the best N; -1: none")
      ->type_name("[-1]");
  command->add_flag("--profile", options.profile, "Time by op too, of steps measured beside the others");
  command->add_option("--rank", flags->rank)->group("");
  command->add_option("--leader-address", flags->leader_address)->group("");
  command->add_flag("--json", flags->json, "As JSON");
  command->footer(
      "Example:\n  outrider bench engine --shape deploy/models/shapes/Llama-3.2-1B --batch 1,8 --rows 1,2,4,8 --json");
  command->callback([=, &exit_code] {
    const absl::Status status = RunEngine(*flags);
    if (status.ok()) return;
    std::fprintf(stderr, "outrider bench engine: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
                 std::string(status.message()).c_str());
    exit_code = status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  });
}

}  // namespace outrider
