// The router with real gRPC on both sides: a client, and fake target groups.
#include "router/router_server.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <functional>
#include <future>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/cluster.grpc.pb.h"
#include "proto/inference.grpc.pb.h"
#include "router/router_main.h"
#include "router/testing/byte_tokenizer.h"
#include "router/testing/fake_target.h"

namespace outrider::router {
namespace {

v1::RouterConfig TestConfig() {
  v1::RouterConfig config;
  config.set_grpc_port(0);
  config.set_metrics_port(0);
  config.set_queue_timeout_ms(20000);
  config.set_heartbeat_interval_ms(30);
  // Generous: two busy cores must not look like a loss.
  config.set_worker_timeout_ms(5000);
  return config;
}

std::unique_ptr<RouterServer> StartRouter(const v1::RouterConfig& config = TestConfig()) {
  auto router = RouterServer::Start(config);
  EXPECT_TRUE(router.ok()) << router.status();
  return router.ok() ? *std::move(router) : nullptr;
}

// One Generate call, read step by step.
class Call {
 public:
  Call(const std::string& address, const v1::GenerateRequest& request, const grpc::ChannelArguments& arguments = {},
       int deadline_s = 60)
      : stub_(
            v1::Inference::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments))) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(deadline_s));
    reader_ = stub_->Generate(&context_, request);
  }
  ~Call() {
    if (!finished_) {
      context_.TryCancel();
      Finish();
    }
  }

  // Reads one message; false at the end.
  bool Read() {
    v1::GenerateResponse response;
    if (!reader_->Read(&response)) return false;
    if (response.has_started()) {
      EXPECT_FALSE(started.has_value());
      EXPECT_TRUE(text.empty()) << "Started comes first";
      started = response.started();
    } else if (response.has_delta()) {
      EXPECT_TRUE(started.has_value());
      const v1::Delta& delta = response.delta();
      EXPECT_EQ(ends.count(delta.choice_index()), 0) << "something after the end";
      std::vector<TokenId>& choice = ids[delta.choice_index()];
      choice.insert(choice.end(), delta.token_ids().begin(), delta.token_ids().end());
      text[delta.choice_index()] += delta.text();
      num_logprobs += delta.logprobs_size();
    } else {
      EXPECT_TRUE(ends.emplace(response.finished().choice_index(), response.finished()).second) << "a second end";
    }
    return true;
  }
  // Reads until choice 0 has so many ids.
  void ReadIds(size_t count) {
    while (ids[0].size() < count && Read()) {
    }
  }
  grpc::Status Finish() {
    while (Read()) {
    }
    finished_ = true;
    return status = reader_->Finish();
  }
  void Cancel() { context_.TryCancel(); }
  // Of the server's metadata; empty if there is none. REQUIRES: Finish was called.
  std::string RequestId() const { return Find(context_.GetServerInitialMetadata(), "outrider-request-id"); }
  std::string RetryPushback() const { return Find(context_.GetServerTrailingMetadata(), "grpc-retry-pushback-ms"); }

  std::optional<v1::Started> started;
  std::map<uint32_t, std::vector<TokenId>> ids;
  std::map<uint32_t, std::string> text;
  std::map<uint32_t, v1::Finished> ends;
  int num_logprobs = 0;
  grpc::Status status;

 private:
  static std::string Find(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata, const char* key) {
    const auto it = metadata.find(key);
    return it == metadata.end() ? "" : std::string(it->second.data(), it->second.size());
  }

  std::unique_ptr<v1::Inference::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  bool finished_ = false;
};

v1::GenerateRequest Prompt(const std::string& prompt, uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.set_prompt(prompt);
  request.set_max_tokens(max_tokens);
  return request;
}

// A group that writes `script`, and dots after its end.
FakeTarget::Options Scripted(const RouterServer& router, const std::string& script) {
  FakeTarget::Options options;
  options.router_address = router.grpc_address();
  options.next_token = [script](const std::vector<TokenId>&, const std::vector<TokenId>& output, uint32_t) {
    return output.size() < script.size() ? static_cast<uint8_t>(script[output.size()]) : static_cast<TokenId>('.');
  };
  return options;
}

FakeTarget::Options Hashing(const RouterServer& router, const std::string& id = "group-0") {
  FakeTarget::Options options;
  options.router_address = router.grpc_address();
  options.id = id;
  return options;
}

