#include <algorithm>

#include "kernels/collective/device_all_reduce.h"
#include "kernels/common/cuda_device.cuh"
#include "kernels/common/cuda_launch.h"

namespace outrider::kernels {
namespace {

// Blocks have as many threads as a row has fours, in whole warps, within these.
constexpr int kThreadsMax = 1024;
constexpr int kBulkThreadsMax = 512;
constexpr int kGroupsMax = kAllReduceSizeMax / 128;
// Polls between two looks at the clock.
constexpr uint32_t kPollsALook = 64;
// Words between flags of bulk calls: a sector each, so that pollers do not share one.
constexpr int kFlagStride = 8;

// A rank's buffer:
//   flagged  [2][num_ranks][kFlaggedRowsMax][size / 4] of 16 bytes: two elements, flag, two elements, flag
//   parts    [2][num_ranks][kBulkBlocks][kBulkUnitRows][size] bf16
//   flags    [2][num_ranks][kBulkBlocks] words, kFlagStride apart
struct Layout {
  size_t fours;  // of a row
  size_t num_ranks;

  __host__ __device__ size_t flagged(size_t parity, size_t from, size_t row) const {
    return ((parity * num_ranks + from) * kFlaggedRowsMax + row) * fours * 16;
  }
  __host__ __device__ size_t part(size_t parity, size_t from, size_t block, size_t row) const {
    return flagged(2, 0, 0) + (((parity * num_ranks + from) * kBulkBlocks + block) * kBulkUnitRows + row) * fours * 8;
  }
  __host__ __device__ size_t flag(size_t parity, size_t from, size_t block) const {
    return part(2, 0, 0, 0) + ((parity * num_ranks + from) * kBulkBlocks + block) * kFlagStride * 4;
  }
};

// DevicePeers::counters: calls of each block of flagged and of bulk calls, then whether this rank gave up.
constexpr int kBulkCounters = kFlaggedRowsMax;
constexpr int kGaveUp = kFlaggedRowsMax + kBulkBlocks;
constexpr int kCounters = kGaveUp + 1;

__device__ __forceinline__ uint64_t Nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}
__device__ __forceinline__ void StoreFlagged(void* at, uint2 four, uint32_t flag) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(four.x), "r"(flag), "r"(four.y),
               "r"(flag)
               : "memory");
}
__device__ __forceinline__ uint4 LoadFlagged(const void* at) {
  uint4 q;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(q.x), "=r"(q.y), "=r"(q.z), "=r"(q.w)
               : "l"(at)
               : "memory");
  return q;
}
// Past the first-level cache, which may hold what lay here two calls ago.
__device__ __forceinline__ uint2 LoadPart(const void* at) {
  uint2 four;
  asm volatile("ld.relaxed.sys.global.v2.u32 {%0, %1}, [%2];" : "=r"(four.x), "=r"(four.y) : "l"(at) : "memory");
  return four;
}
__device__ __forceinline__ void ReleaseFlag(void* at, uint32_t flag) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(at), "r"(flag) : "memory");
}
__device__ __forceinline__ uint32_t AcquireFlag(const void* at) {
  uint32_t flag;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(flag) : "l"(at) : "memory");
  return flag;
}

// The bound of a thread's waits within a row.
struct Patience {
  uint64_t deadline = 0;  // 0: the clock was not looked at
  uint32_t num_polls = 0;

  // After a poll in vain: whether to wait no longer.
  __device__ __forceinline__ bool IsOver(const DevicePeers& peers, int peer, int row, uint32_t call) {
    if (++num_polls % kPollsALook != 0) return false;
    volatile uint32_t* const gave_up = peers.counters + kGaveUp;
    if (*gave_up != 0) return true;
    const uint64_t now = Nanoseconds();
    if (deadline == 0) deadline = now + peers.wait_ns;
    if (now < deadline) return false;
    if (atomicExch(peers.counters + kGaveUp, 1u) == 0) {
      volatile DeviceWaitReport* const report = peers.report;
      report->peer = static_cast<uint32_t>(peer);
      report->row = static_cast<uint32_t>(row);
      report->call = call;
      __threadfence_system();
      report->gave_up = 1;
    }
    return true;
  }
};

