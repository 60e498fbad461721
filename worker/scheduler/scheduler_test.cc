#include "worker/scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace outrider {
namespace {

TimePoint At(double milliseconds) { return TimePoint{} + FromMillis(milliseconds); }

SchedulerOptions SmallOptions() {
  return {.vocab_size = 100,
          .max_model_len = 64,
          .num_blocks = 16,
          .block_size = 4,
          .max_sequences = 4,
          .max_waiting_sequences = 8,
          .max_step_tokens = 32};
}

Request MakeRequest(int num_prompt_tokens, int max_tokens = 8) {
  Request request;
  request.prompt.resize(num_prompt_tokens);
  std::iota(request.prompt.begin(), request.prompt.end(), 1);
  request.params.max_tokens = max_tokens;
  request.lanes.resize(1);
  return request;
}

class SchedulerTest : public testing::Test {
 protected:
  explicit SchedulerTest(const SchedulerOptions& options = SmallOptions()) : scheduler_(options) {}

  SequenceId Submit(const Request& request, double now = 0) { return scheduler_.Submit(request, At(now)).value()[0]; }

  absl::Status Refused(const Request& request) { return scheduler_.Submit(request, At(0)).status(); }

  // A step in which every span that samples accepts `num_accepted` draft tokens and chooses token 50.
  StepPlan Step(double now, int num_accepted = 0) {
    const StepPlan plan = scheduler_.PlanStep(At(now));
    if (!plan.empty()) Apply(plan, now + 1, num_accepted);
    return plan;
  }

  void Apply(const StepPlan& plan, double now, int num_accepted = 0) {
    StepResult result{.step = plan.step};
    for (const Span& span : plan.spans) {
      SpanResult& r = result.spans.emplace_back(SpanResult{.sequence = span.sequence});
      const Sequence* sequence = scheduler_.Find(span.sequence);
      if (sequence != nullptr && sequence->params().num_prompt_logprobs >= 0) {
        const int end = std::min(span.first_position + span.num_committed_tokens, sequence->num_prompt_tokens() - 1);
        r.prompt_logprobs.resize(static_cast<size_t>(std::max(0, end - span.first_position)));
      }
      if (!span.samples || sequence == nullptr) continue;
      const ResolvedSpan resolved = ResolveSpan(span, sequence->tokens());
      r.num_draft_tokens = static_cast<int>(resolved.draft.size());
      r.num_accepted = std::min(num_accepted, r.num_draft_tokens);
      r.tokens.assign(resolved.draft.begin(), resolved.draft.begin() + r.num_accepted);
      r.tokens.push_back(50);
      if (sequence->num_output_tokens() + static_cast<int>(r.tokens.size()) >= sequence->params().max_tokens) {
        r.finish = FinishReason::kLength;
      }
    }
    EXPECT_EQ(scheduler_.ApplyResult(result, At(now)), absl::OkStatus());
    EXPECT_EQ(scheduler_.CheckInvariants(), absl::OkStatus());
  }

  std::optional<SequenceUpdate> Terminal(SequenceId sequence) {
    std::optional<SequenceUpdate> terminal;
    for (SequenceUpdate& update : scheduler_.TakeUpdates()) {
      if (update.sequence == sequence && update.terminal()) terminal = std::move(update);
    }
    return terminal;
  }

  Scheduler scheduler_;
};

TEST_F(SchedulerTest, ComputesAPromptInChunksAndThenOneTokenAStep) {
  const SequenceId id = Submit(MakeRequest(40, 2));
  StepPlan plan = Step(0);
  ASSERT_EQ(plan.starts.size(), 1u);
  EXPECT_EQ(plan.spans[0].num_committed_tokens, 32);
  EXPECT_FALSE(plan.spans[0].samples);
  plan = Step(1);
  EXPECT_EQ(plan.spans[0].first_position, 32);
  EXPECT_EQ(plan.spans[0].num_committed_tokens, 8);
  EXPECT_TRUE(plan.spans[0].samples);
  plan = Step(2);
  EXPECT_EQ(plan.spans[0].first_position, 40);
  EXPECT_EQ(plan.spans[0].num_committed_tokens, 1);
  const auto end = Terminal(id);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->finish, FinishReason::kLength);
  EXPECT_EQ(end->usage.output_tokens, 2);
  EXPECT_EQ(end->usage.plain_steps, 2);
  EXPECT_EQ(scheduler_.kv().num_used_blocks(), 0);
  EXPECT_EQ(Step(3).ends, std::vector<SequenceId>{id});
  EXPECT_TRUE(Step(4).empty());
}