v1::ModelInfo ModelInfoOf(const RouterServer& router) {
  const auto stub =
      v1::Inference::NewStub(grpc::CreateChannel(router.grpc_address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::ModelInfo info;
  EXPECT_TRUE(stub->GetModelInfo(&context, {}, &info).ok());
  return info;
}

int HealthyGroups(const RouterServer& router) { return static_cast<int>(ModelInfoOf(router).num_groups()); }

// The value of a series of the metrics page, by its beginning; -1 if there is none.
double Metric(const RouterServer& router, const std::string& series) {
  const std::string page = router.MetricsText();
  for (const absl::string_view line : absl::StrSplit(page, '\n')) {
    double value;
    if (absl::StartsWith(line, series) && absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) return value;
  }
  return -1;
}

// What a group without a fault gives.
std::vector<TokenId> UndisturbedIds(const v1::GenerateRequest& request) {
  const auto router = StartRouter();
  FakeTarget group(Hashing(*router));
  Call call(router->grpc_address(), request);
  EXPECT_TRUE(call.Finish().ok());
  return call.ids[0];
}

void ExpectStatus(const grpc::Status& status, grpc::StatusCode code, const std::vector<std::string>& parts) {
  EXPECT_EQ(status.error_code(), code) << status.error_message();
  for (const std::string& part : parts) {
    EXPECT_TRUE(absl::StrContains(status.error_message(), part)) << status.error_message() << " lacks " << part;
  }
}

TEST(Router, StreamsIdsTextAndOneEnd) {
  const auto router = StartRouter();
  FakeTarget group(Scripted(*router, "hello world"));
  v1::GenerateRequest request = Prompt("abc!", 11);
  request.set_num_logprobs(0);
  Call call(router->grpc_address(), request);
  ASSERT_TRUE(call.Finish().ok()) << call.status.error_message();
  ASSERT_TRUE(call.started.has_value());
  EXPECT_EQ(call.started->prompt_token_ids_size(), 2);  // "abc" is one token
  EXPECT_EQ(call.started->numerics_id(), "numerics-0");
  EXPECT_EQ(call.started->model(), "tiny");
  EXPECT_FALSE(call.started->request_id().empty());
  EXPECT_EQ(call.ids[0], IdsOf("hello world"));
  EXPECT_EQ(call.text[0], "hello world");
  EXPECT_EQ(call.num_logprobs, 11);
  const v1::Finished& end = call.ends.at(0);
  EXPECT_EQ(end.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(end.usage().output_tokens(), 11);
  EXPECT_EQ(end.usage().prompt_tokens(), 2);
  EXPECT_EQ(end.usage().plain_steps(), 11);
  EXPECT_GT(end.timing_ms().total(), 0);
  EXPECT_GE(end.timing_ms().total(), end.timing_ms().first_token());
  EXPECT_EQ(end.numerics_id(), "numerics-0");
}

TEST(Router, DrawsASeedAndTellsIt) {
  const auto router = StartRouter();
  FakeTarget group(Hashing(*router));
  std::set<uint64_t> seeds;
  for (int i = 0; i < 3; ++i) {
    Call call(router->grpc_address(), Prompt("a", 1));
    ASSERT_TRUE(call.Finish().ok());
    seeds.insert(call.started->seed());
    EXPECT_EQ(group.received().submits.back().params().seed(), call.started->seed());
  }
  EXPECT_EQ(seeds.size(), 3);
}

TEST(Router, ServesEveryChoiceInItsOwnLane) {
  const auto router = StartRouter();
  FakeTarget group(Hashing(*router));
  v1::GenerateRequest request = Prompt("a", 20);
  request.set_n(3);
  Call call(router->grpc_address(), request);
  ASSERT_TRUE(call.Finish().ok());
  EXPECT_EQ(call.ends.size(), 3);
  EXPECT_EQ(call.ids[2].size(), 20);
  EXPECT_NE(call.ids[0], call.ids[1]);
  const auto received = group.received();
  ASSERT_EQ(received.submits.size(), 1);
  EXPECT_EQ(received.submits[0].lanes_size(), 3);
}

TEST(Router, RendersChatMessages) {
  const auto router = StartRouter();
  FakeTarget group(Hashing(*router));
  v1::GenerateRequest request;
  v1::ChatMessage& message = *request.add_messages();
  message.set_role("user");
  message.set_content("hi");
  request.set_max_tokens(1);
  Call call(router->grpc_address(), request);
  ASSERT_TRUE(call.Finish().ok()) << call.status.error_message();
  const auto& ids = call.started->prompt_token_ids();
  EXPECT_EQ(ids[0], kStartId);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), kEndId), 1);
}

