#include <cstddef>

#include "kernels/common/cuda_device.cuh"
#include "kernels/common/cuda_launch.h"
#include "kernels/sampling/device_noise.cuh"
#include "kernels/sampling/device_row_summary.h"
#include "kernels/sampling/logit_key.cuh"

namespace outrider::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kCluster = 8;  // blocks a row
constexpr float kNone = -INFINITY;
// Weights are 0 on the grid below this delta: exp(-25) < 2^-35.
constexpr float kDeltaOfNoWeight = -25.0f;
static_assert(kSummaryBuckets <= kThreads);
constexpr int kRequestWords = sizeof(SummaryRequest) / 4;
static_assert(kRequestWords < 32 && alignof(RowSummary) == 8);

struct Four {
  float v[4];
};

// Tokens 4 i .. 4 i + 3; minus infinity past the end.
__device__ __forceinline__ Four LoadFour(const float* logits, int i, int vocab_size, bool aligned) {
  if (aligned && 4 * i + 4 <= vocab_size) {
    const float4 v = reinterpret_cast<const float4*>(logits)[i];
    return {v.x, v.y, v.z, v.w};
  }
  Four four;
#pragma unroll
  for (int k = 0; k < 4; ++k) four.v[k] = 4 * i + k < vocab_size ? logits[4 * i + k] : kNone;
  return four;
}

// visit(i, four) for this thread's share of the row, kAtOnce loads under way at a time.
template <int kAtOnce, typename Visit>
__device__ __forceinline__ void ForEachFour(const float* logits, int vocab_size, int rank, const Visit& visit) {
  const bool aligned = (reinterpret_cast<uintptr_t>(logits) & 15) == 0;
  const int num_fours = (vocab_size + 3) / 4;
  constexpr int kStride = kThreads * kCluster;
  for (int first = rank * kThreads + static_cast<int>(threadIdx.x); first < num_fours; first += kAtOnce * kStride) {
    Four fours[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (first + k * kStride < num_fours) fours[k] = LoadFour(logits, first + k * kStride, vocab_size, aligned);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (first + k * kStride < num_fours) visit(first + k * kStride, fours[k]);
    }
  }
}

template <typename T, typename Fold>
__device__ __forceinline__ T FoldWarp(T value, const Fold& fold) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = fold(value, __shfl_xor_sync(device::kFullWarp, value, step));
  return value;
}

__device__ __forceinline__ void StoreAt(void* shared, int rank, uint64_t value) {
  device::StoreRemote(device::RemoteAddress(device::SharedAddress(shared), rank), value);
}

struct Shared {
  uint64_t extents[kCluster];  // key of the highest logit; all ones if one is NaN
  uint64_t best[kCluster], weight_sums[kCluster], raw_sums[kCluster], higher[kCluster];  // used in the first block
  uint64_t count_pairs[kCluster][kSummaryBuckets / 2];  // of each block: two counts of 32 bits
  uint64_t block_extent, block_best, block_sum, block_raw_sum, block_higher;
  uint32_t counts[kSummaryBuckets];
  uint32_t totals[kSummaryBuckets];  // then the sums up to each
  uint32_t next;                     // place of this block's next candidate
  int32_t logits_row;
  alignas(8) uint32_t request[kRequestWords];
  // In the first block: the summary, which leaves at the end in whole lines.
  alignas(8) unsigned char summary[sizeof(RowSummary)];
};

// The first block's summary, to where it was asked for.
__device__ __forceinline__ void Send(const Shared& shared, RowSummary* summary) {
  const RowSummary& made = *reinterpret_cast<const RowSummary*>(shared.summary);
  constexpr int kHeadWords = offsetof(RowSummary, candidates) / 8;
  const int num_words = kHeadWords + made.num_candidates;
  const auto* const from = reinterpret_cast<const uint64_t*>(shared.summary);
  auto* const to = reinterpret_cast<uint64_t*>(summary);
  for (int i = static_cast<int>(threadIdx.x); i < num_words; i += kThreads) to[i] = from[i];
}

__device__ __forceinline__ uint32_t CountOf(const Shared& shared, int rank, int bucket) {
  return static_cast<uint32_t>(shared.count_pairs[rank][bucket / 2] >> (bucket % 2 * 32));
}

