// KernelError to absl::Status, in one place.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/common/stream.h"

namespace outrider {

// `what` names the op or tensor. Out of memory is RESOURCE_EXHAUSTED; anything else is a bug of ours: INTERNAL.
inline absl::Status KernelStatus(kernels::KernelError error, absl::string_view what) {
  if (error == kernels::KernelError::kOk) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", kernels::KernelErrorName(error));
  return error == kernels::KernelError::kOutOfMemory ? absl::ResourceExhaustedError(message)
                                                     : absl::InternalError(message);
}

}  // namespace outrider
