#include "worker/engine/lane_trace.h"

#include <gtest/gtest.h>

#include "tracing/testing/kept_spans.h"

namespace outrider {
namespace {

constexpr TraceContext kContext{.trace = {1, 2}, .span = 77, .sampled = true};
constexpr TimePoint kReceived = TimePoint() + std::chrono::seconds(100);
constexpr int64_t kReceivedNs = 1'700'000'000'000'000'000;

TimePoint After(int ms) { return kReceived + std::chrono::milliseconds(ms); }

class LaneTraceTest : public testing::Test {
 protected:
  LaneTraceTest()
      : tracer_(kept_.MakeSink(), 1, {1, 2}),
        trace_(&tracer_, kContext, /*lane=*/3, /*num_prompt_tokens=*/9, kReceived,
               WallClock(kReceived, std::chrono::system_clock::from_time_t(kReceivedNs / 1'000'000'000))) {}

  static void ExpectTimes(const TraceSpan& span, int start_ms, int end_ms) {
    EXPECT_EQ((span.start_unix_ns - kReceivedNs) / 1'000'000, start_ms) << span.name;
    EXPECT_EQ((span.end_unix_ns - kReceivedNs) / 1'000'000, end_ms) << span.name;
  }
  TraceSpan Only(const std::string& name) {
    const auto spans = kept_.Named(name);
    EXPECT_EQ(spans.size(), 1u) << name;
    return spans.empty() ? TraceSpan() : spans[0];
  }
  // A step of 5 ms that ends at `end_ms`.
  void Step(int end_ms, int num_draft_tokens = 0, int num_accepted = 0, int wait_ms = 0) {
    SequenceUpdate update;
    update.tokens.resize(static_cast<size_t>(num_accepted) + 1);
    update.num_draft_tokens = num_draft_tokens;
    update.num_accepted = num_accepted;
    update.draft_wait = std::chrono::milliseconds(wait_ms);
    trace_.OnTokens(update, "draft-0", After(end_ms - 5), After(end_ms));
  }
  void Finish(int end_ms) {
    SequenceUpdate update;
    update.finish = FinishReason::kLength;
    update.usage = {.prompt_tokens = 9,
                    .output_tokens = 6,
                    .cached_tokens = 4,
                    .rounds = 1,
                    .plain_steps = 2,
                    .draft_tokens = 4,
                    .accepted_tokens = 3};
    trace_.End(update, "length", After(end_ms));
  }

  KeptSpans kept_;
  Tracer tracer_;
  LaneTrace trace_;
};

TEST_F(LaneTraceTest, TellsQueuePrefillAndDecodeOneAfterTheOther) {
  trace_.OnStarted(After(10));
  Step(30);
  Finish(50);
  ExpectTimes(Only("target.queue"), 0, 10);
  ExpectTimes(Only("target.prefill"), 10, 30);
  const TraceSpan decode = Only("target.decode");
  ExpectTimes(decode, 30, 50);
  for (const TraceSpan& span : kept_.spans()) {
    EXPECT_EQ(span.trace, kContext.trace);
    EXPECT_EQ(span.parent, kContext.span);
    EXPECT_TRUE(span.parent_is_remote);
    EXPECT_EQ(AttributeOf<int64_t>(span, "outrider.choice"), 3);
    EXPECT_FALSE(span.failed);
  }
  EXPECT_EQ(AttributeOf<int64_t>(Only("target.prefill"), "gen_ai.usage.input_tokens"), 9);
  EXPECT_EQ(AttributeOf<int64_t>(Only("target.prefill"), "gen_ai.usage.cache_read.input_tokens"), 4);
  EXPECT_EQ(AttributeOf<int64_t>(decode, "gen_ai.usage.output_tokens"), 6);
  EXPECT_EQ(AttributeOf<int64_t>(decode, "outrider.accepted_tokens"), 3);
  EXPECT_EQ(AttributeOf<std::string>(decode, "outrider.outcome"), "length");
}

TEST_F(LaneTraceTest, ShowsARoundWithItsWaitAndItsVerification) {
  trace_.OnStarted(After(10));
  Step(30);
  Step(50, /*num_draft_tokens=*/4, /*num_accepted=*/3, /*wait_ms=*/7);
  Finish(60);
  const TraceSpan round = Only("target.round");
  const TraceSpan wait = Only("draft.wait");
  const TraceSpan verify = Only("target.verify");
  ExpectTimes(round, 38, 50);
  ExpectTimes(wait, 38, 45);
  ExpectTimes(verify, 45, 50);
  EXPECT_EQ(round.parent, Only("target.decode").id);
  EXPECT_EQ(wait.parent, round.id);
  EXPECT_EQ(verify.parent, round.id);
  EXPECT_FALSE(round.parent_is_remote);
  EXPECT_EQ(AttributeOf<int64_t>(round, "outrider.draft_tokens"), 4);
  EXPECT_EQ(AttributeOf<int64_t>(round, "outrider.accepted_tokens"), 3);
  EXPECT_EQ(AttributeOf<int64_t>(round, "outrider.output_tokens"), 4);
  EXPECT_EQ(AttributeOf<std::string>(round, "outrider.draft_source"), "draft-0");
  EXPECT_DOUBLE_EQ(AttributeOf<double>(Only("target.decode"), "outrider.draft_wait_seconds"), 0.007);
}

TEST_F(LaneTraceTest, ShowsAWaitInVainAndAStepWithoutADraft) {
  trace_.OnStarted(After(10));
  Step(30);
  Step(50, 0, 0, /*wait_ms=*/7);
  Step(60);
  Finish(60);
  EXPECT_EQ(kept_.Named("target.round").size(), 2u);
  EXPECT_EQ(kept_.Named("draft.wait").size(), 1u);
  EXPECT_TRUE(kept_.Named("target.verify").empty());
}

TEST_F(LaneTraceTest, RecordsABoundedNumberOfRoundsAndCountsTheRest) {
  trace_.OnStarted(After(10));
  for (int i = 0; i < 1001; ++i) Step(30 + 10 * i, 4, 1, 2);
  Finish(20000);
  EXPECT_EQ(kept_.Named("target.round").size(), static_cast<size_t>(LaneTrace::kMaxRounds));
  EXPECT_LE(kept_.spans().size(), static_cast<size_t>(3 + 3 * LaneTrace::kMaxRounds));
  const TraceSpan decode = Only("target.decode");
  EXPECT_EQ(AttributeOf<int64_t>(decode, "outrider.rounds_not_recorded"), 1000 - LaneTrace::kMaxRounds);
  EXPECT_EQ(AttributeOf<int64_t>(decode, "outrider.draft_waits"), 1000);
  EXPECT_DOUBLE_EQ(AttributeOf<double>(decode, "outrider.draft_wait_seconds"), 2.0);
}

TEST_F(LaneTraceTest, EndsInTheStretchThatItEndedIn) {
  SequenceUpdate update;
  update.error = absl::DeadlineExceededError("too late");
  trace_.End(update, "deadline_exceeded", After(20));
  ASSERT_EQ(kept_.spans().size(), 1u);
  const TraceSpan queue = Only("target.queue");
  ExpectTimes(queue, 0, 20);
  EXPECT_TRUE(queue.failed);
  EXPECT_EQ(queue.error, "too late");
  EXPECT_EQ(AttributeOf<std::string>(queue, "error.type"), "DEADLINE_EXCEEDED");
}

TEST_F(LaneTraceTest, FailsThePrefillIfNothingCameOfIt) {
  trace_.OnStarted(After(10));
  SequenceUpdate update;
  update.error = absl::InternalError("broken");
  trace_.End(update, "internal", After(20));
  EXPECT_FALSE(Only("target.queue").failed);
  EXPECT_TRUE(Only("target.prefill").failed);
  EXPECT_TRUE(kept_.Named("target.decode").empty());
}

}  // namespace
}  // namespace outrider
