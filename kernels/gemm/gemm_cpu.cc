// The CPU products. Everything between HWY_BEFORE_NAMESPACE and HWY_AFTER_NAMESPACE is compiled once a target by
// foreach_target.h; the rest once. gemm_lanes-inl.h has the vectors of each target.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "kernels/gemm/gemm.h"

#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL  // VNNI
#endif
// No fused multiply-add there, so they would have no advantage over the plain code.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm/gemm_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/gemm/gemm_lanes-inl.h"

#ifndef OUTRIDER_KERNELS_GEMM_GEMM_CPU_ONCE
#define OUTRIDER_KERNELS_GEMM_GEMM_CPU_ONCE

namespace outrider::kernels {
namespace {

// Blocks whose largest magnitude is below count as zero: 127 / max must stay finite.
constexpr float kTinyBlock = 1e-30f;

// How far ahead of their use weights are asked for. The processor's own prefetchers follow a stream too, but with some
// hundred instructions a kilobyte they get less far ahead than memory is away: 20-30 % of a one-row product (measured
// on a Sapphire Rapids, 2 to 8 KiB alike or rising).
constexpr int64_t kPrefetchBytes = 8192;

// Up to kRowTile rows of x as a product reads them. `num_rows` values of one k (float) or of one block (quantised) lie
// together, so that a kernel for R rows addresses them with constants.
struct ActivationTile {
  int num_rows = 0;
  bool prefetch_weights = false;        // for the first tile that reads a group
  const float* values = nullptr;        // [K][num_rows]; float weights only
  const int8_t* quants = nullptr;       // [B][num_rows][32]; the rest: quantised weights only
  const float* scales = nullptr;        // [B][num_rows] dx
  const float* sums = nullptr;          // [B][num_rows] dx * sum(q)
  const int32_t* minus_sums = nullptr;  // [B][num_rows] -sum(q)
};

// The same memory, writable.
struct ActivationTileBuffer {
  float* values = nullptr;
  int8_t* quants = nullptr;
  float* scales = nullptr;
  float* sums = nullptr;
  int32_t* minus_sums = nullptr;
};

// Continues the sums of one group and one tile over input features [first_k, end_k), from zero if first_k is 0.
// sums[r * kGroupSize + lane]. Cutting K does not change bits: a sum goes on where it was. Quantised: multiples of 32.
using TileFn = void (*)(const std::byte* group, const GroupLayout& layout, int64_t first_k, int64_t end_k,
                        const ActivationTile& tile, float* sums);

}  // namespace
}  // namespace outrider::kernels

#endif  // OUTRIDER_KERNELS_GEMM_GEMM_CPU_ONCE

#if HWY_TARGET == HWY_AVX3_DL
// Highway asks the CPU for VNNI before it chooses this target, but does not tell the compiler.
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace outrider::kernels {
namespace HWY_NAMESPACE {
namespace {

// Asks for [p + kPrefetchBytes, + kBytes), which may lie past the end of the weights, for the second-level cache.
template <int64_t kBytes>
HWY_INLINE void PrefetchAhead(const void* p) {
  // As integers: the address may be outside of any object, which only a prefetch may be given.
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(p) + kPrefetchBytes;
#pragma GCC unroll 8
  for (int64_t line = 0; line < kBytes; line += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(ahead + line), /*rw=*/0, /*locality=*/2);
  }
}

// The same pointer, without what the compiler knows about it.
HWY_INLINE const int8_t* Opaque(const int8_t* p) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  asm volatile("" : "+r"(p));  // volatile, so that two of them are not merged
#endif
  return p;
}

template <DType kDType>
HWY_INLINE F LoadWeights(const std::byte* elements) {
  if constexpr (kDType == DType::kF32) return Load(reinterpret_cast<const float*>(elements));
  if constexpr (kDType == DType::kF16) return LoadF16(reinterpret_cast<const uint16_t*>(elements));
  if constexpr (kDType == DType::kBF16) return LoadBF16(reinterpret_cast<const uint16_t*>(elements));
}

// acc[p][r] = what TileFn's sums hold, or zero.
template <int R>
HWY_INLINE void LoadSums(const float* sums, bool zero, F (&acc)[kParts][R]) {
#pragma GCC unroll 2
  for (int p = 0; p < kParts; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[p][r] = zero ? Zero() : Load(sums + r * kGroupSize + p * kLanes);
  }
}

template <int R>
HWY_INLINE void StoreSums(const F (&acc)[kParts][R], float* sums) {
#pragma GCC unroll 2
  for (int p = 0; p < kParts; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) Store(acc[p][r], sums + r * kGroupSize + p * kLanes);
  }
}

