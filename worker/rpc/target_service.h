// TargetService is the leader's end of target.proto: one Serve call a router carries all its requests, GetModel tells
// what is served.
//
// A router that means another life of the group is refused: what it knows is of a group that is gone.
//
// A call that ends cancels and frees all it carried. Each lane submitted on it gets exactly one end while the call
// lives, also those that are refused.
//
// Thread safety: as a gRPC service. The service outlives its server's calls.
#pragma once

#include "base/clock.h"
#include "proto/target.grpc.pb.h"
#include "worker/engine/inbox.h"

namespace outrider {

class TargetService final : public v1::Target::CallbackService {
 public:
  struct Options {
    v1::ModelDescription model;
    uint64_t incarnation = 0;         // of this group, as its heartbeats tell; 0: routers are not fenced
    int max_buffered_tokens = 65536;  // a lane's output that waits for the router
  };
  // `inbox` and `clock` outlive this.
  TargetService(Options options, Inbox& inbox, const Clock& clock);

  grpc::ServerBidiReactor<v1::TargetCommands, v1::TargetEvents>* Serve(grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest* request,
                                     v1::ModelDescription* response) override;

 private:
  class Call;

  const Options options_;
  Inbox& inbox_;
  const Clock& clock_;
};

}  // namespace outrider
