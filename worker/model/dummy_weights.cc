#include "worker/model/dummy_weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/common/dtype.h"

namespace outrider {
namespace {

// Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014).
uint64_t SplitMix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// The numbers of one period in a file without a name. Negative: errno says why.
int MakePeriod(uint64_t seed, float deviation) {
  const int fd = memfd_create("outrider-dummy-weights", MFD_CLOEXEC);
  if (fd < 0) return fd;
  void* mapping = MAP_FAILED;
  if (ftruncate(fd, DummyWeights::kPeriodBytes) == 0) {
    mapping = mmap(nullptr, DummyWeights::kPeriodBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  if (mapping == MAP_FAILED) {
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
  auto* const numbers = static_cast<uint16_t*>(mapping);
  // Uniform on [-w, w) has a standard deviation of w / sqrt(3).
  const float scale = deviation * std::sqrt(3.0f) / 32768.0f;
  for (int64_t i = 0; i < DummyWeights::kPeriodBytes / 8; ++i) {
    const uint64_t bits = SplitMix(seed + static_cast<uint64_t>(i));
    for (int j = 0; j < 4; ++j) {
      const int value = static_cast<int>((bits >> (16 * j)) & 0xffff) - 32768;
      numbers[4 * i + j] = kernels::F32ToBF16(static_cast<float>(value) * scale);
    }
  }
  munmap(mapping, DummyWeights::kPeriodBytes);
  return fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DummyWeights>> DummyWeights::Create(uint64_t seed, float deviation, int64_t bytes_max) {
  // One period more than is asked for: a tensor begins anywhere in the first.
  const int64_t num_periods = (bytes_max + kPeriodBytes - 1) / kPeriodBytes + 1;
  const int64_t mapped_bytes = num_periods * kPeriodBytes;
  const auto failed = [&] {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for dummy weights: ", kPeriodBytes, " bytes, mapped ",
                                                     num_periods, " times: ", std::strerror(errno)));
  };
  const int fd = MakePeriod(seed, deviation);
  if (fd < 0) return failed();
  void* const data =
      mmap(nullptr, static_cast<size_t>(mapped_bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    const absl::Status status = failed();
    close(fd);
    return status;
  }
  std::unique_ptr<DummyWeights> weights(new DummyWeights(static_cast<std::byte*>(data), mapped_bytes));
  for (int64_t i = 0; i < num_periods; ++i) {
    if (mmap(weights->data_ + i * kPeriodBytes, kPeriodBytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
      const absl::Status status = failed();
      close(fd);
      return status;
    }
  }
  close(fd);
  return weights;
}

DummyWeights::~DummyWeights() { munmap(data_, static_cast<size_t>(mapped_bytes_)); }

const std::byte* DummyWeights::Tensor(uint64_t key) const {
  constexpr uint64_t kAlignment = 64;
  return data_ + SplitMix(key) % (kPeriodBytes / kAlignment) * kAlignment;
}

}  // namespace outrider
