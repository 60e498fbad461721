// The oracle of MatMul: weights dequantised to fp32 once, activations never rounded, double accumulators, k ascending.
//
// Products of two floats are exact in double, so a result's only errors are K roundings of a double sum and one to
// float; it is the same on every machine and for every number of rows and threads. Used by `--numerics reference`.
//
// Thread safety: ReferenceMatrix is constant once made.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/common/stream.h"  // KernelError
#include "kernels/common/thread_pool.h"
#include "kernels/gemm/packed_matrix.h"  // MatrixSource, IndexRange

namespace outrider::kernels {

class ReferenceMatrix {
 public:
  ReferenceMatrix() = default;
  ReferenceMatrix(ReferenceMatrix&&) = default;
  ReferenceMatrix& operator=(ReferenceMatrix&&) = default;

  // Dequantises source[rows, columns) into *out (replaced). Any column range. Errors as PackedMatrix::Pack, without
  // kUnalignedSlice.
  static KernelError Make(const MatrixSource& source, IndexRange rows, IndexRange columns, ReferenceMatrix* out);
  static KernelError Make(const MatrixSource& source, ReferenceMatrix* out);

  int64_t out_features() const { return packed_.out_features(); }
  int64_t in_features() const { return packed_.in_features(); }

 private:
  friend KernelError MatMulReference(const ReferenceMatrix& w, const float* x, int64_t x_stride, int num_rows,
                                     float* out, int64_t out_stride, ThreadPool& pool);
  PackedMatrix packed_;  // kF32: [group][K][16]
};

// out[r][n] = float(sum over k of double(x[r][k]) * double(w[n][k])), k ascending. Shapes and errors as MatMul.
KernelError MatMulReference(const ReferenceMatrix& w, const float* x, int64_t x_stride, int num_rows, float* out,
                            int64_t out_stride, ThreadPool& pool);

}  // namespace outrider::kernels