template <DType kDType, int R>
void FloatTile(const std::byte* group, const GroupLayout& /*layout*/, int64_t first_k, int64_t end_k,
               const ActivationTile& tile, float* sums) {
  constexpr int64_t kElementBytes = BlockBytes(kDType);
  // With few accumulators all parts advance together; with many, part by part, so that a part's stay in registers.
  constexpr int64_t kRun = kParts * R <= 12 ? 1 : 64;
  F acc[kParts][R];
  LoadSums<R>(sums, first_k == 0, acc);
  const float* x = tile.values;
  for (int64_t run = first_k; run < end_k; run += kRun) {
    const int64_t end = kRun == 1 ? run + 1 : std::min(run + kRun, end_k);
#pragma GCC unroll 2
    for (int p = 0; p < kParts; ++p) {
      for (int64_t k = run; k < end; ++k) {
        if (p == 0 && tile.prefetch_weights) PrefetchAhead<64>(group + k * kGroupSize * kElementBytes);
        const F w = LoadWeights<kDType>(group + (k * kGroupSize + p * kLanes) * kElementBytes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) acc[p][r] = Fma(w, Set1(x[k * R + r]), acc[p][r]);
      }
    }
  }
  StoreSums<R>(acc, sums);
}

// Adds block `b` to the accumulators of one part: acc[r] of R rows.
template <DType kDType, int R>
HWY_INLINE void AddBlock(const uint16_t* scales, const uint16_t* mins, const uint8_t* quants, int64_t b,
                         const ActivationTile& tile, F* acc) {
  const int8_t* x = tile.quants + b * R * kQuantBlockSize;
  // With many rows the compiler must not see that the parts read the same x: it would keep all its broadcasts between
  // them, in memory for want of registers.
  if constexpr (kParts * R > 6) x = Opaque(x);
  I dot[R];
  if constexpr (kDType == DType::kQ8_0) {
    DotBytes<R>(quants, x, tile.minus_sums + b * R, dot);
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      // Q4_0's values are nibble - 8, so the dot starts at -8 * sum(q).
      dot[r] = kDType == DType::kQ4_0 ? Set1Shifted<3>(tile.minus_sums[b * R + r]) : ZeroI();
    }
    DotNibbles<R>(quants, x, dot);
  }
  const float* x_scales = tile.scales + b * R;
  const F scale = LoadF16(scales);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) acc[r] = Fma(ToFloat(dot[r]), Mul(scale, Set1(x_scales[r])), acc[r]);
  if constexpr (kDType == DType::kQ4_1) {
    const float* x_sums = tile.sums + b * R;
    const F min = LoadF16(mins);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[r] = Fma(min, Set1(x_sums[r]), acc[r]);
  }
}

