// gRPC's callback threads belong to the channels and servers of the process: whoever lets go of the last of these joins
// them. A stream's end, which lets go of its channel, is told on such a thread; being the last, it would join itself
// and free the queue that it goes on to read (gRPC 1.51, ReleaseCallbackAlternativeCQ). A server lets go as it shuts
// down.
#pragma once

namespace outrider::router {

// From now on the process keeps these threads until it exits. Idempotent. Thread-safe.
void KeepCallbackThreads();

}  // namespace outrider::router