__global__ void __launch_bounds__(kThreads) SummarizeRows(const DeviceRowSummaryArgs args) {
  __shared__ Shared shared;
  const int rank = static_cast<int>(blockIdx.x % kCluster);
  const int thread = static_cast<int>(threadIdx.x);
  const bool leads_warp = thread % 32 == 0;
  if (thread < kSummaryBuckets) shared.counts[thread] = 0;
  if (thread < kRequestWords) {
    shared.request[thread] = reinterpret_cast<const uint32_t*>(args.requests + blockIdx.x / kCluster)[thread];
  }
  if (thread == kRequestWords) shared.logits_row = args.rows[blockIdx.x / kCluster];
  if (thread == 0) {
    shared.block_extent = shared.block_best = shared.block_sum = shared.block_raw_sum = shared.block_higher = 0;
  }
  device::SyncCluster();  // all blocks run: their memory may be written
  device::LetLaterKernelsStart();
  device::WaitForEarlierKernels();
  const SummaryRequest request = *reinterpret_cast<const SummaryRequest*>(shared.request);
  const float* const logits = args.logits + shared.logits_row * args.logits_stride;
  RowSummary& summary = *reinterpret_cast<RowSummary*>(shared.summary);  // the first block's is the row's
  RowSummary* const answer = args.summaries + blockIdx.x / kCluster;
  const auto highest = [](uint64_t a, uint64_t b) { return a > b ? a : b; };
  const auto sum = [](uint64_t a, uint64_t b) { return a + b; };

  // ---- the highest logit
  uint64_t best = 0;
  bool has_nan = false;
  ForEachFour<8>(logits, args.vocab_size, rank, [&](int i, const Four& four) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float v = four.v[k];
      has_nan = has_nan || v != v;
      if (v == v && 4 * i + k < args.vocab_size) best = highest(best, device::LogitKey(v, 4 * i + k));
    }
  });
  has_nan = __any_sync(device::kFullWarp, has_nan);
  best = FoldWarp(best, highest);
  if (leads_warp) atomicMax(reinterpret_cast<unsigned long long*>(&shared.block_extent), has_nan ? ~0ull : best);
  // NaN hides the highest logit; max_logit is of no use then.
  __syncthreads();
  if (thread < kCluster) StoreAt(&shared.extents[rank], thread, shared.block_extent);
  device::SyncCluster();
  uint64_t extent = 0;
