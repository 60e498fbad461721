#include "router/proto_conversions.h"

#include <gtest/gtest.h>

namespace outrider::router {
namespace {

TEST(ProtoConversions, KeepWhatIsAbsentAbsent) {
  const v1::GenerateRequest empty;
  const RequestInput input = ViewOf(empty);
  EXPECT_FALSE(input.prompt.has_value());
  EXPECT_FALSE(input.max_tokens.has_value());
  EXPECT_FALSE(input.seed.has_value());
  EXPECT_FALSE(input.draft.has_value());
}

TEST(ProtoConversions, KeepZeroesThatAreGiven) {
  v1::GenerateRequest request;
  request.set_prompt("");
  request.set_seed(0);
  request.set_temperature(0);
  request.set_draft(false);
  const RequestInput input = ViewOf(request);
  EXPECT_EQ(input.prompt, "");
  EXPECT_EQ(input.seed, 0);
  EXPECT_EQ(input.temperature, 0.0f);
  EXPECT_EQ(input.draft, false);
}

TEST(ProtoConversions, SubmitCarriesParametersAndOnlyLanesThatRun) {
  ResolvedRequest request;
  request.prompt_token_ids = {5, 6};
  request.num_choices = 3;
  request.sampling.max_tokens = 10;
  request.sampling.seed = 1234567890123ull;
  request.sampling.logit_bias = {{7, -1.5f}};
  request.sampling.end_token_ids = {2};
  request.lookahead = 4;
  GenerateRelay relay(&request, nullptr, TimePoint{}, 1 << 20);
  const std::vector<TokenId> ids = {8, 9};
  ASSERT_TRUE(relay.OnTokens(1, 0, ids, {}, TimePoint{}).status.ok());
  ASSERT_TRUE(relay.OnFinished(0, EndReason::kCancelled, {}, 0, TimePoint{}).ok());
  const v1::Submit submit = ToSubmit(request, relay);
  EXPECT_EQ(submit.prompt_token_ids_size(), 2);
  EXPECT_EQ(submit.params().max_tokens(), 10);
  EXPECT_EQ(submit.params().seed(), 1234567890123ull);
  EXPECT_EQ(submit.params().logit_bias(0).bias(), -1.5f);
  EXPECT_EQ(submit.params().end_token_ids(0), 2);
  EXPECT_EQ(submit.lookahead(), 4);
  ASSERT_EQ(submit.lanes_size(), 2);
  EXPECT_EQ(submit.lanes(0).lane(), 1);
  EXPECT_EQ(submit.lanes(0).output_token_ids_size(), 2);
  EXPECT_EQ(submit.lanes(1).lane(), 2);
  EXPECT_EQ(submit.lanes(1).output_token_ids_size(), 0);
}

TEST(ProtoConversions, TakeRoundsByAcceptedTokensOnlyIfTheyAddUp) {
  const auto taken = [](std::vector<uint32_t> rounds_by_accepted) {
    v1::Usage usage;
    usage.set_rounds(3);
    usage.set_accepted_tokens(4);
    for (const uint32_t rounds : rounds_by_accepted) usage.add_rounds_by_accepted(rounds);
    const LaneUsage read = FromProto(usage);
    EXPECT_EQ(read.accepted_tokens, 4u);
    return read.rounds_by_accepted.size();
  };
  EXPECT_EQ(taken({1, 0, 2, 0}), 4u);
  EXPECT_EQ(taken({}), 0u);
  EXPECT_EQ(taken({1, 1, 1}), 0u);
  EXPECT_EQ(taken({2, 0, 2}), 0u);
  std::vector<uint32_t> endless(1000);
  endless[0] = 1, endless[2] = 2;
  EXPECT_EQ(taken(endless), 0u);
}

TEST(ProtoConversions, TakeNumbersOfHostilePeersWithinReason) {
  v1::HeartbeatRequest request;
  request.mutable_target_group()->set_max_model_len(4294967295u);
  request.mutable_target_group()->set_outstanding_tokens(18446744073709551615ull);
  const GroupReport report = ToGroupReport(request);
  EXPECT_GT(report.max_model_len, 0);
  EXPECT_GT(report.load.num_tokens, 0);
  v1::LaneFailed failed;
  EXPECT_EQ(FromProto(failed).code(), absl::StatusCode::kInternal);
  failed.set_code(99);
  EXPECT_EQ(FromProto(failed).code(), absl::StatusCode::kInternal);
  failed.set_code(8);
  EXPECT_EQ(FromProto(failed).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(FromProto(static_cast<v1::FinishReason>(77)).ok());
  EXPECT_FALSE(FromProto(v1::FINISH_REASON_UNSPECIFIED).ok());
  v1::TokenizerDefinition definition;
  definition.add_tokens("a");
  definition.set_token_types("\1\1");
  EXPECT_EQ(FromProto(std::move(definition)).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace outrider::router
