#include "worker/worker_setup.h"

#include <unistd.h>

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/processors.h"
#include "base/status_macros.h"
#include "worker/model/cuda_backend.h"
#include "worker/parallel/device_transport.h"
#include "worker/sequence/request.h"
#include "worker/step/draft_offer.h"  // kMaxLookahead

namespace outrider {
namespace {

constexpr int kMaxBlockSize = 256;
constexpr uint32_t kMaxSequencesMax = 65536;
constexpr uint32_t kMaxStepTokensMax = 65536;
constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kMaxGpu = 1023;
constexpr uint32_t kMaxModelLenMax = 1 << 24;

absl::Status CheckRange(const char* name, uint64_t value, uint64_t least, uint64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; it may be ", least, " to ", most));
}

absl::Status CheckBlockSize(uint32_t block_size) {
  if (block_size >= 1 && block_size <= kMaxBlockSize && (block_size & (block_size - 1)) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("block_size is ", block_size, "; it must be a power of two up to ", kMaxBlockSize));
}

// Written so that NaN fails.
absl::Status CheckUtilization(double share) {
  if (share >= 0.01 && share <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("gpu_memory_utilization is ", share, "; it may be 0.01 to 1"));
}

}  // namespace

absl::Status CheckDevice(const std::string& device) {
  if (device == "auto" || device == "cpu" || device == "cuda") return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("device is '", device, "'; it may be auto, cpu or cuda"));
}

absl::StatusOr<Device> ResolveDevice(const std::string& device, Numerics numerics, int device_index) {
  RETURN_IF_ERROR(CheckDevice(device));
  if (device == "cpu" || (device == "auto" && numerics != Numerics::kInvariant)) return Device::kCpu;
  const absl::Status usable = CheckCuda(device_index);
  if (usable.ok()) return Device::kCuda;
  if (device == "auto") return Device::kCpu;
  return absl::Status(usable.code(), absl::StrCat("device is cuda: ", usable.message()));
}

absl::StatusOr<RankDevice> ResolveRankDevice(const std::string& device, Numerics numerics, int rank, int world_size,
                                             uint32_t first_gpu) {
  const int num_gpus = NumCudaDevices();
  if (device == "auto" && world_size > 1 && num_gpus < world_size) return RankDevice{};
  RankDevice resolved{.index = num_gpus > 0 ? (static_cast<int>(first_gpu) + rank) % num_gpus : rank};
  ASSIGN_OR_RETURN(resolved.device, ResolveDevice(device, numerics, resolved.index));
  return resolved;
}

absl::StatusOr<Numerics> ParseNumerics(const std::string& numerics) {
  if (numerics == "invariant") return Numerics::kInvariant;
  if (numerics == "reference") return Numerics::kReference;
  return absl::InvalidArgumentError(absl::StrCat("numerics is '", numerics, "'; it may be invariant or reference"));
}

absl::StatusOr<LoadFormat> ParseLoadFormat(const std::string& load_format) {
  if (load_format == "auto") return LoadFormat::kAuto;
  if (load_format == "dummy") return LoadFormat::kDummy;
  return absl::InvalidArgumentError(absl::StrCat("load_format is '", load_format, "'; it may be auto or dummy"));
}

absl::StatusOr<int> ParseLookahead(const std::string& lookahead) {
  if (lookahead == "auto") return Request::kAutoLookahead;
  int value = 0;
  if (absl::SimpleAtoi(lookahead, &value) && value >= 0 && value <= kMaxLookahead) return value;
  return absl::InvalidArgumentError(
      absl::StrCat("lookahead is '", lookahead, "'; it may be auto or 0 to ", kMaxLookahead));
}

int ResolveThreads(uint32_t threads, uint32_t num_shares) {
  if (threads > 0) return static_cast<int>(threads);
  return std::max(1, NumUsableProcessors() / static_cast<int>(std::max(1u, num_shares)));
}

std::vector<std::string> SplitAddresses(const std::string& addresses) {
  std::vector<std::string> result;
  for (absl::string_view address : absl::StrSplit(addresses, ',')) {
    address = absl::StripAsciiWhitespace(address);
    if (!address.empty()) result.emplace_back(address);
  }
  return result;
}

