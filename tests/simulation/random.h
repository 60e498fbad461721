// Chance of a simulation: a small generator that gives the same numbers for the same seed on every machine.
//
// Each part of a world draws from its own (Fork), so that one more draw here does not change everything there.
//
// Thread safety: none.
#pragma once

#include <cstdint>

#include "base/clock.h"

namespace outrider::simulation {

// SplitMix64 (Steele, Lea, Flood, 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [0, n). REQUIRES: n > 0.
  int Below(int n) { return static_cast<int>(Next() % static_cast<uint64_t>(n)); }
  // In [low, high]; `low` if high is below.
  int Between(int low, int high) { return high <= low ? low : low + Below(high - low + 1); }
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }
  bool Chance(double probability) { return probability > 0 && Unit() < probability; }
  Duration Within(double low_ms, double high_ms) {
    return FromMillis(high_ms <= low_ms ? low_ms : low_ms + (high_ms - low_ms) * Unit());
  }
  // Another generator, by purpose.
  Random Fork(uint64_t purpose) { return Random(Next() ^ (purpose * 0xd6e8feb86659fd93u)); }

 private:
  uint64_t state_;
};

}  // namespace outrider::simulation
