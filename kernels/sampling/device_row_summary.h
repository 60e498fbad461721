// Row summaries (row_summary.h) on a GPU: the bits of SummarizeRow, candidates in any order; a cluster of eight blocks
// a row. Two fields may differ where they decide nothing: max_logit if a logit is NaN, best_id with noise if |max_logit
// * scale| > kSummaryMagnitudeMax.
//
// Thread safety: pure; work is queued in the stream.
#pragma once

#include <cstdint>

#include "kernels/common/stream.h"
#include "kernels/sampling/row_summary.h"

namespace outrider::kernels {

struct DeviceRowSummaryArgs {
  const float* logits = nullptr;  // [rows, vocab_size], device
  int64_t logits_stride = 0;      // elements, >= vocab_size
  int vocab_size = 0;             // at most kMaxVocabSize
  int num_requests = 0;           // 0 is allowed and launches nothing
  // Device or pinned host memory, read once, before earlier kernels of the stream have ended.
  const int32_t* rows = nullptr;             // [num_requests]: request i is of logits row rows[i]
  const SummaryRequest* requests = nullptr;  // [num_requests]
  RowSummary* summaries = nullptr;  // [num_requests], device, or pinned host memory: only what is there crosses
};

// kInvalidShape; kNullPointer.
KernelError DeviceRowSummary(const DeviceRowSummaryArgs& args, Stream stream);

}  // namespace outrider::kernels
