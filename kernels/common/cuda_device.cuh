// What device code is made of: tensor-core products, copies into shared memory, barriers. Thin names for PTX.
//
// Source: PTX ISA 8.x, sections named at each group. Everything needs compute capability 9.0a.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace outrider::kernels::device {

inline constexpr uint32_t kFullWarp = 0xFFFFFFFFu;

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- dependent launch: a kernel may start while the one before it ends. What the earlier ones wrote is visible after
// WaitForEarlierKernels; every kernel calls it, so "earlier" is all of them.

__device__ __forceinline__ void LetLaterKernelsStart() { cudaTriggerProgrammaticLaunchCompletion(); }
__device__ __forceinline__ void WaitForEarlierKernels() { cudaGridDependencySynchronize(); }

// ---- warp-level matrix products (mma.m16n8k16). Lane = 4 g + t holds
//   A  a0: (row g, k 2t..2t+1)  a1: (g + 8, 2t..)  a2: (g, 2t + 8..)  a3: (g + 8, 2t + 8..)
//   B  b0: (k 2t..2t+1, column g)  b1: (k 2t + 8.., column g)
//   C  c0, c1: (row g, columns 2t, 2t + 1)  c2, c3: (row g + 8, ...)

__device__ __forceinline__ void MmaBf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                        uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void MmaF16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Matrix i's rows begin at the addresses that lanes 8 i .. 8 i + 7 pass; 16 bytes a row.
__device__ __forceinline__ void LoadMatrices4(uint32_t address, uint32_t (&m)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address));
}
__device__ __forceinline__ void LoadMatrices2(uint32_t address, uint32_t& m0, uint32_t& m1) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(m0), "=r"(m1) : "r"(address));
}
__device__ __forceinline__ void LoadMatrices2Transposed(uint32_t address, uint32_t& m0, uint32_t& m1) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(m0), "=r"(m1) : "r"(address));
}
__device__ __forceinline__ void LoadMatrices4Transposed(uint32_t address, uint32_t (&m)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address));
}

// ---- barriers in shared memory (mbarrier)

__device__ __forceinline__ void InitBarrier(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
// Makes initialised barriers visible to the copy engine; one thread, before the __syncthreads that others wait at.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void ArriveExpecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void WaitBarrier(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nAGAIN_%=:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra "
      "AGAIN_%=;\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// ---- copies into shared memory

// `bytes` contiguous bytes, both ends 16-byte aligned; completes on the barrier.
__device__ __forceinline__ void CopyBulk(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
// A box of a two-dimensional tensor map at (column, row).
__device__ __forceinline__ void CopyTile(uint32_t to, const void* tensor_map, int column, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(tensor_map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
// The same into this block's shared memory and that of the other blocks of `mask` of its cluster, at equal places; each
// block's own barrier, at an equal place too, counts the bytes that come to it.
__device__ __forceinline__ void CopyTileToCluster(uint32_t to, const void* tensor_map, int column, int row,
                                                  uint32_t barrier, uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(tensor_map), "r"(column), "r"(row), "r"(barrier), "h"(mask)
      : "memory");
}
// 16 bytes, or zeros if !valid.
__device__ __forceinline__ void Copy16(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- thread block clusters: blocks that run side by side and reach each other's shared memory

// Where `address` of this block's shared memory lies in that of block `rank` of the cluster.
__device__ __forceinline__ uint32_t RemoteAddress(uint32_t address, int rank) {
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}
__device__ __forceinline__ float4 LoadRemote(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ __forceinline__ void StoreRemote(uint32_t address, uint64_t value) {
  asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(address), "l"(value) : "memory");
}
__device__ __forceinline__ void StoreRemote(uint32_t address, const float4& v) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(v.x), "f"(v.y), "f"(v.z),
               "f"(v.w)
               : "memory");
}
// At a barrier of any block of the cluster; what this thread saw written is visible to who waits there.
__device__ __forceinline__ void ArriveRemote(uint32_t remote_barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote_barrier) : "memory");
}
// The same without what this thread saw: for places that were read and may be written.
__device__ __forceinline__ void ArriveRemoteRead(uint32_t remote_barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote_barrier) : "memory");
}
__device__ __forceinline__ void WaitBarrierCluster(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nAGAIN_%=:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra AGAIN_%=;\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// All threads of all blocks; what they wrote is visible after it.
__device__ __forceinline__ void SyncCluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// A barrier of some of a block's warps.
__device__ __forceinline__ void SyncNamed(int id, int num_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

// What barrier `id` still lacks of num_threads, without waiting.
__device__ __forceinline__ void ArriveNamed(int id, int num_threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}
// Ordinary writes to shared memory come before what the tensor cores and the copy engine read after the next barrier.
__device__ __forceinline__ void FenceSharedForCopies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- products of warpgroups (wgmma) are asynchronous: fence, multiply, commit, wait

__device__ __forceinline__ void FenceMultiply() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void CommitMultiply() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void WaitMultiply() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of accumulators across a wait.
template <int kCount>
__device__ __forceinline__ void PinAccumulators(float (&c)[kCount]) {
#pragma unroll
  for (int e = 0; e < kCount; ++e) asm volatile("" : "+f"(c[e])::"memory");
}

// ---- arithmetic with one result whatever the kernel around it

// Folds a value over the warp by halves: 16, 8, 4, 2, 1.
__device__ __forceinline__ float WarpSum(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
  return value;
}
__device__ __forceinline__ float WarpMax(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, step));
  return value;
}

// exp(x), |relative error| about 2^-21 for |x| <= 88; 0 for minus infinity.
__device__ __forceinline__ float FastExp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504088896341f));
  return y;
}

// z / (1 + exp(-z))
__device__ __forceinline__ float Silu(float z) { return __fdiv_rn(z, 1.0f + FastExp(-z)); }

__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
__device__ __forceinline__ uint32_t PackF16(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
// Beyond the largest F16 becomes the largest: keys and values stay finite, so a masked one adds zero to a sum.
__device__ __forceinline__ float ClampF16(float value) { return fminf(fmaxf(value, -65504.0f), 65504.0f); }

}  // namespace outrider::kernels::device
