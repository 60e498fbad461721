#include "kernels/gemm/matmul_reference.h"

#include <algorithm>

namespace outrider::kernels {
namespace {

// Rows that go through a group while it is in the cache.
constexpr int kReferenceRowTile = 4;

// The compiler's vectors, as wide as the machine's. They cannot change a result: the product of two floats is exact in
// double, so a sum rounds once whether or not it is fused.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(OUTRIDER_SANITIZED)
#define OUTRIDER_REFERENCE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define OUTRIDER_REFERENCE_CLONES
#endif

// sums[r][lane] for rows [0, num_rows), num_rows <= kReferenceRowTile. `w` is [K][kGroupSize].
OUTRIDER_REFERENCE_CLONES
void ReferenceTile(const float* w, int64_t in_features, const float* x, int64_t x_stride, int num_rows,
                   double (*sums)[kGroupSize]) {
  for (int r = 0; r < num_rows; ++r) {
    double acc[kGroupSize] = {};
    const float* row = x + r * x_stride;
    for (int64_t k = 0; k < in_features; ++k) {
      const double value = row[k];
      for (int64_t lane = 0; lane < kGroupSize; ++lane) {
        acc[lane] += value * static_cast<double>(w[k * kGroupSize + lane]);
      }
    }
    std::copy(acc, acc + kGroupSize, sums[r]);
  }
}

}  // namespace

KernelError ReferenceMatrix::Make(const MatrixSource& source, ReferenceMatrix* out) {
  return Make(source, {0, source.out_features}, {0, source.in_features}, out);
}

KernelError ReferenceMatrix::Make(const MatrixSource& source, IndexRange rows, IndexRange columns,
                                  ReferenceMatrix* out) {
  PackedMatrix::Options options;
  options.as_f32 = true;
  return PackedMatrix::Pack(source, rows, columns, options, &out->packed_);
}

KernelError MatMulReference(const ReferenceMatrix& w, const float* x, int64_t x_stride, int num_rows, float* out,
                            int64_t out_stride, ThreadPool& pool) {
  const PackedMatrix& packed = w.packed_;
  if (num_rows < 0) return KernelError::kInvalidShape;
  if (num_rows == 0 || packed.out_features() == 0) return KernelError::kOk;
  if (num_rows > 1 && (x_stride < packed.in_features() || out_stride < packed.out_features())) {
    return KernelError::kInvalidShape;
  }
  if (out == nullptr || (x == nullptr && packed.in_features() > 0)) return KernelError::kNullPointer;

  pool.ParallelForRange(packed.num_groups(), 1, [&](int64_t first, int64_t end) {
    double sums[kReferenceRowTile][kGroupSize];
    for (int64_t g = first; g < end; ++g) {
      const float* weights = reinterpret_cast<const float*>(packed.group(g));
      const int64_t num_lanes = std::min(kGroupSize, packed.out_features() - g * kGroupSize);
      for (int row = 0; row < num_rows; row += kReferenceRowTile) {
        const int rows = std::min(kReferenceRowTile, num_rows - row);
        ReferenceTile(weights, packed.in_features(), x + row * x_stride, x_stride, rows, sums);
        for (int r = 0; r < rows; ++r) {
          for (int64_t lane = 0; lane < num_lanes; ++lane) {
            out[(row + r) * out_stride + g * kGroupSize + lane] = static_cast<float>(sums[r][lane]);
          }
        }
      }
    }
  });
  return KernelError::kOk;
}

}  // namespace outrider::kernels
