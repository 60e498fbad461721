// What a client should get: plain decoding, one token after the other, with no scheduler, no draft and no cluster.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "worker/sequence/sampling_params.h"
#include "worker/step/step_result.h"

namespace outrider::simulation {

struct OracleRequest {
  std::vector<TokenId> prompt;
  SamplingParams params;  // lane and seed included
  std::vector<std::string> stop;
  std::string numerics_id;
};

struct OracleAnswer {
  std::vector<TokenId> ids;
  std::vector<float> logprobs;
  std::string text;
  FinishReason reason = FinishReason::kLength;
  std::string stop_string;
};

OracleAnswer Answer(const OracleRequest& request);

}  // namespace outrider::simulation