TEST(Router, EndsAStopStringAcrossTokensAndTellsTheGroup) {
  const auto router = StartRouter();
  FakeTarget group(Scripted(*router, "hello world"));
  v1::GenerateRequest request = Prompt("x", 3000);
  request.add_stop("lo w");
  Call call(router->grpc_address(), request);
  ASSERT_TRUE(call.Finish().ok()) << call.status.error_message();
  EXPECT_EQ(call.ids[0], IdsOf("hello w"));
  EXPECT_EQ(call.text[0], "hel");
  EXPECT_EQ(call.ends.at(0).finish_reason(), v1::FINISH_REASON_STOP_STRING);
  EXPECT_EQ(call.ends.at(0).stop_string(), "lo w");
  EXPECT_EQ(call.ends.at(0).usage().output_tokens(), 7);
  const auto received = group.received();
  ASSERT_EQ(received.stop_ats.size(), 1);
  EXPECT_EQ(received.stop_ats[0].num_output_tokens(), 7);
  EXPECT_TRUE(received.cancels.empty());
}

TEST(Router, LeavesTheEndTokenOutOfTheText) {
  const auto router = StartRouter();
  FakeTarget::Options options = Scripted(*router, "");
  options.next_token = [](const std::vector<TokenId>&, const std::vector<TokenId>& output, uint32_t) {
    return output.size() < 2 ? static_cast<TokenId>('a') : kEndId;
  };
  FakeTarget group(options);
  Call call(router->grpc_address(), Prompt("x", 100));
  ASSERT_TRUE(call.Finish().ok());
  EXPECT_EQ(call.ids[0], (std::vector<TokenId>{'a', 'a', kEndId}));
  EXPECT_EQ(call.text[0], "aa");
  EXPECT_EQ(call.ends.at(0).finish_reason(), v1::FINISH_REASON_END_TOKEN);
}

TEST(Router, KeepsARequestThatCameBeforeAnyGroup) {
  const auto router = StartRouter();
  Call call(router->grpc_address(), Prompt("x", 5));
  FakeTarget group(Scripted(*router, "later"));
  ASSERT_TRUE(call.Finish().ok()) << call.status.error_message();
  EXPECT_EQ(call.text[0], "later");
}

TEST(Router, SaysWhatIsMissingWhenNoGroupComes) {
  v1::RouterConfig config = TestConfig();
  config.set_queue_timeout_ms(50);
  const auto router = StartRouter(config);
  {
    Call call(router->grpc_address(), Prompt("x", 5));
    ExpectStatus(call.Finish(), grpc::StatusCode::UNAVAILABLE,
                 {"queue_timeout_ms", "no target group is registered", "--router-address"});
  }
  FakeTarget::Options options = Hashing(*router);
  FakeTarget group(options);
  group.SetServing(false);
  ASSERT_TRUE(group.Await([](const auto& r) { return r.num_heartbeats >= 3; }));
  Call call(router->grpc_address(), Prompt("x", 5));
  ExpectStatus(call.Finish(), grpc::StatusCode::UNAVAILABLE, {"group group-0 is not ready"});
}

