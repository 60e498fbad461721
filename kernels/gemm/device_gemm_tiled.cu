// Products of many rows (prompts, large batches): wgmma m64n128k16, weights from registers as the M operand, rows of x
// from shared memory as N. A block computes 128 features of 128 rows: two warpgroups that multiply (64 features each)
// and one warp that keeps a ring of copies ahead of them.
//
// The order of addition is that of the streaming kernel: K is walked segment by segment, each segment's sum is added to
// the total.
#include <cuda.h>

#include "kernels/common/cuda_launch.h"
#include "kernels/gemm/device_gemm_shared.cuh"

namespace outrider::kernels::device {
namespace {

constexpr int kBlockFeatures = 128;
constexpr int kBlockRows = 128;
constexpr int kRowTilesPerBlock = kBlockFeatures / 16;
constexpr int kMultiplyThreads = 256;
constexpr int kThreads = kMultiplyThreads + 128;  // the producer has a warpgroup, so that it can give up registers
constexpr int kWeightBytes = kRowTilesPerBlock * kTilesPerChunk * kTileBytes;  // 16 KiB a stage
constexpr int kXBytes = kBlockRows * kChunkColumns * 2;                        // 16 KiB
constexpr int kStageBytes = kWeightBytes + kXBytes;
constexpr int kNumStages = 6;
// The epilogue's exchange takes the ring's place: [row 128][feature 128] and 4 to spread the banks.
constexpr int kExchangeStride = kBlockFeatures + 4;
static_assert(kBlockRows * kExchangeStride * 4 <= kNumStages * kStageBytes);
constexpr int kBytes = kNumStages * kStageBytes + 1024 + 128;  // copies with 128-byte swizzle want 1024-byte alignment

// c += weights (64 x 16, this warp's 16 rows in a) * x (16 x 128, at the descriptor).
__device__ __forceinline__ void MultiplyAdd(float (&c)[64], const uint4& a, uint64_t x) {
  asm volatile(
      "{\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63"
      "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;\n}\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), "+f"(c[8]),
        "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]),
        "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]),
        "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31]), "+f"(c[32]),
        "+f"(c[33]), "+f"(c[34]), "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]),
        "+f"(c[41]), "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), "+f"(c[48]),
        "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]), "+f"(c[56]),
        "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), "+f"(c[63])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(x));
}
__device__ __forceinline__ void FenceMultiply() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void CommitMultiply() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void WaitMultiply() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of accumulators across a wait.
__device__ __forceinline__ void PinAccumulators(float (&c)[64]) {
#pragma unroll
  for (int e = 0; e < 64; ++e) asm volatile("" : "+f"(c[e])::"memory");
}

// Shared-memory matrix descriptor: K-major, 128-byte swizzle, 1024 bytes between groups of 8 rows
// (PTX ISA, "Matrix descriptor").
__device__ __forceinline__ uint64_t Descriptor(uint32_t address) {
  return static_cast<uint64_t>(address >> 4 & 0x3FFF) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

template <DeviceEpilogue kEpilogue>
__global__ void __launch_bounds__(kThreads, 1)
    TiledMatMul(const MatMulView view, const __grid_constant__ CUtensorMap x_map) {
  extern __shared__ uint8_t unaligned[];
  uint8_t* const shared = unaligned + (1024 - (SharedAddress(unaligned) & 1023)) % 1024;
  const uint32_t full = SharedAddress(shared + kNumStages * kStageBytes);
  const uint32_t empty = full + kNumStages * 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_row = static_cast<int>(blockIdx.x) * kBlockRows;
  const int first_tile = static_cast<int>(blockIdx.y) * kRowTilesPerBlock;
  const int num_chunks = view.num_k_tiles / kTilesPerChunk;

  if (threadIdx.x == 0) {
    for (int i = 0; i < kNumStages; ++i) {
      InitBarrier(full + i * 8, 1);
      InitBarrier(empty + i * 8, kMultiplyThreads / 32);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  LetLaterKernelsStart();
  WaitForEarlierKernels();

  if (warp >= kMultiplyThreads / 32) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp != kMultiplyThreads / 32) return;
    const int num_tiles = min(kRowTilesPerBlock, view.num_row_tiles - first_tile);
    int i = 0;
    for (int segment = 0; segment < kNumSegments; ++segment) {
      for (int chunk = segment; chunk < num_chunks; chunk += kNumSegments, ++i) {
        const uint32_t stage = i % kNumStages;
        const uint32_t to = SharedAddress(shared + stage * kStageBytes);
        if (i >= kNumStages) WaitBarrier(empty + stage * 8, (i / kNumStages & 1) ^ 1);
        if (lane == 0) {
          ArriveExpecting(full + stage * 8, num_tiles * kTilesPerChunk * kTileBytes + kXBytes);
          CopyTile(to + kWeightBytes, &x_map, chunk * kChunkColumns, first_row, full + stage * 8);
        }
        __syncwarp();
        if (lane < num_tiles) {
          const int64_t from =
              (static_cast<int64_t>(first_tile + lane) * view.num_k_tiles + chunk * kTilesPerChunk) * kTileBytes;
          CopyBulk(to + lane * kTilesPerChunk * kTileBytes, view.w + from, kTilesPerChunk * kTileBytes,
                   full + stage * 8);
        }
      }
    }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  float total[64], acc[64];
  const uint32_t tile_offset = warp * kTilesPerChunk * kTileBytes + lane * 16;  // warp's row tile in a stage
  int i = 0;
  const auto load = [&](uint4(&a)[kTilesPerChunk]) {
    const uint32_t stage = i % kNumStages;
    WaitBarrier(full + stage * 8, i / kNumStages & 1);
    const uint8_t* const from = shared + stage * kStageBytes + tile_offset;
#pragma unroll
    for (int j = 0; j < kTilesPerChunk; ++j) a[j] = *reinterpret_cast<const uint4*>(from + j * kTileBytes);
  };
  const auto multiply = [&](const uint4(&a)[kTilesPerChunk]) {
    const uint64_t x = Descriptor(SharedAddress(shared + i % kNumStages * kStageBytes + kWeightBytes));
    FenceMultiply();
#pragma unroll
    for (int j = 0; j < kTilesPerChunk; ++j) MultiplyAdd(acc, a[j], x + j * 2);  // 32 bytes of K, in units of 16
    CommitMultiply();
  };
  const auto release = [&](int index) {
    if (lane == 0) Arrive(empty + index % kNumStages * 8);
  };
  for (int segment = 0; segment < kNumSegments; ++segment) {
#pragma unroll
    for (int e = 0; e < 64; ++e) acc[e] = 0.0f;
    PinAccumulators(acc);
    // Two sets of weight registers in turn: one is loaded while the other is multiplied with.
    uint4 even[kTilesPerChunk], odd[kTilesPerChunk];
    int left = segment < num_chunks ? (num_chunks - segment + kNumSegments - 1) / kNumSegments : 0;
    bool pending = false;
    while (left > 0) {
      load(even);
      multiply(even);
      WaitMultiply<1>();
      if (pending) release(i - 1);
      pending = true;
      ++i;
      if (--left == 0) break;
      load(odd);
      multiply(odd);
      WaitMultiply<1>();
      release(i - 1);
      ++i;
      --left;
    }
    WaitMultiply<0>();
    PinAccumulators(acc);
    if (pending) release(i - 1);
#pragma unroll
    for (int e = 0; e < 64; ++e) total[e] = segment == 0 ? acc[e] : total[e] + acc[e];
  }

  // Outputs change from lanes that hold columns of rows to threads that store along rows. The ring is free once both
  // warpgroups have read their last stage.
  SyncNamed(1, kMultiplyThreads);
  float* const exchange = reinterpret_cast<float*>(shared);
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int e = 0; e < 64; ++e) {
    const int row = e / 4 * 8 + t * 2 + e % 2, feature = warp * 16 + g + e % 4 / 2 * 8;
    exchange[row * kExchangeStride + feature] = total[e];
  }
  SyncNamed(1, kMultiplyThreads);
  const int num_rows = min(kBlockRows, view.num_rows - first_row);
  if constexpr (kEpilogue == DeviceEpilogue::kSiluMul) {
    for (int o = threadIdx.x; o < num_rows * (kBlockFeatures / 2); o += kMultiplyThreads) {
      const int row = o / (kBlockFeatures / 2), pair = o % (kBlockFeatures / 2) / 16, feature = o % 16;
      if (first_tile + pair * 2 >= view.num_row_tiles) continue;
      const float* const from = exchange + row * kExchangeStride + pair * 32 + feature;
      StoreGated(view, first_row + row, first_tile / 2 + pair, feature, from[0], from[16]);
    }
  } else {
    for (int o = threadIdx.x; o < num_rows * kBlockFeatures; o += kMultiplyThreads) {
      const int row = o / kBlockFeatures, feature = o % kBlockFeatures;
      StoreOutput<kEpilogue>(view, first_row + row, first_tile * 16 + feature,
                             exchange[row * kExchangeStride + feature]);
    }
  }
}

// The driver's encoder of tensor maps, found through the runtime so that nothing links against the driver.
using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                 CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

EncodeTiled FindEncodeTiled() {
  static const EncodeTiled encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(entry)
                                                                        : nullptr;
  }();
  return encode;
}

template <DeviceEpilogue kEpilogue>
KernelError LaunchEpilogue(const MatMulView& view, const CUtensorMap& x_map, Stream stream) {
  const dim3 grid(static_cast<unsigned>((view.num_rows + kBlockRows - 1) / kBlockRows),
                  static_cast<unsigned>((view.num_row_tiles + kRowTilesPerBlock - 1) / kRowTilesPerBlock));
  return Launch(TiledMatMul<kEpilogue>, {.grid = grid, .block = kThreads, .shared_bytes = kBytes}, stream, view, x_map);
}

}  // namespace

KernelError LaunchTiledMatMul(const MatMulView& view, DeviceEpilogue epilogue, Stream stream) {
  const EncodeTiled encode = FindEncodeTiled();
  if (encode == nullptr) return FromCuda(cudaErrorNotSupported);
  CUtensorMap x_map;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(view.num_k_tiles) * 16, static_cast<cuuint64_t>(view.num_rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(view.x_stride) * 2};
  const cuuint32_t box[] = {kChunkColumns, kBlockRows};
  const cuuint32_t steps[] = {1, 1};
  // Rows beyond the last are read as zeros.
  if (encode(&x_map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<uint16_t*>(view.x), sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
    return FromCuda(cudaErrorInvalidValue);
  }
  switch (epilogue) {
    case DeviceEpilogue::kStoreBf16:
      return LaunchEpilogue<DeviceEpilogue::kStoreBf16>(view, x_map, stream);
    case DeviceEpilogue::kStoreF32:
      return LaunchEpilogue<DeviceEpilogue::kStoreF32>(view, x_map, stream);
    case DeviceEpilogue::kAddF32:
      return LaunchEpilogue<DeviceEpilogue::kAddF32>(view, x_map, stream);
    case DeviceEpilogue::kSiluMul:
      return LaunchEpilogue<DeviceEpilogue::kSiluMul>(view, x_map, stream);
  }
  return KernelError::kInvalidShape;
}

}  // namespace outrider::kernels::device
