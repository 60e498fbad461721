#include "worker/speculation/draft_planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/scheduler/scheduler.h"
#include "worker/scheduler/testing/fake_ranks.h"
#include "worker/speculation/testing/fake_transport.h"

namespace outrider {
namespace {

constexpr int kVocabSize = 1000;

TimePoint At(double milliseconds) { return TimePoint{} + FromMillis(milliseconds); }

TokenId Next(absl::Span<const TokenId> tokens, const SamplingParams& params) {
  return FakeRanks::NextToken(tokens, params, kVocabSize);
}

// ---- What is said to sources

struct RecordingSource final : DraftSource {
  uint64_t connected = 1;
  bool ahead = false;
  std::vector<std::string> said;
  std::vector<Proposal> to_say;
  uint64_t connection() const override { return connected; }
  bool runs_ahead() const override { return ahead; }
  void Open(const Opening& o) override {
    said.push_back(
        absl::StrCat("open ", o.prompt.size(), "+", o.output.size(), " epoch ", o.epoch, " k ", o.lookahead));
  }
  void Commit(const Advance& a) override {
    said.push_back(absl::StrCat("commit ", a.first_position, "+", a.tokens.size(), " k ", a.lookahead));
  }
  void Close(SequenceId, uint32_t epoch) override { said.push_back(absl::StrCat("close epoch ", epoch)); }
  void Flush() override { said.push_back("flush"); }
  void TakeProposals(std::vector<Proposal>& proposals) override { proposals.swap(to_say); }
};

class DraftPlannerTest : public testing::Test {
 protected:
  DraftPlannerTest() {
    Request request;
    request.prompt = {1, 2, 3};
    request.params.max_tokens = 10;
    sequence_ = std::make_unique<Sequence>(SequenceId(1), request, RequestLane{});
  }

  void Plan(int lookahead) {
    planner_ = std::make_unique<DraftPlanner>(
        DraftPlannerOptions{.vocab_size = kVocabSize, .lookahead = lookahead, .draft_wait_ms_max = 50});
    source_id_ = planner_->AddSource(&source_, false);
  }

  DraftGrant Update(SequenceUpdate update, double now) {
    update.sequence = SequenceId(1);
    for (const TokenId token : update.tokens) sequence_->Append(token);
    DraftDecisions decisions;
    const bool terminal = update.terminal();
    planner_->AfterUpdates(
        {&update, 1}, [&](SequenceId) { return terminal ? nullptr : sequence_.get(); }, cost_, 1, At(now), decisions);
    return decisions.grants.empty() ? DraftGrant() : decisions.grants.back();
  }

  std::vector<DraftOffer> Say(std::vector<DraftSource::Proposal> proposals, double now) {
    source_.to_say = std::move(proposals);
    DraftDecisions decisions;
    planner_->TakeProposals([&](SequenceId) { return sequence_.get(); }, At(now), decisions);
    return decisions.offers;
  }

  std::vector<std::string> Said() { return std::exchange(source_.said, {}); }

