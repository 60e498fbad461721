#include "worker/engine/target_engine.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <iostream>
#include <map>
#include <random>
#include <thread>

#include "tracing/testing/kept_spans.h"
#include "worker/engine/step_thread.h"
#include "worker/engine/testing/hash_backend.h"

namespace outrider {
namespace {

constexpr int kVocabSize = 500;

// What a reader of one stream has seen of a lane.
struct Seen {
  std::vector<float> prompt_logprobs;
  std::vector<TokenId> tokens;
  int num_accepted = 0;  // of tokens
  int num_ends = 0;
  std::optional<FinishReason> finish;
  absl::Status error;
  Usage usage;
};

// A draft source that says what the backend will say, at once, or not at all.
class HashSource final : public DraftSource {
 public:
  explicit HashSource(bool* lost = nullptr) : lost_(lost) {}
  ~HashSource() override {
    if (lost_ != nullptr) *lost_ = true;
  }
  uint64_t connection() const override { return connected ? 1 : 0; }
  void Open(const Opening& opening) override {
    Known& known = sequences_[opening.sequence];
    known = {opening.epoch, *opening.params, {opening.prompt.begin(), opening.prompt.end()}};
    known.tokens.insert(known.tokens.end(), opening.output.begin(), opening.output.end());
    Propose(opening.sequence, opening.lookahead);
  }
  void Commit(const Advance& advance) override {
    Known& known = sequences_[advance.sequence];
    known.tokens.resize(advance.first_position);
    known.tokens.insert(known.tokens.end(), advance.tokens.begin(), advance.tokens.end());
    Propose(advance.sequence, advance.lookahead);
  }
  void Close(SequenceId sequence, uint32_t) override { sequences_.erase(sequence); }
  void Flush() override {}
  void TakeProposals(std::vector<Proposal>& proposals) override {
    if (clock != nullptr) {
      for (; !timed_.empty() && timed_.front().first <= clock->Now(); timed_.pop_front()) {
        proposals.push_back(timed_.front().second);
      }
      for (Proposal& proposal : proposals_) timed_.emplace_back(clock->Now() + delay, std::move(proposal));
      return proposals_.clear();
    }
    std::vector<Proposal>& from = late ? held_ : proposals_;
    if (!silent) std::move(from.begin(), from.end(), std::back_inserter(proposals));
    from.clear();
    if (late) held_.swap(proposals_);
  }

  bool runs_ahead() const override { return ahead; }

  bool connected = true;
  bool silent = false;
  bool late = false;             // what is proposed in one turn is heard two turns later
  const Clock* clock = nullptr;  // not null: what is proposed is heard so much later
  Duration delay{};
  bool ahead = false;  // also proposes what comes after the draft, as if all of it were accepted

 private:
  struct Known {
    uint32_t epoch = 0;
    SamplingParams params;
    std::vector<TokenId> tokens;
  };
  void Propose(SequenceId sequence, int lookahead) {
    if (lookahead == 0) return;
    const Known& known = sequences_[sequence];
    Proposal proposal{sequence, known.epoch, {.base_position = static_cast<int>(known.tokens.size())}};
    std::vector<TokenId> tokens = known.tokens;
    for (int i = 0; i < lookahead; ++i) {
      tokens.push_back(HashNextToken(tokens, known.params, kVocabSize));
      proposal.path.tokens.push_back(tokens.back());
    }
    if (ahead) {
      proposals_.push_back(proposal);
      for (int i = 0; i <= lookahead; ++i) {
        tokens.push_back(HashNextToken(tokens, known.params, kVocabSize));
        proposal.path.tokens.push_back(tokens.back());
      }
    }
    proposals_.push_back(std::move(proposal));
  }

  bool* const lost_;
  std::map<SequenceId, Known> sequences_;
  std::vector<Proposal> proposals_;
  std::vector<Proposal> held_;
  std::deque<std::pair<TimePoint, Proposal>> timed_;
};

// How steps are run.
enum class Backend {
  kDepth0,
  kDepth1,
  kStepThread,  // depth 1, by a thread over a backend of depth 0
};

struct Setup {
  Backend backend = Backend::kDepth0;
  int num_blocks = 64;
  int max_waiting_sequences = 16;
  int lookahead = 0;
  int max_buffered_tokens = 1000;
  double draft_wait_ms_max = 50;
  bool traced = false;
};

class Fixture {
 public:
  explicit Fixture(const Setup& setup)
      : backend({.depth = setup.backend == Backend::kDepth1 ? 1 : 0,
                 .vocab_size = kVocabSize,
                 .num_blocks = setup.num_blocks}),
        inbox(setup.max_waiting_sequences + 8),
        stream(std::make_shared<TokenStream>(setup.max_buffered_tokens, [] {})) {
    TargetEngine::Options options;
    options.scheduler = {.vocab_size = kVocabSize,
                         .max_model_len = 200,
                         .num_blocks = setup.num_blocks,
                         .block_size = 4,
                         .max_sequences = 8,
                         .max_waiting_sequences = setup.max_waiting_sequences,
                         .max_step_tokens = 64};
    options.drafts = {
        .vocab_size = kVocabSize, .lookahead = setup.lookahead, .draft_wait_ms_max = setup.draft_wait_ms_max};
    options.ngram_draft = false;
    if (setup.traced) options.tracer = &tracer;
    if (setup.backend == Backend::kStepThread) step_thread.emplace(backend);
    StepBackend& outermost = step_thread.has_value() ? static_cast<StepBackend&>(*step_thread) : backend;
    engine = std::make_unique<TargetEngine>(options, inbox, outermost, clock, metrics);
  }

