#include "worker/model/kv_storage.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {

kernels::DType KvDtype(Numerics numerics) {
  return numerics == Numerics::kReference ? kernels::DType::kF32 : kernels::DType::kF16;
}

kernels::KvLayout MakeKvLayout(const ModelConfig& config, const RankShard& shard, Numerics numerics, int num_blocks,
                               int block_size) {
  return {.dtype = KvDtype(numerics),
          .num_blocks = num_blocks,
          .block_size = block_size,
          .num_kv_heads = static_cast<int>(shard.kv_heads.size()),
          .head_dim = config.head_dim};
}

absl::StatusOr<KvStorage> KvStorage::Create(const kernels::KvLayout& layout, int num_layers) {
  KvStorage storage;
  storage.layout_ = layout;
  storage.k_bytes_ = (layout.k_bytes() + 63) / 64 * 64;
  storage.layer_bytes_ = storage.k_bytes_ + (layout.v_bytes() + 63) / 64 * 64;
  if (storage.layer_bytes_ > std::numeric_limits<int64_t>::max() / num_layers) {
    return absl::ResourceExhaustedError(absl::StrCat("KV storage of ", layout.num_blocks, " blocks is too large"));
  }
  ASSIGN_OR_RETURN(storage.buffer_, HostBuffer::Allocate(storage.layer_bytes_ * num_layers, "KV storage"));
  // The pages of the first blocks are taken here: in the first step they would cost the first request two huge pages a
  // layer (0.4 s for 30 layers on a virtual machine whose host has yet to back them).
  for (int layer = 0; layer < num_layers && layout.num_blocks > 0; ++layer) *storage.k(layer) = *storage.v(layer) = {};
  return storage;
}

}  // namespace outrider
