#include "worker/sampling/verifier.h"

#include "gtest/gtest.h"

namespace outrider {
namespace {

kernels::VerifiedSpan Verified(int num_accepted, std::vector<TokenId> tokens) {
  kernels::VerifiedSpan verified;
  verified.num_accepted = num_accepted;
  for (const TokenId token : tokens) {
    kernels::SampledToken sampled;
    sampled.token_id = token;
    sampled.logprob = -0.5f * static_cast<float>(token);
    sampled.num_top = 1;
    sampled.top[0] = {token, sampled.logprob};
    verified.tokens.push_back(sampled);
  }
  return verified;
}

struct Fixture {
  SamplingParams params;
  std::vector<TokenId> draft = {4, 5, 6};
  SampledSpan span;
  Fixture() {
    params.max_tokens = 100;
    span = {
        .sequence = SequenceId(9), .params = &params, .num_prompt_tokens = 10, .num_output_tokens = 3, .draft = draft};
  }
};

TEST(ToSpanResult, CommitsAcceptedDraftsThenTheTargetToken) {
  Fixture f;
  const SpanResult result = ToSpanResult(f.span, Verified(2, {4, 5, 7}));
  EXPECT_EQ(result.sequence, SequenceId(9));
  EXPECT_EQ(result.num_draft_tokens, 3);
  EXPECT_EQ(result.num_accepted, 2);
  EXPECT_EQ(result.tokens, (std::vector<TokenId>{4, 5, 7}));
  EXPECT_TRUE(result.logprobs.empty());
  EXPECT_FALSE(result.finish.has_value());
}

TEST(ToSpanResult, CutsAnAcceptedRunAtAStopToken) {
  Fixture f;
  f.params.stop_token_ids = {5};
  const SpanResult result = ToSpanResult(f.span, Verified(3, {4, 5, 6, 7}));
  EXPECT_EQ(result.tokens, (std::vector<TokenId>{4, 5}));
  EXPECT_EQ(result.num_accepted, 2);
  EXPECT_EQ(result.finish, FinishReason::kStopToken);
}

TEST(ToSpanResult, CutsAtMaxTokens) {
  Fixture f;
  f.params.max_tokens = 4;
  const SpanResult result = ToSpanResult(f.span, Verified(3, {4, 5, 6, 7}));
  EXPECT_EQ(result.tokens, (std::vector<TokenId>{4}));
  EXPECT_EQ(result.num_accepted, 1);
  EXPECT_EQ(result.finish, FinishReason::kLength);
}

TEST(ToSpanResult, GivesLogprobsOfCommittedTokensOnly) {
  Fixture f;
  f.params.num_logprobs = 1;
  f.params.end_token_ids = {5};
  const SpanResult result = ToSpanResult(f.span, Verified(3, {4, 5, 6, 7}));
  ASSERT_EQ(result.logprobs.size(), 2);
  EXPECT_EQ(result.logprobs[1].logprob, -2.5f);
  EXPECT_EQ(result.logprobs[1].top[0].first, 5);
}

TEST(ToSpanResult, KeepsWhatStoodBeforeARowThatIsNotFinite) {
  Fixture f;
  kernels::VerifiedSpan verified = Verified(1, {4});
  verified.status = kernels::RowStatus::kNotFinite;
  const SpanResult result = ToSpanResult(f.span, verified);
  EXPECT_TRUE(result.not_finite);
  EXPECT_EQ(result.tokens, (std::vector<TokenId>{4}));
  // Beyond the end of the sequence nothing counts.
  f.params.end_token_ids = {4};
  EXPECT_FALSE(ToSpanResult(f.span, verified).not_finite);
}

TEST(ToVerifySpan, CarriesEveryParameter) {
  Fixture f;
  f.params.temperature = 0.7f;
  f.params.top_p = 0.8f;
  f.params.top_k = 40;
  f.params.min_p = 0.05f;
  f.params.repetition_penalty = 1.1f;
  f.params.presence_penalty = 0.2f;
  f.params.frequency_penalty = 0.3f;
  f.params.logit_bias = {{3, 1.5f}};
  f.params.min_tokens = 5;
  f.params.end_token_ids = {2};
  f.params.stop_token_ids = {8, 2};
  f.params.seed = 77;
  f.params.lane = 3;
  f.params.num_logprobs = 4;
  f.params.acceptance = Acceptance::kRejection;
  const std::vector<TokenId> masked = MaskedIds(f.params);
  EXPECT_EQ(masked, (std::vector<TokenId>{2, 8}));
  f.span.masked_ids = masked;
  EXPECT_TRUE(NeedsTokenCounts(f.params));
  const kernels::VerifySpan span = ToVerifySpan(f.span);
  EXPECT_EQ(span.row.temperature, 0.7f);
  EXPECT_EQ(span.row.top_p, 0.8f);
  EXPECT_EQ(span.row.top_k, 40);
  EXPECT_EQ(span.row.min_p, 0.05f);
  EXPECT_EQ(span.row.repetition_penalty, 1.1f);
  EXPECT_EQ(span.row.presence_penalty, 0.2f);
  EXPECT_EQ(span.row.frequency_penalty, 0.3f);
  EXPECT_EQ(span.row.bias.size(), 1);
  EXPECT_EQ(span.row.seed, 77);
  EXPECT_EQ(span.row.lane, 3);
  EXPECT_EQ(span.row.position, 13);
  EXPECT_EQ(span.row.num_logprobs, 4);
  EXPECT_EQ(span.row.masked_ids.size(), 2);
  EXPECT_EQ(span.num_masked_rows, 2);  // outputs 4 and 5 are still short of min_tokens when they are chosen
  EXPECT_EQ(span.rule, kernels::AcceptanceRule::kRejection);
  EXPECT_EQ(span.draft_ids.size(), 3);

  f.span.num_output_tokens = 6;
  EXPECT_EQ(ToVerifySpan(f.span).num_masked_rows, 0);
  EXPECT_FALSE(NeedsTokenCounts(SamplingParams()));
}

}  // namespace
}  // namespace outrider