  static SamplingParams Params(int max_tokens = 12) {
    SamplingParams params;
    params.max_tokens = max_tokens;
    params.seed = 3;
    return params;
  }
  absl::Status Submit(uint64_t id, std::vector<TokenId> prompt, SamplingParams params = Params(),
                      std::vector<uint32_t> lanes = {0}, TimePoint deadline = TimePoint::max()) {
    SubmitEvent event{.stream = stream, .id = RequestId(id), .received = clock.Now(), .trace = trace};
    event.request.prediction = prediction;
    event.request.prompt = std::move(prompt);
    event.request.params = std::move(params);
    event.request.deadline = deadline;
    for (uint32_t lane : lanes) event.request.lanes.push_back({lane});
    return inbox.Post(std::move(event));
  }
  void Cancel(uint64_t id) { ASSERT_TRUE(inbox.Post(CancelEvent{stream, RequestId(id)}).ok()); }
  void Turn() {
    const auto busy = engine->RunTurn();
    ASSERT_TRUE(busy.ok()) << busy.status();
  }
  // Turns until nothing is left to do; waits for drafts are waited out.
  void Settle() {
    for (int i = 0; i < 10000; ++i) {
      const auto busy = engine->RunTurn();
      ASSERT_TRUE(busy.ok()) << busy.status();
      ASSERT_TRUE(engine->scheduler().CheckInvariants().ok());
      Read();
      if (*busy) continue;
      const TimePoint deadline = engine->NextDeadline();
      if (deadline == TimePoint::max()) return;
      if (deadline > clock.Now()) clock.Advance(deadline - clock.Now());
    }
    FAIL() << "never settles";
  }
  void Read() {
    for (LaneEvent& event : stream->Take()) {
      Seen& lane = seen[{event.id.request.value, event.id.lane}];
      if (auto* tokens = std::get_if<TokensEvent>(&event.event)) {
        EXPECT_EQ(lane.num_ends, 0);
        EXPECT_EQ(tokens->first_output_index, static_cast<int>(lane.tokens.size()));
        lane.tokens.insert(lane.tokens.end(), tokens->tokens.begin(), tokens->tokens.end());
        EXPECT_LE(tokens->num_accepted, static_cast<int>(tokens->tokens.size()));
        lane.num_accepted += tokens->num_accepted;
      } else if (auto* prompt = std::get_if<PromptLogprobsEvent>(&event.event)) {
        EXPECT_TRUE(lane.tokens.empty()) << "they come before all tokens";
        EXPECT_EQ(prompt->first_position, 1 + static_cast<int>(lane.prompt_logprobs.size()));
        for (const TokenLogprobs& token : prompt->logprobs) lane.prompt_logprobs.push_back(token.logprob);
      } else if (auto* finished = std::get_if<FinishedEvent>(&event.event)) {
        ++lane.num_ends;
        lane.finish = finished->reason;
        lane.usage = finished->usage;
        EXPECT_EQ(lane.num_accepted, lane.usage.accepted_tokens) << "what is told of each token adds up";
      } else {
        ++lane.num_ends;
        lane.error = std::get<FailedEvent>(event.event).status;
      }
    }
  }
  const Seen& Of(uint64_t id, uint32_t lane = 0) { return seen[{id, lane}]; }
  static std::vector<TokenId> Expected(const std::vector<TokenId>& prompt, SamplingParams params = Params(),
                                       uint32_t lane = 0) {
    params.lane = lane;
    return HashOutput(prompt, params, kVocabSize);
  }
  void ExpectAllFree() {
    EXPECT_EQ(engine->scheduler().kv().num_used_blocks(), 0);
    EXPECT_EQ(engine->load().num_running, 0);
    EXPECT_EQ(engine->load().num_waiting, 0);
    EXPECT_EQ(engine->load().kv_used_ratio, 0);
  }

  ManualClock clock;
  std::optional<TraceContext> trace;  // of what is submitted
  std::vector<TokenId> prediction;    // likewise
  KeptSpans kept;
  Tracer tracer{kept.MakeSink(), 1, {1, 2}};
  MetricsRegistry registry;
  EngineMetrics metrics{registry};
  HashBackend backend;
  std::optional<StepThread> step_thread;
  Inbox inbox;
  StreamPointer stream;
  std::unique_ptr<TargetEngine> engine;
  std::map<std::pair<uint64_t, uint32_t>, Seen> seen;
};

class TargetEngineBackendTest : public testing::TestWithParam<Backend> {};
INSTANTIATE_TEST_SUITE_P(Backends, TargetEngineBackendTest,
                         testing::Values(Backend::kDepth0, Backend::kDepth1, Backend::kStepThread));

TEST_P(TargetEngineBackendTest, StreamsWhatTheModelSays) {
  Fixture f({.backend = GetParam()});
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_TRUE(f.Submit(id, {1, 2, static_cast<TokenId>(id)}).ok());
  f.Settle();
  for (uint64_t id = 1; id <= 5; ++id) {
    EXPECT_EQ(f.Of(id).tokens, Fixture::Expected({1, 2, static_cast<TokenId>(id)}));
    EXPECT_EQ(f.Of(id).finish, FinishReason::kLength);
    EXPECT_EQ(f.Of(id).num_ends, 1);
    EXPECT_EQ(f.Of(id).usage.output_tokens, 12);
  }
  f.ExpectAllFree();
}

TEST_P(TargetEngineBackendTest, GivesTheSameTokensWithDrafts) {
  Fixture f({.backend = GetParam(), .lookahead = 4});
  auto source = std::make_unique<HashSource>();
  ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{"draft", std::move(source)}).ok());
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(40)).ok());
  f.Settle();
  EXPECT_EQ(f.Of(1).tokens, Fixture::Expected({1, 2, 3}, Fixture::Params(40)));
  EXPECT_GT(f.Of(1).usage.accepted_tokens, 20);
  EXPECT_EQ(f.Of(1).usage.accepted_tokens, f.Of(1).usage.draft_tokens);
  const std::string text = f.registry.ToText();
  EXPECT_NE(text.find("outrider_draft_tokens_accepted_total{position=\"1\"}"), std::string::npos);
  f.ExpectAllFree();
}

