// InferenceService is what clients speak to: Generate, and what one asks of the model around it.
//
// Errors: UNAUTHENTICATED where the API has keys and the call none of them; INVALID_ARGUMENT naming the field;
// UNAVAILABLE while no group has told its model (Tokenize, Detokenize); FAILED_PRECONDITION where the model lacks what
// is asked for (a chat template, a tokenizer).
#pragma once

#include "proto/inference.grpc.pb.h"
#include "router/generate_call.h"

namespace outrider::router {

// Methods that take text take bytes: see grpc_message.h.
using InferenceMethods = v1::Inference::WithRawCallbackMethod_Generate<
    v1::Inference::WithRawCallbackMethod_Tokenize<v1::Inference::WithCallbackMethod_GetModelInfo<
        v1::Inference::WithCallbackMethod_GetLoad<v1::Inference::WithCallbackMethod_Detokenize<
            v1::Inference::WithCallbackMethod_Abort<v1::Inference::Service>>>>>>;

class InferenceService final : public InferenceMethods {
 public:
  // What `environment` points to outlives the server.
  explicit InferenceService(const CallEnvironment& environment) : environment_(environment) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  // Answers without a model too: then only the counts mean something.
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context, const v1::GetModelInfoRequest* request,
                                         v1::ModelInfo* response) override;
  // Answers without a model too.
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context, const v1::GetLoadRequest* request,
                                    v1::ClusterLoad* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context, const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override;

 private:
  const CallEnvironment environment_;
};

}  // namespace outrider::router
