#include "worker/model/content_hash.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

// Constants and structure of xxHash64 (Yann Collet), eight lanes, each seeded by its index.
constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87u;
constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4Fu;
constexpr int kNumLanes = 8;
constexpr size_t kStripeBytes = kNumLanes * sizeof(uint64_t);
constexpr size_t kChunkBytes = size_t{4} << 20;

uint64_t Round(uint64_t state, uint64_t word) { return std::rotl(state + word * kPrime2, 31) * kPrime1; }

uint64_t Finish(uint64_t h) {
  h = (h ^ (h >> 33)) * kPrime2;
  h = (h ^ (h >> 29)) * kPrime1;
  return h ^ (h >> 32);
}

struct Digest {
  uint64_t low = 0;
  uint64_t high = 0;
};

Digest HashChunk(const std::byte* data, size_t size) {
  std::array<uint64_t, kNumLanes> lanes;
  for (int i = 0; i < kNumLanes; ++i) lanes[i] = kPrime1 * (i + 1);
  const auto stripe = [&](const std::byte* p) {
    for (int i = 0; i < kNumLanes; ++i) {
      uint64_t word;
      std::memcpy(&word, p + i * sizeof(word), sizeof(word));
      lanes[i] = Round(lanes[i], word);
    }
  };
  size_t at = 0;
  for (; at + kStripeBytes <= size; at += kStripeBytes) stripe(data + at);
  std::array<std::byte, kStripeBytes> tail{};
  if (at < size) std::memcpy(tail.data(), data + at, size - at);
  stripe(tail.data());
  Digest digest{Finish(size), Finish(~size)};
  for (int i = 0; i < kNumLanes; ++i) {
    digest.low = Round(digest.low ^ Finish(lanes[i]), lanes[i]);
    digest.high = Round(digest.high, Finish(lanes[i] ^ digest.low));
  }
  return {Finish(digest.low), Finish(digest.high)};
}

}  // namespace

std::string ContentHash(absl::Span<const std::byte> bytes, kernels::ThreadPool& pool) {
  const size_t num_chunks = (bytes.size() + kChunkBytes - 1) / kChunkBytes;
  std::vector<Digest> digests(num_chunks);
  pool.ParallelFor(static_cast<int64_t>(num_chunks), [&](int64_t chunk) {
    const size_t first = static_cast<size_t>(chunk) * kChunkBytes;
    digests[chunk] = HashChunk(bytes.data() + first, std::min(kChunkBytes, bytes.size() - first));
  });
  const Digest all = HashChunk(reinterpret_cast<const std::byte*>(digests.data()), digests.size() * sizeof(Digest));
  return absl::StrCat(absl::Hex(all.low, absl::kZeroPad16), absl::Hex(all.high, absl::kZeroPad16));
}

}  // namespace outrider
