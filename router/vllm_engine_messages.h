// The messages of vLLM's VllmEngine service (proto/vllm/grpc/engine) as ours, and ours as theirs.
//
// Thread safety: none. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/inference.pb.h"
#include "proto/vllm/grpc/engine/vllm_engine.pb.h"

namespace outrider::router {

namespace vllm = ::vllm::grpc::engine;

// Sampling as vLLM understands the message, whatever the model recommends. INVALID_ARGUMENT naming a field that is not
// offered or can not be; ranges are the router's own business (request_validation.h).
absl::StatusOr<v1::GenerateRequest> FromVllm(const vllm::GenerateRequest& request);

// Makes the answers of one call.
class VllmAnswers {
 public:
  explicit VllmAnswers(bool stream) : stream_(stream) {}

  // What to send for `response`, in this order; often nothing without `stream`.
  std::vector<vllm::GenerateResponse> Take(const v1::GenerateResponse& response);
  // What to send for a call that was ended by Abort: each choice that has begun and not ended, with what it has.
  std::vector<vllm::GenerateResponse> Abort();

 private:
  struct Choice {
    std::vector<uint32_t> output_ids;
    vllm::OutputLogProbs logprobs;
    bool finished = false;
  };
  Choice& ChoiceOf(uint32_t index);
  vllm::GenerateResponse Chunk(const v1::Delta& delta);
  vllm::GenerateResponse Complete(const v1::Finished& finished);

  const bool stream_;
  uint32_t num_prompt_tokens_ = 0;
  std::vector<Choice> choices_;
};

}  // namespace outrider::router
