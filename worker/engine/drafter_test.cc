#include "worker/engine/drafter.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <random>
#include <thread>

#include "tracing/testing/kept_spans.h"
#include "worker/engine/testing/hash_backend.h"

namespace outrider {
namespace {

constexpr int kVocabSize = 1000;

class RecordingClient final : public DraftClient {
 public:
  void Send(std::vector<DraftProposal> proposals, const DrafterLoad* load) override {
    for (DraftProposal& proposal : proposals) received.push_back(std::move(proposal));
    if (load != nullptr) ++num_loads;
  }
  void BatchesTaken(int count) override { num_batches_taken += count; }

  std::vector<DraftProposal> received;
  int num_loads = 0;
  int num_batches_taken = 0;
};

class DrafterTest : public testing::Test {
 protected:
  explicit DrafterTest(int num_blocks = 64, bool run_ahead = false)
      : backend_({.vocab_size = kVocabSize, .num_blocks = num_blocks}) {
    Drafter::Options options{.vocab_size = kVocabSize,
                             .max_model_len = 128,
                             .max_sequences = 4,
                             .block_size = 4,
                             .num_blocks = num_blocks,
                             .max_step_tokens = 64,
                             .lease = std::chrono::seconds(10),
                             .run_ahead = run_ahead,
                             .tracer = &tracer_};
    drafter_ = std::make_unique<Drafter>(options, backend_, clock_, metrics_);
    client_ = std::make_shared<RecordingClient>();
    id_ = *drafter_->Attach(client_);
  }

  void Post(std::vector<DraftCommand> commands) { ASSERT_TRUE(drafter_->Post(id_, std::move(commands)).ok()); }
  void Turn() {
    const auto busy = drafter_->RunTurn();
    ASSERT_TRUE(busy.ok()) << busy.status();
  }
  // Turns until nothing is left to compute.
  void Settle() {
    for (int i = 0; i < 1000; ++i) {
      const auto busy = drafter_->RunTurn();
      ASSERT_TRUE(busy.ok()) << busy.status();
      if (!*busy) return;
    }
    FAIL() << "never settles";
  }
  double num_dropped(DrafterDropReason reason) { return metrics_.num_dropped(reason); }

  static SamplingParams Params(int max_tokens = 100) {
    SamplingParams params;
    params.max_tokens = max_tokens;
    params.seed = 5;
    return params;
  }
  static DraftCommand OpenOf(uint64_t sequence, std::vector<TokenId> prompt, int lookahead, uint32_t epoch = 1) {
    return {sequence, epoch, DraftOpen{.prompt = std::move(prompt), .params = Params(), .lookahead = lookahead}};
  }
  static DraftCommand CommitOf(uint64_t sequence, int first_position, std::vector<TokenId> tokens, int lookahead,
                               uint32_t epoch = 1) {
    return {sequence, epoch,
            DraftCommit{.first_position = first_position, .tokens = std::move(tokens), .lookahead = lookahead}};
  }
  // What the draft model says after these tokens.
  static std::vector<TokenId> Draft(std::vector<TokenId> tokens, int length) {
    const size_t base = tokens.size();
    for (int i = 0; i < length; ++i) tokens.push_back(HashNextToken(tokens, Params(), kVocabSize));
    return std::vector<TokenId>(tokens.begin() + base, tokens.end());
  }