__device__ __forceinline__ void AddPart(float4& sum, uint2 part) {
  const float2 low = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(part.x));
  const float2 high = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(part.y));
  sum.x += low.x;
  sum.y += low.y;
  sum.z += high.x;
  sum.w += high.y;
}

enum class Way { kFlagged, kGathered };

// A row's sums and norm by the threads of a block: thread t holds the fours t, t + blockDim.x, ...; kFours of them.
template <int kFours>
struct HeldRow {
  float4 values[kFours];

  __device__ __forceinline__ static int Place(int k) { return static_cast<int>(threadIdx.x + k * blockDim.x); }

  __device__ __forceinline__ void Load(const float* row, int num_fours) {
#pragma unroll
    for (int k = 0; k < kFours; ++k) {
      values[k] = Place(k) < num_fours ? reinterpret_cast<const float4*>(row)[Place(k)] : make_float4(0, 0, 0, 0);
    }
  }

  __device__ __forceinline__ void AddAndStore(const float4 (&sums)[kFours], float* row, int num_fours) {
#pragma unroll
    for (int k = 0; k < kFours; ++k) {
      if (Place(k) >= num_fours) continue;
      float4& v = values[k];
      v = make_float4(v.x + sums[k].x, v.y + sums[k].y, v.z + sums[k].z, v.w + sums[k].w);
      reinterpret_cast<float4*>(row)[Place(k)] = v;
    }
  }

  // Every thread calls it; a barrier lies within. `group_sums` [kGroupsMax] is not to be used by the row after next.
  __device__ __forceinline__ float InverseRms(int size, float inverse_size, float epsilon, float* group_sums) const {
    const int num_groups = (size / 4 + 31) / 32;
#pragma unroll
    for (int k = 0; k < kFours; ++k) {
      const float4& v = values[k];
      float squares = v.x * v.x;
      squares = __fmaf_rn(v.y, v.y, squares);
      squares = __fmaf_rn(v.z, v.z, squares);
      squares = __fmaf_rn(v.w, v.w, squares);
      squares = device::WarpSum(squares);
      if (threadIdx.x % 32 == 0 && Place(k) / 32 < num_groups) group_sums[Place(k) / 32] = squares;
    }
    __syncthreads();
    // A block has at most 32 warps, so the row at most 32 * kFours groups.
    const int lane = static_cast<int>(threadIdx.x % 32);
    float total = lane < num_groups ? group_sums[lane] : 0.0f;
#pragma unroll
    for (int group = 32; group < 32 * kFours; group += 32) {
      if (group + lane < num_groups) total += group_sums[group + lane];
    }
    // The square root's reciprocal as the hardware has it, 2^-22 near: division and root by the book take longer than
    // the row's way to the peer's memory and back is worth.
    return rsqrtf(__fmaf_rn(device::WarpSum(total), inverse_size, epsilon));
  }

  __device__ __forceinline__ void StoreNormed(float inverse, const float4 (&weights)[kFours], uint16_t* row,
                                              int num_fours) const {
#pragma unroll
    for (int k = 0; k < kFours; ++k) {
      if (Place(k) >= num_fours) continue;
      const float4 v = values[k], w = weights[k];
      reinterpret_cast<uint2*>(row)[Place(k)] = make_uint2(device::PackBf16(v.x * inverse * w.x, v.y * inverse * w.y),
                                                           device::PackBf16(v.z * inverse * w.z, v.w * inverse * w.w));
    }
  }
};

// What the weights of the norm are needed for comes last, and they depend on no earlier kernel: they are on their way
// while the one ahead ends.
template <int kFours>
__device__ __forceinline__ void LoadWeights(const DeviceAllReduceArgs& args, float4 (&weights)[kFours]) {
  if (args.norm_weight == nullptr) return;
#pragma unroll
  for (int k = 0; k < kFours; ++k) {
    const int place = HeldRow<kFours>::Place(k);
    if (place < args.size / 4) weights[k] = reinterpret_cast<const float4*>(args.norm_weight)[place];
  }
}