absl::StatusOr<int> ResolveNumBlocks(const KvSizing& sizing) {
  CHECK(sizing.bytes_per_block > 0 && sizing.block_size > 0 && sizing.max_model_len > 0 && sizing.max_sequences > 0);
  const auto blocks_for = [&](int64_t num_tokens) { return (num_tokens + sizing.block_size - 1) / sizing.block_size; };
  const int64_t of_one_sequence = blocks_for(sizing.max_model_len);
  const int64_t all_could_use = of_one_sequence * sizing.max_sequences;
  int64_t num_blocks;
  if (sizing.kv_cache_bytes > 0) {
    num_blocks = static_cast<int64_t>(
        std::min<uint64_t>(sizing.kv_cache_bytes / static_cast<uint64_t>(sizing.bytes_per_block), all_could_use));
    if (num_blocks == 0) {
      return absl::InvalidArgumentError(absl::StrCat("kv_cache_bytes is ", sizing.kv_cache_bytes, ", but one block of ",
                                                     sizing.block_size, " tokens takes ", sizing.bytes_per_block));
    }
  } else if (sizing.device_bytes > 0) {
    num_blocks = static_cast<int64_t>(
        std::min<uint64_t>(sizing.device_bytes / static_cast<uint64_t>(sizing.bytes_per_block), all_could_use));
    if (num_blocks < of_one_sequence) {
      return absl::ResourceExhaustedError(
          absl::StrCat(sizing.device_bytes >> 20, " MiB of the GPU are left for keys and values: ", num_blocks,
                       " blocks of ", sizing.block_size, " tokens, but one sequence of max_model_len ",
                       sizing.max_model_len, " takes ", of_one_sequence, " blocks of ", sizing.bytes_per_block >> 10,
                       " KiB. Lower max_model_len, or raise gpu_memory_utilization"));
    }
  } else {
    const int tokens_each = std::min(sizing.max_model_len, std::max(sizing.max_model_len / 4, kKvTokensAuto));
    const int64_t wanted = blocks_for(tokens_each) * sizing.max_sequences;
    const int64_t affordable = static_cast<int64_t>(kKvCacheBytesAuto) / sizing.bytes_per_block;
    num_blocks = std::max(of_one_sequence, std::min(wanted, affordable));
  }
  return static_cast<int>(std::min<int64_t>(num_blocks, std::numeric_limits<int>::max() / kMaxBlockSize));
}

int ResolveMaxStepTokens(uint32_t max_step_tokens, uint32_t max_sequences, Device device) {
  if (max_step_tokens > 0) return static_cast<int>(max_step_tokens);
  return std::max(device == Device::kCuda ? kMaxStepTokensAutoCuda : kMaxStepTokensAuto,
                  static_cast<int>(max_sequences));
}

absl::StatusOr<bool> ResolveRunAhead(const std::string& run_ahead) {
  if (run_ahead == "on") return true;
  if (run_ahead == "off") return false;
  if (run_ahead != "auto") {
    return absl::InvalidArgumentError(absl::StrCat("run_ahead is '", run_ahead, "'; it may be auto, on or off"));
  }
  return NumUsableProcessors() < static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
}

uint32_t ResolveGrpcPort(const v1::TargetConfig& config) {
  const bool is_leaders = config.leader_address() == absl::StrCat(config.host(), ":", config.grpc_port());
  return config.rank() > 0 && is_leaders ? 0 : config.grpc_port();
}

std::string ResolveMetricsHost(const std::string& metrics_host, const std::string& host, bool has_metrics_port) {
  if (metrics_host.rfind("unix:", 0) == 0) return metrics_host;
  if (!has_metrics_port) return "";
  if (!metrics_host.empty()) return metrics_host;
  return host.rfind("unix:", 0) == 0 ? "127.0.0.1" : host;
}

