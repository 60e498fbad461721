#include "kernels/sampling/philox.h"

#include <array>

#include "gtest/gtest.h"

namespace outrider::kernels {
namespace {

using Words = std::array<uint32_t, 4>;

// Random123 1.14, tests/kat_vectors, "philox4x32 10".
TEST(Philox4x32, GivesTheKnownAnswersOfRandom123) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// The contract that lets a stream continue on another machine: counter = (t, v / 4, lane, purpose), word v % 4, the low
// half of the seed first. The same vector as above, read through it.
TEST(Draw, PlacesPositionTokenLaneAndPurposeInTheCounter) {
  const auto words = Philox4x32({7, 25, 3, 2}, {0x89abcdef, 0x01234567});
  const DrawKey key{.seed = 0x0123456789abcdefu, .lane = 3, .position = 7};
  for (uint32_t v = 100; v < 104; ++v) EXPECT_EQ(Draw(key, DrawPurpose::kResidual, v), words[v - 100]);
  EXPECT_NE(Draw(key, DrawPurpose::kAccept, 100), words[0]);
}

}  // namespace
}  // namespace outrider::kernels