template <DType kDType, int R>
void QuantTile(const std::byte* group, const GroupLayout& layout, int64_t first_k, int64_t end_k,
               const ActivationTile& tile, float* sums) {
  constexpr int64_t kBlockQuantBytes = kGroupSize * (kDType == DType::kQ8_0 ? 32 : 16);
  const int64_t first_block = first_k / kQuantBlockSize;
  const int64_t end_block = end_k / kQuantBlockSize;
  const uint16_t* scales = reinterpret_cast<const uint16_t*>(group) + first_block * kGroupSize;
  const uint16_t* mins = reinterpret_cast<const uint16_t*>(group + layout.mins) + first_block * kGroupSize;
  const uint8_t* quants = reinterpret_cast<const uint8_t*>(group + layout.quants) + first_block * kBlockQuantBytes;
  F acc[kParts][R];
  LoadSums<R>(sums, first_k == 0, acc);
  for (int64_t b = first_block; b < end_block;
       ++b, quants += kBlockQuantBytes, scales += kGroupSize, mins += kGroupSize) {
    if (tile.prefetch_weights) PrefetchAhead<kBlockQuantBytes>(quants);
#pragma GCC unroll 2
    for (int p = 0; p < kParts; ++p) {
      AddBlock<kDType, R>(scales + p * kLanes, mins + p * kLanes, quants + p * kLanes * 4, b, tile, acc[p]);
    }
  }
  StoreSums<R>(acc, sums);
}

template <DType kDType, int R>
constexpr TileFn PickTile() {
  if constexpr (IsQuantized(kDType)) {
    return &QuantTile<kDType, R>;
  } else {
    return &FloatTile<kDType, R>;
  }
}

template <DType kDType>
TileFn TileForRows(int num_rows) {
  static_assert(kRowTile == 8);
  static constexpr TileFn kTiles[kRowTile] = {PickTile<kDType, 1>(), PickTile<kDType, 2>(), PickTile<kDType, 3>(),
                                              PickTile<kDType, 4>(), PickTile<kDType, 5>(), PickTile<kDType, 6>(),
                                              PickTile<kDType, 7>(), PickTile<kDType, 8>()};
  return kTiles[num_rows - 1];
}

// The kernel for `num_rows` rows in [1, kRowTile].
TileFn FindTile(DType dtype, int num_rows) {
  switch (dtype) {
    case DType::kF32:
      return TileForRows<DType::kF32>(num_rows);
    case DType::kF16:
      return TileForRows<DType::kF16>(num_rows);
    case DType::kBF16:
      return TileForRows<DType::kBF16>(num_rows);
    case DType::kQ8_0:
      return TileForRows<DType::kQ8_0>(num_rows);
    case DType::kQ4_0:
      return TileForRows<DType::kQ4_0>(num_rows);
    case DType::kQ4_1:
      return TileForRows<DType::kQ4_1>(num_rows);
  }
  return nullptr;
}

void QuantizeTile(const float* x, int64_t x_stride, int num_rows, int64_t in_features,
                  const ActivationTileBuffer& tile) {
  for (int r = 0; r < num_rows; ++r) {
    const float* row = x + r * x_stride;
    for (int64_t b = 0; b < in_features / kQuantBlockSize; ++b, row += kQuantBlockSize) {
      const int64_t i = b * num_rows + r;
      int8_t* quants = tile.quants + i * kQuantBlockSize;
      // Ordered as integers, magnitudes put infinity and NaN last: neither can hide behind the other.
      const float max = std::bit_cast<float>(MaxMagnitudeBits(row));
      float scale = 0;
      int32_t sum = 0;
      if (max >= kTinyBlock && max <= 0x1.fffffep127f) {
        scale = max / 127.0f;
        sum = RoundBlock(row, 127.0f / max, quants);
      } else {
        std::memset(quants, 0, kQuantBlockSize);
        if (!(max < kTinyBlock)) scale = std::bit_cast<float>(0x7fc00000);  // NaN
      }
      tile.scales[i] = scale;
      tile.sums[i] = scale * static_cast<float>(sum);
      tile.minus_sums[i] = -sum;
    }
  }
}