TEST_F(SchedulerTest, RefusesWhatCanNeverWorkAndSaysWhy) {
  const auto says = [&](const Request& request, const char* what) {
    const absl::Status status = Refused(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find(what), std::string::npos) << status;
  };
  says(MakeRequest(0), "prompt");
  says(MakeRequest(64), "64");
  says(MakeRequest(60, 5), "max_tokens (5)");
  Request request = MakeRequest(4);
  request.prompt[2] = 100;
  says(request, "id 100");
  request = MakeRequest(4);
  request.params.temperature = std::nanf("");
  says(request, "temperature");
  request = MakeRequest(4);
  request.lanes.clear();
  says(request, "n = 0");
  request = MakeRequest(4);
  request.lanes.resize(2);
  says(request, "twice");
  request = MakeRequest(4);
  request.lookahead = 33;
  says(request, "lookahead");
  request = MakeRequest(4);
  request.lanes[0].output = {-1};
  says(request, "id -1");
}

TEST(Scheduler, BoundsThePromptPositionsOfAStepWhoseLogprobsAreAskedFor) {
  SchedulerOptions options = SmallOptions();
  options.max_model_len = 2000;
  options.num_blocks = 1000;
  options.max_step_tokens = 1000;
  Scheduler scheduler(options);
  Request request = MakeRequest(400);
  for (TokenId& token : request.prompt) token %= 100;
  request.params.num_prompt_logprobs = 2;
  ASSERT_TRUE(scheduler.Submit(request, At(0)).ok());
  ASSERT_TRUE(scheduler.Submit(request, At(0)).ok());
  Request plain = request;
  plain.params.num_prompt_logprobs = -1;
  ASSERT_TRUE(scheduler.Submit(plain, At(0)).ok());
  int num_rows_total = 0, num_rows_max = 0, num_steps = 0;
  while (scheduler.num_running() + scheduler.num_waiting() > 0 && ++num_steps < 100) {
    const StepPlan plan = scheduler.PlanStep(At(num_steps));
    StepResult result{.step = plan.step};
    int num_rows = 0;
    for (const Span& span : plan.spans) {
      SpanResult& r = result.spans.emplace_back(SpanResult{.sequence = span.sequence});
      if (span.sequence != SequenceId(3)) {
        r.prompt_logprobs.resize(std::clamp(399 - span.first_position, 0, span.num_committed_tokens));
      }
      num_rows += static_cast<int>(r.prompt_logprobs.size());
      if (!span.samples) continue;
      r.tokens = {50};
      if (scheduler.Find(span.sequence)->num_output_tokens() == 7) r.finish = FinishReason::kLength;
    }
    num_rows_total += num_rows;
    num_rows_max = std::max(num_rows_max, num_rows);
    ASSERT_EQ(scheduler.ApplyResult(result, At(num_steps) + FromMillis(0.001)), absl::OkStatus());
  }
  EXPECT_EQ(num_rows_total, 2 * 399);
  EXPECT_EQ(num_rows_max, Scheduler::kPromptLogprobRowsMax);
  Request long_request = MakeRequest(1900);
  for (TokenId& token : long_request.prompt) token %= 100;
  long_request.params.num_prompt_logprobs = 20;
  EXPECT_TRUE(scheduler.Submit(long_request, At(9)).ok()) << "39,900 logprobs";
}

TEST_F(SchedulerTest, RefusesLogprobsOfAPromptThatDoNotFitThePlan) {
  Request request = MakeRequest(10);
  request.params.num_prompt_logprobs = 0;
  Submit(request);
  const StepPlan plan = scheduler_.PlanStep(At(0));
  StepResult result{.step = plan.step};
  result.spans.push_back({.sequence = plan.spans[0].sequence, .tokens = {50}});
  result.spans[0].prompt_logprobs.resize(8);  // there are nine
  EXPECT_EQ(scheduler_.ApplyResult(result, At(1)).code(), absl::StatusCode::kInternal);
}

