// PackedMatrix holds a weight matrix, or a tensor-parallel shard of one, in the order in which the CPU products read
// it.
//
// 16 output features form a group, one SIMD lane each; a group is contiguous and is read front to back. K =
// in_features, B = K / 32 blocks:
//   F32, F16, BF16   [K][16] elements
//   Q8_0             [B][16] f16 scales | [B][8][16][4] uint8 quants + 128
//   Q4_0             [B][16] f16 scales | [B][4][16][4] bytes
//   Q4_1             [B][16] f16 scales | [B][16] f16 mins | [B][4][16][4] bytes
// A quant's place is (block, quad, lane, element of quad), quads ascending in K; a nibble byte holds quad q low and
// quad q + 4 high. Each part of a group starts at a multiple of 64 bytes. Lanes past the last output feature are zero.
// The values are those of the source: packing never rounds.
//
// Thread safety: constant once packed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "kernels/common/dtype.h"
#include "kernels/common/stream.h"  // KernelError

namespace outrider::kernels {

// Output features in a group: the lanes of one 512-bit or two 256-bit registers of floats.
inline constexpr int64_t kGroupSize = 16;

// Half-open range of rows (output features) or columns (input features).
struct IndexRange {
  int64_t first = 0;
  int64_t end = 0;
  int64_t size() const { return end - first; }
};

// Where the parts of a group start, in bytes from its first; `mins` and `scales` only mean something where the type has
// them (scales are at 0). Float types have only quants: the elements.
struct GroupLayout {
  int64_t mins = 0;
  int64_t quants = 0;
  int64_t bytes = 0;
};

constexpr GroupLayout GroupLayoutOf(DType dtype, int64_t in_features) {
  const auto round_up = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  const int64_t num_blocks = in_features / kQuantBlockSize;
  const int64_t scale_bytes = round_up(num_blocks * kGroupSize * 2);
  switch (dtype) {
    case DType::kF32:
      return {0, 0, in_features * kGroupSize * 4};
    case DType::kF16:
    case DType::kBF16:
      return {0, 0, round_up(in_features * kGroupSize * 2)};
    case DType::kQ8_0:
      return {0, scale_bytes, scale_bytes + num_blocks * kGroupSize * 32};
    case DType::kQ4_0:
      return {0, scale_bytes, scale_bytes + num_blocks * kGroupSize * 16};
    case DType::kQ4_1:
      return {scale_bytes, 2 * scale_bytes, 2 * scale_bytes + num_blocks * kGroupSize * 16};
  }
  return {};
}

// A row-major [out_features, in_features] matrix in GGUF's encoding, e.g. inside a mapped file. Not owned.
struct MatrixSource {
  DType dtype = DType::kF32;
  const void* data = nullptr;  // RowBytes(dtype, in_features) bytes a row; any alignment
  int64_t out_features = 0;
  int64_t in_features = 0;
};

// Memory for many packed matrices: large chunks on huge pages where the system has them, so that streaming a model's
// weights does not stop at every 4 KiB page. Matrices packed into an arena must not outlive it.
//
// Thread safety: none.
class WeightArena {
 public:
  WeightArena();
  ~WeightArena();
  WeightArena(const WeightArena&) = delete;
  WeightArena& operator=(const WeightArena&) = delete;

  // 64-byte aligned, zeroed; null when memory is exhausted.
  std::byte* Allocate(int64_t bytes);
  int64_t allocated_bytes() const;

 private:
  struct Chunks;
  std::unique_ptr<Chunks> chunks_;
};

class PackedMatrix {
 public:
  struct Options {
    // Store fp32 values whatever the source: the way out when a shard's columns cut through quantised blocks, which
    // is otherwise refused. Costs 6.4 times the memory of Q4_1.
    bool as_f32 = false;
    // Where to put the weights; null: memory of its own.
    WeightArena* arena = nullptr;
  };

  PackedMatrix() = default;
  PackedMatrix(PackedMatrix&& other) noexcept { *this = std::move(other); }
  // Leaves `other` empty.
  PackedMatrix& operator=(PackedMatrix&& other) noexcept;

  // Packs source[rows, columns) into *out (replaced). Every column is multiplied with activation `column -
  // columns.first`. Errors leave *out empty:
  //   kInvalidShape    a range is reversed or outside the source, or in_features is no multiple of the block size
  //   kUnalignedSlice  quantised source, not as_f32, and a column bound is no multiple of 32
  //   kNullPointer     no data although the slice is not empty
  //   kOutOfMemory
  static KernelError Pack(const MatrixSource& source, IndexRange rows, IndexRange columns, const Options& options,
                          PackedMatrix* out);
  // The whole matrix, own memory.
  static KernelError Pack(const MatrixSource& source, PackedMatrix* out);

  DType dtype() const { return dtype_; }
  int64_t out_features() const { return out_features_; }
  int64_t in_features() const { return in_features_; }
  bool empty() const { return out_features_ == 0 || in_features_ == 0; }

  int64_t num_groups() const { return (out_features_ + kGroupSize - 1) / kGroupSize; }
  int64_t group_bytes() const { return group_bytes_; }
  // What a product reads: num_groups() * group_bytes().
  int64_t packed_bytes() const { return num_groups() * group_bytes_; }
  const std::byte* group(int64_t group_index) const { return data_ + group_index * group_bytes_; }

  // out[k] = weight of (output_feature, k), k in [0, in_features()): exactly what DequantizeRow gives for the source.
  // Lets a tied embedding read its rows from the packed head. REQUIRES: 0 <= output_feature < out_features().
  void UnpackRow(int64_t output_feature, float* out) const;

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };

  DType dtype_ = DType::kF32;
  int64_t out_features_ = 0;
  int64_t in_features_ = 0;
  int64_t group_bytes_ = 0;
  const std::byte* data_ = nullptr;
  std::unique_ptr<std::byte, Free> owned_;
};

}  // namespace outrider::kernels