// Adds the bias, applies the epilogue and writes a group of `num_rows` rows, as far as the matrix has outputs.
void WriteOut(const float* sums, const MatMulPart& part, int64_t first_row, int num_rows, int64_t group) {
  const int64_t column = group * kGroupSize;
  const int64_t num_lanes = part.w->out_features() - column;
  const float* bias = part.bias == nullptr ? nullptr : part.bias + column;
  const bool add = part.epilogue == Epilogue::kAdd;
  for (int r = 0; r < num_rows; ++r, sums += kGroupSize) {
    float* out = part.out + (first_row + r) * part.out_stride + column;
    if (num_lanes >= kGroupSize) {
#pragma GCC unroll 2
      for (int i = 0; i < kGroupSize; i += kLanes) {
        F value = Load(sums + i);
        if (bias != nullptr) value = Add(value, Load(bias + i));
        if (add) value = Add(Load(out + i), value);
        Store(value, out + i);
      }
    } else {
      for (int64_t i = 0; i < num_lanes; ++i) {
        const float value = bias != nullptr ? sums[i] + bias[i] : sums[i];
        out[i] = add ? out[i] + value : value;
      }
    }
  }
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace

}  // namespace HWY_NAMESPACE
}  // namespace outrider::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace outrider::kernels {
namespace {

HWY_EXPORT(FindTile);
HWY_EXPORT(QuantizeTile);
HWY_EXPORT(WriteOut);
HWY_EXPORT(TargetName);

constexpr int64_t kAlignment = 64;
// Rows that go through a group while it is in the cache: the weights are read once per so many rows.
constexpr int64_t kRowBlock = 16 * kRowTile;
// Bytes of a tile of activations that go through a group at once: a part of the first-level cache.
constexpr int64_t kTileChunkBytes = 16 << 10;
// Activation elements below which one thread rearranges them alone: about a microsecond of work.
constexpr int64_t kSerialElements = 3072;
// Tasks a thread: enough to even out a late start, few enough that claiming them costs nothing.
constexpr int64_t kTasksPerThread = 6;

int64_t RoundUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Activations of a call, one tile of kRowTile rows after the other, each kind in a region of its own.
struct WorkspaceLayout {
  WorkspaceLayout(int64_t num_rows, int64_t in_features) {
    const int64_t per_block = RoundUp(num_rows * (in_features / kQuantBlockSize) * 4);
    scales = RoundUp(num_rows * in_features);
    sums = scales + per_block;
    minus_sums = sums + per_block;
    values = minus_sums + per_block;
    bytes = values + RoundUp(num_rows * in_features * 4);
  }
  // Bytes from the start; quants are at 0.
  int64_t scales, sums, minus_sums, values, bytes;
};

// values[k][r] = x[r][k].
void InterleaveRows(const float* x, int64_t x_stride, int num_rows, int64_t in_features, float* values) {
  for (int r = 0; r < num_rows; ++r) {
    for (int64_t k = 0; k < in_features; ++k) values[k * num_rows + r] = x[r * x_stride + k];
  }
}

// A call after validation: shapes agree and there is work.
class Product {
 public:
  Product(std::span<const MatMulPart> parts, const float* x, int64_t x_stride, int num_rows, std::byte* workspace)
      : parts_(parts), x_(x), x_stride_(x_stride), num_rows_(num_rows), workspace_(workspace) {
    for (const MatMulPart& part : parts) {
      if (part.w->empty()) continue;
      in_features_ = part.w->in_features();
      num_groups_ += part.w->num_groups();
      (IsQuantized(part.w->dtype()) ? any_quantized_ : any_float_) = true;
    }
    layout_ = WorkspaceLayout(num_rows, in_features_);
    // One row of floats is read where it is.
    any_float_ = any_float_ && num_rows > 1;
  }

  bool empty() const { return num_groups_ == 0; }

  void PrepareActivations(ThreadPool& pool) {
    if (!any_quantized_ && !any_float_) return;
    if (num_rows_ * in_features_ <= kSerialElements || num_rows_ == 1) {
      for (int64_t t = 0; t < num_tiles(); ++t) PrepareTile(t);
    } else {
      pool.ParallelFor(num_tiles(), [this](int64_t t) { PrepareTile(t); });
    }
  }

