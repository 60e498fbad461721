// Random events by seed against the invariants, with and without a step outstanding, drafts from good and hostile peers
// over a bad link included. FakeRanks proves that plans are sound; World checks what comes out. Then each kind of fault
// is planted once, and something must see it.
//
// OUTRIDER_TEST_SEED=N repeats a seed.
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "worker/scheduler/scheduler.h"
#include "worker/scheduler/testing/fake_ranks.h"
#include "worker/speculation/draft_planner.h"
#include "worker/speculation/ngram_source.h"
#include "worker/speculation/testing/fake_transport.h"
#include "worker/speculation/testing/test_drafters.h"

namespace outrider {
namespace {

enum class Fault {
  kNone,
  kAcceptsFirstDraftTokenUnverified,  // ranks
  kForgetsTargetToken,                // ranks
  kSkipsRollback,                     // the plan goes on behind the rejected draft tokens
  kBlockInTwoHands,                   // two sequences are given one block
  kResultAppliedTwice,
  kTokensLost,       // a result comes with tokens missing
  kTerminalLost,     // an update is not passed on
  kTerminalTwice,    // or twice
  kMissedWakeUp,     // the engine sleeps though a wait has ended
  kDeadlineIgnored,  // the clock that the scheduler sees stands still
};

enum class Drafter { kNone, kOracle, kSynthetic, kRandom, kAdversarial };

struct WorldOptions {
  uint64_t seed = 0;
  int depth = 0;
  bool by_rule = false;  // plans ahead only where Scheduler::MayPlanAhead says so, as an engine does
  Drafter drafter = Drafter::kSynthetic;
  Fault fault = Fault::kNone;
  int num_requests = 60;
};

class World {
 public:
  explicit World(const WorldOptions& options) : options_(options), random_(options.seed) {
    scheduler_options_ = {.vocab_size = kVocabSize,
                          .max_model_len = 64,
                          .num_blocks = 10 + Pick(30),
                          .block_size = kBlockSize,
                          .prefix_cache = Pick(3) != 0,
                          .max_sequences = 1 + Pick(6),
                          .max_waiting_sequences = 24,
                          .max_step_tokens = 6 + Pick(60),
                          .step_time_ms_max = 20.0 + Pick(100)};
    scheduler_ = std::make_unique<Scheduler>(scheduler_options_);
    auto fault = FakeRanks::Fault::kNone;
    if (options.fault == Fault::kAcceptsFirstDraftTokenUnverified) {
      fault = FakeRanks::Fault::kAcceptsFirstDraftTokenUnverified;
    } else if (options.fault == Fault::kForgetsTargetToken) {
      fault = FakeRanks::Fault::kForgetsTargetToken;
    }
    ranks_ = std::make_unique<FakeRanks>(FakeRanks::Options{.vocab_size = kVocabSize,
                                                            .block_size = kBlockSize,
                                                            .num_blocks = scheduler_options_.num_blocks,
                                                            .max_step_tokens = scheduler_options_.max_step_tokens,
                                                            .max_sequences = scheduler_options_.max_sequences,
                                                            .fault = fault});
    planner_ = std::make_unique<DraftPlanner>(
        DraftPlannerOptions{.vocab_size = kVocabSize, .lookahead = Pick(2) == 0 ? Request::kAutoLookahead : Pick(8)});
    if (Pick(2) == 0) planner_->AddSource(&ngram_, /*in_process=*/true);
    const bool is_bad_link = Pick(2) == 0;
    const double bad = is_bad_link ? 0.05 : 0;
    for (int i = Pick(2); i >= 0 && options.drafter != Drafter::kNone; --i) {
      transports_.push_back(std::make_unique<FakeTransport>(FakeTransportOptions{.seed = random_(),
                                                                                 .delay_ms_min = 0.05,
                                                                                 .delay_ms_max = 0.1 + Pick(4),
                                                                                 .draft_ms_per_token = 0.1 * Pick(20),
                                                                                 .drop = bad,
                                                                                 .duplicate = bad,
                                                                                 .corrupt = bad,
                                                                                 .kill = bad / 5,
                                                                                 .reorder = is_bad_link},
                                                            MakeDrafter()));
      planner_->AddSource(transports_.back().get(), /*in_process=*/false);
    }
  }