TEST_P(TargetEngineBackendTest, DraftsFromAPredictionWithoutChangingATokenAndCountsIt) {
  const std::vector<TokenId> expected = Fixture::Expected({1, 2, 3}, Fixture::Params(40));
  // What is right, then an edit, then what is right again; and one right token, which no draft holds.
  std::vector<TokenId> edited = expected;
  edited[20] = (edited[20] + 1) % kVocabSize;
  std::vector<TokenId> wrong = expected;
  for (size_t i = 1; i < wrong.size(); ++i) wrong[i] = (wrong[i] + 1) % kVocabSize;
  for (const int lookahead : {4, Request::kAutoLookahead}) {
    SCOPED_TRACE(lookahead);
    for (const auto& [prediction, accepted_min, accepted_max] :
         {std::tuple(expected, 20, 40), std::tuple(edited, 10, 39), std::tuple(wrong, 0, 0)}) {
      Fixture f({.backend = GetParam(), .lookahead = lookahead});
      f.prediction = prediction;
      ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(40)).ok());
      f.Settle();
      EXPECT_EQ(f.Of(1).tokens, expected);
      const Usage& usage = f.Of(1).usage;
      EXPECT_EQ(usage.accepted_prediction_tokens, usage.accepted_tokens) << "there is no other source";
      EXPECT_EQ(usage.prediction_tokens, usage.draft_tokens);
      EXPECT_LE(usage.accepted_prediction_tokens, accepted_max);
      if (lookahead > 0) {
        EXPECT_GE(usage.accepted_prediction_tokens, accepted_min);
        EXPECT_TRUE(usage.prediction_tokens > 0 || accepted_min == 0);
      }
      f.ExpectAllFree();
    }
  }
}

TEST_P(TargetEngineBackendTest, CountsAPredictionApartFromADraftWorkersTokens) {
  Fixture f({.backend = GetParam(), .lookahead = 4});
  ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{"draft", std::make_unique<HashSource>()}).ok());
  const std::vector<TokenId> expected = Fixture::Expected({1, 2, 3}, Fixture::Params(40));
  f.prediction.assign(expected.begin(), expected.begin() + 12);
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(40)).ok());
  f.Settle();
  EXPECT_EQ(f.Of(1).tokens, expected);
  const Usage& usage = f.Of(1).usage;
  EXPECT_GT(usage.accepted_prediction_tokens, 0);
  EXPECT_LE(usage.accepted_prediction_tokens, 12);
  EXPECT_GT(usage.accepted_tokens, usage.accepted_prediction_tokens) << "then the worker takes over";
  f.ExpectAllFree();
}

TEST_P(TargetEngineBackendTest, TellsLogprobsOfThePromptOnceAndBeforeItsTokens) {
  std::vector<TokenId> prompt(150);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i * 7 % kVocabSize);
  std::vector<float> expected;
  for (size_t i = 2; i <= prompt.size(); ++i) expected.push_back(HashPromptLogprob(absl::MakeSpan(prompt).first(i)));
  Fixture f({.backend = GetParam(), .num_blocks = 200});
  ASSERT_TRUE(f.Submit(1, prompt).ok());
  f.Settle();
  EXPECT_TRUE(f.Of(1).prompt_logprobs.empty()) << "nobody asked";
  SamplingParams params = Fixture::Params();
  params.num_prompt_logprobs = 0;
  // The prompt is in the prefix cache, which must not be used; of several choices the first one tells.
  ASSERT_TRUE(f.Submit(2, prompt, params, {0, 1}).ok());
  ASSERT_TRUE(f.Submit(3, {5}, params).ok());
  f.Settle();
  EXPECT_EQ(f.Of(2, 0).prompt_logprobs, expected);
  EXPECT_EQ(f.Of(2, 0).usage.cached_tokens, 0);
  EXPECT_TRUE(f.Of(2, 1).prompt_logprobs.empty());
  EXPECT_TRUE(f.Of(3).prompt_logprobs.empty()) << "nothing comes before the only token";
  EXPECT_EQ(f.Of(2, 0).tokens, Fixture::Expected(prompt));
  EXPECT_EQ(f.Of(2, 1).tokens, Fixture::Expected(prompt, Fixture::Params(), 1));
  f.ExpectAllFree();
}

