#include "cli/cluster_plan.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

absl::Status CheckRange(const char* flag, uint32_t value, uint32_t low, uint32_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, " is out of range; it takes ", low, " to ", high));
}

bool IsOneOf(const std::string& value, std::initializer_list<const char*> choices) {
  return std::any_of(choices.begin(), choices.end(), [&](const char* choice) { return value == choice; });
}

}  // namespace

absl::Status Validate(const ClusterOptions& options) {
  if (options.model.empty())
    return absl::InvalidArgumentError("no model given; name a GGUF file or a Hugging Face folder");
  for (const absl::Status& status :
       {CheckRange("--tensor-parallel-size", options.tensor_parallel_size, 1, kMaxRanks),
        CheckRange("--groups", options.groups, 1, kMaxGroups),
        CheckRange("--draft-workers", options.draft_workers, 0, kMaxDraftWorkers),
        CheckRange("--max-sequences", options.max_sequences, 1, 4096),
        CheckRange("--grpc-port", options.grpc_port, 0, 65535), CheckRange("--http-port", options.http_port, 0, 65535),
        CheckRange("--metrics-port", options.metrics_port, 0, 65535),
        CheckRange("--threads", options.threads, 0, 1024)}) {
    if (!status.ok()) return status;
  }
  // Written so that NaN fails.
  if (!(options.gpu_memory_utilization >= 0.01 && options.gpu_memory_utilization <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gpu-memory-utilization is ", options.gpu_memory_utilization, "; it may be 0.01 to 1"));
  }
  if (!(options.draft_acceptance >= 0 && options.draft_acceptance <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--draft-acceptance is ", options.draft_acceptance, "; it may be 0 to 1"));
  }
  if (!(options.otlp_sample_ratio >= 0 && options.otlp_sample_ratio <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--otlp-sample-ratio is ", options.otlp_sample_ratio, "; it may be 0 to 1"));
  }
  if (!IsOneOf(options.device, {"auto", "cpu", "cuda"})) {
    return absl::InvalidArgumentError(absl::StrCat("--device '", options.device, "' is none of auto, cpu, cuda"));
  }
  if (!IsOneOf(options.numerics, {"invariant", "reference"})) {
    return absl::InvalidArgumentError(
        absl::StrCat("--numerics '", options.numerics, "' is none of invariant, reference"));
  }
  if (!IsOneOf(options.load_format, {"auto", "dummy"})) {
    return absl::InvalidArgumentError(absl::StrCat("--load-format '", options.load_format, "' is none of auto, dummy"));
  }
  if (!IsOneOf(options.log_format, {"text", "json"})) {
    return absl::InvalidArgumentError(absl::StrCat("--log-format '", options.log_format, "' is none of text, json"));
  }
  if (!IsOneOf(options.metrics_compat, {"vllm", "none"})) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics-compat '", options.metrics_compat, "' is none of vllm, none"));
  }
  uint32_t lookahead;
  if (options.lookahead != "auto" && (!absl::SimpleAtoi(options.lookahead, &lookahead) || lookahead > 32)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--lookahead '", options.lookahead, "' is neither auto nor a number from 0 to 32"));
  }
  return absl::OkStatus();
}

ThreadShares DivideThreads(const ClusterOptions& options, uint32_t num_cores) {
  const uint32_t total = options.threads > 0 ? options.threads : std::max(1u, num_cores);
  const uint32_t num_ranks = options.groups * options.tensor_parallel_size;
  ThreadShares shares;
  shares.per_rank = std::max(1u, total / num_ranks);
  shares.per_draft_worker = std::max(1u, shares.per_rank / std::max(1u, options.draft_workers));
  return shares;
}

std::vector<UnitPlan> PlanCluster(const ClusterOptions& options, const std::string& runtime_dir, uint32_t num_cores,
                                  uint32_t num_gpus) {
  const ThreadShares threads = DivideThreads(options, num_cores);
  // Nobody but this user's processes registers.
  const std::string cluster_address = absl::StrCat("unix:", runtime_dir, "/router.sock");
  const auto flag = [](const char* name, const auto& value) { return absl::StrCat("--", name, "=", value); };
  // Each process shows its metrics and health on a socket of its own.
  const auto add_health = [&](ProcessPlan& process, const std::string& file) {
    process.health_address = absl::StrCat("unix:", runtime_dir, "/", file, ".http");
    process.args.push_back(flag("metrics-host", process.health_address));
    process.args.push_back(flag("log-format", options.log_format));
  };
  std::vector<UnitPlan> units;
  ProcessPlan router{"router",
                     {"router", flag("host", options.host), flag("grpc-port", options.grpc_port),
                      flag("cluster-host", cluster_address), flag("metrics-compat", options.metrics_compat),
                      flag("http-port", options.http_port)}};
  if (!options.api_keys.empty()) router.args.push_back(flag("api-keys", options.api_keys));
  if (options.vllm_engine) router.args.push_back(flag("vllm-engine", "true"));
  if (!options.served_model_name.empty()) {
    router.args.push_back(flag("served-model-name", options.served_model_name));
  }
  if (!options.tls_certificate.empty()) router.args.push_back(flag("tls-certificate", options.tls_certificate));
  if (!options.tls_private_key.empty()) router.args.push_back(flag("tls-private-key", options.tls_private_key));
  if (!options.tls_authorities.empty()) router.args.push_back(flag("tls-authorities", options.tls_authorities));
  if (!options.otlp_endpoint.empty()) {
    router.args.push_back(flag("otlp-endpoint", options.otlp_endpoint));
    router.args.push_back(flag("otlp-sample-ratio", options.otlp_sample_ratio));
  }
  units.push_back({"router", {std::move(router)}});
  add_health(units[0].processes[0], "router");
  for (uint32_t group = 0; group < options.groups; ++group) {
    UnitPlan unit{absl::StrCat("group-", group), {}};
    const auto socket = [&](uint32_t rank) {
      return absl::StrCat("unix:", runtime_dir, "/", unit.name, "-", rank, ".sock");
    };
    for (uint32_t rank = 0; rank < options.tensor_parallel_size; ++rank) {
      ProcessPlan process{
          absl::StrCat(unit.name, "/", rank),
          {"target", flag("model", options.model), flag("group-id", unit.name),
           flag("tensor-parallel-size", options.tensor_parallel_size), flag("rank", rank), flag("host", socket(rank)),
           flag("device", options.device), flag("numerics", options.numerics), flag("lookahead", options.lookahead),
           flag("ngram-draft", options.ngram_draft ? "true" : "false"), flag("load-format", options.load_format),
           flag("threads", threads.per_rank), flag("max-model-len", options.max_model_len),
           flag("kv-cache-bytes", options.kv_cache_bytes),
           flag("gpu-memory-utilization", options.gpu_memory_utilization), flag("max-sequences", options.max_sequences),
           flag("max-step-tokens", options.max_step_tokens),
           flag("prefix-cache", options.prefix_cache ? "true" : "false"),
           flag("first-gpu", group * options.tensor_parallel_size)}};
      process.labels = {{"group", unit.name}, {"rank", absl::StrCat(rank)}};
      add_health(process, absl::StrCat(unit.name, "-", rank));
      process.args.push_back(rank == 0 ? flag("router-address", cluster_address) : flag("leader-address", socket(0)));
      if (rank == 0 && !options.otlp_endpoint.empty()) {
        process.args.push_back(flag("otlp-endpoint", options.otlp_endpoint));
      }
      unit.processes.push_back(std::move(process));
    }
    units.push_back(std::move(unit));
  }
  for (uint32_t i = 0; !options.draft_model.empty() && i < options.draft_workers; ++i) {
    const std::string name = absl::StrCat("draft-", i);
    const uint32_t gpu = options.groups * options.tensor_parallel_size + i;
    const bool has_own_gpu = options.device != "cpu" && gpu < num_gpus;
    units.push_back({name,
                     {{name,
                       {"draft", flag("model", options.draft_model), flag("worker-id", name),
                        flag("host", absl::StrCat("unix:", runtime_dir, "/", name, ".sock")),
                        flag("router-address", cluster_address), flag("device", options.device),
                        flag("numerics", options.numerics), flag("load-format", options.load_format),
                        flag("threads", threads.per_draft_worker), flag("gpu", num_gpus > 0 ? gpu % num_gpus : 0),
                        // Otherwise its cores, or its GPU, are the ranks' too.
                        flag("run-ahead", has_own_gpu ? "on" : "off")}}}});
    if (!options.draft_replay.empty()) {
      std::vector<std::string>& args = units.back().processes[0].args;
      args.push_back(flag("replay", options.draft_replay));
      args.push_back(flag("replay-acceptance", options.draft_acceptance));
    }
    if (!options.otlp_endpoint.empty()) {
      units.back().processes[0].args.push_back(flag("otlp-endpoint", options.otlp_endpoint));
    }
    add_health(units.back().processes[0], name);
  }
  return units;
}

}  // namespace outrider