  // The first thing found wrong; empty if nothing is.
  std::string Run() {
    int num_submitted = 0;
    for (int turn = 0; wrong_.empty() && (num_submitted < options_.num_requests || !live_.empty()); ++turn) {
      for (int i = Pick(3); i > 0 && num_submitted < options_.num_requests; --i) num_submitted += Submit();
      if (Pick(12) == 0) CancelOne();
      if (Pick(12) == 0) StopOne();
      Turn();
      // Nobody starves: work is finite, and each turn gets some of it done.
      if (turn > kTurnsMax) Wrong("after ", turn, " turns ", live_.size(), " sequences have not ended");
    }
    while (wrong_.empty() && scheduler_->num_outstanding_steps() > 0) Apply();
    if (wrong_.empty()) Turn(), Drain();  // tells ranks of the last ends
    if (!wrong_.empty()) return wrong_;
    if (scheduler_->kv().num_used_blocks() != 0) Wrong(scheduler_->kv().num_used_blocks(), " blocks are still used");
    if (ranks_->num_mirrors() != 0) Wrong("ranks still mirror ", ranks_->num_mirrors(), " sequences");
    if (planner_->num_sequences() != 0) Wrong("the planner still knows ", planner_->num_sequences(), " sequences");
    return wrong_;
  }

  const SchedulerStats& stats() const { return scheduler_->stats(); }
  const DraftStats& draft_stats() const { return planner_->stats(); }
  int64_t num_accepted() const { return num_accepted_; }
  int num_predecessors() const { return num_predecessors_; }
  int num_predecessor_drafts() const { return num_predecessor_drafts_; }
  bool has_drafted_ahead() const { return num_predecessor_drafts_ > 0; }
  bool fault_planted() const { return fault_planted_; }

 private:
  static constexpr int kVocabSize = 40;
  static constexpr int kBlockSize = 4;
  static constexpr int kTurnsMax = 20000;

  struct Live {
    std::vector<TokenId> expected;  // the whole output, as plain decoding gives it
    std::vector<TokenId> output;
    TimePoint deadline = TimePoint::max();
    int num_prompt_tokens = 0;
    int num_delivered = 0;
    bool started = false;
  };

  int Pick(int count) { return static_cast<int>(random_() % count); }
  template <typename... What>
  void Wrong(const What&... what) {
    if (wrong_.empty()) wrong_ = absl::StrCat(what...);
  }
  void MustBeOk(const absl::Status& status) {
    if (!status.ok()) Wrong(status.message());
  }

  std::unique_ptr<TestDrafter> MakeDrafter() {
    const auto next = [](absl::Span<const TokenId> tokens, const SamplingParams& params) {
      return FakeRanks::NextToken(tokens, params, kVocabSize);
    };
    const int extra = Pick(3) == 0 ? 12 : 0;
    switch (options_.drafter) {
      case Drafter::kOracle:
        return MakeOracleDrafter(next, extra);
      case Drafter::kRandom:
        return MakeRandomDrafter(kVocabSize, random_());
      case Drafter::kAdversarial:
        return MakeAdversarialDrafter(kVocabSize, random_());
      default:
        return MakeSyntheticDrafter(next, 0.7, kVocabSize, random_(), extra);
    }
  }

