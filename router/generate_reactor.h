// GenerateReactor is one Generate call of a client over gRPC: the wire of a GenerateCall.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/status/status.h"
#include "proto/inference.grpc.pb.h"
#include "router/client_stream.h"
#include "router/generate_call.h"

namespace outrider::router {

// Metadata of each call: the request's id with the first answer; with a refusal, in how many ms to come again (as
// gRPC's retry design has it; error_details.h has it in google.rpc.RetryInfo too).
inline constexpr char kRequestIdKey[] = "outrider-request-id";
inline constexpr char kRetryPushbackKey[] = "grpc-retry-pushback-ms";

class GenerateReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public ClientStream {
 public:
  // Begins the call; the reactor lives until gRPC is done with it. `request` is a GenerateRequest as it came: gRPC
  // answers one that it can not parse with an UNIMPLEMENTED that says nothing.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Begin(const CallEnvironment& environment,
                                                           grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer& request);

  // ServerWriteReactor.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // ClientStream.
  void Write(v1::GenerateResponse& response, bool last) override;
  void Finish(const absl::Status& status) override;
  void Cut() override;

 private:
  using Reactor = grpc::ServerWriteReactor<grpc::ByteBuffer>;
  explicit GenerateReactor(grpc::CallbackServerContext* context) : context_(context) {}

  grpc::CallbackServerContext* const context_;
  std::shared_ptr<GenerateCall> call_;
  grpc::ByteBuffer bytes_;  // being written
};

}  // namespace outrider::router
