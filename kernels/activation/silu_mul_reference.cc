#include <cmath>

#include "kernels/activation/silu_mul.h"

namespace outrider::kernels {

KernelError SiluMulReference(const SiluMulArgs& args) {
  for (int r = 0; r < args.num_rows; ++r) {
    for (int i = 0; i < args.num_columns; ++i) {
      const double gate = args.gate[r * args.gate_stride + i];
      args.out[r * args.out_stride + i] =
          static_cast<float>(gate / (1.0 + std::exp(-gate)) * args.up[r * args.up_stride + i]);
    }
  }
  return KernelError::kOk;
}

}  // namespace outrider::kernels
