// What a router's cluster carries now.
#pragma once

#include "proto/load.pb.h"
#include "router/generate_call.h"  // CallEnvironment

namespace outrider::router {

// Thread safety: from any thread. Copies what is known of each worker: some microseconds.
v1::ClusterLoad CurrentLoad(const CallEnvironment& environment);

}  // namespace outrider::router