TEST(Scheduler, RefusesARequestThatCanNeverFitTheKvCache) {
  SchedulerOptions options = SmallOptions();
  options.num_blocks = 4;
  Scheduler scheduler(options);
  EXPECT_EQ(scheduler.Submit(MakeRequest(10, 7), At(0)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(scheduler.Submit(MakeRequest(10, 6), At(0)).ok());
}

TEST(Scheduler, SaysWhichOptionMakesNoSense) {
  SchedulerOptions options = SmallOptions();
  options.max_step_tokens = 0;
  EXPECT_NE(std::string(Scheduler::Validate(options).message()).find("max_step_tokens"), std::string::npos);
}

TEST_F(SchedulerTest, QueueIsBoundedAndAllOrNothing) {
  Request request = MakeRequest(4);
  request.lanes = {{.lane = 0}, {.lane = 1}, {.lane = 2}};
  EXPECT_TRUE(scheduler_.Submit(request, At(0)).ok());
  EXPECT_TRUE(scheduler_.Submit(request, At(0)).ok());
  EXPECT_EQ(Refused(request).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(scheduler_.num_waiting(), 6);
}

TEST_F(SchedulerTest, LanesWaitForTheFirstAndShareItsFullBlocks) {
  Request request = MakeRequest(10);
  request.lanes = {{.lane = 0}, {.lane = 1}};
  scheduler_.Submit(request, At(0)).value();
  StepPlan plan = Step(0);
  EXPECT_EQ(plan.spans.size(), 1u);
  const std::vector<BlockId> blocks = plan.spans[0].blocks;
  plan = Step(1);
  ASSERT_EQ(plan.spans.size(), 2u);
  EXPECT_EQ(plan.spans[1].first_position, 8);
  EXPECT_EQ(plan.spans[1].num_committed_tokens, 2);
  EXPECT_EQ(plan.spans[1].blocks[0], blocks[0]);
  EXPECT_EQ(plan.spans[1].blocks[1], blocks[1]);
  EXPECT_NE(plan.spans[1].blocks[2], blocks[2]);  // the tail is its own
}

TEST(Scheduler, LanesShareWithoutAPrefixCacheToo) {
  SchedulerOptions options = SmallOptions();
  options.prefix_cache = false;
  Scheduler scheduler(options);
  Request request = MakeRequest(8);
  request.lanes = {{.lane = 0}, {.lane = 1}};
  const std::vector<SequenceId> ids = scheduler.Submit(request, At(0)).value();
  const StepPlan first = scheduler.PlanStep(At(0));
  ASSERT_EQ(first.spans.size(), 1u);
  ASSERT_TRUE(scheduler.ApplyResult({.step = first.step, .spans = {{.sequence = ids[0], .tokens = {50}}}}, At(1)).ok());
  const StepPlan& second = scheduler.PlanStep(At(1));
  ASSERT_EQ(second.spans.size(), 2u);
  EXPECT_EQ(second.spans[1].first_position, 4);  // the last full block is computed by each
}

TEST_F(SchedulerTest, AFullPrefixHitComputesItsLastBlockAgain) {
  Submit(MakeRequest(8, 1));
  Step(0);
  const SequenceId second = Submit(MakeRequest(8, 1));
  const StepPlan plan = Step(1);
  EXPECT_EQ(plan.spans[0].first_position, 4);
  EXPECT_EQ(Terminal(second)->usage.cached_tokens, 4);
}

TEST_F(SchedulerTest, PreemptsTheLatestArrivalWhenBlocksRunOut) {
  const SequenceId first = Submit(MakeRequest(24, 20));
  Request other = MakeRequest(24, 20);
  for (TokenId& token : other.prompt) token += 30;
  const SequenceId second = Submit(other);
  double now = 0;
  while (scheduler_.stats().num_preemptions == 0) {
    ASSERT_LT(now, 100);
    Step(now++);
  }
  EXPECT_EQ(scheduler_.num_waiting(), 1);
  EXPECT_EQ(scheduler_.Find(second)->num_computed_tokens(), 0);
  EXPECT_GT(scheduler_.Find(first)->num_computed_tokens(), 0);
  while (scheduler_.Find(second) != nullptr) {
    ASSERT_LT(now, 200);
    Step(now++);
  }
  EXPECT_EQ(scheduler_.kv().num_used_blocks(), 0);
}

Request OfPriority(int priority, int max_tokens = 8) {
  Request request = MakeRequest(4, max_tokens);
  request.priority = priority;
  return request;
}

TEST_F(SchedulerTest, AHigherPriorityTakesTheLastPlaceOfALowerOneBetweenSteps) {
  std::vector<SequenceId> low;
  for (int i = 0; i < 4; ++i) low.push_back(Submit(OfPriority(i == 2 ? 1 : 0)));
  Step(0);
  EXPECT_EQ(scheduler_.num_running(), 4);
  const SequenceId high = Submit(OfPriority(2), 1);
  const StepPlan plan = Step(2);
  // The last in rank goes: of equal priority the latest, not the one of priority 1.
  EXPECT_EQ(scheduler_.num_waiting(), 1);
  EXPECT_EQ(scheduler_.Find(low[3])->num_computed_tokens(), 0);
  EXPECT_EQ(std::count_if(plan.spans.begin(), plan.spans.end(), [&](const Span& s) { return s.sequence == high; }), 1);
  EXPECT_EQ(std::count_if(plan.spans.begin(), plan.spans.end(), [&](const Span& s) { return s.sequence == low[3]; }),
            0);
  EXPECT_EQ(scheduler_.stats().num_priority_preemptions, 1);
  for (double now = 4; scheduler_.Find(low[3]) != nullptr; now += 2) {
    ASSERT_LT(now, 200);
    Step(now);
  }
  EXPECT_EQ(scheduler_.stats().num_priority_preemptions, 1);
  EXPECT_EQ(scheduler_.kv().num_used_blocks(), 0);
}

TEST_F(SchedulerTest, EqualPrioritiesPreemptNobodyAndAgeCountsAgainstPriority) {
  for (int i = 0; i < 4; ++i) Submit(OfPriority(0, 40));
  Step(0);
  Submit(OfPriority(0), 1);
  Step(2);
  EXPECT_EQ(scheduler_.stats().num_priority_preemptions, 0);
  // Those that run came more than two priorities' worth of waiting before.
  const double later = ToMillis(2 * Scheduler::kPriorityAgeing) + 3;
  Submit(OfPriority(2), later);
  Step(later);
  EXPECT_EQ(scheduler_.stats().num_priority_preemptions, 0);
  Submit(OfPriority(3), later);
  Step(later + 2);
  EXPECT_EQ(scheduler_.stats().num_priority_preemptions, 1);
}

TEST_F(SchedulerTest, AHigherPriorityMakesRoomWhereBlocksLack) {
  const SequenceId low = Submit(MakeRequest(40, 20));
  Step(0);
  Step(2);
  Request request = MakeRequest(40, 8);
  for (TokenId& token : request.prompt) token += 30;
  const SequenceId equal = Submit(request, 3);
  Step(4);
  EXPECT_EQ(scheduler_.Find(equal)->num_computed_tokens(), 0);
  request.priority = 1;
  const SequenceId high = Submit(request, 5);
  Step(6);
  EXPECT_GT(scheduler_.Find(high)->num_computed_tokens(), 0);
  EXPECT_EQ(scheduler_.Find(low)->num_computed_tokens(), 0);
}

TEST_F(SchedulerTest, CancelAndDeadlineFreeEverythingAtOnce) {
  Request request = MakeRequest(8);
  request.deadline = At(10);
  const SequenceId timed = Submit(request);
  const SequenceId cancelled = Submit(MakeRequest(8));
  Step(0);
  EXPECT_EQ(scheduler_.NextDeadline(), At(10));
  scheduler_.Cancel(cancelled);
  scheduler_.Cancel(cancelled);
  EXPECT_EQ(Terminal(cancelled)->finish, FinishReason::kCancelled);
  const StepPlan plan = Step(10);
  EXPECT_EQ(plan.ends, (std::vector<SequenceId>{cancelled, timed}));
  EXPECT_TRUE(plan.spans.empty());
  EXPECT_EQ(Terminal(timed)->error.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(scheduler_.kv().num_used_blocks(), 0);
}

TEST_F(SchedulerTest, StopAtDropsWhatCameAfter) {
  const SequenceId id = Submit(MakeRequest(8));
  for (int i = 0; i < 4; ++i) Step(i);
  EXPECT_EQ(scheduler_.StopAt(id, 5).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(scheduler_.StopAt(id, 2), absl::OkStatus());
  const auto end = Terminal(id);
  EXPECT_EQ(end->finish, FinishReason::kStopString);
  EXPECT_EQ(end->usage.output_tokens, 2);
  EXPECT_EQ(scheduler_.StopAt(id, 1), absl::OkStatus());
}

TEST_F(SchedulerTest, ADeliveredOutputThatEndedEndsAtOnce) {
  Request request = MakeRequest(8, 2);
  request.lanes[0].output = {5, 6};
  const auto end = Terminal(Submit(request));
  EXPECT_EQ(end->finish, FinishReason::kLength);
  EXPECT_EQ(end->usage.output_tokens, 2);
  EXPECT_TRUE(Step(0).empty());
}

TEST_F(SchedulerTest, WaitsForADraftAsLongAsGrantedAndOthersDoNot) {
  const SequenceId drafted = Submit(MakeRequest(4));
  const SequenceId plain = Submit(MakeRequest(5));
  Step(0);
  scheduler_.GrantDraft({drafted, 3, At(20)});
  EXPECT_EQ(scheduler_.NextDeadline(), At(20));
  StepPlan plan = Step(5);
  ASSERT_EQ(plan.spans.size(), 1u);
  EXPECT_EQ(plan.spans[0].sequence, plain);
  scheduler_.OfferDraft({drafted, 7, {5, {60, 61, 62, 63}}});
  plan = Step(10, /*num_accepted=*/2);
  ASSERT_EQ(plan.spans.size(), 2u);
  EXPECT_EQ(plan.spans[0].lookahead, 3);
  for (const SequenceUpdate& update : scheduler_.TakeUpdates()) {
    if (update.sequence != drafted || update.tokens.size() != 3) continue;
    EXPECT_EQ(update.tokens, (std::vector<TokenId>{60, 61, 50}));
    EXPECT_EQ(update.draft_source, 7);
    EXPECT_EQ(update.usage.rounds, 1);
    EXPECT_EQ(update.usage.accepted_tokens, 2);
    EXPECT_EQ(update.usage.longest_draft, 3);
    EXPECT_EQ(update.usage.rounds_by_accepted[2], 1u);
  }
  EXPECT_EQ(scheduler_.Find(drafted)->num_output_tokens(), 4);
}

TEST_F(SchedulerTest, GoesPlainWhenTheWaitIsOverOrNothingWillCome) {
  const SequenceId id = Submit(MakeRequest(4));
  Step(0);
  scheduler_.GrantDraft({id, 3, At(20)});
  EXPECT_TRUE(Step(19).empty());
  EXPECT_EQ(Step(20).spans[0].lookahead, 0);
  scheduler_.GrantDraft({id, 3, At(60)});
  EXPECT_TRUE(Step(30).empty());
  scheduler_.OfferDraft({id, 0, {6, {}}});
  EXPECT_EQ(Step(31).spans.size(), 1u);
  EXPECT_EQ(scheduler_.stats().num_draft_misses, 2);
}

TEST_F(SchedulerTest, DraftedSequencesGoTogetherButOnlyForABoundedTime) {
  const SequenceId a = Submit(MakeRequest(4)), b = Submit(MakeRequest(5));
  Step(0);
  Step(10);  // a plain decode step of 1 ms
  scheduler_.GrantDraft({a, 2, At(1000)});
  scheduler_.GrantDraft({b, 2, At(1000)});
  scheduler_.OfferDraft({a, 0, {6, {60, 61}}});
  EXPECT_TRUE(Step(20).empty());
  const TimePoint held_until = scheduler_.NextDeadline();
  EXPECT_GT(held_until, At(20));
  EXPECT_LT(held_until, At(23));
  EXPECT_EQ(Step(23).spans.size(), 1u);
}

class SchedulerHoldTest : public SchedulerTest {
 protected:
  // Steps of 2 and of 6 rows took 1 ms: to go apart costs 1 ms in every round. `a` has its draft, `b` awaits it.
  SchedulerHoldTest() {
    Step(0);
    Step(10);
    for (const SequenceId id : {a_, b_}) scheduler_.GrantDraft({id, 2, TimePoint{}});
    scheduler_.OfferDraft({a_, 0, {6, {60, 61}}});
    scheduler_.OfferDraft({b_, 0, {7, {60, 61}}});
    EXPECT_EQ(Step(15).spans[1].lookahead, 2);
  }
  void Await(TimePoint expected) {
    scheduler_.GrantDraft({a_, 2, At(1000)});
    scheduler_.GrantDraft({.sequence = b_, .lookahead = 2, .wait_until = At(1000), .expected = expected});
    scheduler_.OfferDraft({a_, 0, {7, {60, 61}}});
    EXPECT_TRUE(Step(20).empty());
  }

  const SequenceId a_ = Submit(MakeRequest(4)), b_ = Submit(MakeRequest(5));
};

TEST_F(SchedulerHoldTest, DraftedSequencesWaitForDraftsThatAreExpectedSoon) {
  Await(At(21.2));
  EXPECT_EQ(scheduler_.NextDeadline(), At(21.5));  // a quarter more than was expected
  scheduler_.OfferDraft({b_, 0, {8, {60, 61}}});
  EXPECT_EQ(Step(21).spans.size(), 2u);
}

TEST_F(SchedulerHoldTest, DraftedSequencesDoNotWaitLongForDraftsThatAreExpectedLateOrNobodyKnowsWhen) {
  for (const TimePoint expected : {At(28), TimePoint{}}) {
    Await(expected);
    EXPECT_EQ(scheduler_.NextDeadline(), At(20 + Scheduler::kHoldShare));
  }
}

TEST_F(SchedulerTest, APathMayReachAcrossAStepThatIsOutstanding) {
  const SequenceId id = Submit(MakeRequest(4));
  Step(0);
  scheduler_.GrantDraft({id, 2, TimePoint{}});
  scheduler_.OfferDraft({id, 0, {5, {60, 61, 50, 62, 63}}});
  const StepPlan first = scheduler_.PlanStep(At(1));
  EXPECT_EQ(first.spans[0].lookahead, 2);
  const StepPlan second = scheduler_.PlanStep(At(1));
  ASSERT_EQ(second.spans.size(), 1u);
  EXPECT_EQ(second.spans[0].predecessor, first.step);
  EXPECT_EQ(second.spans[0].first_position, 5);
  EXPECT_EQ(second.spans[0].lookahead, 2);
  Apply(first, 2, /*num_accepted=*/2);   // 60 61, then 50: as the path said
  Apply(second, 3, /*num_accepted=*/2);  // so 62 63 were verified at once
  const auto output = scheduler_.Find(id)->output();
  EXPECT_EQ(output, absl::MakeConstSpan({50, 60, 61, 50, 62, 63, 50}));
}

TEST_F(SchedulerTest, MayPlanAheadWhileNoRunningSequenceHasADraftOrAWorkerThatMakesOne) {
  EXPECT_TRUE(scheduler_.MayPlanAhead());
  const SequenceId a = Submit(MakeRequest(4));
  Submit(MakeRequest(4));
  scheduler_.GrantDraft({.sequence = a, .lookahead = 2, .by_worker = true});
  EXPECT_TRUE(scheduler_.MayPlanAhead()) << "it does not run yet";
  Step(0);
  EXPECT_FALSE(scheduler_.MayPlanAhead()) << "the next result is of use to the worker at once";
  scheduler_.OfferDraft({.sequence = a});
  EXPECT_FALSE(scheduler_.MayPlanAhead()) << "it had none this time";
  scheduler_.GrantDraft({.sequence = a, .lookahead = 0, .by_worker = true});
  EXPECT_TRUE(scheduler_.MayPlanAhead()) << "no draft is wanted";
  scheduler_.GrantDraft({.sequence = a, .lookahead = 2});
  EXPECT_TRUE(scheduler_.MayPlanAhead()) << "nobody has one";
  scheduler_.OfferDraft({a, 0, {5, {60, 61}}});
  EXPECT_FALSE(scheduler_.MayPlanAhead()) << "one is there";
  const StepPlan verify = scheduler_.PlanStep(At(2));
  EXPECT_EQ(verify.spans[0].lookahead, 2);
  EXPECT_FALSE(scheduler_.MayPlanAhead()) << "it may reach beyond the result";
  Apply(verify, 3);
  EXPECT_TRUE(scheduler_.MayPlanAhead()) << "nothing is left of it";
  scheduler_.GrantDraft({.sequence = a, .lookahead = 2, .by_worker = true});
  EXPECT_FALSE(scheduler_.MayPlanAhead());
  scheduler_.Cancel(a);
  EXPECT_TRUE(scheduler_.MayPlanAhead()) << "the other one is plain";
}

TEST_F(SchedulerTest, ARequestIsInThePlanAfterTheOneThatIsOutWhenItCame) {
  Submit(MakeRequest(4));
  const StepPlan running = scheduler_.PlanStep(At(0));
  const StepPlan next = scheduler_.PlanStep(At(0));
  const SequenceId id = Submit(MakeRequest(4), 1);
  Apply(running, 2);
  const StepPlan plan = scheduler_.PlanStep(At(2));
  ASSERT_EQ(plan.spans.size(), 2u);
  EXPECT_EQ(plan.spans[1].sequence, id);
  Apply(next, 3);
  Apply(plan, 4);
  EXPECT_EQ(scheduler_.stats().num_steps_ahead, 2);
}

TEST_F(SchedulerTest, APlanOfNothingButDiscardedRowsCostsNoTokenAndTeachesNothing) {
  Request request = MakeRequest(4);
  request.params.end_token_ids = {50};
  const SequenceId id = Submit(request);
  const StepPlan last = scheduler_.PlanStep(At(0));
  const StepPlan ahead = scheduler_.PlanStep(At(0));
  ASSERT_EQ(ahead.spans.size(), 1u);
  StepResult result{.step = last.step, .spans = {{.sequence = id, .tokens = {50}, .finish = FinishReason::kEndToken}}};
  ASSERT_TRUE(scheduler_.ApplyResult(result, At(8)).ok());
  EXPECT_EQ(Terminal(id)->usage.output_tokens, 1);
  const double cost_ms = scheduler_.step_cost().EstimateMs(1);
  ASSERT_TRUE(scheduler_.ApplyResult({.step = ahead.step, .spans = {{.sequence = id}}}, At(8.01)).ok());
  EXPECT_EQ(scheduler_.step_cost().EstimateMs(1), cost_ms);
  EXPECT_FALSE(scheduler_.decode_cost().known());
  EXPECT_EQ(scheduler_.stats().num_discarded_tokens, 1);
  EXPECT_EQ(scheduler_.stats().num_step_tokens, 4);
  EXPECT_TRUE(scheduler_.TakeUpdates().empty());
  EXPECT_EQ(scheduler_.kv().num_used_blocks(), 0);
}

TEST_F(SchedulerTest, LogitsThatAreNotFiniteEndTheSequenceWithAnError) {
  const SequenceId id = Submit(MakeRequest(4));
  const StepPlan plan = scheduler_.PlanStep(At(0));
  EXPECT_TRUE(scheduler_.ApplyResult({.step = plan.step, .spans = {{.sequence = id, .not_finite = true}}}, At(1)).ok());
  EXPECT_EQ(Terminal(id)->error.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(scheduler_.kv().num_used_blocks(), 0);
}

TEST_F(SchedulerTest, StepsStayWithinTheirTimeByMeasurement) {
  // A millisecond a token, 20 ms a step.
  SchedulerOptions options = SmallOptions();
  options.max_model_len = 4096;
  options.num_blocks = 1024;
  options.max_step_tokens = 2048;
  options.step_time_ms_max = 20;
  Scheduler scheduler(options);
  Request request = MakeRequest(2000, 4);
  std::fill(request.prompt.begin(), request.prompt.end(), 1);
  const SequenceId id = scheduler.Submit(request, At(0)).value()[0];
  double now = 0;
  for (int step = 0; step < 30; ++step) {
    const StepPlan plan = scheduler.PlanStep(At(now));
    const int num_tokens = plan.spans[0].num_committed_tokens;
    if (step > 0) {
      EXPECT_LE(num_tokens, 20);
    }
    EXPECT_GE(num_tokens, Scheduler::kPromptTokensMin);
    now += num_tokens;
    ASSERT_TRUE(scheduler.ApplyResult({.step = plan.step, .spans = {{.sequence = id}}}, At(now)).ok());
  }
}

}  // namespace
}  // namespace outrider