TEST_P(TargetEngineBackendTest, TellsLogprobsOfAPromptOnceThoughItIsPreempted) {
  // Both fit only one after the other: the one that waits longer preempts, and the prompt is computed again.
  SamplingParams params = Fixture::Params(40);
  params.num_prompt_logprobs = 0;
  std::vector<TokenId> prompt(100);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i * 3 % kVocabSize);
  std::vector<float> expected;
  for (size_t i = 2; i <= prompt.size(); ++i) expected.push_back(HashPromptLogprob(absl::MakeSpan(prompt).first(i)));
  for (int turns = 1; turns <= 8; ++turns) {
    SCOPED_TRACE(turns);
    Fixture f({.backend = GetParam(), .num_blocks = 40});
    ASSERT_TRUE(f.Submit(1, prompt, params).ok());
    for (int i = 0; i < turns; ++i) f.Turn();
    SubmitEvent urgent{.stream = f.stream, .id = RequestId(2), .received = f.clock.Now()};
    urgent.request.prompt.assign(90, 9);
    urgent.request.params = Fixture::Params(40);
    urgent.request.priority = 5;
    urgent.request.lanes.resize(1);
    ASSERT_TRUE(f.inbox.Post(std::move(urgent)).ok());
    f.Settle();
    EXPECT_GT(f.engine->scheduler().stats().num_preemptions, 0);
    EXPECT_EQ(f.Of(1).prompt_logprobs, expected);
    EXPECT_EQ(f.Of(1).tokens, Fixture::Expected(prompt, params));
    f.ExpectAllFree();
  }
}

TEST_P(TargetEngineBackendTest, EndsEachLaneOfARequestOnItsOwn) {
  Fixture f({.backend = GetParam()});
  ASSERT_TRUE(f.Submit(1, {1, 2, 3, 4, 5}, Fixture::Params(), {0, 1, 2}).ok());
  f.Settle();
  for (uint32_t lane = 0; lane < 3; ++lane) {
    EXPECT_EQ(f.Of(1, lane).tokens, Fixture::Expected({1, 2, 3, 4, 5}, Fixture::Params(), lane));
    EXPECT_EQ(f.Of(1, lane).num_ends, 1);
  }
}

TEST_P(TargetEngineBackendTest, ACancelFreesEverythingWithinOneStep) {
  Fixture f({.backend = GetParam()});
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(100)).ok());
  for (int i = 0; i < 5; ++i) f.Turn();
  f.Cancel(1);
  f.Turn();
  f.Read();
  EXPECT_EQ(f.Of(1).finish, FinishReason::kCancelled);
  EXPECT_EQ(f.engine->scheduler().kv().num_used_blocks(), 0);
  f.Settle();
  EXPECT_EQ(f.Of(1).num_ends, 1);
  f.ExpectAllFree();
}

TEST_P(TargetEngineBackendTest, ALostStreamEndsAllItsRequests) {
  Fixture f({.backend = GetParam()});
  const auto other = std::make_shared<TokenStream>(1000, [] {});
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(100)).ok());
  ASSERT_TRUE(f.Submit(2, {1, 2, 3}, Fixture::Params(100)).ok());
  f.Turn();
  other->Close();
  f.stream->Close();
  ASSERT_TRUE(f.inbox.Post(StreamLostEvent{f.stream}).ok());
  f.Settle();
  f.ExpectAllFree();
  EXPECT_EQ(f.backend.num_sequences(), 0);
}

TEST(TargetEngine, StopsWhereTheRouterSays) {
  Fixture f({});
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(100)).ok());
  for (int i = 0; i < 6; ++i) f.Turn();
  f.Read();
  ASSERT_GE(f.Of(1).tokens.size(), 4u);
  ASSERT_TRUE(f.inbox.Post(StopAtEvent{f.stream, {RequestId(1), 0}, 3}).ok());
  f.Settle();
  EXPECT_EQ(f.Of(1).finish, FinishReason::kStopString);
  EXPECT_EQ(f.Of(1).usage.output_tokens, 3);
  f.ExpectAllFree();
}

TEST(TargetEngine, EndsARequestThatCanNotBeInEachOfItsLanes) {
  Fixture f({});
  ASSERT_TRUE(f.Submit(1, {1, kVocabSize}, Fixture::Params(), {0, 1}).ok());
  f.Settle();
  for (uint32_t lane = 0; lane < 2; ++lane) {
    EXPECT_EQ(f.Of(1, lane).error.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(f.Of(1, lane).num_ends, 1);
  }
}

TEST(TargetEngine, RefusesWhatGoesBeyondItsQueue) {
  Fixture f({.max_waiting_sequences = 4});
  int num_refused = 0;
  for (uint64_t id = 1; id <= 40; ++id) num_refused += !f.Submit(id, {1, 2, 3}).ok();
  EXPECT_GT(num_refused, 0);
  f.Settle();
  int num_finished = 0;
  for (uint64_t id = 1; id <= 40; ++id) {
    if (f.Of(id).finish) ++num_finished;
    if (!f.Of(id).error.ok()) {
      EXPECT_EQ(f.Of(id).error.code(), absl::StatusCode::kResourceExhausted);
      ++num_refused;
    }
  }
  EXPECT_EQ(num_finished + num_refused, 40);
  f.ExpectAllFree();
}

TEST(TargetEngine, EndsARequestAtItsDeadline) {
  Fixture f({});
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(100), {0}, f.clock.Now() + std::chrono::seconds(1)).ok());
  for (int i = 0; i < 3; ++i) f.Turn();
  f.clock.Advance(std::chrono::seconds(2));
  f.Turn();
  f.Read();
  EXPECT_EQ(f.Of(1).error.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GT(f.Of(1).tokens.size(), 0u);
  f.Settle();
  f.ExpectAllFree();
}

