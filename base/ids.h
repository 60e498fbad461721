// Names for numbers that must not be mixed up. Each is a value of its own type; compare and hash like the number
// inside.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace outrider {

// A vocabulary index. Plain, because arrays of it cross every interface; -1 never denotes a token.
using TokenId = int32_t;

// The number of a KV block in the storage of every rank of a group. Plain for the same reason.
using BlockId = int32_t;

template <typename Tag>
struct StrongId {
  uint64_t value = 0;
  constexpr StrongId() = default;
  constexpr explicit StrongId(uint64_t v) : value(v) {}
  friend constexpr auto operator<=>(StrongId, StrongId) = default;
  template <typename H>
  friend H AbslHashValue(H h, StrongId id) {
    return H::combine(std::move(h), id.value);
  }
};

struct SequenceIdTag {};
struct StepIdTag {};
struct RequestIdTag {};

// A sequence within one target group's life. Never reused within an epoch; 0 means none.
using SequenceId = StrongId<SequenceIdTag>;
// A step within one epoch, from 1; 0 means none.
using StepId = StrongId<StepIdTag>;
// A request within one router's life, from 1; 0 means none.
using RequestId = StrongId<RequestIdTag>;

}  // namespace outrider

template <typename Tag>
struct std::hash<outrider::StrongId<Tag>> {
  size_t operator()(outrider::StrongId<Tag> id) const noexcept { return std::hash<uint64_t>()(id.value); }
};
