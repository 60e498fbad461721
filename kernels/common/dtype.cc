#include "kernels/common/dtype.h"

#include <bit>
#include <cmath>
#include <cstring>

namespace outrider::kernels {
namespace {

uint16_t LoadU16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

void StoreU16(uint16_t v, uint8_t* p) {
  p[0] = static_cast<uint8_t>(v);
  p[1] = static_cast<uint8_t>(v >> 8);
}

bool IsRowShape(DType dtype, int64_t num_elements) {
  return num_elements >= 0 && BlockBytes(dtype) > 0 && num_elements % BlockSize(dtype) == 0;
}

// Nearest integer in [0, 15]; x.5 rounds up, as ggml's reference.
uint8_t Nibble(float v) {
  const int n = static_cast<int>(v + 0.5f);
  return static_cast<uint8_t>(n < 0 ? 0 : n > 15 ? 15 : n);
}

void QuantizeQ8_0(const float* v, uint8_t* block) {
  float max = 0;
  for (int i = 0; i < kQuantBlockSize; ++i) max = std::fmax(max, std::fabs(v[i]));
  const float d = max / 127;
  const float inverse = d > 0 ? 1 / d : 0;
  StoreU16(F32ToF16(d), block);
  for (int i = 0; i < kQuantBlockSize; ++i) {
    const float q = std::round(v[i] * inverse);
    block[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(q < -127 ? -127 : q > 127 ? 127 : q));
  }
}

void QuantizeQ4_0(const float* v, uint8_t* block) {
  float extreme = 0;
  for (int i = 0; i < kQuantBlockSize; ++i) extreme = std::fabs(v[i]) > std::fabs(extreme) ? v[i] : extreme;
  const float d = extreme / -8;
  const float inverse = d != 0 ? 1 / d : 0;
  StoreU16(F32ToF16(d), block);
  for (int i = 0; i < 16; ++i) {
    block[2 + i] = static_cast<uint8_t>(Nibble(v[i] * inverse + 8) | Nibble(v[i + 16] * inverse + 8) << 4);
  }
}

void QuantizeQ4_1(const float* v, uint8_t* block) {
  float min = v[0], max = v[0];
  for (int i = 1; i < kQuantBlockSize; ++i) min = std::fmin(min, v[i]), max = std::fmax(max, v[i]);
  const float d = (max - min) / 15;
  const float inverse = d > 0 ? 1 / d : 0;
  StoreU16(F32ToF16(d), block);
  StoreU16(F32ToF16(min), block + 2);
  for (int i = 0; i < 16; ++i) {
    block[4 + i] = static_cast<uint8_t>(Nibble((v[i] - min) * inverse) | Nibble((v[i + 16] - min) * inverse) << 4);
  }
}

}  // namespace

float F16ToF32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 31;
  const uint32_t mantissa = bits & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | mantissa << 13);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t F32ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 1023));
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  if (magnitude < 0x38800000) {                       // below 2^-14: a multiple of 2^-24
    const float scaled = std::fabs(value) * 0x1p24f;  // exact
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(scaled)));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112 << 10)));
}

float BF16ToF32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t F32ToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

KernelError DequantizeRow(DType dtype, const void* row, int64_t num_elements, float* out) {
  if (!IsRowShape(dtype, num_elements)) return KernelError::kInvalidShape;
  const uint8_t* p = static_cast<const uint8_t*>(row);
  for (int64_t i = 0; i < num_elements; i += BlockSize(dtype), p += BlockBytes(dtype), out += BlockSize(dtype)) {
    switch (dtype) {
      case DType::kF32:
        std::memcpy(out, p, sizeof(float));
        break;
      case DType::kF16:
        *out = F16ToF32(LoadU16(p));
        break;
      case DType::kBF16:
        *out = BF16ToF32(LoadU16(p));
        break;
      case DType::kQ8_0: {
        const float d = F16ToF32(LoadU16(p));
        for (int j = 0; j < kQuantBlockSize; ++j) out[j] = d * static_cast<float>(static_cast<int8_t>(p[2 + j]));
        break;
      }
      case DType::kQ4_0: {
        const float d = F16ToF32(LoadU16(p));
        for (int j = 0; j < 16; ++j) {
          out[j] = d * static_cast<float>((p[2 + j] & 15) - 8);
          out[j + 16] = d * static_cast<float>((p[2 + j] >> 4) - 8);
        }
        break;
      }
      case DType::kQ4_1: {
        const float d = F16ToF32(LoadU16(p));
        const float m = F16ToF32(LoadU16(p + 2));
        for (int j = 0; j < 16; ++j) {
          out[j] = d * static_cast<float>(p[4 + j] & 15) + m;
          out[j + 16] = d * static_cast<float>(p[4 + j] >> 4) + m;
        }
        break;
      }
    }
  }
  return KernelError::kOk;
}

KernelError QuantizeRow(DType dtype, const float* values, int64_t num_elements, void* out) {
  if (!IsRowShape(dtype, num_elements)) return KernelError::kInvalidShape;
  uint8_t* p = static_cast<uint8_t*>(out);
  for (int64_t i = 0; i < num_elements; i += BlockSize(dtype), p += BlockBytes(dtype), values += BlockSize(dtype)) {
    switch (dtype) {
      case DType::kF32:
        std::memcpy(p, values, sizeof(float));
        break;
      case DType::kF16:
        StoreU16(F32ToF16(*values), p);
        break;
      case DType::kBF16:
        StoreU16(F32ToBF16(*values), p);
        break;
      case DType::kQ8_0:
        QuantizeQ8_0(values, p);
        break;
      case DType::kQ4_0:
        QuantizeQ4_0(values, p);
        break;
      case DType::kQ4_1:
        QuantizeQ4_1(values, p);
        break;
    }
  }
  return KernelError::kOk;
}

}  // namespace outrider::kernels
