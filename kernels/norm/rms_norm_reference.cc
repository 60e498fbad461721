#include <cmath>

#include "kernels/norm/rms_norm.h"

namespace outrider::kernels {

KernelError RmsNormReference(const RmsNormArgs& args) {
  for (int r = 0; r < args.num_rows; ++r) {
    for (int g = 0; g < args.num_groups; ++g) {
      const float* x = args.x + r * args.x_stride + int64_t{g} * args.group_size;
      float* out = args.out + r * args.out_stride + int64_t{g} * args.group_size;
      double sum = 0;
      for (int i = 0; i < args.group_size; ++i) sum += static_cast<double>(x[i]) * x[i];
      const double inverse = 1.0 / std::sqrt(sum / args.group_size + args.epsilon);
      for (int i = 0; i < args.group_size; ++i) out[i] = static_cast<float>(x[i] * inverse * args.weight[i]);
    }
  }
  return KernelError::kOk;
}

}  // namespace outrider::kernels
