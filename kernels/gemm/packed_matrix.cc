#include "kernels/gemm/packed_matrix.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

namespace outrider::kernels {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePageBytes = int64_t{2} << 20;
// Untouched pages of a chunk cost nothing, so a small model may take a large one.
constexpr int64_t kChunkBytes = int64_t{64} << 20;

int64_t RoundUp(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

bool IsRange(IndexRange range, int64_t size) {
  return range.first >= 0 && range.first <= range.end && range.end <= size;
}

void CopyU16(const std::byte* from, std::byte* to) { std::memcpy(to, from, 2); }

uint16_t LoadU16(const std::byte* p) {
  uint16_t v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

// Writes one output feature into lane `lane` of a group. `row` is its first element or block of the slice.
void PackLane(DType dtype, const std::byte* row, int64_t in_features, const GroupLayout& layout, int64_t lane,
              std::byte* group) {
  if (!IsQuantized(dtype)) {
    const int64_t size = BlockBytes(dtype);
    std::byte* to = group + lane * size;
    if (size == 4) {
      for (int64_t k = 0; k < in_features; ++k) std::memcpy(to + k * kGroupSize * 4, row + k * 4, 4);
    } else {
      for (int64_t k = 0; k < in_features; ++k) std::memcpy(to + k * kGroupSize * 2, row + k * 2, 2);
    }
    return;
  }
  const int64_t num_quads = dtype == DType::kQ8_0 ? 8 : 4;
  std::byte* quants = group + layout.quants;
  for (int64_t block = 0; block < in_features / kQuantBlockSize; ++block, row += BlockBytes(dtype)) {
    CopyU16(row, group + (block * kGroupSize + lane) * 2);
    if (dtype == DType::kQ4_1) CopyU16(row + 2, group + layout.mins + (block * kGroupSize + lane) * 2);
    const std::byte* from = row + (dtype == DType::kQ4_1 ? 4 : 2);
    for (int64_t quad = 0; quad < num_quads; ++quad) {
      // Four consecutive source bytes are a quad: of int8, or the low nibbles of quad q with the high ones of q + 4.
      uint32_t bytes;
      std::memcpy(&bytes, from + quad * 4, 4);
      if (dtype == DType::kQ8_0) bytes ^= 0x80808080;  // int8 to uint8 + 128
      std::memcpy(quants + ((block * num_quads + quad) * kGroupSize + lane) * 4, &bytes, 4);
    }
  }
}

}  // namespace

struct WeightArena::Chunks {
  struct Chunk {
    std::byte* data;
    int64_t bytes;
    int64_t used;
  };
  std::vector<Chunk> list;
};

WeightArena::WeightArena() : chunks_(std::make_unique<Chunks>()) {}

WeightArena::~WeightArena() {
  for (const Chunks::Chunk& chunk : chunks_->list) munmap(chunk.data, chunk.bytes);
}

std::byte* WeightArena::Allocate(int64_t bytes) {
  if (bytes < 0 || bytes > std::numeric_limits<int64_t>::max() / 2) return nullptr;
  bytes = RoundUp(std::max<int64_t>(bytes, 1), kAlignment);
  std::vector<Chunks::Chunk>& list = chunks_->list;
  if (list.empty() || list.back().bytes - list.back().used < bytes) {
    const int64_t chunk_bytes = std::max(kChunkBytes, RoundUp(bytes, kHugePageBytes));
    void* memory = mmap(nullptr, chunk_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
    // Advice: without huge pages everything works, slower.
    (void)madvise(memory, chunk_bytes, MADV_HUGEPAGE);
#endif
    list.push_back({static_cast<std::byte*>(memory), chunk_bytes, 0});
  }
  Chunks::Chunk& chunk = list.back();
  std::byte* p = chunk.data + chunk.used;
  chunk.used += bytes;
  return p;
}

int64_t WeightArena::allocated_bytes() const {
  int64_t bytes = 0;
  for (const Chunks::Chunk& chunk : chunks_->list) bytes += chunk.used;
  return bytes;
}

void PackedMatrix::Free::operator()(std::byte* p) const { std::free(p); }

PackedMatrix& PackedMatrix::operator=(PackedMatrix&& other) noexcept {
  dtype_ = other.dtype_;
  out_features_ = std::exchange(other.out_features_, 0);
  in_features_ = std::exchange(other.in_features_, 0);
  group_bytes_ = std::exchange(other.group_bytes_, 0);
  data_ = std::exchange(other.data_, nullptr);
  owned_ = std::move(other.owned_);
  return *this;
}

KernelError PackedMatrix::Pack(const MatrixSource& source, PackedMatrix* out) {
  return Pack(source, {0, source.out_features}, {0, source.in_features}, {}, out);
}

KernelError PackedMatrix::Pack(const MatrixSource& source, IndexRange rows, IndexRange columns, const Options& options,
                               PackedMatrix* out) {
  *out = PackedMatrix();
  const int64_t block_size = BlockSize(source.dtype);
  if (BlockBytes(source.dtype) == 0) return KernelError::kUnsupportedDType;
  if (source.out_features < 0 || source.in_features < 0 || source.in_features % block_size != 0 ||
      !IsRange(rows, source.out_features) || !IsRange(columns, source.in_features)) {
    return KernelError::kInvalidShape;
  }
  const bool as_f32 = options.as_f32 && source.dtype != DType::kF32;
  if (!as_f32 && (columns.first % block_size != 0 || columns.end % block_size != 0)) {
    return KernelError::kUnalignedSlice;
  }
  PackedMatrix packed;
  packed.dtype_ = as_f32 ? DType::kF32 : source.dtype;
  packed.out_features_ = rows.size();
  packed.in_features_ = columns.size();
  const GroupLayout layout = GroupLayoutOf(packed.dtype_, packed.in_features_);
  packed.group_bytes_ = layout.bytes;
  if (packed.empty()) {
    *out = std::move(packed);
    return KernelError::kOk;
  }
  if (source.data == nullptr) return KernelError::kNullPointer;

  std::byte* data;
  const int64_t num_bytes = packed.packed_bytes();
  if (options.arena != nullptr) {
    data = options.arena->Allocate(num_bytes);
  } else {
    data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, RoundUp(num_bytes, kAlignment)));
    packed.owned_.reset(data);
    if (data != nullptr) std::memset(data, 0, num_bytes);
  }
  if (data == nullptr) return KernelError::kOutOfMemory;
  packed.data_ = data;

  const int64_t row_bytes = RowBytes(source.dtype, source.in_features);
  const int64_t first_block = columns.first / block_size;
  std::vector<float> values;  // whole blocks around the slice, if it has to be dequantised
  for (int64_t i = 0; i < packed.out_features_; ++i) {
    const std::byte* row = static_cast<const std::byte*>(source.data) + (rows.first + i) * row_bytes +
                           first_block * BlockBytes(source.dtype);
    if (as_f32) {
      values.resize(RoundUp(columns.end, block_size) - first_block * block_size);
      const KernelError error = DequantizeRow(source.dtype, row, values.size(), values.data());
      if (error != KernelError::kOk) return error;
      row = reinterpret_cast<const std::byte*>(values.data() + columns.first % block_size);
    }
    PackLane(packed.dtype_, row, packed.in_features_, layout, i % kGroupSize,
             data + i / kGroupSize * packed.group_bytes_);
  }
  *out = std::move(packed);
  return KernelError::kOk;
}

void PackedMatrix::UnpackRow(int64_t output_feature, float* out) const {
  const GroupLayout layout = GroupLayoutOf(dtype_, in_features_);
  const std::byte* g = group(output_feature / kGroupSize);
  const int64_t lane = output_feature % kGroupSize;
  if (!IsQuantized(dtype_)) {
    for (int64_t k = 0; k < in_features_; ++k) {
      const int64_t element = k * kGroupSize + lane;
      if (dtype_ == DType::kF32) {
        std::memcpy(&out[k], g + element * 4, 4);
      } else {
        const uint16_t bits = LoadU16(g + element * 2);
        out[k] = dtype_ == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
      }
    }
    return;
  }
  for (int64_t block = 0; block < in_features_ / kQuantBlockSize; ++block, out += kQuantBlockSize) {
    const float d = F16ToF32(LoadU16(g + (block * kGroupSize + lane) * 2));
    const float m =
        dtype_ == DType::kQ4_1 ? F16ToF32(LoadU16(g + layout.mins + (block * kGroupSize + lane) * 2)) : 0.0f;
    const auto quant = [&](int64_t num_quads, int64_t quad, int64_t e) {
      return std::to_integer<int>(g[layout.quants + ((block * num_quads + quad) * kGroupSize + lane) * 4 + e]);
    };
    for (int64_t i = 0; i < kQuantBlockSize; ++i) {
      if (dtype_ == DType::kQ8_0) {
        out[i] = d * static_cast<float>(quant(8, i / 4, i % 4) - 128);
        continue;
      }
      const int byte = quant(4, i % 16 / 4, i % 4);
      const int nibble = i < 16 ? byte & 15 : byte >> 4;
      out[i] = dtype_ == DType::kQ4_0 ? d * static_cast<float>(nibble - 8) : d * static_cast<float>(nibble) + m;
    }
  }
}

}  // namespace outrider::kernels