#pragma unroll
  for (int r = 0; r < kCluster; ++r) extent = highest(extent, shared.extents[r]);
  has_nan = extent == ~0ull;
  const float max_logit = has_nan ? 0.0f : device::LogitOfKey(extent);
  const float max = __fmul_rn(max_logit, request.scale);
  if (has_nan || !(fabsf(max_logit) < INFINITY) || !(fabsf(max) < INFINITY)) {
    if (rank != 0) return;  // its last remote store was waited for
    if (thread == 0) {
      summary.weight_sum = summary.raw_weight_sum = 0;
      summary.max_logit = max_logit;
      summary.has_nan = has_nan;
      summary.best_id = -1;
      summary.best_logit = summary.given_logit = 0;
      summary.given_rank = 0;
      summary.num_buckets = summary.num_candidates = 0;
    }
    __syncthreads();
    Send(shared, answer);
    return;
  }

  // ---- the winner of the noise, sums of weights, tokens by bucket
  best = request.has_noise ? 0 : extent;
  uint64_t weight_sum = 0, raw_sum = 0, num_higher = 0;
  const bool wants_candidates = request.num_candidates_wanted > 0;
  // A bucket with as many tokens as are wanted is the last that is taken, one with more than fit is not taken: what
  // comes after it need not be counted. Each thread notes such buckets as it meets them.
  const uint32_t num_wanted = static_cast<uint32_t>(min(request.num_candidates_wanted, kAllCandidates));
  int last_counted = kSummaryBuckets - 1;
  const bool is_given = request.given_token >= 0;
  const float given_logit = is_given ? logits[request.given_token] : 0.0f;
  if (request.has_noise || request.wants_sum || request.wants_raw_sum || wants_candidates || is_given) {
    ForEachFour<4>(logits, args.vocab_size, rank, [&](int i, const Four& four) {
      float scaled[4], delta[4];
      bool is_scored = false;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        scaled[k] = __fmul_rn(four.v[k], request.scale);
        delta[k] = __fsub_rn(scaled[k], max);
        is_scored = is_scored || delta[k] >= kScoredDeltaMin;
      }
      if (request.has_noise && is_scored) {
        const uint4 draws =
            device::CoupledDraws(request.seed, request.lane, request.position, static_cast<uint32_t>(i));
        const uint32_t bits[4] = {draws.x, draws.y, draws.z, draws.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (!(delta[k] >= kScoredDeltaMin)) continue;
          best = highest(best, device::LogitKey(__fadd_rn(scaled[k], device::GumbelFromBits(bits[k])), 4 * i + k));
        }
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (request.wants_sum && delta[k] >= request.delta_min && delta[k] >= kDeltaOfNoWeight) {
          weight_sum += device::WeightUnits(delta[k]);
        }
        const float raw_delta = __fsub_rn(four.v[k], max_logit);
        if (request.wants_raw_sum && raw_delta >= kDeltaOfNoWeight) raw_sum += device::WeightUnits(raw_delta);
        const int bucket = wants_candidates ? SummaryBucket(delta[k]) : kSummaryBuckets;
        if (bucket <= last_counted) {
          const uint32_t count = atomicAdd(&shared.counts[bucket], 1u) + 1;
          if (count >= uint32_t{kAllCandidates}) {
            last_counted = bucket - 1;
          } else if (count >= num_wanted) {
            last_counted = bucket;
          }
        }
        num_higher += is_given && four.v[k] > given_logit;
      }
    });
  }
  best = FoldWarp(best, highest);
  weight_sum = FoldWarp(weight_sum, sum);
  raw_sum = FoldWarp(raw_sum, sum);
  num_higher = FoldWarp(num_higher, sum);
  if (leads_warp) {
    atomicMax(reinterpret_cast<unsigned long long*>(&shared.block_best), best);
    atomicAdd(reinterpret_cast<unsigned long long*>(&shared.block_sum), weight_sum);
    atomicAdd(reinterpret_cast<unsigned long long*>(&shared.block_raw_sum), raw_sum);
    atomicAdd(reinterpret_cast<unsigned long long*>(&shared.block_higher), num_higher);
  }
  __syncthreads();
  if (thread == 0) {
    StoreAt(&shared.best[rank], 0, shared.block_best);
    StoreAt(&shared.weight_sums[rank], 0, shared.block_sum);
    StoreAt(&shared.raw_sums[rank], 0, shared.block_raw_sum);
    StoreAt(&shared.higher[rank], 0, shared.block_higher);
  }
  if (wants_candidates) {
    constexpr int kPairs = kSummaryBuckets / 2;
    for (int n = thread; n < kPairs * kCluster; n += kThreads) {
      const int pair = n % kPairs;
      StoreAt(&shared.count_pairs[rank][pair], n / kPairs,
              static_cast<uint64_t>(shared.counts[2 * pair + 1]) << 32 | shared.counts[2 * pair]);
    }
  }
  device::SyncCluster();

  // ---- candidates: the most whole buckets that fit
  int num_buckets = 0;
  uint32_t num_candidates = 0;
  if (wants_candidates) {
    if (thread == 0) shared.next = 0;
    uint32_t total = 0, before = 0;  // of bucket `thread`: in all blocks, and in those before this
    if (thread < kSummaryBuckets) {
#pragma unroll
      for (int r = 0; r < kCluster; ++r) {
        const uint32_t count = CountOf(shared, r, thread);
        total += count;
        if (r < rank) before += count;
      }
      shared.totals[thread] = total;
    }
    __syncthreads();
    for (int step = 1; step < kSummaryBuckets; step *= 2) {
      const bool adds = thread < kSummaryBuckets && thread >= step;
      const uint32_t lower = adds ? shared.totals[thread - step] : 0;
      __syncthreads();
      if (adds) shared.totals[thread] += lower;
      __syncthreads();
    }
    const uint32_t up_to = thread < kSummaryBuckets ? shared.totals[thread] : ~0u;
    const int num_fitting = __syncthreads_count(up_to <= uint32_t{kSummaryCandidatesMax});
    num_buckets = min(num_fitting, 1 + __syncthreads_count(up_to < num_wanted));
    if (num_buckets > 0) num_candidates = shared.totals[num_buckets - 1];
    if (thread < num_buckets && before > 0) atomicAdd(&shared.next, before);
    __syncthreads();
    if (num_candidates > 0) {
      ForEachFour<4>(logits, args.vocab_size, rank, [&](int i, const Four& four) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (SummaryBucket(__fsub_rn(__fmul_rn(four.v[k], request.scale), max)) >= num_buckets) continue;
          const uint64_t candidate = uint64_t{static_cast<uint32_t>(4 * i + k)} << 32 | __float_as_uint(four.v[k]);
          StoreAt(&summary.candidates[atomicAdd(&shared.next, 1u)], 0, candidate);
        }
      });
    }
    device::SyncCluster();
  }

  if (rank != 0) return;
  if (thread == 0) {
    best = weight_sum = raw_sum = num_higher = 0;
    for (int r = 0; r < kCluster; ++r) {
      best = highest(best, shared.best[r]);
      weight_sum += shared.weight_sums[r];
      raw_sum += shared.raw_sums[r];
      num_higher += shared.higher[r];
    }
    summary.weight_sum = weight_sum;
    summary.raw_weight_sum = raw_sum;
    summary.max_logit = max_logit;
    summary.has_nan = 0;
    summary.best_id = device::IdOfKey(best);
    summary.best_logit = logits[device::IdOfKey(best)];
    summary.given_logit = given_logit;
    summary.given_rank = is_given ? 1 + static_cast<int32_t>(num_higher) : 0;
    summary.num_buckets = num_buckets;
    summary.num_candidates = static_cast<int32_t>(num_candidates);
  }
  __syncthreads();
  Send(shared, answer);
}

}  // namespace

KernelError DeviceRowSummary(const DeviceRowSummaryArgs& args, Stream stream) {
  if (args.num_requests < 0 || args.vocab_size < 1 || args.vocab_size > kMaxVocabSize ||
      args.logits_stride < args.vocab_size) {
    return KernelError::kInvalidShape;
  }
  if (args.num_requests == 0) return KernelError::kOk;
  if (args.logits == nullptr || args.rows == nullptr || args.requests == nullptr || args.summaries == nullptr) {
    return KernelError::kNullPointer;
  }
  return Launch(
      SummarizeRows,
      {.grid = dim3(static_cast<unsigned>(args.num_requests) * kCluster), .block = kThreads, .cluster = kCluster},
      stream, args);
}

}  // namespace outrider::kernels
