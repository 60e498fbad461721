// Element types of weights as GGUF stores them, their block geometry, and plain conversions.
//
// Quantised types hold 32 consecutive elements of a row in a block (little endian, no padding between blocks):
//   Q8_0  f16 d;           int8  q[32]   value = d * q                                34 bytes
//   Q4_0  f16 d;           uint8 n[16]   value = d * (nibble - 8)                     18 bytes
//   Q4_1  f16 d; f16 m;    uint8 n[16]   value = d * nibble + m                       20 bytes
// where element i < 16 is the low nibble of n[i] and element i + 16 its high nibble. Source: ggml/src/ggml-common.h and
// the reference dequantisation in ggml-quants.c of llama.cpp.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>

#include "kernels/common/stream.h"  // KernelError

namespace outrider::kernels {

enum class DType : uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1 };

inline constexpr int kNumDTypes = 6;
// Elements in a block of any quantised type.
inline constexpr int64_t kQuantBlockSize = 32;

constexpr bool IsQuantized(DType dtype) { return dtype >= DType::kQ8_0; }

// Elements a block: 1 for float types, 32 for quantised ones.
constexpr int64_t BlockSize(DType dtype) { return IsQuantized(dtype) ? kQuantBlockSize : 1; }

// Bytes a block: one element of a float type.
constexpr int64_t BlockBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kQ8_0:
      return 34;
    case DType::kQ4_0:
      return 18;
    case DType::kQ4_1:
      return 20;
  }
  return 0;
}

// Bytes of a row of `num_elements`. REQUIRES: num_elements >= 0 and a multiple of BlockSize(dtype).
constexpr int64_t RowBytes(DType dtype, int64_t num_elements) {
  return num_elements / BlockSize(dtype) * BlockBytes(dtype);
}

// "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1": GGUF's spelling.
constexpr const char* DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kQ8_0:
      return "Q8_0";
    case DType::kQ4_0:
      return "Q4_0";
    case DType::kQ4_1:
      return "Q4_1";
  }
  return "unknown";
}

// Sets *dtype from the `ggml_type` number of a GGUF file; false if this build has no code for it.
constexpr bool DTypeFromGgml(uint32_t ggml_type, DType* dtype) {
  switch (ggml_type) {
    case 0:
      *dtype = DType::kF32;
      return true;
    case 1:
      *dtype = DType::kF16;
      return true;
    case 2:
      *dtype = DType::kQ4_0;
      return true;
    case 3:
      *dtype = DType::kQ4_1;
      return true;
    case 8:
      *dtype = DType::kQ8_0;
      return true;
    case 30:
      *dtype = DType::kBF16;
      return true;
    default:
      return false;
  }
}

// IEEE 754 binary16 bits to float; exact, subnormals, infinities and NaNs included.
float F16ToF32(uint16_t bits);
// Rounds to nearest even; too large becomes infinity; a NaN stays a (quiet) NaN.
uint16_t F32ToF16(float value);
// bfloat16 bits to float; exact.
float BF16ToF32(uint16_t bits);
// Rounds to nearest even; a NaN stays a (quiet) NaN.
uint16_t F32ToBF16(float value);

// out[i] = value of element i of `row`, i in [0, num_elements). Plain loops: the reference of every faster reader.
// `row` may be unaligned. kInvalidShape if num_elements is negative or no multiple of BlockSize(dtype).
KernelError DequantizeRow(DType dtype, const void* row, int64_t num_elements, float* out);

// The inverse, for tests, tools and synthetic models: per block the scale that maps the largest magnitude (Q4_1: the
// range) onto the integer range, as ggml's quantize_row_*_ref. `out` has RowBytes(dtype, num_elements) bytes.
// kInvalidShape as above. REQUIRES: finite values.
KernelError QuantizeRow(DType dtype, const float* values, int64_t num_elements, void* out);

}  // namespace outrider::kernels
