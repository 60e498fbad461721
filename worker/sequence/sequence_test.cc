#include "worker/sequence/sequence.h"

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

TEST(SamplingParams, TakesItsBoundsAsFloatsHaveThem) {
  EXPECT_EQ(Message([](SamplingParams& p) { p.top_p = 1e-6f, p.repetition_penalty = 0.01f; }), "");
  EXPECT_EQ(Message([](SamplingParams& p) { p.top_p = 1, p.repetition_penalty = 100; }), "");
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

TEST(Sequence, GrowsByAppendUntilATokenEndsIt) {
  Request request;
  request.prompt = {1, 2, 3};
  request.params.max_tokens = 3;
  request.params.end_token_ids = {9};
  Sequence sequence(SequenceId(1), request, {.lane = 2, .output = {4}});
  EXPECT_EQ(sequence.params().lane, 2u);
  EXPECT_EQ(sequence.num_output_tokens(), 1);
  EXPECT_EQ(sequence.EndedFromStart(), std::nullopt);
  EXPECT_EQ(sequence.Append(5), std::nullopt);
  EXPECT_EQ(sequence.Append(9), FinishReason::kEndToken);
  EXPECT_EQ(sequence.tokens(), absl::MakeConstSpan({1, 2, 3, 4, 5, 9}));
  EXPECT_EQ(sequence.output(), absl::MakeConstSpan({4, 5, 9}));
  EXPECT_EQ(sequence.num_tokens_max(), 6);
}

TEST(Sequence, CutForgetsWhatWasComputedBeyond) {
  Request request;
  request.prompt = {1, 2};
  Sequence sequence(SequenceId(1), request, {.output = {4, 5, 6}});
  sequence.SetComputed(5);
  sequence.CutOutput(1);
  EXPECT_EQ(sequence.tokens(), absl::MakeConstSpan({1, 2, 4}));
  EXPECT_EQ(sequence.num_computed_tokens(), 3);
}

TEST(Sequence, KnowsThatDeliveredOutputHasEnded) {
  Request request;
  request.prompt = {1};
  request.params.max_tokens = 2;
  EXPECT_EQ(Sequence(SequenceId(1), request, {.output = {4, 5}}).EndedFromStart(), FinishReason::kLength);
}

}  // namespace
}  // namespace outrider