TEST(TargetEngine, CutsARequestWhoseReaderIsTooSlow) {
  Fixture f({.max_buffered_tokens = 5});
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(100)).ok());
  for (int i = 0; i < 20; ++i) f.Turn();
  EXPECT_EQ(f.engine->scheduler().kv().num_used_blocks(), 0);
  f.Read();
  EXPECT_EQ(f.Of(1).tokens.size(), 5u);
  EXPECT_EQ(f.Of(1).error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(f.Of(1).num_ends, 1);
}

TEST(TargetEngine, GoesOnWithoutADraftWorkerThatFallsSilent) {
  Fixture f({.lookahead = 4});
  auto owned = std::make_unique<HashSource>();
  HashSource* const source = owned.get();
  ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{"draft", std::move(owned)}).ok());
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(60)).ok());
  for (int i = 0; i < 6; ++i) f.Turn();
  source->silent = true;
  f.Settle();
  EXPECT_EQ(f.Of(1).tokens, Fixture::Expected({1, 2, 3}, Fixture::Params(60)));
  EXPECT_GT(f.Of(1).usage.plain_steps, 0);
  EXPECT_GT(f.Of(1).usage.accepted_tokens, 0);
}

TEST(TargetEngine, ADraftWorkerThatFallsSilentCostsASequenceOneBoundedWait) {
  constexpr int kNumSequences = 4;
  constexpr double kWaitMs = 50;
  Fixture f({.lookahead = 4, .draft_wait_ms_max = kWaitMs});
  auto owned = std::make_unique<HashSource>();
  HashSource* const source = owned.get();
  ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{"draft", std::move(owned)}).ok());
  for (uint64_t id = 0; id < kNumSequences; ++id) {
    ASSERT_TRUE(f.Submit(id, {1, 2, static_cast<TokenId>(id)}, Fixture::Params(60)).ok());
  }
  for (int i = 0; i < 8; ++i) f.Turn();
  source->silent = true;
  const TimePoint silent_since = f.clock.Now();
  const int64_t waits_before = f.engine->scheduler().stats().num_draft_misses;
  f.Settle();
  // Nothing else takes time here: each sequence waited once, at most so long, then went on without.
  EXPECT_LE(ToMillis(f.clock.Now() - silent_since), kNumSequences * kWaitMs + 0.1);
  EXPECT_LE(f.engine->scheduler().stats().num_draft_misses - waits_before, kNumSequences);
  for (uint64_t id = 0; id < kNumSequences; ++id) {
    EXPECT_EQ(f.Of(id).tokens, Fixture::Expected({1, 2, static_cast<TokenId>(id)}, Fixture::Params(60)));
  }
}

TEST(TargetEngine, ASourceThatRunsAheadHidesItsDraftsAndChangesNoToken) {
  for (const bool ahead : {false, true}) {
    Fixture f({.lookahead = 4});
    auto owned = std::make_unique<HashSource>();
    owned->late = true;
    owned->ahead = ahead;
    ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{"draft", std::move(owned)}).ok());
    ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(150)).ok());
    f.Settle();
    EXPECT_EQ(f.Of(1).tokens, Fixture::Expected({1, 2, 3}, Fixture::Params(150)));
    const SchedulerStats& stats = f.engine->scheduler().stats();
    EXPECT_GT(stats.num_rounds, 20);
    // All is accepted: after the first rounds no draft is waited for any more.
    if (ahead) {
      EXPECT_GE(stats.num_hidden_rounds, stats.num_rounds - 3);
    } else {
      EXPECT_LT(stats.num_hidden_rounds, stats.num_rounds / 2);
    }
  }
}

TEST(TargetEngine, SourcesComeAndGoInMidRequestAndTheNextIsUsed) {
  Fixture f({.lookahead = 4});
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(150)).ok());
  int64_t rounds = 0;
  for (int life = 0; life < 5; ++life) {
    const std::string name = "draft-" + std::to_string(life);
    ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{name, std::make_unique<HashSource>()}).ok());
    for (int i = 0; i < 8; ++i) f.Turn();
    EXPECT_GT(f.engine->scheduler().stats().num_rounds, rounds) << life;
    rounds = f.engine->scheduler().stats().num_rounds;
    ASSERT_TRUE(f.inbox.Post(DetachSourceEvent{name}).ok());
    f.Turn();
  }
  f.Settle();
  EXPECT_EQ(f.Of(1).tokens, Fixture::Expected({1, 2, 3}, Fixture::Params(150)));
}

TEST(TargetEngine, WaitsNoLongerForADraftWorkerThatIsLost) {
  Fixture f({.lookahead = 4, .draft_wait_ms_max = 60'000});
  auto owned = std::make_unique<HashSource>();
  HashSource* const source = owned.get();
  ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{"draft", std::move(owned)}).ok());
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(60)).ok());
  for (int i = 0; i < 6; ++i) f.Turn();
  source->silent = true;
  bool busy = true;
  while (busy) busy = *f.engine->RunTurn();  // waits now
  source->connected = false;
  const TimePoint before = f.clock.Now();
  f.Settle();
  EXPECT_EQ(f.clock.Now(), before);
  EXPECT_EQ(f.Of(1).tokens, Fixture::Expected({1, 2, 3}, Fixture::Params(60)));
}