  ManualClock clock_;
  MetricsRegistry registry_;
  DrafterMetrics metrics_{registry_};
  HashBackend backend_;
  KeptSpans kept_;
  Tracer tracer_{kept_.MakeSink(), 1, {1, 2}};
  std::unique_ptr<Drafter> drafter_;
  std::shared_ptr<RecordingClient> client_;
  DraftClientId id_ = 0;
};

class DrafterWithFewBlocksTest : public DrafterTest {
 protected:
  DrafterWithFewBlocksTest() : DrafterTest(/*num_blocks=*/6) {}  // 24 positions
};

TEST_F(DrafterTest, AnswersAnOpenWithADraft) {
  Post({OpenOf(9, {1, 2, 3}, 4)});
  Settle();
  ASSERT_EQ(client_->received.size(), 1u);
  EXPECT_EQ(client_->received[0].sequence, 9u);
  EXPECT_EQ(client_->received[0].epoch, 1u);
  EXPECT_EQ(client_->received[0].path.base_position, 3);
  EXPECT_EQ(client_->received[0].path.tokens, Draft({1, 2, 3}, 4));
  EXPECT_EQ(client_->num_batches_taken, 1);
}

class DrafterThatRunsAheadTest : public DrafterTest {
 protected:
  DrafterThatRunsAheadTest() : DrafterTest(/*num_blocks=*/64, /*run_ahead=*/true) {}
};

TEST_F(DrafterThatRunsAheadTest, ProposesTheNextDraftTooBeforeItIsAskedFor) {
  Post({OpenOf(9, {1, 2, 3}, 4)});
  Settle();
  ASSERT_EQ(client_->received.size(), 2u);
  EXPECT_EQ(client_->received[0].path.tokens, Draft({1, 2, 3}, 4));
  // The same base: four tokens, the one after them, and four more.
  EXPECT_EQ(client_->received[1].path.base_position, 3);
  EXPECT_EQ(client_->received[1].path.tokens, Draft({1, 2, 3}, 9));
  // All was accepted: what is asked for now is there without a step, and it goes on from it.
  const int num_steps = backend_.num_steps();
  Post({CommitOf(9, 3, Draft({1, 2, 3}, 5), 4)});
  Turn();
  ASSERT_GE(client_->received.size(), 3u);
  EXPECT_EQ(client_->received[2].path.base_position, 8);
  EXPECT_EQ(client_->received[2].path.tokens,
            std::vector<TokenId>(client_->received[1].path.tokens.begin() + 5, client_->received[1].path.tokens.end()));
  EXPECT_LE(backend_.num_steps(), num_steps + 1);
  Settle();
  ASSERT_EQ(client_->received.size(), 4u);
  EXPECT_EQ(client_->received[3].path.tokens.size(), 9u);
}

TEST_F(DrafterThatRunsAheadTest, LeavesTheWrongWayAtTheNextCommit) {
  Post({OpenOf(9, {1, 2, 3}, 4)});
  Settle();
  Post({CommitOf(9, 3, {77}, 2)});
  Settle();
  ASSERT_GE(client_->received.size(), 3u);
  EXPECT_EQ(client_->received[2].path.base_position, 4);
  EXPECT_EQ(client_->received[2].path.tokens, Draft({1, 2, 3, 77}, 2));
}

TEST_F(DrafterTest, RecordsTheRoundsOfASequenceWhoseTraceIsRecorded) {
  const TraceContext trace{.trace = {1, 2}, .span = 3, .sampled = true};
  DraftCommand traced = OpenOf(1, {1, 2, 3}, 4);
  std::get<DraftOpen>(traced.command).trace = trace;
  Post({traced, OpenOf(2, {4, 5}, 4)});
  Settle();
  std::vector<TraceSpan> rounds = kept_.Named("draft.round");
  ASSERT_EQ(rounds.size(), 1u) << "the other sequence belongs to no trace";
  EXPECT_EQ(rounds[0].trace, trace.trace);
  EXPECT_EQ(rounds[0].parent, trace.span);
  EXPECT_TRUE(rounds[0].parent_is_remote);
  EXPECT_LE(rounds[0].start_unix_ns, rounds[0].end_unix_ns);
  EXPECT_EQ(AttributeOf<int64_t>(rounds[0], "outrider.round"), 1);
  EXPECT_EQ(AttributeOf<int64_t>(rounds[0], "outrider.draft_tokens"), 4);
  std::vector<TokenId> tokens = {1, 2, 3};
  for (int i = 0; i < 2 * Drafter::kMaxTracedRounds; ++i) {
    Post({CommitOf(1, static_cast<int>(tokens.size()), {7}, 1)});
    tokens.push_back(7);
    Settle();
  }
  rounds = kept_.Named("draft.round");
  ASSERT_EQ(rounds.size(), static_cast<size_t>(Drafter::kMaxTracedRounds)) << "what is recorded has a bound";
  EXPECT_EQ(AttributeOf<int64_t>(rounds.back(), "outrider.round"), Drafter::kMaxTracedRounds);
}

TEST_F(DrafterTest, DrainsByTakingNothingNewUntilItsClientsHaveLeft) {
  Post({OpenOf(9, {1, 2, 3}, 4)});
  Settle();
  drafter_->Drain(clock_.Now() + std::chrono::hours(1));
  EXPECT_EQ(drafter_->Attach(client_).status().code(), absl::StatusCode::kUnavailable);
  // What is open is served on; what is new is not taken.
  Post({CommitOf(9, 3, {7}, 2), OpenOf(10, {1, 2}, 4)});
  Settle();
  ASSERT_EQ(client_->received.size(), 2u);
  EXPECT_EQ(client_->received[1].sequence, 9u);
  EXPECT_EQ(num_dropped(DrafterDropReason::kDraining), 1);
  drafter_->Detach(id_);
  EXPECT_TRUE(drafter_->Run().ok());
}

TEST_F(DrafterTest, EndsItsDrainAtTheDeadlineThoughClientsStay) {
  drafter_->Drain(clock_.Now());
  EXPECT_TRUE(drafter_->Run().ok());
}

TEST_F(DrafterTest, ComputesNothingWhenNoDraftIsWanted) {
  Post({OpenOf(9, {1, 2, 3}, 0), CommitOf(9, 3, {4, 5}, 0)});
  Settle();
  EXPECT_EQ(backend_.num_steps(), 0);
  EXPECT_TRUE(client_->received.empty());
}

TEST_F(DrafterTest, AnswersEachCommitFromWhatWasCommitted) {
  Post({OpenOf(9, {1, 2, 3}, 2)});
  Settle();
  const int64_t computed = backend_.num_computed_tokens();
  const std::vector<TokenId> first = Draft({1, 2, 3}, 2);
  Post({CommitOf(9, 3, {first[0], 77}, 3)});
  Settle();
  ASSERT_EQ(client_->received.size(), 2u);
  EXPECT_EQ(client_->received[1].path.base_position, 5);
  EXPECT_EQ(client_->received[1].path.tokens, Draft({1, 2, 3, first[0], 77}, 3));
  EXPECT_EQ(backend_.num_computed_tokens() - computed, 3);  // 77 and two of the drafted; nothing twice
}

TEST_F(DrafterTest, CatchesUpAfterASilence) {
  Post({OpenOf(9, {1, 2, 3}, 2)});
  Settle();
  Post({CommitOf(9, 3, {4, 5}, 0), CommitOf(9, 5, {6}, 0), CommitOf(9, 6, {7, 8}, 1)});
  Settle();
  ASSERT_EQ(client_->received.size(), 2u);
  EXPECT_EQ(client_->received[1].path.tokens, Draft({1, 2, 3, 4, 5, 6, 7, 8}, 1));
}

TEST_F(DrafterTest, DraftsForSeveralSequencesInOneStep) {
  Post({OpenOf(1, {1, 2, 3}, 2), OpenOf(2, {4, 5, 6}, 2), OpenOf(3, {7, 8}, 2)});
  Settle();
  EXPECT_EQ(client_->received.size(), 3u);
  EXPECT_EQ(backend_.num_steps(), 2);
}

TEST_F(DrafterTest, CatchesUpALongPromptBesideOthersDrafts) {
  Post({OpenOf(1, {1, 2, 3}, 0), OpenOf(2, std::vector<TokenId>(100, 6), 2)});
  Post({CommitOf(1, 3, {4}, 2)});
  Turn();
  EXPECT_TRUE(client_->received.empty());
  Turn();
  ASSERT_EQ(client_->received.size(), 1u);  // two steps, though the long one is under way
  EXPECT_EQ(client_->received[0].sequence, 1u);
  Settle();
  ASSERT_EQ(client_->received.size(), 2u);
  EXPECT_EQ(client_->received[1].path.tokens, Draft(std::vector<TokenId>(100, 6), 2));
}

TEST_F(DrafterTest, ANewCommitVoidsAnUnfinishedDraft) {
  Post({OpenOf(9, {1, 2, 3}, 8)});
  Turn();
  Post({CommitOf(9, 3, {500}, 1)});
  Settle();
  ASSERT_EQ(client_->received.size(), 1u);
  EXPECT_EQ(client_->received[0].path.base_position, 4);
  EXPECT_EQ(client_->received[0].path.tokens, Draft({1, 2, 3, 500}, 1));
}

TEST_F(DrafterTest, StopsDraftingAtAnEndToken) {
  DraftOpen open{.prompt = {1, 2, 3}, .params = Params(), .lookahead = 6};
  const std::vector<TokenId> draft = Draft({1, 2, 3}, 6);
  open.params.end_token_ids = {draft[2]};
  Post({{9, 1, open}});
  Settle();
  ASSERT_EQ(client_->received.size(), 1u);
  EXPECT_EQ(client_->received[0].path.tokens, std::vector<TokenId>(draft.begin(), draft.begin() + 3));
}

TEST_F(DrafterTest, DropsWhatIsOutOfRangeAndCountsIt) {
  Post({OpenOf(1, {}, 2), OpenOf(2, std::vector<TokenId>(129, 1), 2), OpenOf(3, {1, kVocabSize}, 2),
        OpenOf(4, {-1}, 2)});
  EXPECT_NO_FATAL_FAILURE(Settle());
  EXPECT_EQ(num_dropped(DrafterDropReason::kTooLong), 2);
  EXPECT_EQ(num_dropped(DrafterDropReason::kTokenOutOfRange), 2);

  DraftOpen bad{.prompt = {1}, .params = Params(), .lookahead = 2};
  bad.params.top_p = -3;
  Post({{5, 1, bad}});
  Settle();
  EXPECT_EQ(num_dropped(DrafterDropReason::kBadParams), 1);

  Post({CommitOf(77, 0, {1}, 1), OpenOf(6, {1, 2}, 0, 3), CommitOf(6, 2, {5}, 1, 2), CommitOf(6, 2, {-5}, 1, 3),
        CommitOf(6, 9, {5}, 1, 3), CommitOf(6, int{1} << 30, {5}, 1, 3), CommitOf(6, 1, {5}, 1, 3),
        CommitOf(6, 2, std::vector<TokenId>(1000, 1), 1, 3), OpenOf(6, {1}, 1, 3)});
  Settle();
  EXPECT_EQ(num_dropped(DrafterDropReason::kUnknownSequence), 1);
  EXPECT_EQ(num_dropped(DrafterDropReason::kStaleEpoch), 2);
  EXPECT_EQ(num_dropped(DrafterDropReason::kTokenOutOfRange), 3);
  EXPECT_EQ(num_dropped(DrafterDropReason::kGap), 1);
  EXPECT_EQ(num_dropped(DrafterDropReason::kContradiction), 1);
  EXPECT_EQ(num_dropped(DrafterDropReason::kTooLong), 4);
  EXPECT_TRUE(client_->received.empty());

  // And it still works.
  Post({CommitOf(6, 2, {5}, 1, 3)});
  Settle();
  EXPECT_EQ(client_->received.size(), 1u);
}

TEST_F(DrafterTest, AnswersOpensBeyondItsCapacityBySilence) {
  for (uint64_t sequence = 1; sequence <= 6; ++sequence) Post({OpenOf(sequence, {1, 2}, 1)});
  Settle();
  EXPECT_EQ(client_->received.size(), 4u);
  EXPECT_EQ(num_dropped(DrafterDropReason::kTooManySequences), 2);
}

TEST_F(DrafterTest, BoundsABoundlessLookahead) {
  Post({{1, 1, DraftOpen{.prompt = {1}, .params = Params(), .lookahead = int64_t{1} << 40}}});
  Settle();
  ASSERT_EQ(client_->received.size(), 1u);
  EXPECT_EQ(client_->received[0].path.tokens.size(), static_cast<size_t>(Drafter::kMaxLookahead));
}

TEST_F(DrafterTest, FreesEverythingOfAStreamThatIsLost) {
  Post({OpenOf(1, {1, 2, 3, 4, 5}, 1), OpenOf(2, {1, 2}, 1)});
  Settle();
  EXPECT_GT(drafter_->load().kv_used_ratio, 0);
  drafter_->Detach(id_);
  Settle();
  EXPECT_EQ(drafter_->load().num_sequences, 0);
  EXPECT_EQ(drafter_->load().kv_used_ratio, 0);
  EXPECT_EQ(drafter_->Post(id_, {}).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(DrafterTest, ForgetsSequencesAfterTheirLease) {
  Post({OpenOf(1, {1, 2, 3, 4, 5}, 1)});
  Settle();
  clock_.Advance(std::chrono::seconds(11));
  Settle();
  EXPECT_EQ(drafter_->load().num_sequences, 0);
}

TEST_F(DrafterTest, KeepsStreamsApart) {
  const auto other = std::make_shared<RecordingClient>();
  const DraftClientId other_id = *drafter_->Attach(other);
  Post({OpenOf(1, {1, 2}, 2)});
  ASSERT_TRUE(drafter_->Post(other_id, {OpenOf(1, {3, 4}, 2)}).ok());
  Settle();
  ASSERT_EQ(client_->received.size(), 1u);
  ASSERT_EQ(other->received.size(), 1u);
  EXPECT_EQ(client_->received[0].path.tokens, Draft({1, 2}, 2));
  EXPECT_EQ(other->received[0].path.tokens, Draft({3, 4}, 2));
}

TEST_F(DrafterTest, BoundsTheBatchesThatWait) {
  for (int i = 0; i < Drafter::kMaxWaitingBatches; ++i) Post({});
  EXPECT_EQ(drafter_->Post(id_, {}).code(), absl::StatusCode::kResourceExhausted);
  Settle();
  EXPECT_EQ(client_->num_batches_taken, Drafter::kMaxWaitingBatches);
}

TEST_F(DrafterWithFewBlocksTest, TakesBlocksFromTheSequenceLongestUnheardOf) {
  Post({OpenOf(1, std::vector<TokenId>(11, 1), 1)});
  Settle();
  clock_.Advance(std::chrono::seconds(1));
  Post({OpenOf(2, std::vector<TokenId>(11, 2), 1)});
  Settle();
  clock_.Advance(std::chrono::seconds(1));
  Post({OpenOf(3, std::vector<TokenId>(11, 3), 1)});
  Settle();
  EXPECT_EQ(client_->received.size(), 3u);
  // Sequence 2 kept its blocks; sequence 1 is computed again and still drafts what it should.
  const int64_t before = backend_.num_computed_tokens();
  Post({CommitOf(2, 11, {9}, 1)});
  Settle();
  EXPECT_EQ(backend_.num_computed_tokens() - before, 1);
  std::vector<TokenId> tokens(11, 1);
  tokens.push_back(9);
  Post({CommitOf(1, 11, {9}, 1)});
  Settle();
  ASSERT_EQ(client_->received.size(), 5u);
  EXPECT_EQ(client_->received[4].path.tokens, Draft(tokens, 1));
}

TEST_F(DrafterWithFewBlocksTest, GivesUpOnWhatCanNeverFit) {
  Post({OpenOf(1, std::vector<TokenId>(40, 1), 1), OpenOf(2, {1, 2}, 1)});
  Settle();
  ASSERT_EQ(client_->received.size(), 1u);
  EXPECT_EQ(client_->received[0].sequence, 2u);
  EXPECT_EQ(num_dropped(DrafterDropReason::kNoKvBlocks), 1);
  EXPECT_EQ(drafter_->load().num_queued_tokens, 0);
}

// Random targets, honest and not, with too few blocks: every answer is what the draft model says after the committed
// tokens (the backend proves the KV), and in the end nothing is held.
TEST_F(DrafterWithFewBlocksTest, SurvivesRandomTargets) {
  const char* env = std::getenv("OUTRIDER_TEST_SEED");
  const uint32_t seed = env != nullptr ? std::strtoul(env, nullptr, 10) : std::random_device()();
  std::cout << "OUTRIDER_TEST_SEED=" << seed << "\n";
  std::mt19937 random(seed);
  std::map<uint64_t, std::pair<uint32_t, std::vector<TokenId>>> truth;  // by sequence: epoch and committed tokens
  uint32_t epoch = 0;
  int num_right = 0;
  for (int event = 0; event < 20000; ++event) {
    const uint64_t sequence = random() % 5;
    const auto known = truth.find(sequence);
    const int lookahead = static_cast<int>(random() % 4);
    switch (random() % 8) {
      case 0: {
        std::vector<TokenId> prompt(1 + random() % 22);
        for (TokenId& token : prompt) token = static_cast<TokenId>(random() % 3);
        if (known == truth.end() && truth.size() >= 4) break;  // beyond capacity it is not opened
        truth[sequence] = {++epoch, prompt};
        Post({OpenOf(sequence, prompt, lookahead, epoch)});
        break;
      }
      case 1:
        if (known == truth.end()) break;
        Post({{sequence, known->second.first, DraftClose{}}});
        truth.erase(known);
        break;
      case 2:  // nonsense
        Post({CommitOf(sequence, static_cast<int>(random()), {static_cast<TokenId>(random())}, lookahead,
                       random() % 2 == 0 ? epoch : random())});
        break;
      case 3:
      case 4: {
        if (known == truth.end()) break;
        auto& [of_epoch, tokens] = known->second;
        std::vector<TokenId> ids(1 + random() % 3);
        for (TokenId& token : ids) token = static_cast<TokenId>(random() % 3);
        if (random() % 2 == 0) ids[0] = HashNextToken(tokens, Params(), kVocabSize);
        if (tokens.size() + ids.size() > 60) break;
        Post({CommitOf(sequence, static_cast<int>(tokens.size()), ids, lookahead, of_epoch)});
        tokens.insert(tokens.end(), ids.begin(), ids.end());
        break;
      }
      default:
        Turn();
    }
    if (HasFatalFailure()) return;
    if (event % Drafter::kMaxWaitingBatches == 0) Turn();
    for (const DraftProposal& proposal : client_->received) {
      const auto of = truth.find(proposal.sequence);
      if (of == truth.end() || of->second.first != proposal.epoch) continue;
      std::vector<TokenId> base = of->second.second;
      if (proposal.path.base_position > static_cast<int>(base.size())) continue;
      base.resize(proposal.path.base_position);
      EXPECT_EQ(proposal.path.tokens, Draft(base, static_cast<int>(proposal.path.tokens.size())));
      ++num_right;
    }
    client_->received.clear();
  }
  EXPECT_GT(num_right, 100);
  drafter_->Detach(id_);
  Settle();
  EXPECT_EQ(drafter_->load().kv_used_ratio, 0);
}

TEST_F(DrafterTest, RunsUntilItIsStopped) {
  std::thread loop([this] { EXPECT_TRUE(drafter_->Run().ok()); });
  drafter_->Stop();
  loop.join();
}

}  // namespace
}  // namespace outrider
