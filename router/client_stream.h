// ClientStream is the wire to one client, as a GenerateCall sees it: gRPC's or HTTP's.
//
// Thread safety: the call uses it from any thread, one at a time and with its own lock held: nothing here may call back
// into the call before it returns.
#pragma once

#include "absl/status/status.h"
#include "proto/inference.pb.h"

namespace outrider::router {

class ClientStream {
 public:
  virtual ~ClientStream() = default;

  // Sends `response`, which stays as it is until GenerateCall::OnWriteDone, or, of the last one, until
  // GenerateCall::OnDone: the stream may take its parts. One write is open at a time; the call has ended as OK with the
  // `last` one.
  virtual void Write(v1::GenerateResponse& response, bool last) = 0;
  // The call ends so, without another write.
  virtual void Finish(const absl::Status& status) = 0;
  // The client reads nothing: its connection is to be cut, as far as it is this call's.
  virtual void Cut() = 0;
};

}  // namespace outrider::router