absl::Status Validate(const v1::TargetConfig& config) {
  if (config.model().empty()) {
    return absl::InvalidArgumentError("model is not set; name a GGUF file or a Hugging Face folder");
  }
  if (config.group_id().empty()) return absl::InvalidArgumentError("group_id is empty");
  RETURN_IF_ERROR(CheckRange("tensor_parallel_size", config.tensor_parallel_size(), 1, 32));
  if (config.rank() >= config.tensor_parallel_size()) {
    return absl::InvalidArgumentError(absl::StrCat("rank is ", config.rank(), ", but tensor_parallel_size is ",
                                                   config.tensor_parallel_size(), ": ranks are 0 to ",
                                                   config.tensor_parallel_size() - 1));
  }
  if (config.rank() > 0 && config.leader_address().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("leader_address is not set; rank ", config.rank(), " needs the address of rank 0"));
  }
  RETURN_IF_ERROR(CheckDevice(config.device()));
  RETURN_IF_ERROR(ParseDeviceTransport(config.gpu_transport()).status());
  RETURN_IF_ERROR(ParseNumerics(config.numerics()).status());
  RETURN_IF_ERROR(ParseLoadFormat(config.load_format()).status());
  RETURN_IF_ERROR(CheckUtilization(config.gpu_memory_utilization()));
  RETURN_IF_ERROR(ParseLookahead(config.lookahead()).status());
  RETURN_IF_ERROR(CheckRange("grpc_port", config.grpc_port(), 0, 65535));
  RETURN_IF_ERROR(CheckRange("metrics_port", config.metrics_port(), 0, 65535));
  RETURN_IF_ERROR(CheckBlockSize(config.block_size()));
  RETURN_IF_ERROR(CheckRange("threads", config.threads(), 0, kMaxThreads));
  RETURN_IF_ERROR(CheckRange("max_model_len", config.max_model_len(), 0, kMaxModelLenMax));
  RETURN_IF_ERROR(CheckRange("max_sequences", config.max_sequences(), 1, kMaxSequencesMax));
  RETURN_IF_ERROR(CheckRange("max_waiting_sequences", config.max_waiting_sequences(), 1, 1 << 20));
  RETURN_IF_ERROR(CheckRange("max_step_tokens", config.max_step_tokens(), 0, kMaxStepTokensMax));
  if (config.max_step_tokens() > 0 && config.max_step_tokens() < config.max_sequences()) {
    return absl::InvalidArgumentError(absl::StrCat("max_step_tokens is ", config.max_step_tokens(),
                                                   ", less than max_sequences (", config.max_sequences(),
                                                   "): each sequence of a step needs a token"));
  }
  RETURN_IF_ERROR(CheckRange("step_time_ms_max", config.step_time_ms_max(), 1, 3600 * 1000));
  RETURN_IF_ERROR(CheckRange("step_timeout_ms", config.step_timeout_ms(), 100, 3600 * 1000));
  RETURN_IF_ERROR(CheckRange("silence_timeout_ms", config.silence_timeout_ms(), 300, 3600 * 1000));
  RETURN_IF_ERROR(CheckRange("drain_timeout_ms", config.drain_timeout_ms(), 0, 24 * 3600 * 1000));
  RETURN_IF_ERROR(CheckRange("join_timeout_ms", config.join_timeout_ms(), 1, 24 * 3600 * 1000));
  RETURN_IF_ERROR(CheckRange("max_buffered_tokens", config.max_buffered_tokens(), 64, 1 << 24));
  // Written so that NaN fails.
  if (!(config.draft_wait_ratio() >= 0 && config.draft_wait_ratio() <= 100)) {
    return absl::InvalidArgumentError(
        absl::StrCat("draft_wait_ratio is ", config.draft_wait_ratio(), "; it may be 0 to 100"));
  }
  if (!(config.draft_wait_ms_max() >= 0 && config.draft_wait_ms_max() <= 60000)) {
    return absl::InvalidArgumentError(
        absl::StrCat("draft_wait_ms_max is ", config.draft_wait_ms_max(), "; it may be 0 to 60000"));
  }
  return absl::OkStatus();
}

absl::Status Validate(const v1::DraftConfig& config) {
  if (config.model().empty()) {
    return absl::InvalidArgumentError("model is not set; name a GGUF file or a Hugging Face folder");
  }
  if (config.worker_id().empty()) return absl::InvalidArgumentError("worker_id is empty");
  RETURN_IF_ERROR(CheckDevice(config.device()));
  RETURN_IF_ERROR(ParseNumerics(config.numerics()).status());
  RETURN_IF_ERROR(ParseLoadFormat(config.load_format()).status());
  RETURN_IF_ERROR(CheckUtilization(config.gpu_memory_utilization()));
  RETURN_IF_ERROR(CheckRange("grpc_port", config.grpc_port(), 0, 65535));
  RETURN_IF_ERROR(CheckRange("metrics_port", config.metrics_port(), 0, 65535));
  RETURN_IF_ERROR(CheckBlockSize(config.block_size()));
  RETURN_IF_ERROR(CheckRange("threads", config.threads(), 0, kMaxThreads));
  RETURN_IF_ERROR(CheckRange("max_model_len", config.max_model_len(), 0, kMaxModelLenMax));
  RETURN_IF_ERROR(CheckRange("max_sequences", config.max_sequences(), 1, kMaxSequencesMax));
  RETURN_IF_ERROR(CheckRange("max_step_tokens", config.max_step_tokens(), 1, kMaxStepTokensMax));
  RETURN_IF_ERROR(ResolveRunAhead(config.run_ahead()).status());
  RETURN_IF_ERROR(CheckRange("gpu", config.gpu(), 0, kMaxGpu));
  // Written so that NaN fails.
  if (!(config.replay_acceptance() >= 0 && config.replay_acceptance() <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("replay_acceptance is ", config.replay_acceptance(), "; it may be 0 to 1"));
  }
  RETURN_IF_ERROR(CheckRange("lease_ms", config.lease_ms(), 100, 24 * 3600 * 1000));
  RETURN_IF_ERROR(CheckRange("drain_timeout_ms", config.drain_timeout_ms(), 0, 24 * 3600 * 1000));
  return absl::OkStatus();
}

}  // namespace outrider