  int Submit() {
    Request request;
    // Prompts are prefixes of few texts, so that they are found again.
    const TokenId text = Pick(3);
    for (int n = 1 + Pick(40), i = 0; i < n; ++i) request.prompt.push_back((text + i * 7) % kVocabSize);
    request.params.max_tokens = 1 + Pick(std::min(24, 64 - static_cast<int>(request.prompt.size())));
    request.params.seed = Pick(4);
    request.params.end_token_ids = {3};
    request.params.min_tokens = Pick(request.params.max_tokens + 1);
    request.draft = Pick(5) != 0;
    if (Pick(4) == 0) request.lookahead = Pick(kMaxLookahead + 1);
    if (Pick(10) == 0) request.deadline = now_ + FromMillis(Pick(400));
    if (Pick(3) == 0) request.priority = Pick(2 * Request::kPriorityMax + 1) - Request::kPriorityMax;
    const int num_lanes = Pick(4) == 0 ? 2 + Pick(4) : 1;
    for (int lane = 0; lane < num_lanes; ++lane) {
      RequestLane& request_lane = request.lanes.emplace_back(RequestLane{.lane = static_cast<uint32_t>(lane)});
      if (Pick(6) != 0) continue;
      const std::vector<TokenId> output = Expected(request, lane);
      request_lane.output.assign(output.begin(), output.begin() + Pick(static_cast<int>(output.size()) + 1));
    }
    const auto ids = scheduler_->Submit(request, now_);
    if (!ids.ok()) {
      const bool fits = (request.prompt.size() + request.params.max_tokens + kBlockSize - 1) / kBlockSize <=
                        static_cast<size_t>(scheduler_options_.num_blocks);
      const bool full = scheduler_->num_waiting() + num_lanes > scheduler_options_.max_waiting_sequences;
      if (fits && !full) Wrong("refused: ", ids.status().message());
      return 1;
    }
    if (scheduler_->num_waiting() > scheduler_options_.max_waiting_sequences) Wrong("the queue is over its bound");
    for (int lane = 0; lane < num_lanes; ++lane) {
      Live& live = live_[(*ids)[lane]];
      live.expected = Expected(request, lane);
      live.output = request.lanes[lane].output;
      live.num_delivered = static_cast<int>(live.output.size());
      live.deadline = request.deadline;
      live.num_prompt_tokens = static_cast<int>(request.prompt.size());
    }
    Drain();  // a lane that came with its whole output has ended
    return 1;
  }

  std::vector<TokenId> Expected(const Request& request, int lane) {
    SamplingParams params = request.params;
    params.lane = lane;
    return FakeRanks::Output(request.prompt, params, kVocabSize);
  }

  SequenceId AnyLive() {
    if (live_.empty()) return SequenceId();
    return std::next(live_.begin(), Pick(static_cast<int>(live_.size())))->first;
  }

  void CancelOne() {
    scheduler_->Cancel(AnyLive());
    Drain();
  }

  void StopOne() {
    const SequenceId id = AnyLive();
    const auto live = live_.find(id);
    if (live == live_.end()) return;
    const int num_output_tokens = static_cast<int>(live->second.output.size());
    if (scheduler_->StopAt(id, num_output_tokens + 1).ok()) Wrong("stopped at a token that is not there");
    if (num_output_tokens == 0) return;
    const int stop = 1 + Pick(num_output_tokens);
    live->second.output.resize(stop);
    stopped_[id] = stop;
    MustBeOk(scheduler_->StopAt(id, stop));
    Drain();
  }

  // One turn of an engine.
  void Turn() {
    now_ += FromMillis(0.01);
    PassOnDrafts();
    const bool applies_first = options_.by_rule && !results_.empty() && !scheduler_->MayPlanAhead();
    if (!applies_first && results_.size() <= static_cast<size_t>(options_.depth)) Plan();
    const bool must_apply = applies_first || results_.size() > static_cast<size_t>(options_.depth) || idle_;
    if (!results_.empty() && (must_apply || Pick(3) == 0)) {
      Apply();
    } else if (results_.empty() && idle_ && !live_.empty()) {
      Sleep();
    }
    MustBeOk(scheduler_->CheckInvariants());
  }

  void Plan() {
    const TimePoint seen_now = options_.fault == Fault::kDeadlineIgnored ? TimePoint{} + FromMillis(1) : now_;
    StepPlan plan = scheduler_->PlanStep(seen_now);
    Drain();
    for (const auto& [id, live] : live_) {
      if (live.deadline <= now_) Wrong("sequence ", id.value, " outlived its deadline");
    }
    idle_ = plan.empty();
    if (plan.empty()) return;
    CheckPlan(plan);
    Sabotage(plan);
    auto result = ranks_->Run(plan);
    if (!result.ok()) return Wrong(result.status().message());
    results_.push_back(*std::move(result));
  }

