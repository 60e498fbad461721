// Edits of rows (row_edits.h) on a GPU: the bits of EditedLogit; and back. Bound by the latency of reading the edits.
//
// Thread safety: pure; work is queued in the stream.
#pragma once

#include <cstdint>

#include "kernels/common/stream.h"
#include "kernels/sampling/row_edits.h"

namespace outrider::kernels {

// What an edit found, kept on the device.
struct OriginalLogit {
  float logit;
  int32_t token_id;
};

struct DeviceRowEditsArgs {
  float* logits = nullptr;    // [rows, logits_stride], device
  int64_t logits_stride = 0;  // elements
  int num_rows = 0;           // 0 is allowed and launches nothing
  // Device or pinned host memory, read once, before earlier kernels of the stream have ended. No row and no token of a
  // row twice.
  const EditedRow* rows = nullptr;     // [num_rows]
  const RowEdit* edits = nullptr;      // [edits]
  OriginalLogit* originals = nullptr;  // [edits], device
  float* raw_logits = nullptr;         // [edits], device or pinned host memory: the logits before the edits
};

// kInvalidShape; kNullPointer.
KernelError DeviceApplyRowEdits(const DeviceRowEditsArgs& args, Stream stream);
// Puts back what that found; `edits` and `raw_logits` are not used.
KernelError DeviceRestoreRows(const DeviceRowEditsArgs& args, Stream stream);

}  // namespace outrider::kernels