  void Compute(ThreadPool& pool) {
    const int64_t num_tasks_wanted = pool.num_threads() == 1 ? 1 : pool.num_threads() * kTasksPerThread;
    const int64_t groups_per_task = (num_groups_ + num_tasks_wanted - 1) / num_tasks_wanted;
    pool.ParallelFor((num_groups_ + groups_per_task - 1) / groups_per_task, [&](int64_t task) {
      ComputeGroups(task * groups_per_task, std::min((task + 1) * groups_per_task, num_groups_));
    });
  }

 private:
  int64_t num_tiles() const { return (num_rows_ + kRowTile - 1) / kRowTile; }
  int rows_of_tile(int64_t t) const { return static_cast<int>(std::min<int64_t>(kRowTile, num_rows_ - t * kRowTile)); }

  ActivationTileBuffer TileBuffer(int64_t t) const {
    const int64_t first_row = t * kRowTile;
    const int64_t first_block = first_row * (in_features_ / kQuantBlockSize);
    ActivationTileBuffer tile;
    tile.quants = reinterpret_cast<int8_t*>(workspace_) + first_row * in_features_;
    tile.scales = reinterpret_cast<float*>(workspace_ + layout_.scales) + first_block;
    tile.sums = reinterpret_cast<float*>(workspace_ + layout_.sums) + first_block;
    tile.minus_sums = reinterpret_cast<int32_t*>(workspace_ + layout_.minus_sums) + first_block;
    tile.values = reinterpret_cast<float*>(workspace_ + layout_.values) + first_row * in_features_;
    return tile;
  }

  ActivationTile Tile(int64_t t) const {
    const ActivationTileBuffer buffer = TileBuffer(t);
    const float* values = num_rows_ == 1 ? x_ : buffer.values;
    return {rows_of_tile(t), false, values, buffer.quants, buffer.scales, buffer.sums, buffer.minus_sums};
  }

  void PrepareTile(int64_t t) const {
    const ActivationTileBuffer tile = TileBuffer(t);
    const float* x = x_ + t * kRowTile * x_stride_;
    if (any_quantized_) {
      HWY_DYNAMIC_DISPATCH(QuantizeTile)(x, x_stride_, rows_of_tile(t), in_features_, tile);
    }
    if (any_float_) InterleaveRows(x, x_stride_, rows_of_tile(t), in_features_, tile.values);
  }

  // Groups are numbered through all parts.
  void ComputeGroups(int64_t first, int64_t end) const {
    for (const MatMulPart& part : parts_) {
      if (part.w->empty()) continue;
      const int64_t num_groups = part.w->num_groups();
      if (first < num_groups) ComputePart(part, std::max<int64_t>(first, 0), std::min(end, num_groups));
      first -= num_groups;
      end -= num_groups;
      if (end <= 0) return;
    }
  }

  void ComputePart(const MatMulPart& part, int64_t first_group, int64_t end_group) const {
    const PackedMatrix& w = *part.w;
    const GroupLayout layout = GroupLayoutOf(w.dtype(), in_features_);
    const int64_t chunk = kTileChunkBytes / kRowTile / (IsQuantized(w.dtype()) ? 1 : 4);
    const TileFn full_tile = HWY_DYNAMIC_DISPATCH(FindTile)(w.dtype(), kRowTile);
    const TileFn last_tile = HWY_DYNAMIC_DISPATCH(FindTile)(w.dtype(), rows_of_tile(num_tiles() - 1));
    const auto write_out = HWY_DYNAMIC_DISPATCH(WriteOut);
    constexpr int64_t kTilesPerBlock = kRowBlock / kRowTile;
    alignas(kAlignment) float sums[kTilesPerBlock][kRowTile * kGroupSize];
    for (int64_t first_tile = 0; first_tile < num_tiles(); first_tile += kTilesPerBlock) {
      const int64_t end_tile = std::min(first_tile + kTilesPerBlock, num_tiles());
      for (int64_t g = first_group; g < end_group; ++g) {
        for (int64_t k = 0; k < in_features_; k += chunk) {
          const int64_t end_k = std::min(k + chunk, in_features_);
          for (int64_t t = first_tile; t < end_tile; ++t) {
            ActivationTile tile = Tile(t);
            tile.prefetch_weights = t == first_tile;
            (tile.num_rows == kRowTile ? full_tile : last_tile)(w.group(g), layout, k, end_k, tile,
                                                                sums[t - first_tile]);
          }
        }
        for (int64_t t = first_tile; t < end_tile; ++t) {
          write_out(sums[t - first_tile], part, t * kRowTile, rows_of_tile(t), g);
        }
      }
    }
  }