TEST(Router, RefusesBeyondTheQueuesBound) {
  v1::RouterConfig config = TestConfig();
  config.set_max_queued_requests(1);
  const auto router = StartRouter(config);
  // Of two that wait for a group that never comes, one is refused; which came first is open.
  Call one(router->grpc_address(), Prompt("x", 5), {}, /*deadline_s=*/3);
  Call two(router->grpc_address(), Prompt("x", 5), {}, /*deadline_s=*/3);
  // Both are read at once: a client that looks after its deadline sees that alone.
  auto other = std::async(std::launch::async, [&] { return two.Finish().error_code(); });
  const std::set<grpc::StatusCode> codes = {one.Finish().error_code(), other.get()};
  EXPECT_EQ(codes,
            (std::set<grpc::StatusCode>{grpc::StatusCode::DEADLINE_EXCEEDED, grpc::StatusCode::RESOURCE_EXHAUSTED}));
  for (const Call* call : {&one, &two}) {
    EXPECT_EQ(call->RetryPushback().empty(), call->status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
}

TEST(Router, FreesTheGroupWhenTheClientCancels) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.hold = true;
  FakeTarget group(options);
  Call call(router->grpc_address(), Prompt("x", 1000));
  ASSERT_TRUE(group.Await([](const auto& r) { return r.submits.size() == 1; }));
  group.Permit(2);
  call.ReadIds(2);
  call.Cancel();
  EXPECT_TRUE(group.Await([](const auto& r) { return r.cancels.size() == 1; }));
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(group.received().cancels[0].request_id(), group.received().submits[0].request_id());
}

TEST(Router, FreesTheQueueWhenAWaitingClientCancels) {
  v1::RouterConfig config = TestConfig();
  config.set_max_queued_requests(1);
  const auto router = StartRouter(config);
  for (int i = 0; i < 3; ++i) {
    Call call(router->grpc_address(), Prompt("x", 5), {}, /*deadline_s=*/1);
    EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    // The server learns of it a moment after the client.
    while (router->num_open_calls() > 0) std::this_thread::yield();
  }
}

TEST(Router, PassesTheDeadlineOnAndFreesTheGroupWhenItPasses) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.hold = true;
  FakeTarget group(options);
  Call call(router->grpc_address(), Prompt("x", 1000), {}, /*deadline_s=*/3);
  ASSERT_TRUE(group.Await([](const auto& r) { return r.submits.size() == 1; }));
  const uint32_t deadline_ms = group.received().submits[0].deadline_ms();
  EXPECT_GT(deadline_ms, 0);
  EXPECT_LE(deadline_ms, 3100);  // the wire rounds up
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(group.Await([](const auto& r) { return r.cancels.size() == 1; }));
}

TEST(Router, CutsAClientThatDoesNotReadAndFreesTheGroup) {
  v1::RouterConfig config = TestConfig();
  config.set_max_stream_buffer_bytes(16 << 10);
  const auto router = StartRouter(config);
  FakeTarget::Options options = Hashing(*router);
  options.max_model_len = 4'000'000;
  options.tokens_per_event = 1000;
  options.next_token = [](const std::vector<TokenId>&, const std::vector<TokenId>&, uint32_t) { return TokenId{'a'}; };
  FakeTarget group(options);
  // A small window, so that the transport takes little of it.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 65536);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  Call call(router->grpc_address(), Prompt("x", 3'000'000), arguments);
  ASSERT_TRUE(call.Read());
  EXPECT_TRUE(group.Await([](const auto& r) { return r.cancels.size() == 1; }));
  ExpectStatus(call.Finish(), grpc::StatusCode::RESOURCE_EXHAUSTED, {"does not read", "max_stream_buffer_bytes"});
  EXPECT_LT(call.ids[0].size(), 3'000'000);
}

TEST(Router, SendsAnAttemptElsewhereWhenItsGroupIsLostBeforeATokenCame) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router, "a");
  options.hold = true;
  FakeTarget first(options);
  Call call(router->grpc_address(), Prompt("x", 10));
  ASSERT_TRUE(first.Await([](const auto& r) { return r.submits.size() == 1; }));
  options = Hashing(*router, "b");
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

TEST(Router, ContinuesOnAGroupOfEqualNumericsAfterTokensWereDelivered) {
  const v1::GenerateRequest request = Prompt("x", 40);
  const std::vector<TokenId> expected = UndisturbedIds(request);
  ASSERT_EQ(expected.size(), 40);

  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router, "a");
  options.hold = true;
  FakeTarget first(options);
  Call call(router->grpc_address(), request);
  ASSERT_TRUE(first.Await([](const auto& r) { return r.submits.size() == 1; }));
  first.Permit(7);
  call.ReadIds(7);
  // One of other numerics must not be asked.
  options = Hashing(*router, "b");
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

TEST(Router, ContinuesOnTheSameGroupOnceItIsBack) {
  const v1::GenerateRequest request = Prompt("x", 40);
  const std::vector<TokenId> expected = UndisturbedIds(request);
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.hold = true;
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

TEST(Router, GivesUpAfterTwoReplays) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.break_after_tokens = 3;
  FakeTarget group(options);
  Call call(router->grpc_address(), Prompt("x", 40));
  ExpectStatus(call.Finish(), grpc::StatusCode::UNAVAILABLE, {"group group-0 was lost", "attempt 3 of 3"});
  EXPECT_EQ(group.received().submits.size(), 3);
  EXPECT_LE(call.ids[0].size(), 9);
}

