// Philox4x32-10: random numbers that are a function of a counter, so that no generator state exists.
// (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011; constants and vectors of Random123.)
//
// The draw of token v at absolute position t (prompt included) of a sequence with `seed` and `lane` is
//   Philox4x32-10(key = seed, counter = (t, v / 4, lane, purpose))[v % 4]
//
// Thread safety: pure functions.
#pragma once

#include <array>
#include <cstdint>

namespace outrider::kernels {

// What a draw is for. Noise of kCoupled may have chosen the draft, so it never accepts or replaces one.
enum class DrawPurpose : uint32_t {
  kCoupled = 0,   // Gumbel-max over the vocabulary
  kAccept = 1,    // rejection sampling: keep the draft token v?
  kResidual = 2,  // rejection sampling: the token instead of it
};

inline constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
inline constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
inline constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
inline constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;
inline constexpr int kPhiloxRounds = 10;

// key = (low half, high half) of a 64-bit seed.
constexpr std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * counter[0];
    const uint64_t product1 = uint64_t{kPhiloxMultiplier1} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += kPhiloxWeyl0;
    key[1] += kPhiloxWeyl1;
  }
  return counter;
}

// Where a sequence's draws at one position come from.
struct DrawKey {
  uint64_t seed = 0;
  uint32_t lane = 0;
  uint32_t position = 0;  // absolute, of the token that is drawn
};

// The 32 random bits of token v.
constexpr uint32_t Draw(const DrawKey& key, DrawPurpose purpose, uint32_t token_id) {
  return Philox4x32({key.position, token_id / 4, key.lane, static_cast<uint32_t>(purpose)},
                    {static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)})[token_id % 4];
}

}  // namespace outrider::kernels
