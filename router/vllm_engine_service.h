// VllmEngineService answers the gRPC service that routers of vLLM's speak to engines (proto/vllm/grpc/engine), off
// unless vllm_engine is set. Requests are those of Generate in all else: admission, replay, ledger, API keys.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "proto/vllm/grpc/engine/vllm_engine.grpc.pb.h"
#include "router/generate_call.h"
#include "router/vllm_engine_messages.h"

namespace outrider::router {

class VllmEngineService final : public vllm::VllmEngine::CallbackService {
 public:
  // What `environment` points to outlives the server.
  explicit VllmEngineService(const CallEnvironment& environment)
      : environment_(environment), started_at_(environment.clock->Now()) {}

  grpc::ServerWriteReactor<vllm::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                             const vllm::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* context, const vllm::EmbedRequest* request,
                                  vllm::EmbedResponse* response) override;
  grpc::ServerUnaryReactor* HealthCheck(grpc::CallbackServerContext* context, const vllm::HealthCheckRequest* request,
                                        vllm::HealthCheckResponse* response) override;
  // Of requests of the same API key.
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context, const vllm::AbortRequest* request,
                                  vllm::AbortResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context, const vllm::GetModelInfoRequest* request,
                                         vllm::GetModelInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const vllm::GetServerInfoRequest* request,
                                          vllm::GetServerInfoResponse* response) override;

 private:
  class Generation;
  // False if a request of that id is open.
  bool Enter(const std::string& request_id, std::weak_ptr<Generation> generation);
  void Leave(const std::string& request_id);

  const CallEnvironment environment_;
  const TimePoint started_at_;
  Mutex mu_;
  absl::flat_hash_map<std::string, std::weak_ptr<Generation>> open_ ABSL_GUARDED_BY(mu_);  // that have a request_id
  double last_receive_s_ ABSL_GUARDED_BY(mu_) = 0;                                         // Unix s
};

}  // namespace outrider::router