TEST(TargetEngine, LetsGoOfASourceThatIsDetached) {
  Fixture f({.lookahead = 4});
  bool lost = false;
  ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{"draft", std::make_unique<HashSource>(&lost)}).ok());
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(60)).ok());
  for (int i = 0; i < 6; ++i) f.Turn();
  EXPECT_EQ(f.engine->load().num_sources, 1);
  ASSERT_TRUE(f.inbox.Post(DetachSourceEvent{"draft"}).ok());
  f.Settle();
  EXPECT_TRUE(lost);
  EXPECT_EQ(f.engine->load().num_sources, 0);
  EXPECT_EQ(f.Of(1).tokens, Fixture::Expected({1, 2, 3}, Fixture::Params(60)));
}

TEST_P(TargetEngineBackendTest, RecordsWhereTheTimeOfEachChoiceWent) {
  Fixture f({.backend = GetParam(), .lookahead = 4, .traced = true});
  ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{"draft", std::make_unique<HashSource>()}).ok());
  f.trace = TraceContext{.trace = {5, 6}, .span = 7, .sampled = true};
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(40), {0, 1}).ok());
  f.trace = TraceContext{.trace = {8, 9}, .span = 7, .sampled = false};
  ASSERT_TRUE(f.Submit(2, {1, 2, 3}, Fixture::Params(40)).ok());
  f.trace.reset();
  ASSERT_TRUE(f.Submit(3, {1, 2, 3}, Fixture::Params(40)).ok());
  f.Settle();
  SamplingParams params = Fixture::Params(40);
  EXPECT_EQ(f.Of(1).tokens, Fixture::Expected({1, 2, 3}, params));
  std::set<SpanId> ids;
  for (const TraceSpan& span : f.kept.spans()) {
    EXPECT_EQ(span.trace, (TraceId{5, 6}));
    EXPECT_LE(span.start_unix_ns, span.end_unix_ns);
    EXPECT_TRUE(ids.insert(span.id).second);
  }
  for (const TraceSpan& span : f.kept.spans()) {
    EXPECT_TRUE(span.parent == 7 || ids.count(span.parent) == 1) << span.name;
  }
  EXPECT_EQ(f.kept.Named("target.queue").size(), 2u);
  EXPECT_EQ(f.kept.Named("target.prefill").size(), 2u);
  const auto decodes = f.kept.Named("target.decode");
  ASSERT_EQ(decodes.size(), 2u);
  for (const TraceSpan& decode : decodes) {
    const Seen& seen = f.Of(1, static_cast<uint32_t>(AttributeOf<int64_t>(decode, "outrider.choice")));
    EXPECT_EQ(AttributeOf<int64_t>(decode, "gen_ai.usage.output_tokens"), seen.usage.output_tokens);
    EXPECT_EQ(AttributeOf<int64_t>(decode, "outrider.rounds"), seen.usage.rounds);
    EXPECT_GT(seen.usage.rounds, 0);
  }
  const auto verifications = f.kept.Named("target.verify");
  ASSERT_FALSE(verifications.empty());
  for (const TraceSpan& round : f.kept.Named("target.round")) {
    if (AttributeOf<int64_t>(round, "outrider.draft_tokens") == 0) continue;
    EXPECT_EQ(AttributeOf<std::string>(round, "outrider.draft_source"), "draft");
  }
}

TEST(TargetEngine, RecordsTheWaitForADraftWorkerThatFallsSilent) {
  constexpr double kWaitMs = 50;
  Fixture f({.lookahead = 4, .draft_wait_ms_max = kWaitMs, .traced = true});
  auto owned = std::make_unique<HashSource>();
  HashSource* const source = owned.get();
  ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{"draft", std::move(owned)}).ok());
  f.trace = TraceContext{.trace = {5, 6}, .span = 7, .sampled = true};
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(60)).ok());
  for (int i = 0; i < 6; ++i) f.Turn();
  source->silent = true;
  const TimePoint silent_since = f.clock.Now();
  f.Settle();
  const double waited_ms = ToMillis(f.clock.Now() - silent_since);
  EXPECT_GT(waited_ms, 0);  // only waits take time here
  const auto decodes = f.kept.Named("target.decode");
  ASSERT_EQ(decodes.size(), 1u);
  EXPECT_NEAR(1000 * AttributeOf<double>(decodes[0], "outrider.draft_wait_seconds"), waited_ms, 1e-3);
  double recorded_ms = 0;
  for (const TraceSpan& wait : f.kept.Named("draft.wait")) {
    recorded_ms += static_cast<double>(wait.end_unix_ns - wait.start_unix_ns) / 1e6;
  }
  EXPECT_NEAR(recorded_ms, waited_ms, 1e-3);
}

TEST(TargetEngine, RecordsTheEndOfWhatTheBackendsFailureEnds) {
  Fixture f({.traced = true});
  f.trace = TraceContext{.trace = {5, 6}, .span = 7, .sampled = true};
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}).ok());
  f.Turn();
  f.engine->FailAll(absl::UnavailableError("gone"));
  const auto decodes = f.kept.Named("target.decode");
  ASSERT_EQ(decodes.size(), 1u);
  EXPECT_TRUE(decodes[0].failed);
  EXPECT_EQ(decodes[0].error, "gone");
}

TEST_P(TargetEngineBackendTest, EndsEverythingWhenTheBackendFails) {
  Fixture f({.backend = GetParam()});
  f.backend.on_submit = [&](const StepPlan& plan) {
    return plan.step.value < 4 ? absl::OkStatus() : absl::UnavailableError("rank 1 is lost");
  };
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(100)).ok());
  const absl::Status status = f.engine->Run();
  EXPECT_EQ(status.message(), "rank 1 is lost");
  f.Read();
  EXPECT_EQ(f.Of(1).error.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(f.Of(1).num_ends, 1);
  EXPECT_EQ(f.Submit(2, {1}).code(), absl::StatusCode::kUnavailable);
}