TEST(Router, EndsAStreamThatNoGroupCanContinueWithWhatWasDelivered) {
  v1::RouterConfig config = TestConfig();
  config.set_replay_wait_ms(3000);
  const auto router = StartRouter(config);
  FakeTarget::Options options = Hashing(*router, "a");
  options.hold = true;
  FakeTarget first(options);
  Call call(router->grpc_address(), Prompt("x", 40));
  ASSERT_TRUE(first.Await([](const auto& r) { return r.submits.size() == 1; }));
  first.Permit(4);
  call.ReadIds(4);
  options = Hashing(*router, "b");
  options.numerics_id = "another";
  FakeTarget other(options);
  while (ModelInfoOf(*router).num_groups() < 2) std::this_thread::yield();
  first.Stop();
  ExpectStatus(call.Finish(), grpc::StatusCode::UNAVAILABLE, {"group a was lost", "4 output tokens", "numerics_id"});
  EXPECT_EQ(call.ids[0].size(), 4);
  EXPECT_TRUE(other.received().submits.empty());
}

TEST(Router, HandsAStreamOverWhenItsGroupDrains) {
  const v1::GenerateRequest request = Prompt("x", 40);
  const std::vector<TokenId> expected = UndisturbedIds(request);
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router, "a");
  options.hold = true;
  FakeTarget first(options);
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

TEST(Router, RefusesAndCountsWhatAGroupSaysThatWasGivenUp) {
  const v1::GenerateRequest request = Prompt("x", 40);
  const std::vector<TokenId> expected = UndisturbedIds(request);
  v1::RouterConfig config = TestConfig();
  config.set_worker_timeout_ms(1000);
  const auto router = StartRouter(config);
  FakeTarget::Options options = Hashing(*router, "a");
  options.hold = true;
  FakeTarget stopped(options);
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

TEST(Router, TakesNothingFromAnotherLifeOfAGroup) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.events_incarnation = options.incarnation + 1;
  FakeTarget group(options);
  Call call(router->grpc_address(), Prompt("x", 5));
  ExpectStatus(call.Finish(), grpc::StatusCode::UNAVAILABLE, {"attempt 3 of 3"});
  EXPECT_TRUE(call.ids.empty());
  EXPECT_GE(Metric(*router, "outrider_stale_events_total{reason=\"incarnation\"}"), 3);
}

TEST(Router, WritesEachAcceptedRequestAndItsEndToItsLog) {
  v1::RouterConfig config = TestConfig();
  config.set_request_log(absl::StrCat(::testing::TempDir(), "/requests-", ::getpid(), ".jsonl"));
  std::map<std::string, std::string> outcomes;  // as the clients saw them
  {
    const auto router = StartRouter(config);
    FakeTarget group(Hashing(*router));
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
    group.SetServing(false);
    while (HealthyGroups(*router) > 0) std::this_thread::yield();
    Call late(router->grpc_address(), Prompt("x", 5), {}, /*deadline_s=*/1);
    EXPECT_EQ(late.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    // A client whose deadline has passed hears nothing more: one line of the log is known by its outcome alone.
    outcomes["late"] = "deadline";
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

TEST(Router, PassesAGroupsRefusalOn) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.fail_code = static_cast<uint32_t>(grpc::StatusCode::INVALID_ARGUMENT);
  FakeTarget group(options);
  Call call(router->grpc_address(), Prompt("x", 5));
  ExpectStatus(call.Finish(), grpc::StatusCode::INVALID_ARGUMENT, {"the fake group refuses"});
  EXPECT_EQ(group.received().submits.size(), 1);
}

TEST(Router, TriesAgainWhatAGroupGaveUpAsUnavailable) {
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

TEST(Router, ServesManyAtOnceWithinTheGroupsLimit) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router, "a");
  options.max_sequences = 2;
  FakeTarget a(options);
  options.id = "b";
  FakeTarget b(options);
  while (ModelInfoOf(*router).num_groups() < 2) std::this_thread::yield();
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 40; ++i) {
    calls.push_back(std::make_unique<Call>(router->grpc_address(), Prompt(absl::StrCat("x", i), 30)));
  }
  for (const auto& call : calls) {
    EXPECT_TRUE(call->Finish().ok()) << call->status.error_message();
    EXPECT_EQ(call->ids[0].size(), 30);
    EXPECT_EQ(call->ends.size(), 1);
  }
  EXPECT_EQ(a.received().submits.size() + b.received().submits.size(), 40);
  EXPECT_GT(a.received().submits.size(), 0);
  EXPECT_GT(b.received().submits.size(), 0);
}