  const std::span<const MatMulPart> parts_;
  const float* const x_;
  const int64_t x_stride_;
  const int num_rows_;
  std::byte* const workspace_;
  WorkspaceLayout layout_{0, 0};
  int64_t in_features_ = 0;
  int64_t num_groups_ = 0;
  bool any_quantized_ = false;
  bool any_float_ = false;
};

// kOk, or why the call cannot run. Sets *in_features to that of all parts, 0 without parts.
KernelError Validate(std::span<const MatMulPart> parts, const float* x, int64_t x_stride, int num_rows,
                     int64_t* in_features) {
  *in_features = 0;
  if (num_rows < 0) return KernelError::kInvalidShape;
  for (const MatMulPart& part : parts) {
    if (part.w == nullptr) return KernelError::kNullPointer;
    if (&part == parts.data()) *in_features = part.w->in_features();
    if (part.w->in_features() != *in_features) return KernelError::kInvalidShape;
    if (num_rows == 0 || part.w->out_features() == 0) continue;
    if (part.out == nullptr) return KernelError::kNullPointer;
    if (num_rows > 1 && (part.out_stride < part.w->out_features() || x_stride < *in_features)) {
      return KernelError::kInvalidShape;
    }
    if (x == nullptr && *in_features > 0) return KernelError::kNullPointer;
  }
  return KernelError::kOk;
}

}  // namespace

// Lets MatMul reach the memory without making it public.
struct GemmWorkspaceAccess {
  static std::byte* data(GemmWorkspace& workspace) { return workspace.data_.get(); }
};

void GemmWorkspace::Free::operator()(std::byte* p) const { std::free(p); }

KernelError GemmWorkspace::Reserve(int64_t num_rows, int64_t in_features) {
  if (num_rows < 0 || in_features < 0) return KernelError::kInvalidShape;
  const int64_t bytes = WorkspaceLayout(num_rows, in_features).bytes;
  if (bytes <= capacity_bytes_) return KernelError::kOk;
  std::byte* data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes));
  if (data == nullptr) return KernelError::kOutOfMemory;
  data_.reset(data);
  capacity_bytes_ = bytes;
  return KernelError::kOk;
}

KernelError MatMul(std::span<const MatMulPart> parts, const float* x, int64_t x_stride, int num_rows, ThreadPool& pool,
                   GemmWorkspace& workspace) {
  int64_t in_features = 0;
  KernelError error = Validate(parts, x, x_stride, num_rows, &in_features);
  if (error != KernelError::kOk || num_rows == 0 || parts.empty()) return error;
  if (in_features == 0) {
    // An empty sum is zero.
    const float zeros[kGroupSize] = {};
    for (const MatMulPart& part : parts) {
      for (int64_t g = 0; g < part.w->num_groups(); ++g) {
        for (int row = 0; row < num_rows; ++row) HWY_DYNAMIC_DISPATCH(WriteOut)(zeros, part, row, 1, g);
      }
    }
    return KernelError::kOk;
  }
  error = workspace.Reserve(num_rows, in_features);
  if (error != KernelError::kOk) return error;
  Product product(parts, x, x_stride, num_rows, GemmWorkspaceAccess::data(workspace));
  if (product.empty()) return KernelError::kOk;
  product.PrepareActivations(pool);
  product.Compute(pool);
  return KernelError::kOk;
}

const char* GemmTargetName() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace outrider::kernels
#endif  // HWY_ONCE