TEST_P(TargetEngineBackendTest, CountsOnlyPositionsThatWereComputed) {
  Fixture f({.backend = GetParam()});
  const std::vector<TokenId> prompt = {1, 2, 3};
  SamplingParams params = Fixture::Params(40);
  params.end_token_ids = {Fixture::Expected(prompt)[5]};
  ASSERT_TRUE(f.Submit(1, prompt, params).ok());
  f.Settle();
  ASSERT_EQ(f.Of(1).finish, FinishReason::kEndToken);
  EXPECT_EQ(f.engine->scheduler().stats().num_discarded_tokens > 0, GetParam() != Backend::kDepth0);
  EXPECT_EQ(f.engine->load().totals.num_step_tokens, f.backend.num_computed_tokens());
  EXPECT_EQ(f.engine->load().totals.num_step_tokens, f.engine->scheduler().stats().num_step_tokens);
}

// Whether steps were planned before the result of the step before.
TEST_P(TargetEngineBackendTest, PlansAheadOnlyWhereNoSequenceIsDraftedFor) {
  const auto steps_ahead = [](const Fixture& f) { return f.engine->scheduler().stats().num_steps_ahead; };
  const bool may = GetParam() != Backend::kDepth0;
  Fixture plain({.backend = GetParam(), .lookahead = 4});
  ASSERT_TRUE(plain.Submit(1, {1, 2, 3}, Fixture::Params(40)).ok());
  plain.Settle();
  EXPECT_EQ(steps_ahead(plain) >= 38, may) << steps_ahead(plain) << " of 40";

  // One of two is drafted for: all go by its results.
  Fixture drafted({.backend = GetParam(), .lookahead = 4});
  ASSERT_TRUE(drafted.inbox.Post(AttachSourceEvent{"draft", std::make_unique<HashSource>()}).ok());
  ASSERT_TRUE(drafted.Submit(1, {1, 2, 3}, Fixture::Params(40)).ok());
  drafted.Settle();
  EXPECT_LE(steps_ahead(drafted), 3) << "before the source was known and after the last draft";
  EXPECT_EQ(drafted.Of(1).usage.accepted_tokens, drafted.Of(1).usage.draft_tokens);
  EXPECT_GT(drafted.Of(1).usage.accepted_tokens, 20);
}

// Its first answers are of results long past: what follows them must be asked for again while nothing is out, or no
// draft would ever come in time.
TEST_P(TargetEngineBackendTest, ADraftWorkerThatTakesSeveralStepsToAnswerIsWaitedForAllTheSame) {
  Fixture f({.backend = GetParam(), .lookahead = 4});
  const auto advance = [&](double milliseconds) { f.clock.Advance(FromMillis(milliseconds)); };
  f.backend.on_collect = [&](const StepResult&) { advance(1.5); };
  auto source = std::make_unique<HashSource>();
  source->clock = &f.clock;
  source->delay = std::chrono::milliseconds(8);
  ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{"draft", std::move(source)}).ok());
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(100)).ok());
  for (int i = 0; i < 5000 && f.Of(1).num_ends == 0; ++i) {
    f.Turn();
    f.Read();
    advance(0.1);
  }
  EXPECT_EQ(f.Of(1).tokens, Fixture::Expected({1, 2, 3}, Fixture::Params(100)));
  EXPECT_GE(f.Of(1).usage.rounds, 16);
  EXPECT_LE(f.Of(1).usage.plain_steps, 20);
}

// Each kind of step takes its own time, whatever was submitted before it had ended.
TEST(TargetEngine, AStepsTimeBeginsWhenTheStepBeforeItHasEnded) {
  Fixture f({.backend = Backend::kDepth1});
  f.backend.on_collect = [&](const StepResult&) { f.clock.Advance(std::chrono::milliseconds(10)); };
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(40)).ok());
  f.Settle();
  EXPECT_NEAR(f.engine->scheduler().decode_cost().EstimateMs(1), 10, 1e-9);
  const std::string text = f.registry.ToText();
  const auto series = [&](const std::string& name) {
    const size_t at = text.find(name);
    EXPECT_NE(at, std::string::npos) << name;
    return std::atof(text.c_str() + at + name.size());
  };
  const double count = series("outrider_step_seconds_count{kind=\"decode\"}");
  EXPECT_GE(count, 39);
  EXPECT_NEAR(series("outrider_step_seconds_sum{kind=\"decode\"}"), 0.010 * count, 1e-9);
}

// It would make a step of one row look free.
TEST(TargetEngine, ADiscardedStepSaysNothingOfWhatStepsCost) {
  Fixture f({.backend = Backend::kDepth1});
  f.backend.on_collect = [&](const StepResult& result) {
    for (const SpanResult& span : result.spans) {
      if (!span.tokens.empty()) f.clock.Advance(std::chrono::milliseconds(10));
    }
  };
  SamplingParams params = Fixture::Params(40);
  params.end_token_ids = {Fixture::Expected({1, 2, 3})[5]};
  const std::vector<TokenId> expected = Fixture::Expected({1, 2, 3}, params);
  for (uint64_t id = 1; id <= 20; ++id) {
    ASSERT_TRUE(f.Submit(id, {1, 2, 3}, params).ok());
    f.Settle();
    EXPECT_EQ(f.Of(id).finish, FinishReason::kEndToken);
    EXPECT_EQ(f.Of(id).tokens, expected);
  }
  EXPECT_EQ(f.engine->scheduler().stats().num_discarded_tokens, 20);
  EXPECT_NEAR(f.engine->scheduler().decode_cost().EstimateMs(1), 10, 1e-9);
}

