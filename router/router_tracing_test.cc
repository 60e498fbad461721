// The router's spans as a collector gets them, of real calls over gRPC and HTTP through a router to a scripted group.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "router/http/testing/http_client.h"
#include "router/testing/fake_target.h"
#include "router/testing/router_harness.h"
#include "tracing/testing/fake_collector.h"

namespace outrider::router {
namespace {

using Received = FakeCollector::Received;

constexpr char kTraceparent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kClientSpan[] = "00f067aa0ba902b7";

std::string Hex(const std::string& bytes) { return absl::BytesToHexString(bytes); }

v1::RouterConfig TracedConfig(const std::string& collector) {
  v1::RouterConfig config = TestConfig();
  config.set_otlp_endpoint(collector);
  return config;
}

// A Generate call with metadata, to its end.
grpc::Status Generate(const RouterServer& router, const v1::GenerateRequest& request,
                      const std::vector<std::pair<std::string, std::string>>& metadata = {}) {
  const auto stub =
      v1::Inference::NewStub(grpc::CreateChannel(router.grpc_address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  for (const auto& [key, value] : metadata) context.AddMetadata(key, value);
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  return reader->Finish();
}

std::vector<Received> Named(const std::vector<Received>& received, const std::string& prefix) {
  std::vector<Received> named;
  for (const Received& r : received) {
    if (absl::StartsWith(r.span.name(), prefix)) named.push_back(r);
  }
  return named;
}

// Waits for `count` calls, and gives everything that came by then: a call's spans come together.
std::vector<Received> AwaitCalls(FakeCollector& collector, size_t count) {
  EXPECT_TRUE(collector.Await([&](const auto& received) {
    return Named(received, "text_completion").size() + Named(received, "chat").size() >= count;
  }));
  return collector.received();
}

TEST(RouterTracing, BringsTheSpansOfACallToTheCollector) {
  FakeCollector collector;
  const auto router = StartRouter(TracedConfig(collector.address()));
  FakeTarget group(Scripted(*router, "abcdef"));
  const int64_t before = std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  ASSERT_TRUE(Generate(*router, Prompt("hello", 6), {{"traceparent", kTraceparent}}).ok());

  const std::vector<Received> received = AwaitCalls(collector, 1);
  const int64_t after = std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  ASSERT_EQ(received.size(), 3u);
  const Received call = Named(received, "text_completion")[0];
  const Received queue = Named(received, "router.queue")[0];
  const Received attempt = Named(received, "router.attempt")[0];
  for (const Received& r : received) {
    EXPECT_EQ(r.service, "outrider-router");
    EXPECT_FALSE(r.instance.empty());
    EXPECT_EQ(Hex(r.span.trace_id()), kTraceId);
    EXPECT_LE(r.span.start_time_unix_nano(), r.span.end_time_unix_nano());
  }
  EXPECT_EQ(Hex(call.span.parent_span_id()), kClientSpan);
  EXPECT_EQ(call.span.kind(), FakeCollector::Span::SPAN_KIND_SERVER);
  EXPECT_EQ(queue.span.parent_span_id(), call.span.span_id());
  EXPECT_EQ(attempt.span.parent_span_id(), call.span.span_id());
  EXPECT_LE(before, static_cast<int64_t>(call.span.start_time_unix_nano()));
  EXPECT_LE(call.span.start_time_unix_nano(), queue.span.start_time_unix_nano());
  EXPECT_LE(queue.span.end_time_unix_nano(), attempt.span.start_time_unix_nano());
  EXPECT_LE(attempt.span.end_time_unix_nano(), call.span.end_time_unix_nano());
  EXPECT_LE(static_cast<int64_t>(call.span.end_time_unix_nano()), after);
  EXPECT_EQ(call.attributes.at("gen_ai.usage.input_tokens"), "5");  // a byte a token
  EXPECT_EQ(call.attributes.at("gen_ai.usage.output_tokens"), "6");
  EXPECT_EQ(call.attributes.at("gen_ai.response.finish_reasons"), "length");
  EXPECT_EQ(call.attributes.count("gen_ai.latency.time_to_first_token"), 1u);
  EXPECT_TRUE(absl::StartsWith(call.attributes.at("gen_ai.request.id"), "req-"));
  EXPECT_EQ(attempt.attributes.at("outrider.group"), "group-0");

  // The group is told the same trace, and that what it does is of this attempt.
  const auto submits = group.received().submits;
  ASSERT_EQ(submits.size(), 1u);
  ASSERT_TRUE(submits[0].has_trace());
  EXPECT_EQ(absl::StrCat(absl::Hex(submits[0].trace().trace_id_high(), absl::kZeroPad16),
                         absl::Hex(submits[0].trace().trace_id_low(), absl::kZeroPad16)),
            kTraceId);
  EXPECT_EQ(absl::StrCat(absl::Hex(submits[0].trace().span_id(), absl::kZeroPad16)), Hex(attempt.span.span_id()));
  EXPECT_TRUE(submits[0].trace().sampled());
  for (const Received& r : received) {
    for (const auto& [name, value] : r.attributes) EXPECT_FALSE(absl::StrContains(value, "hello")) << name;
  }
}

TEST(RouterTracing, GivesARequestWithoutATraceOneOfItsOwn) {
  FakeCollector collector;
  const auto router = StartRouter(TracedConfig(collector.address()));
  FakeTarget group(Scripted(*router, "abcdef"));
  ASSERT_TRUE(Generate(*router, Prompt("hello", 6)).ok());
  // Malformed, or several: as if there were none.
  ASSERT_TRUE(Generate(*router, Prompt("hello", 6), {{"traceparent", "00-xyz"}}).ok());
  ASSERT_TRUE(
      Generate(*router, Prompt("hello", 6), {{"traceparent", kTraceparent}, {"traceparent", kTraceparent}}).ok());
  const std::vector<Received> calls = Named(AwaitCalls(collector, 3), "text_completion");
  ASSERT_EQ(calls.size(), 3u);
  std::set<std::string> traces;
  for (const Received& call : calls) {
    EXPECT_TRUE(call.span.parent_span_id().empty());
    EXPECT_NE(Hex(call.span.trace_id()), kTraceId);
    EXPECT_TRUE(traces.insert(call.span.trace_id()).second);
  }
}

TEST(RouterTracing, RecordsNothingThatTheClientOrTheRatioDoesNotWant) {
  FakeCollector collector;
  v1::RouterConfig config = TracedConfig(collector.address());
  config.set_otlp_sample_ratio(0);
  const auto router = StartRouter(config);
  FakeTarget group(Scripted(*router, "abcdef"));
  std::string unwanted = kTraceparent;
  unwanted.back() = '0';
  ASSERT_TRUE(Generate(*router, Prompt("hello", 6), {{"traceparent", unwanted}}).ok());
  ASSERT_TRUE(Generate(*router, Prompt("hello", 6)).ok());
  ASSERT_TRUE(Generate(*router, Prompt("wanted", 6), {{"traceparent", kTraceparent}}).ok());
  // Spans come in the order of the calls' ends, so those of the first two would have come before.
  const std::vector<Received> received = AwaitCalls(collector, 1);
  EXPECT_EQ(received.size(), 3u);
  EXPECT_EQ(Named(received, "text_completion").size(), 1u);
  EXPECT_EQ(Hex(received[0].span.trace_id()), kTraceId);
  // The group is told the trace all the same, for its log.
  EXPECT_FALSE(group.received().submits[0].trace().sampled());
  EXPECT_EQ(group.received().submits[0].trace().trace_id_low(), 0xa3ce929d0e0e4736u);
}

TEST(RouterTracing, TakesTheTraceOfAnHttpRequest) {
  FakeCollector collector;
  const auto router = StartRouter(TracedConfig(collector.address()));
  FakeTarget group(Scripted(*router, "abcdef"));
  ASSERT_TRUE(Generate(*router, Prompt("hello", 1)).ok());  // the router knows the model now
  AwaitCalls(collector, 1);
  const std::string body = R"({"prompt": "hello", "max_tokens": 6})";
  const HttpReply reply =
      Post(router->http_address(), "/v1/completions", body, absl::StrCat("Traceparent: ", kTraceparent, "\r\n"));
  ASSERT_EQ(reply.status, 200) << reply.body;
  const std::vector<Received> calls = Named(AwaitCalls(collector, 2), "text_completion");
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(Hex(calls[1].span.trace_id()), kTraceId);
  EXPECT_EQ(Hex(calls[1].span.parent_span_id()), kClientSpan);
  EXPECT_EQ(calls[1].attributes.at("gen_ai.usage.output_tokens"), "6");
}

TEST(RouterTracing, ShowsTheAttemptThatWasLostAndTheOneThatTookItsPlace) {
  FakeCollector collector;
  const auto router = StartRouter(TracedConfig(collector.address()));
  FakeTarget::Options first = Hashing(*router, "group-0");
  first.break_after_tokens = 3;
  auto broken = std::make_unique<FakeTarget>(first);
  Call call(router->grpc_address(), Prompt("hello", 8));
  ASSERT_TRUE(broken->Await([](const auto& received) { return received.num_streams_ended >= 1; }));
  broken.reset();
  FakeTarget second(Hashing(*router, "group-1"));
  ASSERT_TRUE(call.Finish().ok()) << call.status.error_message();
  const std::vector<Received> received = AwaitCalls(collector, 1);
  const std::vector<Received> attempts = Named(received, "router.attempt");
  ASSERT_GE(attempts.size(), 2u);
  EXPECT_EQ(attempts.front().span.status().code(),
            ::opentelemetry::proto::collector::trace::v1::Status::STATUS_CODE_ERROR);
  EXPECT_EQ(attempts.front().attributes.at("outrider.group"), "group-0");
  EXPECT_EQ(attempts.front().attributes.at("error.type"), "UNAVAILABLE");
  EXPECT_EQ(attempts.back().attributes.at("outrider.group"), "group-1");
  EXPECT_FALSE(attempts.back().span.has_status());
  EXPECT_EQ(Named(received, "router.queue").size(), attempts.size());
  EXPECT_FALSE(Named(received, "text_completion")[0].span.has_status());
}

TEST(RouterTracing, ServesOnWhileTheCollectorIsStuckOrGone) {
  std::string gone;
  {
    FakeCollector collector;
    gone = collector.address();
  }
  FakeCollector stuck;
  stuck.SetStuck(true);
  for (const std::string& address : {gone, stuck.address()}) {
    const auto router = StartRouter(TracedConfig(address));
    FakeTarget group(Scripted(*router, "abcdef"));
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(Generate(*router, Prompt("hello", 6)).ok());
    EXPECT_EQ(Metric(*router, "outrider_trace_spans_exported_total"), 0);
  }
}

TEST(RouterTracing, WritesTheTraceIntoTheRequestLogAlsoWhenItIsOff) {
  v1::RouterConfig config = TestConfig();
  config.set_request_log(absl::StrCat(::testing::TempDir(), "/traced-requests-", ::getpid(), ".jsonl"));
  {
    const auto router = StartRouter(config);
    FakeTarget group(Scripted(*router, "abcdef"));
    ASSERT_TRUE(Generate(*router, Prompt("hello", 2), {{"traceparent", kTraceparent}}).ok());
    ASSERT_TRUE(Generate(*router, Prompt("hello", 2)).ok());
    EXPECT_TRUE(group.received().submits[0].has_trace());
    EXPECT_FALSE(group.received().submits[1].has_trace());
    EXPECT_EQ(Metric(*router, "outrider_trace_spans_exported_total"), 0);
  }
  std::ifstream log(config.request_log());
  const std::string field = absl::StrCat("\"trace_id\":\"", kTraceId, "\",");
  std::vector<bool> has_trace;
  for (std::string line; std::getline(log, line);) has_trace.push_back(absl::StrContains(line, field));
  EXPECT_EQ(has_trace, (std::vector<bool>{true, true, false, false}));
  std::remove(config.request_log().c_str());
}

TEST(RouterTracing, RefusesAnEndpointThatIsNone) {
  const auto router = RouterServer::Start(TracedConfig("http://collector:4318/v1/traces"));
  EXPECT_EQ(router.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(router.status().message(), "otlp_endpoint"));
}

}  // namespace
}  // namespace outrider::router