TEST(Router, RefusesBadInputWithTheFieldAndTheValue) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.max_model_len = 64;
  FakeTarget group(options);
  while (ModelInfoOf(*router).num_groups() < 1) std::this_thread::yield();
  struct Case {
    std::function<void(v1::GenerateRequest&)> set;
    std::vector<std::string> parts;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<Case> cases = {
      {[](auto& r) { r.clear_prompt(); }, {"prompt", "messages", "prompt_token_ids"}},
      {[](auto& r) { r.set_prompt(""); }, {"prompt is empty"}},
      {[](auto& r) { r.add_prompt_token_ids(1); }, {"exactly one"}},
      {[](auto& r) { r.set_prompt(std::string(100, 'x')); }, {"100 tokens", "64"}},
      {[](auto& r) { r.set_prompt(std::string(10 << 20, 'x')); }, {"10485760 bytes", "64"}},
      {[](auto& r) { r.clear_prompt(), r.add_prompt_token_ids(kByteVocabSize); }, {"prompt_token_ids[0] = 260"}},
      {[](auto& r) { r.clear_prompt(), r.add_prompt_token_ids(-1); }, {"prompt_token_ids[0] = -1"}},
      {[](auto& r) { r.clear_prompt(), r.add_messages()->set_role("robot"); }, {"messages[0].role", "robot"}},
      {[=](auto& r) { r.set_temperature(nan); }, {"temperature", "nan"}},
      {[](auto& r) { r.set_top_p(2); }, {"top_p = 2"}},
      {[](auto& r) { r.set_n(17); }, {"n = 17", "16"}},
      {[](auto& r) { r.set_num_logprobs(21); }, {"num_logprobs = 21"}},
      {[](auto& r) { r.add_stop(std::string(1 << 20, 'x')); }, {"stop[0]", "1048576", "4096"}},
      {[](auto& r) { r.add_stop_token_ids(1000); }, {"stop_token_ids[0] = 1000"}},
      {[](auto& r) { r.set_max_tokens(0); }, {"max_tokens = 0"}},
      {[](auto& r) { r.set_min_tokens(9); }, {"min_tokens = 9", "max_tokens = 5"}},
  };
  for (const Case& c : cases) {
    v1::GenerateRequest request = Prompt("x", 5);
    c.set(request);
    Call call(router->grpc_address(), request);
    ExpectStatus(call.Finish(), grpc::StatusCode::INVALID_ARGUMENT, c.parts);
    EXPECT_FALSE(call.started.has_value());
  }
  EXPECT_TRUE(group.received().submits.empty());
  Call call(router->grpc_address(), Prompt("still here", 5));
  EXPECT_TRUE(call.Finish().ok());
}