  RecordingSource source_;
  std::unique_ptr<Sequence> sequence_;
  std::unique_ptr<DraftPlanner> planner_;
  DraftPlanner::DraftSourceId source_id_ = 0;
  StepCostModel cost_;
};

using Words = std::vector<std::string>;

TEST_F(DraftPlannerTest, OpensCommitsWaitsAndCloses) {
  Plan(4);
  DraftGrant grant = Update({.started = true}, 0);
  EXPECT_EQ(Said(), (Words{"open 3+0 epoch 1 k 4", "flush"}));
  EXPECT_EQ(grant.lookahead, 4);
  EXPECT_EQ(grant.wait_until, TimePoint{});  // it has to read the prompt first

  EXPECT_EQ(Say({{SequenceId(1), 1, {3, {9, 9}}}}, 5).size(), 1u);
  grant = Update({.tokens = {5}}, 10);
  EXPECT_EQ(Said(), (Words{"commit 3+1 k 4", "flush"}));
  EXPECT_EQ(grant.wait_until, At(60));

  const std::vector<DraftOffer> offers = Say({{SequenceId(1), 1, {4, {6, 7}}}}, 15);
  ASSERT_EQ(offers.size(), 1u);
  EXPECT_EQ(offers[0].path.tokens, (std::vector<TokenId>{6, 7}));
  EXPECT_EQ(offers[0].source, source_id_);

  Update({.finish = FinishReason::kLength}, 20);
  EXPECT_EQ(Said(), (Words{"close epoch 1", "flush"}));
  EXPECT_EQ(planner_->num_sequences(), 0);
}

TEST_F(DraftPlannerTest, DoesNotAskAgainWhileAnAnswerIsOwedAndThenCatchesUpAtOnce) {
  Plan(4);
  Update({.started = true}, 0);
  Update({.tokens = {5}}, 10);
  const DraftGrant grant = Update({.tokens = {6}}, 20);
  EXPECT_EQ(Said(), (Words{"open 3+0 epoch 1 k 4", "flush"}));
  EXPECT_EQ(grant.wait_until, TimePoint{});
  Say({{SequenceId(1), 1, {3, {5, 9}}}}, 25);
  EXPECT_EQ(planner_->stats().num_dropped[static_cast<int>(DropReason::kStalePosition)], 1);
  Update({.tokens = {7}}, 30);
  EXPECT_EQ(Said(), (Words{"commit 3+3 k 4", "flush"}));
}

TEST_F(DraftPlannerTest, ADraftThatIsStillGoodIsUsedBeforeAnotherIsAsked) {
  Plan(4);
  Update({.started = true}, 0);
  Say({{SequenceId(1), 1, {3, {5, 6, 7, 8, 9, 10, 11}}}}, 5);
  Said();
  const DraftGrant grant = Update({.tokens = {5}}, 10);
  EXPECT_EQ(grant.lookahead, 4);
  EXPECT_EQ(grant.wait_until, TimePoint{});
  EXPECT_EQ(Said(), Words{});
}

TEST_F(DraftPlannerTest, SaysOfEachGrantWhetherAWorkerDraftsForIt) {
  Plan(4);
  EXPECT_TRUE(Update({.started = true}, 0).by_worker) << "it reads, so that it can";
  Say({{SequenceId(1), 1, {3, {9, 9}}}}, 5);
  EXPECT_TRUE(Update({.tokens = {5}}, 10).by_worker);
  EXPECT_TRUE(Update({.tokens = {6}}, 11).by_worker) << "it owes an answer";
  source_.connected = 0;
  EXPECT_FALSE(Update({.tokens = {7}}, 12).by_worker) << "it is gone";
  Plan(0);
  EXPECT_FALSE(Update({.tokens = {8}}, 13).by_worker);
}

TEST_F(DraftPlannerTest, NeverDraftsBeyondMaxTokens) {
  Plan(8);
  Update({.started = true}, 0);
  Said();
  Say({{SequenceId(1), 1, {3, {9}}}}, 1);
  EXPECT_EQ(Update({.tokens = {5, 6, 7, 8, 9, 10, 11}}, 2).lookahead, 2);  // three tokens are left
  EXPECT_EQ(Said(), (Words{"commit 3+7 k 2", "flush"}));
  Say({{SequenceId(1), 1, {10, {9}}}}, 3);
  EXPECT_EQ(Update({.tokens = {12, 13}}, 4).lookahead, 0);
  EXPECT_EQ(Said(), Words{});
}

TEST_F(DraftPlannerTest, OpensAnewWhenTheConnectionIsAnother) {
  Plan(4);
  Update({.started = true}, 0);
  source_.connected = 0;
  EXPECT_EQ(Update({.tokens = {5}}, 10).wait_until, TimePoint{});
  source_.connected = 2;
  Said();
  Update({.tokens = {6}}, 20);
  EXPECT_EQ(Said(), (Words{"open 3+2 epoch 2 k 4", "flush"}));
  EXPECT_TRUE(Say({{SequenceId(1), 1, {5, {1, 2}}}}, 21).empty());
  EXPECT_EQ(planner_->stats().num_dropped[static_cast<int>(DropReason::kStaleEpoch)], 1);
}

TEST_F(DraftPlannerTest, AutoLetsASourceCatchUpOnlyIfTheGainPaysForItsReading) {
  for (const double read_ms : {1.0, 1000.0}) {
    for (const bool ahead : {false, true}) {
      SCOPED_TRACE(testing::Message() << read_ms << " ms to read three tokens, cores of its own: " << ahead);
      Request request;
      request.prompt = {1, 2, 3};
      request.params.max_tokens = 40;
      sequence_ = std::make_unique<Sequence>(SequenceId(1), request, RequestLane{});
      source_ = RecordingSource();
      source_.ahead = ahead;
      Plan(Request::kAutoLookahead);
      for (int rows = 1; rows < 10; ++rows) cost_.Observe(rows, 10);  // draft rows are free
      Update({.started = true}, 0);
      EXPECT_EQ(Said().size(), 2u);  // what is not measured is tried
      Say({{SequenceId(1), 1, {3, {9}}}}, read_ms);
      Update({.tokens = {5}}, 1200);
      Said();
      Say({{SequenceId(1), 1, {4, {9}}}}, 1201);
      ++source_.connected;  // it has to read everything again
      Update({.tokens = {6}}, 1300);
      EXPECT_EQ(Said().size(), ahead || read_ms < 10 ? 2u : 0u);
    }
  }
}

TEST_F(DraftPlannerTest, AnAnswerThatIsNoUseEndsTheWait) {
  Plan(4);
  Update({.started = true}, 0);
  Say({{SequenceId(1), 1, {3, {9}}}}, 1);
  Update({.tokens = {5}}, 2);
  const std::vector<DraftOffer> offers = Say({{SequenceId(1), 1, {4, {-7}}}}, 3);
  ASSERT_EQ(offers.size(), 1u);
  EXPECT_TRUE(offers[0].path.tokens.empty());
}

TEST_F(DraftPlannerTest, SaysNothingOfSequencesThatMayNotDraft) {
  Request request;
  request.prompt = {1};
  request.draft = false;
  sequence_ = std::make_unique<Sequence>(SequenceId(1), request, RequestLane{});
  Plan(4);
  Update({.started = true}, 0);
  Update({.tokens = {5}}, 1);
  EXPECT_EQ(Said(), Words{});
}

TEST_F(DraftPlannerTest, SurvivesTheRemovalOfASourceInUse) {
  Plan(4);
  Update({.started = true}, 0);
  planner_->RemoveSource(source_id_);
  EXPECT_EQ(Update({.tokens = {5}, .num_draft_tokens = 2, .num_accepted = 0, .draft_source = source_id_}, 1).wait_until,
            TimePoint{});
  Update({.finish = FinishReason::kLength}, 2);
  EXPECT_EQ(planner_->num_connected(), 0);
}

// ---- How fast it is: a whole engine on a clock of its own

struct Simulation {
  int lookahead = Request::kAutoLookahead;
  bool draft = true;
  std::function<double(int)> step_ms;
  double draft_ms_per_token = 1;
  double delay_ms = 0.1;                                                  // each way
  std::function<double(double)> acceptance = [](double) { return 0.7; };  // by seconds
  int num_sequences = 1;
  double seconds = 20;

