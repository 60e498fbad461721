#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "worker/sequence/sampling_params.h"
#include "worker/sequence/stop_condition.h"

namespace outrider {
namespace {

constexpr int kVocabSize = 100;

std::string Message(const std::function<void(SamplingParams&)>& change) {
  SamplingParams params;
  change(params);
  const absl::Status status = Validate(params, kVocabSize);
  return status.ok() ? "" : std::string(status.message());
}

TEST(SamplingParams, DefaultsAreValid) {
  EXPECT_EQ(Message([](SamplingParams&) {}), "");
}

TEST(SamplingParams, NamesWhatIsOutOfRangeOrNotANumber) {
  const float nan = std::nanf("");
  const float inf = std::numeric_limits<float>::infinity();
  const auto names = [](const char* name, const std::function<void(SamplingParams&)>& change) {
    EXPECT_EQ(Message(change).rfind(name, 0), 0) << Message(change);
  };
  names("temperature", [&](auto& p) { p.temperature = nan; });
  names("temperature", [&](auto& p) { p.temperature = -0.1f; });
  names("temperature", [&](auto& p) { p.temperature = inf; });
  names("top_p", [&](auto& p) { p.top_p = 0; });
  names("top_p", [&](auto& p) { p.top_p = 1.5f; });
  names("top_k", [&](auto& p) { p.top_k = -1; });
  names("min_p", [&](auto& p) { p.min_p = nan; });
  names("repetition_penalty", [&](auto& p) { p.repetition_penalty = 0; });
  names("presence_penalty", [&](auto& p) { p.presence_penalty = -inf; });
  names("frequency_penalty", [&](auto& p) { p.frequency_penalty = nan; });
  names("max_tokens", [&](auto& p) { p.max_tokens = 0; });
  names("min_tokens", [&](auto& p) { p.min_tokens = p.max_tokens + 1; });
  names("num_logprobs", [&](auto& p) { p.num_logprobs = 21; });
  names("end_token_ids", [&](auto& p) { p.end_token_ids = {kVocabSize}; });
  names("stop_token_ids", [&](auto& p) { p.stop_token_ids = {-1}; });
  names("stop_token_ids", [&](auto& p) { p.stop_token_ids.assign(kMaxStopTokenIds + 1, 1); });
  names("logit_bias", [&](auto& p) { p.logit_bias = {{kVocabSize, 1.f}}; });
  names("logit_bias", [&](auto& p) { p.logit_bias = {{1, nan}}; });
  names("logit_bias", [&](auto& p) { p.logit_bias.assign(kMaxLogitBias + 1, {1, 1.f}); });
}

TEST(StopsAt, EndAndStopTokensCountOnceMinTokensAreThere) {
  SamplingParams params;
  params.max_tokens = 10;
  params.min_tokens = 3;
  params.end_token_ids = {7};
  params.stop_token_ids = {8};
  EXPECT_EQ(StopsAt(7, 3, params), std::nullopt);
  EXPECT_EQ(StopsAt(7, 4, params), FinishReason::kEndToken);
  EXPECT_EQ(StopsAt(8, 4, params), FinishReason::kStopToken);
  EXPECT_EQ(StopsAt(9, 4, params), std::nullopt);
}

TEST(StopsAt, TheLastAllowedTokenEndsBylengthUnlessItEndsTheTextItself) {
  SamplingParams params;
  params.max_tokens = 2;
  params.end_token_ids = {7};
  EXPECT_EQ(StopsAt(9, 1, params), std::nullopt);
  EXPECT_EQ(StopsAt(9, 2, params), FinishReason::kLength);
  EXPECT_EQ(StopsAt(7, 2, params), FinishReason::kEndToken);
}

}  // namespace
}  // namespace outrider