// Flagged and gathered calls: a block a row.
template <Way kWay, int kFours>
__global__ void __launch_bounds__(kThreadsMax, 1) AllReduceRow(const DeviceAllReduceArgs args, float inverse_size) {
  __shared__ float group_sums[kGroupsMax];
  device::LetLaterKernelsStart();
  const DevicePeers& peers = args.peers;
  const int num_ranks = peers.num_ranks;
  const int num_fours = args.size / 4;
  const int row = blockIdx.x;
  const Layout layout{static_cast<size_t>(num_fours), static_cast<size_t>(num_ranks)};
  const auto place = [](int k) { return HeldRow<kFours>::Place(k); };
  float4 weights[kFours];
  LoadWeights(args, weights);
  device::WaitForEarlierKernels();
  const uint32_t call = kWay == Way::kFlagged ? peers.counters[row] + 1 : 0;
  const size_t parity = call & 1;

  uint2 own[kFours];
  if constexpr (kWay == Way::kFlagged) {
    const uint2* const part = reinterpret_cast<const uint2*>(args.part + row * args.part_stride);
#pragma unroll
    for (int k = 0; k < kFours; ++k) {
      if (place(k) < num_fours) own[k] = part[place(k)];
    }
    for (int step = 1; step < num_ranks; ++step) {
      const int to = (peers.rank + step) % num_ranks;
      uint8_t* const buffer = static_cast<uint8_t*>(peers.buffers[to]) + layout.flagged(parity, peers.rank, row);
#pragma unroll
      for (int k = 0; k < kFours; ++k) {
        if (place(k) < num_fours) StoreFlagged(buffer + place(k) * 16, own[k], call);
      }
    }
  }
  float* const hidden = args.hidden + row * args.hidden_stride;
  HeldRow<kFours> held;
  held.Load(hidden, num_fours);

  float4 sums[kFours];
#pragma unroll
  for (int k = 0; k < kFours; ++k) sums[k] = make_float4(0, 0, 0, 0);
  Patience patience;
  for (int from = 0; from < num_ranks; ++from) {
    uint2 parts[kFours];
    if constexpr (kWay == Way::kGathered) {
      const uint2* const part =
          reinterpret_cast<const uint2*>(args.gathered + from * args.gathered_stride + row * args.part_stride);
#pragma unroll
      for (int k = 0; k < kFours; ++k) {
        if (place(k) < num_fours) parts[k] = part[place(k)];
      }
    } else if (from == peers.rank) {
#pragma unroll
      for (int k = 0; k < kFours; ++k) parts[k] = own[k];
    } else {
      const uint8_t* const buffer =
          static_cast<const uint8_t*>(peers.buffers[peers.rank]) + layout.flagged(parity, from, row);
      bool is_here;
      do {
        is_here = true;
#pragma unroll
        for (int k = 0; k < kFours; ++k) {
          if (place(k) >= num_fours) continue;
          const uint4 q = LoadFlagged(buffer + place(k) * 16);
          parts[k] = make_uint2(q.x, q.z);
          is_here = is_here && q.y == call && q.w == call;
        }
      } while (!is_here && !patience.IsOver(peers, from, row, call));
    }
#pragma unroll
    for (int k = 0; k < kFours; ++k) {
      if (place(k) < num_fours) AddPart(sums[k], parts[k]);
    }
  }

  held.AddAndStore(sums, hidden, num_fours);
  if (args.norm_weight != nullptr) {
    const float inverse = held.InverseRms(args.size, inverse_size, args.epsilon, group_sums);
    held.StoreNormed(inverse, weights, args.normed + row * args.normed_stride, num_fours);
  } else {
    __syncthreads();
  }
  // Past a barrier: every thread knows which call this was.
  if (kWay == Way::kFlagged && threadIdx.x == 0) peers.counters[row] = call;
}

