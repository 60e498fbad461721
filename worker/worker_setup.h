// What target and draft workers work out of their settings before they start: device, numerics, threads, KV blocks.
//
// Errors name the setting, its value and what it takes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/config.pb.h"
#include "security/link_security.h"
#include "worker/model/device.h"
#include "worker/model/loaded_model.h"

namespace outrider {

// INVALID_ARGUMENT unless it is auto, cpu or cuda.
absl::Status CheckDevice(const std::string& device);

// auto is the GPU where one can be used and `numerics` can be had there, else the CPU. For cuda the errors of
// CheckCuda: no CUDA in this build, no GPU, an old driver, another compute capability.
absl::StatusOr<Device> ResolveDevice(const std::string& device, Numerics numerics, int device_index);

// Of a rank: the device and which of this process's GPUs. Ranks of one host take one each from `first_gpu` on; where
// a process sees fewer (CUDA_VISIBLE_DEVICES), modulo their number. auto takes GPUs only if there is one for every rank
// of the group, so that ranks do not differ. Errors: those of ResolveDevice.
struct RankDevice {
  Device device = Device::kCpu;
  int index = 0;
};
absl::StatusOr<RankDevice> ResolveRankDevice(const std::string& device, Numerics numerics, int rank, int world_size,
                                             uint32_t first_gpu = 0);

absl::StatusOr<Numerics> ParseNumerics(const std::string& numerics);
absl::StatusOr<LoadFormat> ParseLoadFormat(const std::string& load_format);

// "auto" is Request::kAutoLookahead.
absl::StatusOr<int> ParseLookahead(const std::string& lookahead);

// 0: all processors that the process may use (base/processors.h), divided by `num_shares`; at least 1.
int ResolveThreads(uint32_t threads, uint32_t num_shares);

// auto: whether this process may use some of the machine's cores and not all.
absl::StatusOr<bool> ResolveRunAhead(const std::string& run_ahead);

// How this process's links are secured; INVALID_ARGUMENT also where `host` may not be listened on so.
template <typename Config>  // TargetConfig, DraftConfig
absl::StatusOr<std::shared_ptr<const LinkSecurity>> ResolveLinks(const Config& config) {
  auto links = LinkSecurity::Create({.certificate = config.link_certificate(),
                                     .private_key = config.link_private_key(),
                                     .authorities = config.link_authorities()},
                                    config.allow_insecure_links());
  if (!links.ok()) return links.status();
  if (auto listener = (*links)->ForListener(config.host(), "host"); !listener.ok()) return listener.status();
  return links;
}

// Comma-separated HOST:PORT or unix:PATH; blanks around them and empty ones are left out.
std::vector<std::string> SplitAddresses(const std::string& addresses);

// KV blocks that `kv_cache_bytes` hold; 0: what `device_bytes` hold (a GPU's memory is there to be used), or without
// them enough for max_sequences of a quarter of max_model_len, or of kKvTokensAuto where that is more, and for one of
// all of it, within kKvCacheBytesAuto.
// Never more than all sequences could use. RESOURCE_EXHAUSTED if `device_bytes` do not hold one sequence of full
// length.
struct KvSizing {
  uint64_t kv_cache_bytes = 0;
  uint64_t device_bytes = 0;
  int64_t bytes_per_block = 0;
  int block_size = 0;
  int max_model_len = 0;
  int max_sequences = 0;
};
inline constexpr uint64_t kKvCacheBytesAuto = uint64_t{2} << 30;
inline constexpr int kKvTokensAuto = 2048;
absl::StatusOr<int> ResolveNumBlocks(const KvSizing& sizing);

// Tokens a step may have where nothing is set. CPU: room for a prompt chunk within step_time_ms_max, and small enough
// that the logits of one step (4 bytes * vocabulary a row) stay near 100 MB. GPU: where products reach their rate.
inline constexpr int kMaxStepTokensAuto = 512;
inline constexpr int kMaxStepTokensAutoCuda = 2048;
int ResolveMaxStepTokens(uint32_t max_step_tokens, uint32_t max_sequences, Device device);

// The port of this rank's gRPC server. Ranks of one machine may share a file: leader_address is rank 0's, so where host
// and grpc_port of a higher rank are that very address, it takes a free port (0).
uint32_t ResolveGrpcPort(const v1::TargetConfig& config);

// Where a worker's metrics are served, or empty: nowhere.
std::string ResolveMetricsHost(const std::string& metrics_host, const std::string& host, bool has_metrics_port);

// INVALID_ARGUMENT naming the first setting that can not be; files are not looked at.
absl::Status Validate(const v1::TargetConfig& config);
absl::Status Validate(const v1::DraftConfig& config);

}  // namespace outrider
