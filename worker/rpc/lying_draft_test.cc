// A draft worker that lies, over real gRPC: ids stay those of the target model, and every kind of lie is counted.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "proto/draft.grpc.pb.h"
#include "worker/engine/target_engine.h"
#include "worker/engine/testing/hash_backend.h"
#include "worker/rpc/draft_connections.h"
#include "worker/rpc/draft_service.h"  // kDraftProtocolVersion
#include "worker/rpc/proto_conversions.h"
#include "worker/rpc/testing/socket_address.h"
#include "worker/speculation/testing/test_drafters.h"

namespace outrider {
namespace {

constexpr int kVocabSize = 1000;
constexpr int kNumRequests = 8;
constexpr int kMaxTokens = 600;
// For lies that do not answer what was asked: such a source is asked once a sequence (DraftSession's patience), so that
// long sequences would only be long.
constexpr int kMaxTokensAskedOnce = 60;
constexpr Duration kPatience = std::chrono::seconds(30);

using Answer = std::function<TestDrafter::Proposals(TestDrafter::Proposals)>;

// Speaks draft.proto with a test drafter behind it; `twist` has the last word on what is proposed.
class LyingDraftWorker final : public v1::Draft::Service {
 public:
  LyingDraftWorker(const std::string& host, std::unique_ptr<TestDrafter> drafter, Answer twist)
      : drafter_(std::move(drafter)), twist_(std::move(twist)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(host, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    builder.SetMaxSendMessageSize(-1);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
  }
  ~LyingDraftWorker() override { server_->Shutdown(std::chrono::system_clock::now()); }

  int num_proposals() const { return num_proposals_; }
  // Until it has said all it has to say for now: what it says later would be of requests that are over.
  void AwaitPause() const {
    int before;
    do {
      before = num_frames_;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    } while (num_frames_ != before);
  }

  grpc::Status Connect(grpc::ServerContext*,
                       grpc::ServerReaderWriter<v1::DraftEvents, v1::DraftCommands>* stream) override {
    v1::DraftCommands request;
    while (stream->Read(&request)) {
      v1::DraftEvents events;
      if (request.has_hello()) {
        events.mutable_hello()->set_protocol_version(kDraftProtocolVersion);
        events.mutable_hello()->set_draft_id("liar");
        events.mutable_hello()->set_tokenizer_fingerprint("abc");
        events.mutable_hello()->set_vocab_size(kVocabSize);
      } else if (request.has_ping()) {
        events.mutable_pong()->set_id(request.ping().id());
      } else {
        for (const DraftSource::Proposal& proposal : twist_(AnswersTo(request.batch()))) {
          ++num_proposals_;
          ProposalToProto({.sequence = proposal.sequence.value, .epoch = proposal.epoch, .path = proposal.path},
                          events.mutable_batch()->add_proposals());
        }
      }
      if (!stream->Write(events)) break;
      if (events.has_batch()) ++num_frames_;
    }
    drafter_->Reset();
    return grpc::Status::OK;
  }

 private:
  TestDrafter::Proposals AnswersTo(const v1::DraftCommandBatch& batch) {
    TestDrafter::Proposals all;
    for (const v1::DraftCommand& proto : batch.commands()) {
      const auto command = DraftCommandFromProto(proto);
      if (!command) continue;
      const SequenceId sequence(command->sequence);
      TestDrafter::Proposals answers;
      if (const auto* open = std::get_if<DraftOpen>(&command->command)) {
        std::vector<TokenId> tokens = open->prompt;
        tokens.insert(tokens.end(), open->output.begin(), open->output.end());
        answers = drafter_->Open(sequence, command->epoch, tokens, open->params, static_cast<int>(open->lookahead));
      } else if (const auto* commit = std::get_if<DraftCommit>(&command->command)) {
        answers = drafter_->Commit(sequence, command->epoch, static_cast<int>(commit->first_position), commit->tokens,
                                   static_cast<int>(commit->lookahead));
      } else {
        drafter_->Close(sequence, command->epoch);
      }
      std::move(answers.begin(), answers.end(), std::back_inserter(all));
    }
    return all;
  }

  const std::unique_ptr<TestDrafter> drafter_;
  const Answer twist_;
  std::atomic<int> num_proposals_{0};
  std::atomic<int> num_frames_{0};
  std::unique_ptr<grpc::Server> server_;
};

SamplingParams Params(uint64_t seed, int max_tokens) {
  SamplingParams params;
  params.max_tokens = max_tokens;
  params.seed = seed;
  return params;
}

class LyingDraftTest : public testing::Test {
 protected:
  // Runs requests against the liar and checks each, over and over until proposals were dropped for each of `reasons`
  // (any: also for others) or kPatience is over; the drops by reason.
  std::map<std::string, int64_t> Run(std::unique_ptr<TestDrafter> drafter, Answer twist,
                                     const std::vector<std::string>& reasons, int max_tokens = kMaxTokens) {
    const std::string host = NewSocketAddress();
    LyingDraftWorker liar(host, std::move(drafter), std::move(twist));
    SystemClock clock;
    MetricsRegistry registry;
    EngineMetrics metrics(registry);
    DraftLinkMetrics link_metrics(registry);
    HashBackend backend({.vocab_size = kVocabSize, .num_blocks = 2048});
    Inbox inbox(64);
    auto stream = std::make_shared<TokenStream>(100'000, [] {});
    TargetEngine::Options options;
    options.scheduler = {.vocab_size = kVocabSize,
                         .max_model_len = 1000,
                         .num_blocks = 2048,
                         .block_size = 4,
                         .max_sequences = kNumRequests,
                         .max_waiting_sequences = 64,
                         .max_step_tokens = 256};
    options.drafts = {.vocab_size = kVocabSize, .lookahead = 4, .draft_wait_ms_max = 20};
    options.ngram_draft = false;
    TargetEngine engine(options, inbox, backend, clock, metrics);
    DraftConnections connections({.target_id = "target", .tokenizer_fingerprint = "abc", .vocab_size = kVocabSize},
                                 inbox, link_metrics);
    connections.ConnectTo(host);
    std::thread loop([&] { EXPECT_TRUE(engine.Run().ok()); });
    while (connections.num_connected() == 0) std::this_thread::yield();
    const auto num_dropped = [&](const std::string& reason) {
      return registry.AddCounter("draft_proposals_dropped_total", "Proposals not used.", {{"reason", reason}}).value();
    };
    const auto had_its_say = [&] {
      return liar.num_proposals() >= 50 && std::all_of(reasons.begin(), reasons.end(), [&](const std::string& reason) {
               return num_dropped(reason) > 0;
             });
    };
    const TimePoint give_up = std::chrono::steady_clock::now() + kPatience;
    for (uint64_t round = 0; round == 0 || (!had_its_say() && std::chrono::steady_clock::now() < give_up); ++round) {
      for (uint64_t i = 0; i < kNumRequests; ++i) {
        SubmitEvent event{.stream = stream, .id = RequestId(round * kNumRequests + i + 1), .received = clock.Now()};
        event.request.prompt = {1, 2, static_cast<TokenId>(i)};
        event.request.params = Params(i, max_tokens);
        event.request.lanes = {{0}};
        EXPECT_TRUE(inbox.Post(std::move(event)).ok());
      }
      std::map<uint64_t, std::vector<TokenId>> tokens;  // by request
      for (int num_ended = 0; num_ended < kNumRequests;) {
        std::this_thread::yield();
        for (LaneEvent& event : stream->Take()) {
          if (auto* some = std::get_if<TokensEvent>(&event.event)) {
            std::vector<TokenId>& all = tokens[event.id.request.value];
            all.insert(all.end(), some->tokens.begin(), some->tokens.end());
          } else {
            EXPECT_TRUE(std::holds_alternative<FinishedEvent>(event.event));
            ++num_ended;
          }
        }
      }
      for (uint64_t i = 0; i < kNumRequests; ++i) {
        EXPECT_EQ(tokens[round * kNumRequests + i + 1],
                  HashOutput({1, 2, static_cast<TokenId>(i)}, Params(i, max_tokens), kVocabSize));
      }
      liar.AwaitPause();
    }
    engine.Drain();
    loop.join();
    EXPECT_GT(liar.num_proposals(), 0);
    std::map<std::string, int64_t> dropped;
    for (int i = 0; i < kNumDropReasons; ++i) {
      dropped[DropReasonName(static_cast<DropReason>(i))] = engine.draft_stats().num_dropped[i];
    }
    return dropped;
  }

  static uint64_t Seed() {
    const char* text = std::getenv("OUTRIDER_TEST_SEED");
    static const uint64_t seed =
        text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 10) : std::random_device{}();
    std::cout << "seed " << seed << "\n";
    return seed;
  }
  static TestDrafter::Proposals AsTheyAre(TestDrafter::Proposals proposals) { return proposals; }
  static std::unique_ptr<TestDrafter> Oracle() {
    return MakeOracleDrafter([](absl::Span<const TokenId> tokens, const SamplingParams& params) {
      return HashNextToken(std::vector<TokenId>(tokens.begin(), tokens.end()), params, kVocabSize);
    });
  }
};

TEST_F(LyingDraftTest, OfRandomIdsChangesNothing) {
  Run(MakeRandomDrafter(kVocabSize, Seed()), AsTheyAre, {});  // ids of the vocabulary are no lie, only wrong
}

TEST_F(LyingDraftTest, ThatSaysEverythingAHostilePeerMaySay) {
  const auto dropped =
      Run(MakeAdversarialDrafter(kVocabSize, Seed()), AsTheyAre, {"out_of_range", "stale_epoch", "unknown_sequence"});
  for (const char* reason : {"out_of_range", "stale_epoch", "unknown_sequence"}) EXPECT_GT(dropped.at(reason), 0);
}

TEST_F(LyingDraftTest, OfNegativeIds) {
  const auto dropped = Run(Oracle(),
                           [](TestDrafter::Proposals proposals) {
                             for (auto& proposal : proposals) proposal.path.tokens.at(0) = -1;
                             return proposals;
                           },
                           {"out_of_range"});
  EXPECT_GT(dropped.at("out_of_range"), 0);
}

TEST_F(LyingDraftTest, OfIdsBeyondTheVocabulary) {
  const auto dropped = Run(Oracle(),
                           [](TestDrafter::Proposals proposals) {
                             for (auto& proposal : proposals) proposal.path.tokens.back() = kVocabSize;
                             return proposals;
                           },
                           {"out_of_range"});
  EXPECT_GT(dropped.at("out_of_range"), 0);
}

TEST_F(LyingDraftTest, OfAMillionIds) {
  const auto dropped = Run(Oracle(),
                           [](TestDrafter::Proposals proposals) {
                             for (auto& proposal : proposals) proposal.path.tokens.assign(1'000'000, 1);
                             if (proposals.size() > 1) proposals.resize(1);  // a frame may have 4 MiB
                             return proposals;
                           },
                           {"too_long"});
  EXPECT_GT(dropped.at("too_long"), 0);
}

TEST_F(LyingDraftTest, OfOldPositions) {
  const auto dropped = Run(Oracle(),
                           [](TestDrafter::Proposals proposals) {
                             for (auto& proposal : proposals) proposal.path.base_position = 1;
                             return proposals;
                           },
                           {});
  EXPECT_GT(dropped.at("stale_position") + dropped.at("mismatch"), 0);
}

TEST_F(LyingDraftTest, OfAnotherRequestsTokensAndOfRequestsThatNeverWere) {
  std::optional<DraftSource::Proposal> other;
  const auto dropped = Run(Oracle(),
                           [&](TestDrafter::Proposals proposals) {
                             TestDrafter::Proposals lies;
                             for (auto& proposal : proposals) {
                               if (other) {
                                 lies.push_back(*other);
                                 lies.back().sequence = proposal.sequence;
                                 lies.back().epoch = proposal.epoch;
                               }
                               other = proposal;
                               proposal.sequence = SequenceId(proposal.sequence.value + 1'000'000);
                               lies.push_back(proposal);
                             }
                             return lies;
                           },
                           {"unknown_sequence"});
  EXPECT_GT(dropped.at("unknown_sequence"), 0);
  EXPECT_GT(dropped.at("mismatch") + dropped.at("stale_position") + dropped.at("out_of_range"), 0);
}

TEST_F(LyingDraftTest, OfEpochsThatNeverWere) {
  const auto dropped = Run(
      Oracle(),
      [](TestDrafter::Proposals proposals) {
        for (auto& proposal : proposals) proposal.epoch += 7;
        return proposals;
      },
      {"stale_epoch"}, kMaxTokensAskedOnce);
  EXPECT_GT(dropped.at("stale_epoch"), 0);
}

}  // namespace
}  // namespace outrider
