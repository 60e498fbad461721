// What a rank's steps take of its GPU, before keys and values.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention/device_attention.h"
#include "worker/model/cuda_all_reduce.h"
#include "worker/model/cuda_backend.h"

namespace outrider {

// Of the GPU's memory: what the driver and launches take beside what is asked for, and other small processes' needs.
inline constexpr int64_t kCudaReserveBytes = int64_t{512} << 20;
// Ranges of attention that are computed apart, times KV heads: 8 KV heads of a sequence of 128 K positions are 4,096.
inline constexpr int64_t kCudaPartialsMax = 8192;

// Rows begin at multiples of 64 elements: what products want of their inputs.
inline int64_t CudaStrideOf(int64_t columns) { return (columns + 63) / 64 * 64; }

// Everything that is made once for the largest step.
struct CudaStepSizes {
  explicit CudaStepSizes(const CudaOpsOptions& options)
      : config(*options.config),
        shard(options.plan->ranks[options.rank]),
        num_ranks(static_cast<int>(options.plan->ranks.size())),
        rows(options.max_step_tokens),
        q(shard.heads.size() * config.head_dim),
        kv(shard.kv_heads.size() * config.head_dim),
        intermediate(shard.intermediate.size()),
        blocks_a_sequence((options.max_positions + options.block_size - 1) / options.block_size),
        kv_layout{.num_blocks = options.num_kv_blocks,
                  .block_size = options.block_size,
                  .num_kv_heads = static_cast<int>(shard.kv_heads.size()),
                  .head_dim = config.head_dim} {
    const int group = static_cast<int>(shard.heads.size() / shard.kv_heads.size());
    // Full tiles of each span's pairs, and one that is not full a span.
    tiles =
        rows * group / kernels::DeviceAttentionPlan::kNarrowPairs + std::min<int64_t>(rows, options.max_sequences) + 1;
    block_table_entries = blocks_a_sequence * std::min<int64_t>(rows, options.max_sequences);
    cos_sin = int64_t{options.max_positions} * config.rope.rotary_dim;
  }

  // One buffer a step brings everything that its kernels are told.
  int64_t upload_bytes() const {
    return rows * 4 * static_cast<int64_t>(sizeof(int32_t)) +
           tiles * static_cast<int64_t>(sizeof(kernels::DeviceAttentionTile)) +
           block_table_entries * static_cast<int64_t>(sizeof(int32_t)) + 64;
  }
  int64_t vector_bytes() const {
    return (config.num_layers * (2 * int64_t{config.hidden_size} + q + 2 * kv + 2 * config.head_dim) +
            config.hidden_size) *
           4;
  }
  int64_t activation_bytes() const {
    return rows * (CudaStrideOf(config.hidden_size) * 4 + CudaStrideOf(q + 2 * kv) * 2 + CudaStrideOf(q) * 2 +
                   CudaStrideOf(intermediate) * 2 + CudaStrideOf(shard.vocab.size()) * 4 +
                   CudaStrideOf(config.hidden_size) * (num_ranks > 1 ? 4 : 2) + 12);
  }
  int64_t workspace_bytes() const { return kernels::DeviceAttentionWorkspaceBytes(kv_layout, kCudaPartialsMax); }
  // Without keys and values.
  int64_t bytes() const {
    return upload_bytes() + vector_bytes() + activation_bytes() + workspace_bytes() + cos_sin * 4 +
           CudaAllReduce::Bytes(config.hidden_size, static_cast<int>(rows), num_ranks);
  }

  const ModelConfig& config;
  const RankShard& shard;
  int num_ranks;
  int64_t rows, q, kv, intermediate, blocks_a_sequence;
  int64_t tiles = 0, block_table_entries = 0, cos_sin = 0;
  kernels::DeviceKvLayout kv_layout;
};

}  // namespace outrider
