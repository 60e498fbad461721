// SHA-256 (FIPS 180-4), for names of things that must be the same on every machine.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace outrider::text {

// Thread safety: none.
class Sha256 {
 public:
  Sha256();
  void Update(absl::string_view bytes);
  // The digest of everything given. Call once.
  std::array<uint8_t, 32> Finish();

 private:
  void Compress(const uint8_t* block);

  std::array<uint32_t, 8> state_;
  uint8_t block_[64];
  size_t num_in_block_ = 0;
  uint64_t num_bytes_ = 0;
};

}  // namespace outrider::text
