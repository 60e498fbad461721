// Memory of a GPU for tests: uploaded, poisoned, downloaded. Any error of the runtime fails the test.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/common/dtype.h"

namespace outrider::kernels::testing {

// [size] elements of T. Fresh memory is all ones: NaN in every float type, so that what no kernel wrote is seen.
template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(int64_t size) : size_(size) {
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), bytes > 0 ? bytes : 1), cudaSuccess);
    Poison();
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(static_cast<int64_t>(values.size())) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  ~DeviceBuffer() { cudaFree(data_); }

  T* data() const { return data_; }
  int64_t size() const { return size_; }
  void Poison() { EXPECT_EQ(cudaMemset(data_, 0xFF, static_cast<size_t>(size_) * sizeof(T)), cudaSuccess); }
  void Zero() { EXPECT_EQ(cudaMemset(data_, 0, static_cast<size_t>(size_) * sizeof(T)), cudaSuccess); }

  std::vector<T> Download() const {
    std::vector<T> values(static_cast<size_t>(size_));
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, values.size() * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  int64_t size_;
};

inline std::vector<uint16_t> ToBf16(const std::vector<float>& values) {
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) bits[i] = F32ToBF16(values[i]);
  return bits;
}
inline std::vector<float> FromBf16(const std::vector<uint16_t>& bits) {
  std::vector<float> values(bits.size());
  for (size_t i = 0; i < bits.size(); ++i) values[i] = BF16ToF32(bits[i]);
  return values;
}
// Values that bf16 holds exactly.
inline std::vector<float> RoundedToBf16(const std::vector<float>& values) { return FromBf16(ToBf16(values)); }

// Unit roundoff of bf16.
inline constexpr double kBf16Roundoff = 0x1.0p-8;

}  // namespace outrider::kernels::testing
