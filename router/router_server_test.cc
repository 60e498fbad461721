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
#include "router/testing/router_harness.h"

namespace outrider::router {
namespace {

// Blocked before any thread is made: a signal to this process is for RunRouter's watcher alone.
const int kSignalsBlocked = [] {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}();

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
  FakeTarget group(Holding(*router));
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
  FakeTarget group(Holding(*router));
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
  // The server hears of a call's end a moment after the client.
  while (router->num_open_calls() > 0) std::this_thread::yield();
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
  ASSERT_EQ(parts.size(), 3) << line;
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
  ASSERT_EQ(kSignalsBlocked, 0);
  ::kill(::getpid(), SIGTERM);
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
