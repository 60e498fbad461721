// Reads memory and nothing else: what a GPU's memory gives, the limit of everything that streams weights.
//
// Thread safety: pure; work is queued in the stream.
#pragma once

#include <cstdint>

#include "kernels/common/stream.h"

namespace outrider::kernels {

struct DeviceReadArgs {
  const uint8_t* data = nullptr;  // [num_bytes], 16-byte aligned
  int64_t num_bytes = 0;          // a multiple of 16
  // The sum of all 32-bit words, modulo 2^32, is added to it, so that no read can be left out. Device memory.
  uint32_t* sum = nullptr;
};

// kInvalidShape: num_bytes negative or no multiple of 16; kNullPointer.
KernelError DeviceRead(const DeviceReadArgs& args, Stream stream);

}  // namespace outrider::kernels
