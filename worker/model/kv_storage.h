// KvStorage: the memory behind BlockIds on the CPU, K and V of every layer.
//
// Thread safety: none; the memory belongs to the step that runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/attention/kv_layout.h"
#include "worker/model/host_buffer.h"
#include "worker/model/model_config.h"
#include "worker/model/shard_plan.h"
#include "worker/model/weights.h"

namespace outrider {

// F16 for `invariant`, fp32 for `reference`.
kernels::DType KvDtype(Numerics numerics);

// How a rank lays out a layer's blocks.
kernels::KvLayout MakeKvLayout(const ModelConfig& config, const RankShard& shard, Numerics numerics, int num_blocks,
                               int block_size);

class KvStorage {
 public:
  // RESOURCE_EXHAUSTED with the bytes. REQUIRES: layout.Check() is kOk.
  static absl::StatusOr<KvStorage> Create(const kernels::KvLayout& layout, int num_layers);

  const kernels::KvLayout& layout() const { return layout_; }
  std::byte* k(int layer) const { return buffer_.data() + layer * layer_bytes_; }
  std::byte* v(int layer) const { return k(layer) + k_bytes_; }

 private:
  kernels::KvLayout layout_;
  int64_t k_bytes_ = 0;      // of a layer, rounded up to 64
  int64_t layer_bytes_ = 0;  // K and V of a layer
  HostBuffer buffer_;
};

}  // namespace outrider
