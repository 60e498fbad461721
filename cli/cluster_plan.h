// Which processes `outrider serve` runs, and with which flags. Pure: options in, command lines out.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace outrider {

struct ClusterOptions {
  std::string model;
  std::string draft_model;  // empty: no draft workers
  uint32_t tensor_parallel_size = 1;
  uint32_t groups = 1;
  uint32_t draft_workers = 1;  // counts only with a draft model
  std::string device = "auto";
  std::string numerics = "invariant";
  std::string load_format = "auto";
  std::string lookahead = "auto";
  bool ngram_draft = true;
  uint32_t threads = 0;  // of the machine; 0: all cores
  uint32_t max_model_len = 0;
  uint64_t kv_cache_bytes = 0;
  double gpu_memory_utilization = 0.85;
  uint32_t max_sequences = 64;
  uint32_t max_step_tokens = 0;
  bool prefix_cache = true;
  std::string host = "127.0.0.1";
  uint32_t grpc_port = 9000;
  uint32_t http_port = 8000;
  std::string served_model_name;  // empty: the model's own
  uint32_t metrics_port = 9100;
  std::string metrics_compat = "vllm";
  std::string api_keys;
  bool vllm_engine = false;
  std::string log_format = "text";
  std::string otlp_endpoint;  // empty: no spans are recorded
  double otlp_sample_ratio = 1;
  // For benches: recorded outputs that draft workers draft, and the share of them that is right (DraftConfig.replay).
  std::string draft_replay;
  double draft_acceptance = 1;
  // Of the public gRPC server, as in RouterConfig; empty: no TLS.
  std::string tls_certificate;
  std::string tls_private_key;
  std::string tls_authorities;
};

inline constexpr uint32_t kMaxGroups = 64;
inline constexpr uint32_t kMaxDraftWorkers = 64;
inline constexpr uint32_t kMaxRanks = 64;

// INVALID_ARGUMENT naming the flag, its value and what it takes.
absl::Status Validate(const ClusterOptions& options);

// Threads of each rank and each draft worker: the machine's, divided. Ranks work at once and share all threads; a draft
// worker works mostly while its group waits for it, so draft workers are given as many as one rank has, shared among
// them.
struct ThreadShares {
  uint32_t per_rank = 1;
  uint32_t per_draft_worker = 1;
};
ThreadShares DivideThreads(const ClusterOptions& options, uint32_t num_cores);

struct ProcessPlan {
  std::string name;               // group-0/1
  std::vector<std::string> args;  // after the program's name
  // Where its metrics and health are shown: unix:PATH. Empty: nowhere.
  std::string health_address = {};
  // Of its series on the page of all, beside its name: group and rank.
  std::vector<std::pair<std::string, std::string>> labels = {};
};

// Processes that live and die together: the ranks of a group, or a single process.
struct UnitPlan {
  std::string name;
  std::vector<ProcessPlan> processes;
};

// `runtime_dir` holds the unix sockets of the workers; ports are final (not 0). Groups take GPUs of their own as far as
// there are any, then draft workers, which then run ahead; beyond `num_gpus` they share.
std::vector<UnitPlan> PlanCluster(const ClusterOptions& options, const std::string& runtime_dir, uint32_t num_cores,
                                  uint32_t num_gpus = 0);

}  // namespace outrider
