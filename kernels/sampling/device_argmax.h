// The greedy choice on a GPU: what ArgMax of sample_row.h gives, a cluster of eight blocks a row. The highest logit,
// ties to the lowest id; -1 if a logit is NaN or plus infinity, or all are minus infinity.
//
// Thread safety: pure; work is queued in the stream.
#pragma once

#include <cstdint>

#include "kernels/common/stream.h"

namespace outrider::kernels {

struct DeviceArgMaxArgs {
  const float* logits = nullptr;  // [num_rows, vocab_size]
  int64_t logits_stride = 0;      // elements, >= vocab_size
  int num_rows = 0;               // 0 is allowed and launches nothing
  int vocab_size = 0;
  int32_t* token_ids = nullptr;  // [num_rows], device
  float* best_logits = nullptr;  // [num_rows], device, or null: the highest logits, also where no id is chosen
};

// kInvalidShape; kNullPointer.
KernelError DeviceArgMax(const DeviceArgMaxArgs& args, Stream stream);

}  // namespace outrider::kernels
