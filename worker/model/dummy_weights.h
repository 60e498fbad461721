// DummyWeights: memory that reads as random bf16 numbers however much of it is asked for, so that a model of any size
// can be run without its weights. 64 MiB of numbers are made once and mapped again and again, one copy after the other.
//
// Thread safety: constant after construction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace outrider {

class DummyWeights {
 public:
  // Numbers of `seed`: uniform, mean 0, standard deviation `deviation`. `bytes_max` bounds what Tensor may be asked
  // for. RESOURCE_EXHAUSTED with the bytes if the memory or its addresses can not be had.
  static absl::StatusOr<std::unique_ptr<DummyWeights>> Create(uint64_t seed, float deviation, int64_t bytes_max);
  ~DummyWeights();
  DummyWeights(const DummyWeights&) = delete;
  DummyWeights& operator=(const DummyWeights&) = delete;

  // bf16 numbers that begin where `key` says; as many as bytes_max holds may be read. Equal keys, equal numbers.
  const std::byte* Tensor(uint64_t key) const;

  // Bytes after which the numbers come again: a prime number of pages, so that no two of the first 16,381 rows of a
  // matrix are equal.
  static constexpr int64_t kPeriodBytes = int64_t{16381} * 4096;

 private:
  DummyWeights(std::byte* data, int64_t mapped_bytes) : data_(data), mapped_bytes_(mapped_bytes) {}
  std::byte* const data_;
  const int64_t mapped_bytes_;
};

}  // namespace outrider
