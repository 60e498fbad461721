// InferenceService is what clients speak to: Generate, and what one asks of the model around it.
//
// Errors: INVALID_ARGUMENT naming the field; UNAVAILABLE while no group has told its model (Tokenize, Detokenize);
// FAILED_PRECONDITION where the model lacks what is asked for (a chat template, a tokenizer).
#pragma once

#include "proto/inference.grpc.pb.h"
#include "router/generate_call.h"

namespace outrider::router {

class InferenceService final : public v1::Inference::CallbackService {
 public:
  // What `environment` points to outlives the server.
  explicit InferenceService(const CallEnvironment& environment) : environment_(environment) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) override;
  // Answers without a model too: then only the counts mean something.
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context, const v1::GetModelInfoRequest* request,
                                         v1::ModelInfo* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  const CallEnvironment environment_;
};

}  // namespace outrider::router
