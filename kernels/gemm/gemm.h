// MatMul: dense products of a few or many activation rows with packed weights, on the CPU.
//
//   out[r][n] = sum over k of x[r][k] * w[n][k]      x [num_rows, K], w [N, K], out [num_rows, N], all fp32 outside
//
// One accumulation order, whatever the shape of the call. Float weights: acc = fma(w[n][k], x[r][k], acc), k ascending.
// Quantised weights: x is rounded per row and block of 32 to int8 (q, scale dx = max|x| / 127), then per block,
// ascending, with the exact integer dot of the block:
//   Q8_0  acc = fma(dot(w, q), dw * dx, acc)
//   Q4_0  acc = fma(dot(nibble, q) - 8 * sum(q), dw * dx, acc)
//   Q4_1  acc = fma(dot(nibble, q), dw * dx, acc);  acc = fma(mw, dx * sum(q), acc)
// So the bits of an output depend on its own row of x and its own weights only: not on the number of rows, their order,
// the parts of the call, the threads, the tile, nor on AVX2 against AVX-512 (tested across all of them).
//
// Few rows are bound by memory: weights are read once, in order, asked for ahead of their use. Up to kRowTile rows
// share a pass over the weights in registers; up to 128 reuse a group of 16 outputs from cache.
//
// A block of x that holds a NaN or infinity makes all outputs of that row NaN with quantised weights; blocks with
// max|x| < 1e-30 count as zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/common/stream.h"  // KernelError
#include "kernels/common/thread_pool.h"
#include "kernels/gemm/packed_matrix.h"

namespace outrider::kernels {

// Rows of x that share one pass over a group of weights.
inline constexpr int kRowTile = 8;

enum class Epilogue : uint8_t {
  kStore,  // out = acc
  kAdd,    // out = out + acc: a residual stream, or a partial sum
};

// One matrix of a call. Parts of a call share x (q, k and v; gate and up), so it is quantised once.
struct MatMulPart {
  const PackedMatrix* w = nullptr;
  float* out = nullptr;         // [num_rows, w->out_features()]; must not overlap x or another part's out
  int64_t out_stride = 0;       // floats between rows of out
  const float* bias = nullptr;  // [w->out_features()] or null; acc + bias is what the epilogue gets
  Epilogue epilogue = Epilogue::kStore;
};

// Scratch memory of MatMul: the rearranged or quantised activations. Grows when a larger call comes, so a call no
// larger than an earlier one (or than Reserve) allocates nothing.
//
// Thread safety: none; one per concurrent caller.
class GemmWorkspace {
 public:
  GemmWorkspace() = default;
  GemmWorkspace(GemmWorkspace&&) = default;
  GemmWorkspace& operator=(GemmWorkspace&&) = default;

  // Makes room for calls of up to num_rows rows of in_features. kOutOfMemory leaves the old room.
  KernelError Reserve(int64_t num_rows, int64_t in_features);
  int64_t capacity_bytes() const { return capacity_bytes_; }

 private:
  friend struct GemmWorkspaceAccess;
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  int64_t capacity_bytes_ = 0;
};

// Computes every part. x has num_rows rows, x_stride floats apart, each of in_features() floats, the same for all
// parts. num_rows 0 or empty parts do nothing. kInvalidShape: parts differ in in_features, a negative number of rows,
// or a stride shorter than a row (where there is more than one row); kNullPointer; kOutOfMemory. On an error no out is
// written.
KernelError MatMul(std::span<const MatMulPart> parts, const float* x, int64_t x_stride, int num_rows, ThreadPool& pool,
                   GemmWorkspace& workspace);

// The instruction set chosen for this process, e.g. "AVX3_DL": part of a group's numerics_id.
const char* GemmTargetName();

}  // namespace outrider::kernels