  // Committed tokens by whole seconds.
  std::vector<double> Run() const {
    Scheduler scheduler({.vocab_size = kVocabSize, .max_model_len = 2048, .num_blocks = 2048, .max_sequences = 64});
    FakeRanks ranks(
        {.vocab_size = kVocabSize, .block_size = 16, .num_blocks = 2048, .max_step_tokens = 2048, .max_sequences = 64});
    TimePoint now = At(1000);
    const TimePoint begin = now;
    const auto elapsed = [&] { return ToMillis(now - begin) / 1000; };
    std::mt19937_64 random(1);
    const auto next = [&](absl::Span<const TokenId> tokens, const SamplingParams& params) {
      const TokenId token = Next(tokens, params);
      return std::uniform_real_distribution<>()(random) < acceptance(elapsed()) ? token : (token + 1) % kVocabSize;
    };
    FakeTransport transport(
        {.delay_ms_min = delay_ms, .delay_ms_max = delay_ms, .draft_ms_per_token = draft_ms_per_token},
        MakeOracleDrafter(next));
    DraftPlanner planner({.vocab_size = kVocabSize, .lookahead = lookahead});
    planner.AddSource(&transport, false);
    DraftDecisions decisions;
    const auto find = [&](SequenceId id) { return scheduler.Find(id); };
    std::vector<double> tokens(static_cast<size_t>(seconds) + 1);
    int num_live = 0;
    uint64_t seed = 0;
    const auto decide = [&] {
      for (const DraftGrant& grant : decisions.grants) scheduler.GrantDraft(grant);
      for (DraftOffer& offer : decisions.offers) scheduler.OfferDraft(std::move(offer));
      decisions.clear();
    };
    const auto digest = [&] {
      const std::vector<SequenceUpdate> updates = scheduler.TakeUpdates();
      for (const SequenceUpdate& update : updates) {
        if (elapsed() < seconds) tokens[static_cast<size_t>(elapsed())] += update.tokens.size();
        num_live -= update.terminal();
      }
      planner.AfterUpdates(updates, find, scheduler.decode_cost(), scheduler.num_running(), now, decisions);
      decide();
    };
    while (elapsed() < seconds) {
      for (; num_live < num_sequences; ++num_live) {
        Request request;
        request.prompt.assign(20, static_cast<TokenId>(seed % kVocabSize));
        request.params.max_tokens = 300;
        request.params.seed = ++seed;
        request.lanes.resize(1);
        request.draft = draft;
        EXPECT_TRUE(scheduler.Submit(request, now).ok());
      }
      transport.AdvanceTo(now);
      planner.TakeProposals(find, now, decisions);
      decide();
      const StepPlan& plan = scheduler.PlanStep(now);
      digest();
      if (plan.empty()) {
        const TimePoint wake = std::min(scheduler.NextDeadline(), transport.NextEvent());
        EXPECT_NE(wake, TimePoint::max());
        now = std::max(now, wake);
        continue;
      }
      const absl::StatusOr<StepResult> result = ranks.Run(plan);
      EXPECT_TRUE(result.ok()) << result.status();
      int num_rows = 0;
      for (size_t i = 0; i < plan.spans.size(); ++i) {
        num_rows += plan.spans[i].num_committed_tokens + result->spans[i].num_draft_tokens;
      }
      // What is said meanwhile arrives in its time.
      const TimePoint end = now + FromMillis(step_ms(num_rows) * (0.95 + 0.1 * (random() % 100) / 100.0));
      transport.AdvanceTo(end);
      now = end;
      EXPECT_TRUE(scheduler.ApplyResult(*result, now).ok());
      digest();
    }
    tokens.pop_back();
    return tokens;
  }

