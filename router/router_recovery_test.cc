// What becomes of a stream whose group is lost, drains, is given up or refuses: the router with real gRPC on both
// sides.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "router/testing/fake_target.h"
#include "router/testing/router_harness.h"

namespace outrider::router {
namespace {

TEST(RouterRecovery, SendsAnAttemptElsewhereWhenItsGroupIsLostBeforeATokenCame) {
  const auto router = StartRouter();
  FakeTarget first(Holding(*router, "a"));
  Call call(router->grpc_address(), Prompt("x", 10));
  ASSERT_TRUE(first.Await([](const auto& r) { return r.submits.size() == 1; }));
  FakeTarget::Options options = Hashing(*router, "b");
  options.numerics_id = "another";
  FakeTarget other(options);
  while (ModelInfoOf(*router).num_groups() < 2) std::this_thread::yield();
  first.Stop();
  ASSERT_TRUE(call.Finish().ok()) << call.status.error_message();
  EXPECT_EQ(call.started->numerics_id(), "another");
  EXPECT_EQ(call.ids[0].size(), 10);
  ASSERT_EQ(other.received().submits.size(), 1);
  EXPECT_EQ(other.received().submits[0].attempt(), 2);
}

TEST(RouterRecovery, ContinuesOnAGroupOfEqualNumericsAfterTokensWereDelivered) {
  const v1::GenerateRequest request = Prompt("x", 40);
  const std::vector<TokenId> expected = UndisturbedIds(request);
  ASSERT_EQ(expected.size(), 40);

  const auto router = StartRouter();
  FakeTarget first(Holding(*router, "a"));
  Call call(router->grpc_address(), request);
  ASSERT_TRUE(first.Await([](const auto& r) { return r.submits.size() == 1; }));
  first.Permit(7);
  call.ReadIds(7);
  // One of other numerics must not be asked.
  FakeTarget::Options options = Hashing(*router, "b");
  options.numerics_id = "another";
  FakeTarget other(options);
  FakeTarget equal(Hashing(*router, "c"));
  while (ModelInfoOf(*router).num_groups() < 3) std::this_thread::yield();
  first.Stop();
  ASSERT_TRUE(call.Finish().ok()) << call.status.error_message();
  EXPECT_EQ(call.ids[0], expected);
  EXPECT_EQ(call.text[0], std::string(expected.begin(), expected.end()));
  EXPECT_EQ(call.ends.size(), 1);
  EXPECT_TRUE(other.received().submits.empty());
  const auto received = equal.received();
  ASSERT_EQ(received.submits.size(), 1);
  EXPECT_EQ(received.submits[0].attempt(), 2);
  EXPECT_EQ(received.submits[0].lanes(0).output_token_ids_size(), 7);
  EXPECT_EQ(received.submits[0].params().seed(), call.started->seed());
}

TEST(RouterRecovery, TellsLogprobsOfThePromptOnceThoughTheGroupIsLost) {
  v1::GenerateRequest request = Prompt("prompt", 20);
  request.set_prompt_logprobs(2);
  const auto router = StartRouter();
  FakeTarget first(Holding(*router, "a"));
  Call call(router->grpc_address(), request);
  ASSERT_TRUE(first.Await([](const auto& r) { return r.submits.size() == 1; }));
  EXPECT_EQ(first.received().submits[0].params().num_prompt_logprobs(), 2u);
  first.Permit(3);
  call.ReadIds(3);
  const size_t num_prompt_logprobs = call.prompt_logprobs.size();
  EXPECT_EQ(num_prompt_logprobs, static_cast<size_t>(call.started->prompt_token_ids_size()) - 1);
  FakeTarget equal(Hashing(*router, "c"));
  while (ModelInfoOf(*router).num_groups() < 2) std::this_thread::yield();
  first.Stop();
  ASSERT_TRUE(call.Finish().ok()) << call.status.error_message();
  EXPECT_EQ(call.ids[0].size(), 20);
  EXPECT_EQ(call.prompt_logprobs.size(), num_prompt_logprobs);
  EXPECT_EQ(call.prompt_logprobs[1].rank(), 2u);
  EXPECT_EQ(call.prompt_logprobs[1].top_size(), 2);
  ASSERT_EQ(equal.received().submits.size(), 1);
  EXPECT_FALSE(equal.received().submits[0].params().has_num_prompt_logprobs()) << "all of them had come";
}

TEST(RouterRecovery, ContinuesOnTheSameGroupOnceItIsBack) {
  const v1::GenerateRequest request = Prompt("x", 40);
  const std::vector<TokenId> expected = UndisturbedIds(request);
  const auto router = StartRouter();
  FakeTarget::Options options = Holding(*router);
  auto group = std::make_unique<FakeTarget>(options);
  Call call(router->grpc_address(), request);
  ASSERT_TRUE(group->Await([](const auto& r) { return r.submits.size() == 1; }));
  group->Permit(5);
  call.ReadIds(5);
  // Its stream breaks while it lives on.
  group->BreakStreamNow();
  ASSERT_TRUE(group->Await([](const auto& r) { return r.submits.size() == 2; }));
  group->Permit(5);
  call.ReadIds(10);
  // It restarts.
  group.reset();
  options.hold = false;
  options.incarnation = 2;
  group = std::make_unique<FakeTarget>(options);
  ASSERT_TRUE(call.Finish().ok()) << call.status.error_message();
  EXPECT_EQ(call.ids[0], expected);
  EXPECT_EQ(group->received().submits.at(0).attempt(), 3);
}

TEST(RouterRecovery, GivesUpAfterTwoReplays) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.break_after_tokens = 3;
  FakeTarget group(options);
  Call call(router->grpc_address(), Prompt("x", 40));
  ExpectStatus(call.Finish(), grpc::StatusCode::UNAVAILABLE, {"group group-0 was lost", "attempt 3 of 3"});
  EXPECT_EQ(group.received().submits.size(), 3);
  EXPECT_LE(call.ids[0].size(), 9);
}

TEST(RouterRecovery, EndsAStreamThatNoGroupCanContinueWithWhatWasDelivered) {
  v1::RouterConfig config = TestConfig();
  config.set_replay_wait_ms(3000);
  const auto router = StartRouter(config);
  FakeTarget first(Holding(*router, "a"));
  Call call(router->grpc_address(), Prompt("x", 40));
  ASSERT_TRUE(first.Await([](const auto& r) { return r.submits.size() == 1; }));
  first.Permit(4);
  call.ReadIds(4);
  FakeTarget::Options options = Hashing(*router, "b");
  options.numerics_id = "another";
  FakeTarget other(options);
  while (ModelInfoOf(*router).num_groups() < 2) std::this_thread::yield();
  first.Stop();
  ExpectStatus(call.Finish(), grpc::StatusCode::UNAVAILABLE, {"group a was lost", "4 output tokens", "numerics_id"});
  EXPECT_EQ(call.ids[0].size(), 4);
  EXPECT_TRUE(other.received().submits.empty());
}

TEST(RouterRecovery, HandsAStreamOverWhenItsGroupDrains) {
  const v1::GenerateRequest request = Prompt("x", 40);
  const std::vector<TokenId> expected = UndisturbedIds(request);
  const auto router = StartRouter();
  FakeTarget first(Holding(*router, "a"));
  Call call(router->grpc_address(), request);
  ASSERT_TRUE(first.Await([](const auto& r) { return r.submits.size() == 1; }));
  first.Permit(5);
  call.ReadIds(5);
  // Nobody else can go on with it: it stays.
  first.SetDraining(true);
  while (HealthyGroups(*router) > 0) std::this_thread::yield();
  first.Permit(2);
  call.ReadIds(7);
  FakeTarget other(Hashing(*router, "b"));
  ASSERT_TRUE(call.Finish().ok()) << call.status.error_message();
  EXPECT_EQ(call.ids[0], expected);
  EXPECT_EQ(other.received().submits.at(0).lanes(0).output_token_ids_size(), 7);
  EXPECT_TRUE(first.Await([](const auto& r) { return r.cancels.size() == 1; }));
  EXPECT_EQ(Metric(*router, "outrider_attempts_handed_over_total"), 1);
  EXPECT_EQ(Metric(*router, "outrider_attempts_lost_total"), 0);
}

TEST(RouterRecovery, RefusesAndCountsWhatAGroupSaysThatWasGivenUp) {
  const v1::GenerateRequest request = Prompt("x", 40);
  const std::vector<TokenId> expected = UndisturbedIds(request);
  v1::RouterConfig config = TestConfig();
  config.set_worker_timeout_ms(1000);
  const auto router = StartRouter(config);
  FakeTarget stopped(Holding(*router, "a"));
  Call call(router->grpc_address(), request);
  ASSERT_TRUE(stopped.Await([](const auto& r) { return r.submits.size() == 1; }));
  stopped.Permit(5);
  call.ReadIds(5);
  FakeTarget other(Hashing(*router, "b"));
  stopped.SetSilent(true);
  ASSERT_TRUE(call.Finish().ok()) << call.status.error_message();
  EXPECT_EQ(call.ids[0], expected);
  EXPECT_EQ(stopped.received().num_streams_ended, 0);
  // It goes on where it was.
  stopped.Permit(1);
  ASSERT_TRUE(stopped.Await([](const auto& r) { return r.num_streams_ended == 1; }));
  // The group sees its stream end a moment before the router has counted why.
  while (Metric(*router, "outrider_stale_events_total{reason=\"fenced\"}") < 1) std::this_thread::yield();
  EXPECT_EQ(Metric(*router, "outrider_stale_events_total{reason=\"fenced\"}"), 1);
  // And takes part again.
  stopped.SetSilent(false);
  while (HealthyGroups(*router) < 2) std::this_thread::yield();
}

TEST(RouterRecovery, TakesNothingFromAnotherLifeOfAGroup) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.events_incarnation = options.incarnation + 1;
  FakeTarget group(options);
  Call call(router->grpc_address(), Prompt("x", 5));
  ExpectStatus(call.Finish(), grpc::StatusCode::UNAVAILABLE, {"attempt 3 of 3"});
  EXPECT_TRUE(call.ids.empty());
  EXPECT_GE(Metric(*router, "outrider_stale_events_total{reason=\"incarnation\"}"), 3);
}