// Bulk calls: block b takes the units b, b + gridDim.x, ... of unit_rows rows.
template <int kFours>
__global__ void __launch_bounds__(kBulkThreadsMax, kFours <= 4 ? 2 : 1)
    AllReduceBulk(const DeviceAllReduceArgs args, float inverse_size, int unit_rows) {
  __shared__ float group_sums[2][kGroupsMax];
  device::LetLaterKernelsStart();
  const DevicePeers& peers = args.peers;
  const int num_ranks = peers.num_ranks;
  const int num_fours = args.size / 4;
  const int thread = threadIdx.x;
  const int block = blockIdx.x;
  const Layout layout{static_cast<size_t>(num_fours), static_cast<size_t>(num_ranks)};
  const auto place = [](int k) { return HeldRow<kFours>::Place(k); };
  const auto part_of = [&](int row) { return reinterpret_cast<const uint2*>(args.part + row * args.part_stride); };
  float4 weights[kFours];
  LoadWeights(args, weights);
  device::WaitForEarlierKernels();
  uint32_t call = peers.counters[kBulkCounters + block];
  const uint8_t* const received = static_cast<const uint8_t*>(peers.buffers[peers.rank]);

  for (int first = block * unit_rows; first < args.num_rows; first += gridDim.x * unit_rows) {
    const int end = min(first + unit_rows, args.num_rows);
    ++call;
    const size_t parity = call & 1;
    for (int row = first; row < end; ++row) {
      uint2 own[kFours];
#pragma unroll
      for (int k = 0; k < kFours; ++k) {
        if (place(k) < num_fours) own[k] = part_of(row)[place(k)];
      }
      for (int step = 1; step < num_ranks; ++step) {
        const int to = (peers.rank + step) % num_ranks;
        uint2* const part = reinterpret_cast<uint2*>(static_cast<uint8_t*>(peers.buffers[to]) +
                                                     layout.part(parity, peers.rank, block, row - first));
#pragma unroll
        for (int k = 0; k < kFours; ++k) {
          if (place(k) < num_fours) part[place(k)] = own[k];
        }
      }
    }
    __syncthreads();  // the unit is written, and the one before it read
    if (thread < num_ranks && thread != peers.rank) {
      __threadfence_system();
      ReleaseFlag(static_cast<uint8_t*>(peers.buffers[thread]) + layout.flag(parity, peers.rank, block), call);
      Patience patience;
      const uint8_t* const flag = received + layout.flag(parity, thread, block);
      while (AcquireFlag(flag) != call && !patience.IsOver(peers, thread, first, call)) {
      }
    }
    __syncthreads();  // everyone's unit is here

    for (int row = first; row < end; ++row) {
      float* const hidden = args.hidden + row * args.hidden_stride;
      HeldRow<kFours> held;
      held.Load(hidden, num_fours);
      float4 sums[kFours];
#pragma unroll
      for (int k = 0; k < kFours; ++k) sums[k] = make_float4(0, 0, 0, 0);
      for (int from = 0; from < num_ranks; ++from) {
        const uint2* const part =
            reinterpret_cast<const uint2*>(received + layout.part(parity, from, block, row - first));
#pragma unroll
        for (int k = 0; k < kFours; ++k) {
          if (place(k) < num_fours) {
            AddPart(sums[k], from == peers.rank ? part_of(row)[place(k)] : LoadPart(part + place(k)));
          }
        }
      }
      held.AddAndStore(sums, hidden, num_fours);
      if (args.norm_weight == nullptr) continue;
      const float inverse = held.InverseRms(args.size, inverse_size, args.epsilon, group_sums[row & 1]);
      held.StoreNormed(inverse, weights, args.normed + row * args.normed_stride, num_fours);
    }
  }
  if (thread == 0) peers.counters[kBulkCounters + block] = call;
}

// Threads of a block, in whole warps.
int ThreadsFor(int size, int threads_max) { return std::min((size / 4 + 31) / 32 * 32, threads_max); }

