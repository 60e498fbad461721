// FakeEngine is the target groups and draft workers of a cluster without a model: one gRPC server that registers at
// routers as so many groups, whose answers come at the pace that each request asks for (paced_output.h). Its first
// token is on its way before the next command is read, so what a client waits for is the router and the wires.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "benchmarks/edge/pacer.h"
#include "proto/cluster.grpc.pb.h"
#include "proto/target.grpc.pb.h"

namespace outrider::edge {

class FakeEngine final : public v1::Target::CallbackService {
 public:
  // Listens at `unix_path`, as the groups of `outrider serve` do, and at a TCP port of this machine; serves as long as
  // the process lives.
  explicit FakeEngine(const std::string& unix_path);

  // Where routers reach it.
  const std::string& address(bool by_tcp) const { return by_tcp ? tcp_address_ : unix_address_; }
  // Sends heartbeats to the router from now on, as so many groups and draft workers, which it is to reach by TCP or by
  // the unix: socket.
  void RegisterAt(const std::string& router_address, int num_groups, int num_draft_workers, bool by_tcp);

  grpc::ServerBidiReactor<v1::TargetCommands, v1::TargetEvents>* Serve(grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest* request,
                                     v1::ModelDescription* response) override;

 private:
  class RouterStream;
  struct Sequence;
  void FlushStreams();

  const std::string unix_address_;
  std::string tcp_address_;
  std::unique_ptr<grpc::Server> server_;
  Mutex mu_;
  std::vector<std::shared_ptr<RouterStream>> streams_ ABSL_GUARDED_BY(mu_);
  Pacer pacer_;
};

}  // namespace outrider::edge
