#include <cmath>

#include "kernels/rope/rope.h"

namespace outrider::kernels {

KernelError RopeReference(const RopeParams& params, const RopeArgs& args) {
  const std::vector<double> frequencies = RopeFrequencies(params);
  if (frequencies.empty()) return KernelError::kInvalidShape;
  const int num_pairs = params.rotary_dim / 2;
  for (int r = 0; r < args.num_rows; ++r) {
    for (int h = 0; h < args.num_heads; ++h) {
      float* head = args.x + r * args.x_stride + int64_t{h} * args.head_dim;
      for (int p = 0; p < num_pairs; ++p) {
        const double angle = args.positions[r] * frequencies[static_cast<size_t>(p)];
        const double cos = params.attention_factor * std::cos(angle);
        const double sin = params.attention_factor * std::sin(angle);
        float& first = params.layout == RopeLayout::kInterleaved ? head[2 * p] : head[p];
        float& second = params.layout == RopeLayout::kInterleaved ? head[2 * p + 1] : head[p + num_pairs];
        const double a = first, b = second;
        first = static_cast<float>(a * cos - b * sin);
        second = static_cast<float>(a * sin + b * cos);
      }
    }
  }
  return KernelError::kOk;
}

}  // namespace outrider::kernels