  double TokensPerSecond(size_t first = 0, size_t last = SIZE_MAX) const {
    const std::vector<double> tokens = Run();
    last = std::min(last, tokens.size());
    double sum = 0;
    for (size_t i = first; i < last; ++i) sum += tokens[i];
    return sum / (last - first);
  }
};

// Two small cores: rows cost, and so do drafts.
double SmallMachine(int num_rows) { return 8 + 2.5 * num_rows; }
// A large one: rows are free up to a knee.
double LargeMachine(int num_rows) { return num_rows <= 64 ? 10 : 10 + 0.1 * (num_rows - 64); }

TEST(DraftPlannerSimulation, AutoIsNeverSlowerThanOffAndNearTheBestFixedLookaheadWithinItsWait) {
  for (const auto& step_ms : {SmallMachine, LargeMachine}) {
    for (const double acceptance : {0.0, 0.3, 0.6, 0.9}) {
      for (const int num_sequences : {1, 16}) {
        Simulation simulation{.step_ms = step_ms,
                              .draft_ms_per_token = num_sequences == 1 ? 0.8 : 2.0,
                              .acceptance = [=](double) { return acceptance; },
                              .num_sequences = num_sequences,
                              .seconds = 12};
        const double automatic = simulation.TokensPerSecond();
        simulation.draft = false;
        const double off = simulation.TokensPerSecond();
        simulation.draft = true;
        double best = off;
        for (const int k : {1, 2, 4, 8}) {
          // Auto waits half a plain step at most (draft_wait_ratio).
          if (k * simulation.draft_ms_per_token + 2 * simulation.delay_ms > 0.4 * step_ms(num_sequences)) break;
          simulation.lookahead = k;
          best = std::max(best, simulation.TokensPerSecond());
        }
        std::cout << (step_ms == SmallMachine ? "small" : "large") << " acceptance " << acceptance << " sequences "
                  << num_sequences << ": off " << off << " auto " << automatic << " best fixed " << best << std::endl;
        EXPECT_GT(automatic, 0.98 * off);
        EXPECT_GT(automatic, 0.85 * best);
      }
    }
  }
}

TEST(DraftPlannerSimulation, LearnsAgainAndPaysLittleForTrying) {
  Simulation simulation{.step_ms = SmallMachine,
                        .draft_ms_per_token = 0.5,
                        .acceptance = [](double seconds) { return seconds < 300 ? 0.0 : 0.95; },
                        .seconds = 600};
  const std::vector<double> tokens = simulation.Run();
  const auto rate = [&](int first, int last) {
    double sum = 0;
    for (int i = first; i < last; ++i) sum += tokens[i];
    return sum / (last - first);
  };
  simulation.draft = false;
  const double off = simulation.TokensPerSecond(20, 300);
  EXPECT_GT(rate(20, 300), 0.99 * off);
  EXPECT_GT(rate(450, 600), 1.3 * off);
}

TEST(DraftPlannerSimulation, ADeadSlowDrafterCostsLittle) {
  Simulation simulation{.step_ms = SmallMachine, .draft_ms_per_token = 500, .seconds = 30};
  const double automatic = simulation.TokensPerSecond();
  simulation.draft = false;
  EXPECT_GT(automatic, 0.98 * simulation.TokensPerSecond());
}

TEST(DraftPlannerSimulation, FixedLookaheadWaitsForADrafterThatWorks) {
  // Four tokens in 12 ms beside steps of about 20: longer than half a plain step, and waited for all the same.
  Simulation simulation{.lookahead = 4,
                        .step_ms = SmallMachine,
                        .draft_ms_per_token = 3,
                        .acceptance = [](double) { return 1.0; },
                        .seconds = 10};
  // Five tokens a round of 12 + 20.5 ms; plain would be 95.
  EXPECT_GT(simulation.TokensPerSecond(1), 140);
}

}  // namespace
}  // namespace outrider