TEST_P(TargetEngineBackendTest, StopEndsWhatLivesAndLeavesNoStepOut) {
  Fixture f({.backend = GetParam()});
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}, Fixture::Params(100)).ok());
  for (int i = 0; i < 5; ++i) f.Turn();
  f.engine->Stop();
  EXPECT_TRUE(f.engine->Run().ok());
  f.Read();
  EXPECT_EQ(f.Of(1).error.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(f.Of(1).num_ends, 1);
  StepBackend& backend = f.step_thread.has_value() ? static_cast<StepBackend&>(*f.step_thread) : f.backend;
  EXPECT_FALSE(backend.Collect().ok()) << "nothing is out";
}

TEST_P(TargetEngineBackendTest, DrainsWhatRunsAndTakesNothingNew) {
  Fixture f({.backend = GetParam()});
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}).ok());
  std::thread loop([&] { EXPECT_TRUE(f.engine->Run().ok()); });
  f.engine->Drain();
  loop.join();
  EXPECT_EQ(f.Submit(2, {1}).code(), absl::StatusCode::kUnavailable);
  f.Read();
  EXPECT_EQ(f.Of(1).finish, FinishReason::kLength);
  EXPECT_EQ(f.Of(1).tokens, Fixture::Expected({1, 2, 3}));
}

TEST(TargetEngine, IsUnhealthyOnceATurnLastsTooLong) {
  Fixture f({});
  EXPECT_TRUE(f.engine->IsHealthy(std::chrono::seconds(1)));
  bool healthy_within = true;
  f.backend.on_submit = [&](const StepPlan&) {
    f.clock.Advance(std::chrono::seconds(2));
    healthy_within = f.engine->IsHealthy(std::chrono::seconds(1));
    return absl::OkStatus();
  };
  ASSERT_TRUE(f.Submit(1, {1, 2, 3}).ok());
  f.Turn();
  EXPECT_FALSE(healthy_within);
}

// Random requests, cancels, stops, deadlines, readers and draft sources, at both depths, with few blocks: each lane has
// one end, its tokens begin what the model says, and nothing is held in the end.
TEST_P(TargetEngineBackendTest, SurvivesRandomRequests) {
  const char* env = std::getenv("OUTRIDER_TEST_SEED");
  const uint32_t seed = env != nullptr ? std::strtoul(env, nullptr, 10) : std::random_device()();
  std::cout << "OUTRIDER_TEST_SEED=" << seed << "\n";
  std::mt19937 random(seed);
  Fixture f({.backend = GetParam(), .num_blocks = 24, .lookahead = 3, .max_buffered_tokens = 16});
  struct Sent {
    std::vector<TokenId> prompt;
    SamplingParams params;
    std::vector<uint32_t> lanes;
    bool whole = true;  // nothing was done to it
  };
  std::map<uint64_t, Sent> sent;
  uint64_t last_id = 0;
  for (int event = 0; event < 3000; ++event) {
    switch (random() % 10) {
      case 0:
      case 1: {
        Sent request;
        request.prompt.resize(1 + random() % 30);
        for (TokenId& token : request.prompt) token = static_cast<TokenId>(random() % 3);
        request.params = Fixture::Params(1 + random() % 30);
        request.params.seed = random() % 4;
        for (uint32_t lane = 0; lane <= random() % 3; ++lane) request.lanes.push_back(lane);
        const bool limited = random() % 8 == 0;
        request.whole = !limited;
        if (f.Submit(++last_id, request.prompt, request.params, request.lanes,
                     limited ? f.clock.Now() + std::chrono::milliseconds(random() % 50) : TimePoint::max())
                .ok()) {
          sent[last_id] = request;
        }
        break;
      }
      case 2:
        if (last_id == 0) break;
        f.Cancel(1 + random() % last_id);
        break;
      case 3:
        if (random() % 4 != 0) break;
        ASSERT_TRUE(f.inbox.Post(AttachSourceEvent{"draft", std::make_unique<HashSource>()}).ok());
        break;
      case 4:
        if (random() % 4 != 0) break;
        ASSERT_TRUE(f.inbox.Post(DetachSourceEvent{"draft"}).ok());
        break;
      case 5:
        f.clock.Advance(std::chrono::milliseconds(random() % 20));
        break;
      default:
        f.Turn();
        if (testing::Test::HasFatalFailure()) return;
        ASSERT_TRUE(f.engine->scheduler().CheckInvariants().ok());
        if (random() % 8 != 0) f.Read();
    }
  }
  f.Settle();
  int num_finished = 0;
  for (const auto& [id, request] : sent) {
    for (uint32_t lane : request.lanes) {
      const Seen& got = f.Of(id, lane);
      ASSERT_EQ(got.num_ends, 1) << "request " << id << " lane " << lane;
      const std::vector<TokenId> expected = Fixture::Expected(request.prompt, request.params, lane);
      ASSERT_LE(got.tokens.size(), expected.size());
      EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), expected.begin()));
      if (got.finish == FinishReason::kLength) {
        EXPECT_EQ(got.tokens, expected);
        ++num_finished;
      }
    }
  }
  EXPECT_GT(num_finished, 20);
  f.ExpectAllFree();
}

}  // namespace
}  // namespace outrider
