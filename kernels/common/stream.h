// What every kernel returns, and the device queue it runs in.
//
// `kernels` knows no absl::Status: an op returns KernelError and its caller, who knows the tensor's name, turns it into
// a message. Stream is the CUDA runtime's opaque stream type, declared forward so that including this needs no toolkit;
// CPU kernels take a ThreadPool (thread_pool.h) instead.
//
// Thread safety: values only.
#pragma once

struct CUstream_st;

namespace outrider::kernels {

// Same type as cudaStream_t. Null is the default stream.
using Stream = CUstream_st*;

// Negative values are left to device runtimes (minus the runtime's own error number).
enum class [[nodiscard]] KernelError : int{
    kOk = 0,
    kInvalidShape = 1,      // sizes that do not fit each other, or negative
    kUnsupportedDType = 2,  // the op has no code for this element type
    kUnalignedSlice = 3,    // a range cuts through a quantised block
    kOutOfMemory = 4,
    kNullPointer = 5,  // a required pointer is null although its tensor is not empty
};

// A static string such as "unaligned slice"; "device error" for negative values.
constexpr const char* KernelErrorName(KernelError error) {
  switch (error) {
    case KernelError::kOk:
      return "ok";
    case KernelError::kInvalidShape:
      return "invalid shape";
    case KernelError::kUnsupportedDType:
      return "unsupported element type";
    case KernelError::kUnalignedSlice:
      return "range cuts through a quantised block";
    case KernelError::kOutOfMemory:
      return "out of memory";
    case KernelError::kNullPointer:
      return "null pointer";
  }
  return static_cast<int>(error) < 0 ? "device error" : "unknown kernel error";
}

}  // namespace outrider::kernels
