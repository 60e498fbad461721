// ClusterService takes the workers' heartbeats and tells target groups which draft workers to use.
//
// Errors: INVALID_ARGUMENT (no role, a field empty or out of range), FAILED_PRECONDITION (an older incarnation, another
// model or tokenizer), RESOURCE_EXHAUSTED (too many workers).
#pragma once

#include <cstdint>

#include "proto/cluster.grpc.pb.h"
#include "router/dispatcher.h"

namespace outrider::router {

class ClusterService final : public v1::Cluster::CallbackService {
 public:
  // `dispatcher` outlives the server.
  ClusterService(Dispatcher* dispatcher, uint32_t heartbeat_interval_ms)
      : dispatcher_(dispatcher), heartbeat_interval_ms_(heartbeat_interval_ms) {}

  grpc::ServerUnaryReactor* Heartbeat(grpc::CallbackServerContext* context, const v1::HeartbeatRequest* request,
                                      v1::HeartbeatResponse* response) override;

 private:
  Dispatcher* const dispatcher_;
  const uint32_t heartbeat_interval_ms_;
};

}  // namespace outrider::router
