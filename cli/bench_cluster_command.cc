#include "cli/bench_cluster_command.h"

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cli/cluster_bench.h"
#include "cli/cluster_flags.h"

namespace outrider {
namespace {

struct ClusterBenchFlags {
  ClusterBenchOptions options;
  std::string shape, draft_shape, lookahead = "4";
  bool json = false;
};

absl::Status RunCluster(ClusterBenchFlags flags) {
  ClusterOptions& cluster = flags.options.cluster;
  flags.options.lookahead = kLookaheadAuto;
  if (flags.lookahead != "auto" &&
      (!absl::SimpleAtoi(flags.lookahead, &flags.options.lookahead) || flags.options.lookahead == kLookaheadAuto)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--lookahead '", flags.lookahead, "' is neither auto nor a number from 1 to 32"));
  }
  if (!flags.shape.empty() && !cluster.model.empty()) {
    return absl::InvalidArgumentError("give either MODEL or --shape, not both");
  }
  if (!flags.draft_shape.empty() && !cluster.draft_model.empty()) {
    return absl::InvalidArgumentError("give either --draft-model or --draft-shape, not both");
  }
  if (flags.shape.empty() != flags.draft_shape.empty() && (flags.shape.empty() || !cluster.draft_model.empty())) {
    return absl::InvalidArgumentError("give both models as shapes, or none: --shape with --draft-shape");
  }
  if (!flags.shape.empty()) {
    cluster.model = flags.shape;
    cluster.draft_model = flags.draft_shape;
    cluster.load_format = "dummy";
  }
  ASSIGN_OR_RETURN(const nlohmann::ordered_json result, BenchCluster(flags.options));
  std::printf("%s", flags.json ? absl::StrCat(result.dump(2), "\n").c_str() : ClusterBenchText(result).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddBenchClusterCommand(CLI::App& bench, int& exit_code) {
  CLI::App* const command =
      bench.add_subcommand("cluster", "A whole cluster, without drafts and with them: requests at once, ids compared");
  auto flags = std::make_shared<ClusterBenchFlags>();
  ClusterBenchOptions& options = flags->options;
  command->add_option("MODEL", options.cluster.model, "GGUF file or Hugging Face folder");
  command->add_option("--shape", flags->shape, "Folder with a config.json, run on random weights")->type_name("F");
  command->add_option("--draft-shape", flags->draft_shape, "Of the draft model, likewise")->type_name("F");
  AddClusterFlags(*command, options.cluster);
  command
      ->add_option("--draft-acceptance", options.draft_acceptance,
                   "Replay the outputs as drafts, each token right by this chance; none: the draft model's own drafts")
      ->type_name("A");
  command->add_option("--lookahead", flags->lookahead, "Draft tokens a round: auto or 1..32")->type_name("[4]");
  command->add_option("--batch", options.batch, "Requests at once")->delimiter(',')->type_name("[1]");
  command->add_option("--requests", options.requests, "Requests of each batch; 0: as many as at once")
      ->type_name("[0]");
  command->add_option("--prompt", options.prompt_tokens, "Tokens of a prompt")->type_name("[1000]");
  command->add_option("--output", options.output_tokens, "Tokens of an output")->type_name("[256]");
  command->add_option("--record", options.record, "Keep the outputs of the run without drafts here")->type_name("FILE");
  command->add_option("--recorded", options.recorded, "Replay these, of the same prompts; no run without drafts")
      ->type_name("FILE");
  command->add_flag("--json", flags->json, "As JSON");
  command->footer(
      "Example:\n  outrider bench cluster --shape deploy/models/shapes/Llama-3.1-8B --draft-shape "
      "deploy/models/shapes/Llama-3.2-1B --draft-acceptance 0.8 --batch 1,8,32,128");
  command->callback([=, &exit_code] {
    const absl::Status status = RunCluster(*flags);
    if (status.ok()) return;
    std::fprintf(stderr, "outrider bench cluster: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
                 std::string(status.message()).c_str());
    exit_code = status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  });
}

}  // namespace outrider