  void CheckPlan(const StepPlan& plan) {
    for (const Span& span : plan.spans) {
      num_predecessors_ += span.predecessor != StepId();
      num_predecessor_drafts_ += span.predecessor != StepId() && span.lookahead > 0;
      if (options_.by_rule && span.predecessor != StepId() && span.lookahead > 0) Wrong("a draft was planned ahead");
      const auto live = live_.find(span.sequence);
      if (live == live_.end()) return Wrong("a span of sequence ", span.sequence.value, ", which has ended");
      const int end = span.first_position + span.num_committed_tokens + span.lookahead;
      if (end > live->second.num_prompt_tokens + static_cast<int>(live->second.expected.size()) + kMaxLookahead) {
        Wrong("a span far beyond the output");
      }
      if (span.paths.size() > Scheduler::kMaxPaths) Wrong("more paths than may be kept");
      for (const DraftPath& path : span.paths) {
        for (const TokenId token : path.tokens) {
          if (token < 0 || token >= kVocabSize) Wrong("draft token ", token, " went through");
        }
      }
    }
  }

  void Sabotage(StepPlan& plan) {
    for (Span& span : plan.spans) {
      if (fault_planted_) return;
      if (options_.fault == Fault::kSkipsRollback && rejected_.contains(span.sequence) &&
          span.predecessor == StepId()) {
        span.first_position += rejected_[span.sequence];
        fault_planted_ = true;
      }
      if (options_.fault == Fault::kBlockInTwoHands && !span.blocks.empty() && plan.spans.size() > 1) {
        Span& other = &span == &plan.spans[0] ? plan.spans[1] : plan.spans[0];
        if (other.blocks.empty() || span.blocks.back() == other.blocks.back()) continue;
        span.blocks.back() = other.blocks.back();
        fault_planted_ = true;
      }
    }
  }

  void Apply() {
    now_ += FromMillis(1 + 0.1 * Pick(100));
    StepResult result = std::move(results_.front());
    results_.pop_front();
    if (options_.fault == Fault::kTokensLost) {
      for (SpanResult& span : result.spans) {
        if (span.tokens.size() > 1 && !std::exchange(fault_planted_, true)) span.tokens.pop_back();
      }
    }
    for (const SpanResult& span : result.spans) {
      rejected_.erase(span.sequence);
      if (span.num_draft_tokens > span.num_accepted) {
        rejected_[span.sequence] = span.num_draft_tokens - span.num_accepted;
      }
    }
    MustBeOk(scheduler_->ApplyResult(result, now_));
    if (options_.fault == Fault::kResultAppliedTwice && scheduler_->num_outstanding_steps() > 0) {
      fault_planted_ = true;
      MustBeOk(scheduler_->ApplyResult(result, now_));
    }
    Drain();
  }

  // Until something is due, as an engine does that has nothing to do.
  void Sleep() {
    TimePoint wake = options_.fault == Fault::kMissedWakeUp ? TimePoint::max() : scheduler_->NextDeadline();
    for (const auto& transport : transports_) wake = std::min(wake, transport->NextEvent());
    if (wake == TimePoint::max()) return Wrong("asleep for ever with ", live_.size(), " live sequences");
    now_ = std::max(now_, wake);
  }

  void PassOnDrafts() {
    for (const auto& transport : transports_) transport->AdvanceTo(now_);
    planner_->TakeProposals([this](SequenceId id) { return scheduler_->Find(id); }, now_, decisions_);
    Decide();
  }

  void Decide() {
    for (const DraftGrant& grant : decisions_.grants) {
      if (grant.wait_until > now_ + FromMillis(51)) Wrong("a wait without bound");
      scheduler_->GrantDraft(grant);
    }
    for (DraftOffer& offer : decisions_.offers) scheduler_->OfferDraft(std::move(offer));
    decisions_.clear();
  }

