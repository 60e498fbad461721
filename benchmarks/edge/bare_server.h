// BareServer is what the router is measured against: a gRPC server of the public API that streams the same messages at
// the same pace (paced_output.h) without a router or an engine behind it, by the same callback API.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "benchmarks/edge/pacer.h"
#include "proto/inference.grpc.pb.h"

namespace outrider::edge {

class BareServer final : public v1::Inference::CallbackService {
 public:
  // Serves as long as the process lives.
  BareServer();
  const std::string& address() const { return address_; }

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) override;

 private:
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
  Pacer pacer_;
};

}  // namespace outrider::edge
