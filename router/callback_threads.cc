#include "router/callback_threads.h"

#include <grpcpp/grpcpp.h>

#include "proto/cluster.grpc.pb.h"

namespace outrider::router {

void KeepCallbackThreads() {
  // A server that nobody can reach, with callback methods that nobody calls, never ended.
  [[maybe_unused]] static grpc::Server* const keeper = [] {
    static auto* const service = new v1::Cluster::CallbackService();
    grpc::ServerBuilder builder;
    builder.RegisterService(service);
    return builder.BuildAndStart().release();
  }();
}

}  // namespace outrider::router