TEST(Router, RefusesMessagesLargerThanItsSetting) {
  v1::RouterConfig config = TestConfig();
  config.set_max_message_bytes(1000);
  const auto router = StartRouter(config);
  Call call(router->grpc_address(), Prompt(std::string(2000, 'x'), 5));
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST(Router, FetchesTheModelOnceAndTellsAboutIt) {
  const auto router = StartRouter();
  EXPECT_EQ(ModelInfoOf(*router).num_groups(), 0);
  FakeTarget a(Hashing(*router, "a"));
  FakeTarget b(Hashing(*router, "b"));
  while (ModelInfoOf(*router).num_groups() < 2) std::this_thread::yield();
  const v1::ModelInfo info = ModelInfoOf(*router);
  EXPECT_EQ(info.model(), "tiny");
  EXPECT_EQ(info.vocab_size(), kByteVocabSize);
  EXPECT_EQ(info.max_model_len(), 4096);
  EXPECT_EQ(info.tokenizer_fingerprint(), text::Fingerprint(ByteDefinition()));
  EXPECT_EQ(info.numerics_ids_size(), 1);
  EXPECT_EQ(info.end_token_ids(0), kEndId);
  EXPECT_TRUE(info.has_chat_template());
  EXPECT_EQ(a.received().num_model_fetches + b.received().num_model_fetches, 1);
}

TEST(Router, TokenizesAndDetokenizes) {
  const auto router = StartRouter();
  const auto stub =
      v1::Inference::NewStub(grpc::CreateChannel(router->grpc_address(), grpc::InsecureChannelCredentials()));
  v1::TokenizeRequest request;
  request.set_text("abcab!<|end|>");
  v1::TokenizeResponse ids;
  {
    grpc::ClientContext context;
    ExpectStatus(stub->Tokenize(&context, request, &ids), grpc::StatusCode::UNAVAILABLE, {"no model is known yet"});
  }
  FakeTarget group(Hashing(*router));
  while (ModelInfoOf(*router).num_groups() < 1) std::this_thread::yield();
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->Tokenize(&context, request, &ids).ok());
  }
  EXPECT_EQ(ids.token_ids(0), kAbcId);
  EXPECT_EQ(ids.token_ids(1), kAbId);
  EXPECT_EQ(ids.token_ids_size(), 3 + 7);  // what looks like a control token is text
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = ids.token_ids();
  back.add_token_ids(kEndId);
  v1::DetokenizeResponse text;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->Detokenize(&context, back, &text).ok());
  }
  EXPECT_EQ(text.text(), "abcab!<|end|><|end|>");
  back.add_token_ids(-7);
  grpc::ClientContext context;
  ExpectStatus(stub->Detokenize(&context, back, &text), grpc::StatusCode::INVALID_ARGUMENT, {"= -7"});
}

TEST(Router, PairsDraftWorkersAndRefusesThoseOfAnotherTokenizer) {
  const auto router = StartRouter();
  FakeTarget group(Hashing(*router));
  ASSERT_TRUE(group.Await([](const auto& r) { return r.num_heartbeats >= 1; }));
  EXPECT_TRUE(SendDraftHeartbeat(router->grpc_address(), "draft-0", text::Fingerprint(ByteDefinition())).ok());
  ASSERT_TRUE(group.Await([](const auto& r) { return r.last_heartbeat.draft_workers_size() == 1; }));
  EXPECT_EQ(group.received().last_heartbeat.draft_workers(0).worker_id(), "draft-0");
  EXPECT_EQ(group.received().last_heartbeat.draft_workers(0).incarnation(), 3);
  EXPECT_EQ(group.received().last_heartbeat.interval_ms(), 30);
  ExpectStatus(SendDraftHeartbeat(router->grpc_address(), "draft-1", "another"), grpc::StatusCode::FAILED_PRECONDITION,
               {"draft-1", "group-0", "another"});
  EXPECT_EQ(ModelInfoOf(*router).num_draft_workers(), 1);
}

TEST(Router, RefusesAPastIncarnation) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.incarnation = 2;
  FakeTarget now(options);
  ASSERT_TRUE(now.Await([](const auto& r) { return r.num_heartbeats >= 1; }));
  options.incarnation = 1;
  FakeTarget past(options);
  ASSERT_TRUE(past.Await([](const auto& r) { return r.num_heartbeats >= 1; }));
  ExpectStatus(past.received().last_heartbeat_status, grpc::StatusCode::FAILED_PRECONDITION, {"older"});
  Call call(router->grpc_address(), Prompt("x", 5));
  EXPECT_TRUE(call.Finish().ok());
  EXPECT_TRUE(past.received().submits.empty());
}

// grpc.health.v1.Health/Check by its bytes: the distribution has no header for it. Field 1 of the answer is the status.
int HealthOf(const RouterServer& router) {
  const auto channel = grpc::CreateChannel(router.grpc_address(), grpc::InsecureChannelCredentials());
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  grpc::ByteBuffer request(nullptr, 0), response;
  grpc::Status status;
  const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  std::vector<grpc::Slice> slices;
  if (!status.ok() || !response.Dump(&slices).ok() || slices.empty() || slices[0].size() < 2) return -1;
  return slices[0].begin()[1];
}

// A call of a method with a request of any bytes, also such as no client library would send.
grpc::Status CallWithBytes(const RouterServer& router, const std::string& method, const std::string& bytes) {
  const auto channel = grpc::CreateChannel(router.grpc_address(), grpc::InsecureChannelCredentials());
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  const auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  return status;
}

