// The spans that a cluster of processes brings to a collector, of a request with drafts: one tree over router and
// group.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "router/http/testing/http_client.h"
#include "tests/integration/cluster_fixture.h"
#include "tracing/testing/fake_collector.h"

namespace outrider {
namespace {

using Received = FakeCollector::Received;

constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kClientSpan[] = "00f067aa0ba902b7";
constexpr int kMaxTokens = 64;
// Processes read the wall clock apart, at different moments.
constexpr uint64_t kClockSlackNs = 5'000'000;

int64_t Number(const Received& span, const std::string& name) {
  int64_t number = -1;
  const auto attribute = span.attributes.find(name);
  if (attribute == span.attributes.end() || !absl::SimpleAtoi(attribute->second, &number)) return -1;
  return number;
}

TEST(TracedCluster, ShowsARequestFromTheRouterToTheRoundsOfItsGroup) {
  FakeCollector collector;
  ClusterOptions options = TestCluster();
  options.lookahead = "4";
  options.ngram_draft = false;
  options.otlp_endpoint = collector.address();
  options.otlp_sample_ratio = 0;  // the client's trace alone
  const auto cluster = StartCluster(options);
  ASSERT_NE(cluster, nullptr);
  // Untraced, until the group has met the draft worker, which the router knew first.
  constexpr int kRequestsMax = 500;
  for (int i = 0; MetricSum(cluster->metrics_address(), "outrider_draft_rounds_total") <= 0; ++i) {
    ASSERT_LT(i, kRequestsMax) << "the group never drafts";
    const router::HttpReply untraced = router::Post(cluster->http_address(), "/v1/completions",
                                                    R"({"prompt": "untraced", "ignore_eos": true, "max_tokens": 16})");
    ASSERT_EQ(untraced.status, 200) << untraced.body;
  }
  const router::HttpReply reply = router::Post(
      cluster->http_address(), "/v1/completions",
      absl::StrCat(R"({"prompt": "Once upon a time", "temperature": 0, "ignore_eos": true, "max_tokens": )", kMaxTokens,
                   "}"),
      absl::StrCat("traceparent: 00-", kTraceId, "-", kClientSpan, "-01\r\n"));
  ASSERT_EQ(reply.status, 200) << reply.body;

  std::map<std::string, std::vector<Received>> by_name;
  const auto find = [&](const std::vector<Received>& received) {
    by_name.clear();
    for (const Received& r : received) by_name[r.span.name().substr(0, r.span.name().find(' '))].push_back(r);
    return by_name.count("text_completion") > 0 && by_name.count("target.decode") > 0 &&
           by_name.count("draft.round") > 0;
  };
  ASSERT_TRUE(collector.Await(find));
  const Received call = by_name["text_completion"][0];
  const Received attempt = by_name["router.attempt"][0];
  const Received queue = by_name["target.queue"][0];
  const Received prefill = by_name["target.prefill"][0];
  const Received decode = by_name["target.decode"][0];
  EXPECT_EQ(absl::BytesToHexString(call.span.parent_span_id()), kClientSpan);
  EXPECT_EQ(attempt.span.parent_span_id(), call.span.span_id());
  EXPECT_EQ(call.service, "outrider-router");
  for (const Received& r : {queue, prefill, decode}) {
    EXPECT_EQ(r.service, "outrider-target");
    EXPECT_EQ(r.instance, "group-0");
    EXPECT_EQ(r.span.parent_span_id(), attempt.span.span_id()) << r.span.name();
    EXPECT_GE(r.span.start_time_unix_nano() + kClockSlackNs, attempt.span.start_time_unix_nano());
    EXPECT_LE(r.span.end_time_unix_nano(), attempt.span.end_time_unix_nano() + kClockSlackNs);
  }
  EXPECT_EQ(queue.span.end_time_unix_nano(), prefill.span.start_time_unix_nano());
  EXPECT_EQ(prefill.span.end_time_unix_nano(), decode.span.start_time_unix_nano());
  EXPECT_EQ(Number(decode, "gen_ai.usage.output_tokens"), kMaxTokens);
  EXPECT_EQ(Number(call, "gen_ai.usage.output_tokens"), kMaxTokens);
  EXPECT_GT(Number(decode, "outrider.rounds"), 0);
  EXPECT_EQ(Number(call, "outrider.rounds"), Number(decode, "outrider.rounds"));
  EXPECT_EQ(Number(call, "outrider.accepted_tokens"), Number(decode, "outrider.accepted_tokens"));

  // Rounds within the decode, one after the other, each with its wait before its verification.
  ASSERT_FALSE(by_name["target.round"].empty());
  ASSERT_FALSE(by_name["target.verify"].empty());
  std::set<std::string> rounds;
  uint64_t last_end = decode.span.start_time_unix_nano();
  for (const Received& round : by_name["target.round"]) {
    EXPECT_EQ(round.span.parent_span_id(), decode.span.span_id());
    EXPECT_GE(round.span.start_time_unix_nano(), last_end);
    EXPECT_LE(round.span.end_time_unix_nano(), decode.span.end_time_unix_nano());
    last_end = round.span.end_time_unix_nano();
    rounds.insert(round.span.span_id());
    if (Number(round, "outrider.draft_tokens") > 0) {
      EXPECT_NE(round.attributes.at("outrider.draft_source").find("draft-0"), std::string::npos);
    }
  }
  for (const char* const name : {"target.verify", "draft.wait"}) {
    for (const Received& r : by_name[name]) EXPECT_EQ(rounds.count(r.span.parent_span_id()), 1u) << name;
  }

  // What the draft worker did for them.
  for (const Received& round : by_name["draft.round"]) {
    EXPECT_EQ(round.service, "outrider-draft");
    EXPECT_EQ(round.instance, "draft-0");
    EXPECT_EQ(round.span.parent_span_id(), attempt.span.span_id());
    EXPECT_GE(round.span.start_time_unix_nano() + kClockSlackNs, attempt.span.start_time_unix_nano());
    EXPECT_GE(Number(round, "outrider.round"), 1);
  }

  // All of it is of the client's trace: the request before was not to be recorded.
  std::set<std::string> ids;
  for (const Received& r : collector.received()) {
    EXPECT_EQ(absl::BytesToHexString(r.span.trace_id()), kTraceId);
    EXPECT_TRUE(ids.insert(r.span.span_id()).second);
    EXPECT_LE(r.span.start_time_unix_nano(), r.span.end_time_unix_nano());
  }
  EXPECT_GT(MetricSum(cluster->metrics_address(), "outrider_trace_spans_exported_total"), 0);
  EXPECT_EQ(MetricSum(cluster->metrics_address(), "outrider_trace_spans_dropped_total"), 0);
}

}  // namespace
}  // namespace outrider
