// DeviceAllReduce ends a row-parallel product on a GPU: the ranks' parts are summed, added to the residual stream, and
// the next norm's rows made, in one kernel.
//
//   hidden[r] += ((part of rank 0 + part of rank 1) + ...)                        parts bf16, sums fp32, rounded
//   nowhere normed[r]  = bf16(hidden[r] / sqrt(mean(hidden[r]^2) + epsilon) * norm_weight)     as DeviceRmsNorm, bit by
//   bit
//
// Parts are added in rank order for every element, wherever it lies, so all ranks get the same bits, and a row's bits
// depend on the row's parts alone: not on the number of rows, their index, their neighbours or the way they travelled.
// There are three ways:
//
//   flagged  up to kFlaggedRowsMax rows: a block a row. Each thread writes four elements and two flags as one 16-byte
//            store straight into the peers' memory and polls its own memory for theirs: no fence, no second message
//            (the "LL" protocol of NCCL).
//   bulk     more rows: blocks take units of up to kBulkUnitRows rows in turn, write a unit's rows to the peers, then
//            one flag a unit and peer.
//   gathered where ranks cannot map each other's memory: someone else brought all parts into this rank's memory.
//
// Every rank launches the same calls in the same order. Buffers alternate by a counter that each block keeps in device
// memory, so calls may be captured in graphs and replayed. A rank's buffer of a call is written again two calls later,
// when its owner has long read it: between lies a call in which everyone waited for everyone.
//
// Waits are bounded by the GPU's clock: past DevicePeers::wait_ns a block gives up, says so in `report`, and every
// later call on this rank gives up at once. What it computed then is worth nothing.
//
// Source of the protocol: NCCL's LL; of one-shot all-reduce for inference: vLLM's and TensorRT-LLM's custom kernels.
// Needs compute capability 9.0. Thread safety: pure; work is queued in the stream.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/stream.h"

namespace outrider::kernels {

inline constexpr int kDeviceRanksMax = 8;
// A row of fours of elements is held by up to 1,024 threads, 4 of them each at most.
inline constexpr int kAllReduceSizeMax = 16384;
// Above this the second flag word a store costs more than the fence. Measured: kernels/README.md.
inline constexpr int kFlaggedRowsMax = 128;
// Blocks of a bulk call at most: two for each of an H200's 132 multiprocessors are resident at once.
inline constexpr int kBulkBlocks = 256;
inline constexpr int kBulkUnitRows = 4;

// What a rank's kernel says to its host when it gave up; in pinned memory of the host.
struct DeviceWaitReport {
  uint32_t gave_up = 0;  // 1: the rest is set
  uint32_t peer = 0;     // the rank waited for
  uint32_t row = 0;      // of the call
  uint32_t call = 0;     // counter of the row's block
};

// The group as one rank sees it. Constant while calls are queued.
struct DevicePeers {
  int rank = 0;
  int num_ranks = 1;
  // Of each rank, mapped here: DeviceAllReduceBufferBytes(size, num_ranks) bytes, zeroed before the first call of any
  // rank, 256-byte aligned. Null for every rank: only gathered calls.
  void* buffers[kDeviceRanksMax] = {};
  // This rank's own: DeviceAllReduceCounters() words in device memory, zeroed before the first call.
  uint32_t* counters = nullptr;
  DeviceWaitReport* report = nullptr;  // zeroed; device address of pinned host memory
  uint64_t wait_ns = 0;
};

// Bytes of a rank's buffer for rows of `size` elements.
size_t DeviceAllReduceBufferBytes(int size, int num_ranks);
// Words of DevicePeers::counters.
size_t DeviceAllReduceCounters();

struct DeviceAllReduceArgs {
  DevicePeers peers;
  const uint16_t* part = nullptr;  // [num_rows, size] bf16: this rank's; not read by gathered calls
  int64_t part_stride = 0;         // elements, a multiple of 4
  // Gathered calls: parts of all ranks, [num_ranks] times [num_rows, size] at part_stride, gathered_stride elements
  // from rank to rank. Null: the ranks exchange through their buffers.
  const uint16_t* gathered = nullptr;
  int64_t gathered_stride = 0;
  float* hidden = nullptr;  // [num_rows, size]
  int64_t hidden_stride = 0;
  const float* norm_weight = nullptr;  // [size]; null: no norm
  uint16_t* normed = nullptr;          // [num_rows, size] bf16
  int64_t normed_stride = 0;
  int num_rows = 0;  // 0 is allowed and launches nothing; the same on all ranks
  int size = 0;      // a multiple of 4, at most kAllReduceSizeMax
  float epsilon = 1e-5f;
};

// kAuto is by rows; for tests and benches the way is named.
enum class DeviceAllReduceWay : uint8_t { kAuto, kFlagged, kBulk };

// kInvalidShape: sizes, strides or ranks not as stated, or kFlagged with more than kFlaggedRowsMax rows; kNullPointer.
KernelError DeviceAllReduce(const DeviceAllReduceArgs& args, Stream stream,
                            DeviceAllReduceWay way = DeviceAllReduceWay::kAuto);

}  // namespace outrider::kernels