TEST(RouterRecovery, QuarantinesARequestWhoseGroupsDiedAndDidNotComeBack) {
  v1::RouterConfig config = TestConfig();
  config.set_worker_timeout_ms(1000);
  config.set_replay_wait_ms(20'000);
  const auto router = StartRouter(config);
  FakeTarget first(Holding(*router, "a"));
  Call call(router->grpc_address(), Prompt("x", 40));
  ASSERT_TRUE(first.Await([](const auto& r) { return r.submits.size() == 1; }));
  FakeTarget second(Holding(*router, "b"));
  while (ModelInfoOf(*router).num_groups() < 2) std::this_thread::yield();
  // Nobody listens at their addresses any more, which is how a death is told from a partition.
  first.Stop();
  ASSERT_TRUE(second.Await([](const auto& r) { return r.submits.size() == 1; }));
  second.Stop();
  ExpectStatus(call.Finish(), grpc::StatusCode::INTERNAL, {"quarantined", "2 target groups", "(a, b)"});
  EXPECT_EQ(Metric(*router, "outrider_requests_quarantined_total"), 1);
}

TEST(RouterRecovery, WritesEachAcceptedRequestAndItsEndToItsLog) {
  v1::RouterConfig config = TestConfig();
  config.set_request_log(absl::StrCat(::testing::TempDir(), "/requests-", ::getpid(), ".jsonl"));
  std::map<std::string, std::string> outcomes;  // as the clients saw them
  {
    const auto router = StartRouter(config);
    FakeTarget group(Hashing(*router));
    while (HealthyGroups(*router) == 0) std::this_thread::yield();
    group.SetServing(false);
    while (HealthyGroups(*router) > 0) std::this_thread::yield();
    {
      // Before anything was served: who knows how long requests last refuses this one a moment before its deadline.
      Call late(router->grpc_address(), Prompt("x", 5), {}, /*deadline_s=*/1);
      EXPECT_EQ(late.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
      // A client whose deadline has passed hears nothing more: one line of the log is known by its outcome alone.
      while (router->num_open_calls() > 0) std::this_thread::yield();
    }
    group.SetServing(true);
    while (HealthyGroups(*router) == 0) std::this_thread::yield();
    {
      Call good(router->grpc_address(), Prompt("x", 5));
      ASSERT_TRUE(good.Finish().ok());
      EXPECT_EQ(good.RequestId(), good.started->request_id());
      EXPECT_EQ(good.RetryPushback(), "");
      outcomes[good.RequestId()] = "complete";
    }
    {
      Call bad(router->grpc_address(), Prompt("x", 0));
      EXPECT_EQ(bad.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
      EXPECT_NE(bad.RequestId(), "");
      EXPECT_EQ(bad.RetryPushback(), "");
    }
    while (router->num_open_calls() > 0) std::this_thread::yield();
  }
  std::ifstream log(config.request_log());
  std::set<std::string> accepted;
  std::multiset<std::string> ended;
  for (std::string line; std::getline(log, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, '"');
    const std::string id = parts.at(7);
    if (parts.at(3) == "accepted") {
      EXPECT_TRUE(accepted.insert(id).second) << line;
      continue;
    }
    EXPECT_EQ(parts.at(3), "ended");
    EXPECT_EQ(accepted.count(id), 1) << line;
    const auto seen = outcomes.find(id);
    EXPECT_EQ(parts.at(13), seen == outcomes.end() ? "deadline" : seen->second) << line;
    ended.insert(id);
  }
  EXPECT_EQ(accepted.size(), 2);
  EXPECT_EQ(ended, (std::multiset<std::string>(accepted.begin(), accepted.end())));
  std::remove(config.request_log().c_str());
}

TEST(RouterRecovery, PassesAGroupsRefusalOn) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.fail_code = static_cast<uint32_t>(grpc::StatusCode::INVALID_ARGUMENT);
  FakeTarget group(options);
  Call call(router->grpc_address(), Prompt("x", 5));
  ExpectStatus(call.Finish(), grpc::StatusCode::INVALID_ARGUMENT, {"the fake group refuses"});
  EXPECT_EQ(group.received().submits.size(), 1);
}

TEST(RouterRecovery, TriesAgainWhatAGroupGaveUpAsUnavailable) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.fail_code = static_cast<uint32_t>(grpc::StatusCode::UNAVAILABLE);
  options.fail_at_token = 2;
  FakeTarget group(options);
  Call call(router->grpc_address(), Prompt("x", 5));
  ExpectStatus(call.Finish(), grpc::StatusCode::UNAVAILABLE, {"the fake group refuses", "attempt 3 of 3"});
  EXPECT_EQ(group.received().submits.size(), 3);
  EXPECT_EQ(call.ids[0].size(), 2);
}

}  // namespace
}  // namespace outrider::router