TEST(Router, SaysSoWhenARequestCanNotBeParsed) {
  const auto router = StartRouter();
  v1::GenerateRequest request;
  request.set_prompt("abcd");
  std::string not_utf8 = request.SerializeAsString();
  not_utf8[not_utf8.find("abcd") + 1] = '\xff';
  const std::string cut_off = request.SerializeAsString().substr(0, 3);
  for (const std::string& bytes : {not_utf8, cut_off}) {
    ExpectStatus(CallWithBytes(*router, "/outrider.v1.Inference/Generate", bytes), grpc::StatusCode::INVALID_ARGUMENT,
                 {"no outrider.v1.GenerateRequest", "UTF-8"});
  }
  ExpectStatus(CallWithBytes(*router, "/outrider.v1.Inference/Tokenize", "\x0a\x02\xff\xff"),
               grpc::StatusCode::INVALID_ARGUMENT, {"no outrider.v1.TokenizeRequest"});
  EXPECT_EQ(router->num_open_calls(), 0);
}

TEST(Router, IsHealthyOnlyWhileAGroupServes) {
  constexpr int kServing = 1, kNotServing = 2;
  const auto router = StartRouter();
  EXPECT_EQ(HealthOf(*router), kNotServing);
  FakeTarget group(Hashing(*router));
  while (HealthOf(*router) != kServing) std::this_thread::yield();
  group.SetServing(false);
  while (HealthOf(*router) != kNotServing) std::this_thread::yield();
  group.SetServing(true);
  while (HealthOf(*router) != kServing) std::this_thread::yield();
  group.Stop();
  while (HealthOf(*router) != kNotServing) std::this_thread::yield();
}

TEST(Router, NamesAPortThatIsInUse) {
  const auto router = StartRouter();
  v1::RouterConfig config = TestConfig();
  const std::string port(std::vector<std::string>(absl::StrSplit(router->grpc_address(), ':')).back());
  config.set_grpc_port(std::stoi(port));
  const absl::Status status = RouterServer::Start(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(status.message(), port)) << status;
}

TEST(Router, RefusesSettingsThatCanNotWork) {
  v1::RouterConfig config = TestConfig();
  config.set_worker_timeout_ms(config.heartbeat_interval_ms());
  EXPECT_EQ(RouterServer::Start(config).status().code(), absl::StatusCode::kInvalidArgument);
  config = TestConfig();
  config.set_grpc_port(70000);
  EXPECT_EQ(RouterServer::Start(config).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RunRouter, WritesItsAddressesAndEndsOpenRequestsBeforeItExits) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  v1::RouterConfig config = TestConfig();
  config.set_address_file(absl::StrCat(::testing::TempDir(), "/router-address-", ::getpid()));
  absl::Status result = absl::UnknownError("not ended");
  std::thread process([&] { result = RunRouter(config); });
  std::string line;
  while (line.empty()) {
    std::ifstream file(config.address_file());
    std::getline(file, line);
  }
  const std::vector<std::string> parts = absl::StrSplit(line, ' ');
  ASSERT_EQ(parts.size(), 2) << line;
  ASSERT_TRUE(absl::StartsWith(parts[0], "grpc=127.0.0.1:")) << line;
  ASSERT_TRUE(absl::StartsWith(parts[1], "metrics=127.0.0.1:")) << line;
  const std::string address = parts[0].substr(5);

  FakeTarget::Options options;
  options.router_address = address;
  options.hold = true;
  FakeTarget group(options);
  Call call(address, Prompt("x", 6));
  ASSERT_TRUE(group.Await([](const auto& r) { return r.submits.size() == 1; }));
  group.Permit(2);
  call.ReadIds(2);
  ::pthread_kill(process.native_handle(), SIGTERM);
  // Nothing new is taken, what is open goes on.
  while (true) {
    Call late(address, Prompt("x", 1), {}, /*deadline_s=*/2);
    if (late.Finish().error_code() == grpc::StatusCode::UNAVAILABLE) break;
  }
  group.Permit(10);
  EXPECT_TRUE(call.Finish().ok()) << call.status.error_message();
  EXPECT_EQ(call.ids[0].size(), 6);
  process.join();
  EXPECT_TRUE(result.ok()) << result;
  std::remove(config.address_file().c_str());
}

}  // namespace
}  // namespace outrider::router
