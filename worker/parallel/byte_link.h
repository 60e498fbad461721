// ByteLink is one end of a stream of bytes between two ranks, in both directions.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"

namespace outrider {

// Thread safety: Send and Receive from one thread each; Leave and Abort from any.
// Errors: UNAVAILABLE once the peer has left (what it sent before is received first), was lost, or either end aborted;
// DEADLINE_EXCEEDED.
class ByteLink {
 public:
  virtual ~ByteLink() = default;

  // Queues the parts, one after the other; waits while too much is on its way.
  virtual absl::Status Send(std::initializer_list<absl::string_view> parts, TimePoint deadline) = 0;
  // Exactly `bytes` bytes.
  virtual absl::Status Receive(void* data, int64_t bytes, TimePoint deadline) = 0;
  // Until there is something to receive, without a bound in time.
  virtual absl::Status AwaitBytes() = 0;

  // Nothing more is sent; what was sent arrives.
  virtual void Leave() = 0;
  // Ends all calls at both ends with UNAVAILABLE and `reason`; of several the first stands.
  virtual void Abort(absl::string_view reason) = 0;
};

}  // namespace outrider