template <Way kWay>
KernelError LaunchRows(const DeviceAllReduceArgs& args, Stream stream) {
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.num_rows)),
                          .block = ThreadsFor(args.size, kThreadsMax)};
  const int fours_a_thread = (args.size / 4 + shape.block - 1) / shape.block;
  if (fours_a_thread <= 1)
    return Launch(AllReduceRow<kWay, 1>, shape, stream, args, 1.0f / static_cast<float>(args.size));
  if (fours_a_thread <= 2)
    return Launch(AllReduceRow<kWay, 2>, shape, stream, args, 1.0f / static_cast<float>(args.size));
  return Launch(AllReduceRow<kWay, 4>, shape, stream, args, 1.0f / static_cast<float>(args.size));
}

KernelError LaunchBulk(const DeviceAllReduceArgs& args, Stream stream) {
  const int threads = ThreadsFor(args.size, kBulkThreadsMax);
  const int fours_a_thread = (args.size / 4 + threads - 1) / threads;
  // All blocks are resident at once: two a multiprocessor, or one of the largest rows' registers. Equal on all ranks,
  // since block i waits for the peers' block i.
  const int blocks_max = fours_a_thread <= 4 ? kBulkBlocks : kBulkBlocks / 2;
  const int unit_rows = std::min((args.num_rows + blocks_max - 1) / blocks_max, kBulkUnitRows);
  const int num_units = (args.num_rows + unit_rows - 1) / unit_rows;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(std::min(num_units, blocks_max))), .block = threads};
  if (fours_a_thread <= 1)
    return Launch(AllReduceBulk<1>, shape, stream, args, 1.0f / static_cast<float>(args.size), unit_rows);
  if (fours_a_thread <= 2)
    return Launch(AllReduceBulk<2>, shape, stream, args, 1.0f / static_cast<float>(args.size), unit_rows);
  if (fours_a_thread <= 4)
    return Launch(AllReduceBulk<4>, shape, stream, args, 1.0f / static_cast<float>(args.size), unit_rows);
  return Launch(AllReduceBulk<8>, shape, stream, args, 1.0f / static_cast<float>(args.size), unit_rows);
}

}  // namespace

size_t DeviceAllReduceBufferBytes(int size, int num_ranks) {
  return Layout{static_cast<size_t>(size / 4), static_cast<size_t>(num_ranks)}.flag(2, 0, 0);
}

size_t DeviceAllReduceCounters() { return kCounters; }

KernelError DeviceAllReduce(const DeviceAllReduceArgs& args, Stream stream, DeviceAllReduceWay way) {
  const DevicePeers& peers = args.peers;
  if (args.num_rows < 0 || args.size < 4 || args.size % 4 != 0 || args.size > kAllReduceSizeMax ||
      args.part_stride % 4 != 0 || args.part_stride < args.size || args.hidden_stride % 4 != 0 ||
      args.hidden_stride < args.size || peers.num_ranks < 1 || peers.num_ranks > kDeviceRanksMax || peers.rank < 0 ||
      peers.rank >= peers.num_ranks || args.gathered_stride % 4 != 0) {
    return KernelError::kInvalidShape;
  }
  if (args.norm_weight != nullptr && (args.normed_stride % 4 != 0 || args.normed_stride < args.size)) {
    return KernelError::kInvalidShape;
  }
  if (way == DeviceAllReduceWay::kFlagged && args.num_rows > kFlaggedRowsMax) return KernelError::kInvalidShape;
  if (args.num_rows == 0) return KernelError::kOk;
  if (args.hidden == nullptr || (args.norm_weight != nullptr && args.normed == nullptr)) {
    return KernelError::kNullPointer;
  }
  if (args.gathered != nullptr) return LaunchRows<Way::kGathered>(args, stream);
  if (args.part == nullptr || peers.counters == nullptr || peers.report == nullptr) return KernelError::kNullPointer;
  for (int rank = 0; rank < peers.num_ranks; ++rank) {
    if (peers.buffers[rank] == nullptr) return KernelError::kNullPointer;
  }
  if (way == DeviceAllReduceWay::kAuto) {
    way = args.num_rows <= kFlaggedRowsMax ? DeviceAllReduceWay::kFlagged : DeviceAllReduceWay::kBulk;
  }
  return way == DeviceAllReduceWay::kFlagged ? LaunchRows<Way::kFlagged>(args, stream) : LaunchBulk(args, stream);
}

}  // namespace outrider::kernels