  void Drain() {
    const std::vector<SequenceUpdate> updates = scheduler_->TakeUpdates();
    for (const SequenceUpdate& update : updates) {
      if (update.terminal() && options_.fault == Fault::kTerminalLost && !std::exchange(fault_planted_, true)) continue;
      Check(update);
      if (update.terminal() && options_.fault == Fault::kTerminalTwice && !std::exchange(fault_planted_, true)) {
        Check(update);
      }
    }
    planner_->AfterUpdates(
        updates, [this](SequenceId id) { return scheduler_->Find(id); }, scheduler_->decode_cost(),
        scheduler_->num_running(), now_, decisions_);
    Decide();
  }

  void Check(const SequenceUpdate& update) {
    const auto found = live_.find(update.sequence);
    if (found == live_.end()) return Wrong("an update of sequence ", update.sequence.value, " after its end");
    Live& live = found->second;
    if (update.started && std::exchange(live.started, true)) Wrong("started twice");
    if (!update.tokens.empty() && update.first_output_index != static_cast<int>(live.output.size())) {
      Wrong("tokens from ", update.first_output_index, " on; there are ", live.output.size());
    }
    live.output.insert(live.output.end(), update.tokens.begin(), update.tokens.end());
    if (live.output.size() > live.expected.size() ||
        !std::equal(live.output.begin(), live.output.end(), live.expected.begin())) {
      Wrong("sequence ", update.sequence.value, " says what plain decoding does not");
    }
    num_accepted_ += update.num_accepted;
    if (!update.terminal()) return;
    if (scheduler_->Find(update.sequence) != nullptr) Wrong("ended and still there");
    const bool by_itself = update.finish == FinishReason::kEndToken || update.finish == FinishReason::kLength;
    if (by_itself != (live.output == live.expected) && !update.error.ok()) Wrong("ended early or late");
    if (by_itself && live.output != live.expected) Wrong("ended early");
    if (!update.error.ok() && update.error.code() != absl::StatusCode::kDeadlineExceeded) {
      Wrong(update.error.message());
    }
    const Usage& usage = update.usage;
    if (usage.output_tokens != static_cast<int>(live.output.size())) {
      Wrong("usage says ", usage.output_tokens, " output tokens of ", live.output.size());
    }
    int num_rounds = 0, num_accepted = 0;
    for (int j = 0; j <= usage.longest_draft; ++j) {
      num_rounds += static_cast<int>(usage.rounds_by_accepted[j]);
      num_accepted += j * static_cast<int>(usage.rounds_by_accepted[j]);
    }
    if (num_rounds != usage.rounds || num_accepted != usage.accepted_tokens) {
      Wrong("rounds by accepted tokens add up to ", num_rounds, " rounds and ", num_accepted, " tokens, not ",
            usage.rounds, " and ", usage.accepted_tokens);
    }
    const int num_new_tokens = usage.rounds + usage.plain_steps + usage.accepted_tokens;
    const int num_said = usage.output_tokens - live.num_delivered;
    // A run that ends inside an accepted draft has no target token; a stop string drops what was said.
    if (num_new_tokens < num_said || (num_new_tokens > num_said + 1 && !stopped_.contains(update.sequence))) {
      Wrong("usage counts ", num_new_tokens, " tokens, said were ", num_said);
    }
    live_.erase(found);
  }

