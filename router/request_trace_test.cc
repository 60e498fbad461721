#include "router/request_trace.h"

#include <gtest/gtest.h>

#include "tracing/testing/kept_spans.h"

namespace outrider::router {
namespace {

constexpr TraceContext kClient{.trace = {1, 2}, .span = 77, .sampled = true};
constexpr TimePoint kArrival = TimePoint() + std::chrono::seconds(100);
constexpr int64_t kArrivalNs = 1'700'000'000'000'000'000;

TimePoint After(int ms) { return kArrival + std::chrono::milliseconds(ms); }

class RequestTraceTest : public testing::Test {
 protected:
  RequestTraceTest() : tracer_(kept_.MakeSink(), 1, {1, 2}), trace_(Make(kClient)) {
    request_.prompt_token_ids = {1, 2, 3};
    request_.sampling.max_tokens = 9;
    request_.sampling.seed = 5;
    request_.num_choices = 1;
  }
  RequestTrace Make(const TraceContext& context) {
    return RequestTrace(&tracer_, context, /*is_chat=*/true, kArrival,
                        WallClock(kArrival, std::chrono::system_clock::from_time_t(kArrivalNs / 1'000'000'000)));
  }
  static GroupRef Group() {
    GroupRef group;
    group.group_id = "group-0";
    group.numerics_id = "n";
    return group;
  }
  RequestTrace::Summary Summary(const absl::Status& status = absl::OkStatus()) {
    return {.status = status,
            .request_name = "req-1",
            .model = "m",
            .numerics_id = "n",
            .request = &request_,
            .num_output_tokens = 4,
            .num_attempts = 1};
  }
  static void ExpectTimes(const TraceSpan& span, int start_ms, int end_ms) {
    EXPECT_EQ((span.start_unix_ns - kArrivalNs) / 1'000'000, start_ms) << span.name;
    EXPECT_EQ((span.end_unix_ns - kArrivalNs) / 1'000'000, end_ms) << span.name;
  }

  KeptSpans kept_;
  Tracer tracer_;
  ResolvedRequest request_;
  RequestTrace trace_;
};

TEST_F(RequestTraceTest, TellsTheCallItsQueueAndItsAttempt) {
  trace_.OnQueued(After(2));
  const TraceContext told = trace_.OnAttempt(1, 42, Group(), After(10));
  trace_.OnFirstToken(std::chrono::milliseconds(30));
  trace_.OnChoiceEnded({.reason = EndReason::kStopString,
                        .usage = {.cached_tokens = 2, .rounds = 3, .draft_tokens = 8, .accepted_tokens = 5},
                        .timing = {.queue = 12, .first_token = 30, .decode = 50, .total = 80}});
  trace_.OnAttemptEnded(After(80));
  trace_.End(Summary(), After(90));

  const std::vector<TraceSpan> spans = kept_.spans();
  ASSERT_EQ(spans.size(), 3u);
  const TraceSpan& queue = spans[0];
  const TraceSpan& attempt = spans[1];
  const TraceSpan& call = spans[2];
  EXPECT_EQ(call.name, "chat m");
  EXPECT_EQ(call.kind, SpanKind::kServer);
  EXPECT_EQ(call.parent, kClient.span);
  EXPECT_TRUE(call.parent_is_remote);
  EXPECT_FALSE(call.failed);
  ExpectTimes(call, 0, 90);
  EXPECT_EQ(queue.name, "router.queue");
  EXPECT_EQ(queue.parent, call.id);
  ExpectTimes(queue, 2, 10);
  EXPECT_EQ(attempt.name, "router.attempt");
  EXPECT_EQ(attempt.kind, SpanKind::kClient);
  EXPECT_EQ(attempt.parent, call.id);
  ExpectTimes(attempt, 10, 80);
  EXPECT_EQ(AttributeOf<int64_t>(attempt, "outrider.attempt_id"), 42);
  EXPECT_EQ(AttributeOf<std::string>(attempt, "outrider.group"), "group-0");
  EXPECT_EQ(told.trace, kClient.trace);
  EXPECT_EQ(told.span, attempt.id);
  EXPECT_TRUE(told.sampled);

  EXPECT_EQ(AttributeOf<std::string>(call, "gen_ai.request.id"), "req-1");
  EXPECT_EQ(AttributeOf<int64_t>(call, "gen_ai.usage.input_tokens"), 3);
  EXPECT_EQ(AttributeOf<int64_t>(call, "gen_ai.usage.output_tokens"), 4);
  EXPECT_EQ(AttributeOf<int64_t>(call, "gen_ai.usage.cache_read.input_tokens"), 2);
  EXPECT_EQ(AttributeOf<std::vector<std::string>>(call, "gen_ai.response.finish_reasons"),
            std::vector<std::string>{"stop"});
  EXPECT_DOUBLE_EQ(AttributeOf<double>(call, "gen_ai.latency.time_to_first_token"), 0.030);
  EXPECT_DOUBLE_EQ(AttributeOf<double>(call, "gen_ai.latency.time_in_queue"), 0.012);
  EXPECT_DOUBLE_EQ(AttributeOf<double>(call, "gen_ai.latency.time_in_model_prefill"), 0.018);
  EXPECT_DOUBLE_EQ(AttributeOf<double>(call, "gen_ai.latency.time_in_model_decode"), 0.050);
  EXPECT_DOUBLE_EQ(AttributeOf<double>(call, "gen_ai.latency.e2e"), 0.090);
  EXPECT_EQ(AttributeOf<int64_t>(call, "outrider.accepted_tokens"), 5);
}

TEST_F(RequestTraceTest, ShowsALostAttemptTheWaitAfterItAndTheNext) {
  trace_.OnQueued(After(0));
  trace_.OnAttempt(1, 1, Group(), After(1));
  trace_.OnAttemptEnded(After(20));
  trace_.OnAttemptFailed(absl::UnavailableError("gone"), After(21));
  trace_.OnQueued(After(22));
  trace_.OnAttempt(2, 2, Group(), After(30));
  trace_.End(Summary(), After(50));  // an attempt that is still open ends with the call

  const auto queues = kept_.Named("router.queue");
  const auto attempts = kept_.Named("router.attempt");
  ASSERT_EQ(queues.size(), 2u);
  ASSERT_EQ(attempts.size(), 2u);
  ExpectTimes(attempts[0], 1, 20);
  EXPECT_TRUE(attempts[0].failed);
  EXPECT_EQ(attempts[0].error, "gone");
  ExpectTimes(queues[1], 22, 30);
  ExpectTimes(attempts[1], 30, 50);
  EXPECT_FALSE(attempts[1].failed);
}

TEST_F(RequestTraceTest, FailsTheCallWhereTheServerDid) {
  trace_.OnQueued(After(0));
  trace_.End(Summary(absl::UnavailableError("no group")), After(5));
  const auto calls = kept_.Named("chat m");
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_TRUE(calls[0].failed);
  EXPECT_EQ(calls[0].error, "no group");
  EXPECT_EQ(AttributeOf<std::string>(calls[0], "error.type"), "UNAVAILABLE");
}

TEST_F(RequestTraceTest, DoesNotFailTheCallWhereTheClientDid) {
  trace_.End({.status = absl::InvalidArgumentError("temperature"), .request_name = "req-1"}, After(5));
  const auto calls = kept_.Named("chat");
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_FALSE(calls[0].failed);
  EXPECT_EQ(AttributeOf<std::string>(calls[0], "error.type"), "INVALID_ARGUMENT");
}

TEST_F(RequestTraceTest, IsARootWithoutAClientsSpan) {
  RequestTrace trace = Make({.trace = {3, 4}, .span = 0, .sampled = true});
  trace.End(Summary(), After(5));
  ASSERT_EQ(kept_.spans().size(), 1u);
  EXPECT_EQ(kept_.spans()[0].parent, 0u);
  EXPECT_FALSE(kept_.spans()[0].parent_is_remote);
}

TEST_F(RequestTraceTest, RecordsABoundedNumberOfAttempts) {
  TraceContext told;
  for (int i = 0; i < 1000; ++i) {
    trace_.OnQueued(After(2 * i));
    told = trace_.OnAttempt(static_cast<uint32_t>(i + 1), static_cast<uint64_t>(i + 1), Group(), After(2 * i + 1));
    trace_.OnAttemptFailed(absl::UnavailableError("gone"), After(2 * i + 2));
  }
  trace_.End(Summary(), After(3000));
  EXPECT_EQ(kept_.Named("router.attempt").size(), static_cast<size_t>(RequestTrace::kMaxAttempts));
  EXPECT_EQ(kept_.Named("router.queue").size(), static_cast<size_t>(RequestTrace::kMaxAttempts));
  EXPECT_EQ(told.span, kept_.Named("chat m")[0].id);  // what is not recorded has the call for its parent
}

}  // namespace
}  // namespace outrider::router