  const WorldOptions options_;
  std::mt19937_64 random_;
  SchedulerOptions scheduler_options_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<FakeRanks> ranks_;
  NgramSource ngram_;
  std::vector<std::unique_ptr<FakeTransport>> transports_;
  std::unique_ptr<DraftPlanner> planner_;
  DraftDecisions decisions_;
  std::deque<StepResult> results_;  // run and not yet applied
  std::map<SequenceId, Live> live_;
  std::map<SequenceId, int> stopped_;
  std::map<SequenceId, int> rejected_;  // draft tokens in the last round
  TimePoint now_ = TimePoint{} + FromMillis(1000);
  bool idle_ = false;
  bool fault_planted_ = false;
  int64_t num_accepted_ = 0;
  int num_predecessors_ = 0;
  int num_predecessor_drafts_ = 0;
  std::string wrong_;
};

uint64_t TestSeed() {
  const char* text = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device()();
  std::cout << "OUTRIDER_TEST_SEED=" << seed << std::endl;
  return seed;
}

int NumWorlds() {
#ifdef OUTRIDER_SANITIZED
  return 15;
#else
  return 60;
#endif
}

enum class Ahead { kNever, kAlways, kByRule };

class SchedulerModel : public testing::TestWithParam<std::tuple<Ahead, Drafter>> {};

TEST_P(SchedulerModel, HoldsItsInvariantsThroughRandomEvents) {
  const auto [ahead, drafter] = GetParam();
  const uint64_t seed = TestSeed();
  int64_t num_preemptions = 0, num_cached = 0, num_accepted = 0, num_rounds = 0, num_dropped = 0;
  int num_predecessors = 0, num_predecessor_drafts = 0;
  for (int i = 0; i < NumWorlds(); ++i) {
    World world({.seed = seed + i,
                 .depth = ahead == Ahead::kNever ? 0 : 1,
                 .by_rule = ahead == Ahead::kByRule,
                 .drafter = drafter});
    ASSERT_EQ(world.Run(), "") << "OUTRIDER_TEST_SEED=" << seed + i << " finds it first";
    num_preemptions += world.stats().num_preemptions;
    num_cached += world.stats().num_cached_tokens;
    num_rounds += world.stats().num_rounds;
    num_accepted += world.num_accepted();
    num_predecessors += world.num_predecessors();
    num_predecessor_drafts += world.num_predecessor_drafts();
    for (const int64_t count : world.draft_stats().num_dropped) num_dropped += count;
  }
  // The test is worth something only if the rare things happened.
  std::cout << "preemptions " << num_preemptions << ", cached tokens " << num_cached << ", rounds " << num_rounds
            << ", accepted " << num_accepted << ", spans with a predecessor " << num_predecessors << ", with drafts "
            << num_predecessor_drafts << ", proposals dropped " << num_dropped << std::endl;
  EXPECT_GT(num_preemptions, 0);
  EXPECT_GT(num_cached, 0);
  EXPECT_EQ(num_predecessors > 0, ahead != Ahead::kNever);
  if (drafter == Drafter::kOracle || drafter == Drafter::kSynthetic) {
    EXPECT_GT(num_accepted, 0);
    EXPECT_EQ(num_predecessor_drafts > 0, ahead == Ahead::kAlways);
  }
  if (drafter == Drafter::kAdversarial) {
    EXPECT_GT(num_dropped, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(DepthsAndDrafters, SchedulerModel,
                         testing::Combine(testing::Values(Ahead::kNever, Ahead::kAlways, Ahead::kByRule),
                                          testing::Values(Drafter::kNone, Drafter::kOracle, Drafter::kSynthetic,
                                                          Drafter::kRandom, Drafter::kAdversarial)));

class PlantedFault : public testing::TestWithParam<Fault> {};

TEST_P(PlantedFault, IsSeen) {
  const Fault fault = GetParam();
  const uint64_t seed = TestSeed();
  // A fault that is planted late may not matter any more; in some world it does.
  std::string seen;
  for (int i = 0; i < 40 && seen.empty(); ++i) {
    const int depth = fault == Fault::kResultAppliedTwice ? 1 : 0;
    World world({.seed = seed + i, .depth = depth, .drafter = Drafter::kSynthetic, .fault = fault});
    seen = world.Run();
  }
  EXPECT_NE(seen, "");
  std::cout << seen << std::endl;
}

INSTANTIATE_TEST_SUITE_P(Faults, PlantedFault,
                         testing::Values(Fault::kAcceptsFirstDraftTokenUnverified, Fault::kForgetsTargetToken,
                                         Fault::kSkipsRollback, Fault::kBlockInTwoHands, Fault::kResultAppliedTwice,
                                         Fault::kTokensLost, Fault::kTerminalLost, Fault::kTerminalTwice,
                                         Fault::kMissedWakeUp, Fault::kDeadlineIgnored));

}  // namespace
}  // namespace outrider
