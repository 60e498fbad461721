#include "worker/rpc/draft_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "worker/engine/testing/hash_backend.h"
#include "worker/rpc/proto_conversions.h"
#include "worker/rpc/rpc_server.h"

namespace outrider {
namespace {

constexpr int kVocabSize = 1000;

class DraftServiceTest : public testing::Test {
 protected:
  DraftServiceTest() {
    auto started = RpcServer::Start({.host = "127.0.0.1"}, {&service_}, {"outrider.v1.Draft"}, [] { return true; });
    EXPECT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    loop_ = std::thread([this] { EXPECT_TRUE(drafter_.Run().ok()); });
  }
  ~DraftServiceTest() override {
    server_->Shutdown(Duration::zero());
    drafter_.Stop();
    loop_.join();
  }

  static v1::TargetHello GoodHello() {
    v1::TargetHello hello;
    hello.set_protocol_version(1);
    hello.set_target_id("target-7");
    hello.set_tokenizer_fingerprint("abc");
    hello.set_vocab_size(kVocabSize);
    return hello;
  }

  // A target, as far as one stream goes.
  struct Target {
    explicit Target(RpcServer& server)
        : stub(v1::Draft::NewStub(grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials()))),
          stream(stub->Connect(&context)) {}
    bool Hello(const v1::TargetHello& hello) {
      v1::DraftCommands frame;
      *frame.mutable_hello() = hello;
      stream->Write(frame);
      v1::DraftEvents events;
      return stream->Read(&events) && events.has_hello();
    }
    bool Send(const v1::DraftCommandBatch& batch) {
      v1::DraftCommands frame;
      *frame.mutable_batch() = batch;
      return stream->Write(frame);
    }
    // The next proposal; loads are passed over.
    std::optional<v1::Proposal> AwaitProposal() {
      v1::DraftEvents events;
      while (waiting.empty()) {
        if (!stream->Read(&events)) return std::nullopt;
        for (const v1::Proposal& proposal : events.batch().proposals()) waiting.push_back(proposal);
      }
      v1::Proposal proposal = waiting.front();
      waiting.erase(waiting.begin());
      return proposal;
    }
    grpc::Status AwaitStatus() {
      v1::DraftEvents events;
      while (stream->Read(&events)) {
      }
      return stream->Finish();
    }

    grpc::ClientContext context;
    std::unique_ptr<v1::Draft::Stub> stub;
    std::unique_ptr<grpc::ClientReaderWriter<v1::DraftCommands, v1::DraftEvents>> stream;
    std::vector<v1::Proposal> waiting;
  };

  static SamplingParams Params() {
    SamplingParams params;
    params.max_tokens = 100;
    params.seed = 9;
    return params;
  }
  static void AddOpen(v1::DraftCommandBatch& batch, uint64_t sequence, const std::vector<TokenId>& prompt,
                      uint32_t lookahead) {
    const SamplingParams params = Params();
    OpeningToProto({.sequence = SequenceId(sequence),
                    .epoch = 1,
                    .prompt = prompt,
                    .params = &params,
                    .lookahead = static_cast<int>(lookahead)},
                   batch.add_commands());
  }
  static std::vector<TokenId> Draft(std::vector<TokenId> tokens, int length) {
    const size_t base = tokens.size();
    for (int i = 0; i < length; ++i) tokens.push_back(HashNextToken(tokens, Params(), kVocabSize));
    return std::vector<TokenId>(tokens.begin() + base, tokens.end());
  }
  static std::vector<TokenId> Ids(const v1::Proposal& proposal) {
    return {proposal.paths(0).token_ids().begin(), proposal.paths(0).token_ids().end()};
  }

  SystemClock clock_;
  MetricsRegistry registry_;
  DrafterMetrics metrics_{registry_};
  HashBackend backend_{{.vocab_size = kVocabSize, .num_blocks = 256}};
  Drafter drafter_{{.vocab_size = kVocabSize,
                    .max_model_len = 256,
                    .max_sequences = 8,
                    .block_size = 4,
                    .num_blocks = 256,
                    .max_step_tokens = 64,
                    .lease = std::chrono::seconds(60)},
                   backend_,
                   clock_,
                   metrics_};
  DraftService service_{{.draft_id = "draft-3",
                         .incarnation = 5,
                         .model = "tiny",
                         .tokenizer_fingerprint = "abc",
                         .vocab_size = kVocabSize,
                         .max_model_len = 256,
                         .max_sequences = 8},
                        drafter_,
                        metrics_};
  std::unique_ptr<RpcServer> server_;
  std::thread loop_;
};

TEST_F(DraftServiceTest, AnswersCommitsWithProposals) {
  Target target(*server_);
  ASSERT_TRUE(target.Hello(GoodHello()));
  v1::DraftCommandBatch batch;
  AddOpen(batch, 4, {1, 2, 3}, 3);
  ASSERT_TRUE(target.Send(batch));
  const auto first = target.AwaitProposal();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->sequence(), 4u);
  EXPECT_EQ(first->base_position(), 3u);
  EXPECT_EQ(Ids(*first), Draft({1, 2, 3}, 3));
  batch.Clear();
  const std::vector<TokenId> committed = {50, 60};
  AdvanceToProto({.sequence = SequenceId(4), .epoch = 1, .first_position = 3, .tokens = committed, .lookahead = 2},
                 batch.add_commands());
  ASSERT_TRUE(target.Send(batch));
  const auto second = target.AwaitProposal();
  ASSERT_TRUE(second);
  EXPECT_EQ(Ids(*second), Draft({1, 2, 3, 50, 60}, 2));
}

TEST_F(DraftServiceTest, RefusesAnotherTokenizerNamingBoth) {
  v1::TargetHello hello = GoodHello();
  hello.set_tokenizer_fingerprint("xyz");
  Target target(*server_);
  EXPECT_FALSE(target.Hello(hello));
  const grpc::Status status = target.AwaitStatus();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  for (const char* name : {"xyz", "abc", "target-7", "draft-3", "tiny"}) {
    EXPECT_NE(status.error_message().find(name), std::string::npos) << status.error_message();
  }
}

TEST_F(DraftServiceTest, RefusesAnotherVocabularyOrProtocol) {
  v1::TargetHello vocabulary = GoodHello();
  vocabulary.set_vocab_size(7);
  Target one(*server_);
  EXPECT_FALSE(one.Hello(vocabulary));
  EXPECT_EQ(one.AwaitStatus().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  v1::TargetHello protocol = GoodHello();
  protocol.set_protocol_version(2);
  Target two(*server_);
  EXPECT_FALSE(two.Hello(protocol));
  EXPECT_EQ(two.AwaitStatus().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(DraftServiceTest, AnswersPings) {
  Target target(*server_);
  ASSERT_TRUE(target.Hello(GoodHello()));
  v1::DraftCommands frame;
  frame.mutable_ping()->set_id(17);
  ASSERT_TRUE(target.stream->Write(frame));
  v1::DraftEvents events;
  do {
    ASSERT_TRUE(target.stream->Read(&events));
  } while (!events.has_pong());
  EXPECT_EQ(events.pong().id(), 17u);
}

TEST_F(DraftServiceTest, ANewLifeOfATargetEndsItsPastOneWhichIsRefusedWhenItComesBack) {
  v1::TargetHello hello = GoodHello();
  hello.set_incarnation(5);
  Target past(*server_);
  ASSERT_TRUE(past.Hello(hello));
  Target second_stream_of_it(*server_);
  ASSERT_TRUE(second_stream_of_it.Hello(hello));
  Target other(*server_);
  v1::TargetHello other_hello = hello;
  other_hello.set_target_id("target-8");
  ASSERT_TRUE(other.Hello(other_hello));
  hello.set_incarnation(6);
  Target now(*server_);
  ASSERT_TRUE(now.Hello(hello));
  EXPECT_EQ(past.AwaitStatus().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(second_stream_of_it.AwaitStatus().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  hello.set_incarnation(5);
  Target back(*server_);
  EXPECT_FALSE(back.Hello(hello));
  const grpc::Status refused = back.AwaitStatus();
  EXPECT_NE(refused.error_message().find("past life"), std::string::npos) << refused.error_message();
  // Others are not concerned.
  v1::DraftCommandBatch batch;
  AddOpen(batch, 1, {1, 2, 3}, 2);
  for (Target* target : {&now, &other}) {
    ASSERT_TRUE(target->Send(batch));
    EXPECT_TRUE(target->AwaitProposal().has_value());
  }
}

TEST_F(DraftServiceTest, EndsCallsThatBreakTheProtocol) {
  {
    Target target(*server_);
    target.Send({});  // before the hello
    EXPECT_EQ(target.AwaitStatus().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  {
    Target target(*server_);
    ASSERT_TRUE(target.Hello(GoodHello()));
    v1::DraftCommands second;
    *second.mutable_hello() = GoodHello();
    target.stream->Write(second);
    EXPECT_EQ(target.AwaitStatus().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  {
    Target target(*server_);
    ASSERT_TRUE(target.Hello(GoodHello()));
    target.stream->Write(v1::DraftCommands());
    EXPECT_EQ(target.AwaitStatus().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  {
    Target target(*server_);
    ASSERT_TRUE(target.Hello(GoodHello()));
    v1::DraftCommandBatch batch;
    for (int i = 0; i <= kMaxDraftCommandsPerBatch; ++i) batch.add_commands()->mutable_close();
    target.Send(batch);
    EXPECT_EQ(target.AwaitStatus().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
}

TEST_F(DraftServiceTest, OutlivesHostileCommands) {
  std::mt19937_64 random(1);
  Target target(*server_);
  ASSERT_TRUE(target.Hello(GoodHello()));
  for (int i = 0; i < 200; ++i) {
    v1::DraftCommandBatch batch;
    for (int j = 0; j < 20; ++j) {
      v1::DraftCommand* const command = batch.add_commands();
      command->set_sequence(random() % 10);
      command->set_epoch(static_cast<uint32_t>(random() % 3));
      switch (random() % 5) {
        case 0: {
          v1::OpenSequence* const open = command->mutable_open();
          for (uint64_t k = random() % 400; k > 0; --k) {
            open->add_prompt_token_ids(static_cast<int32_t>(random() % 8 == 0 ? random() : random() % kVocabSize));
          }
          ParamsToProto(Params(), open->mutable_params());
          if (random() % 4 == 0) open->mutable_params()->set_temperature(std::nanf(""));
          if (random() % 4 == 0) open->mutable_params()->set_max_tokens(static_cast<uint32_t>(random()));
          open->set_lookahead(static_cast<uint32_t>(random()));
          break;
        }
        case 1:
        case 2:
          command->mutable_commit()->set_first_position(static_cast<uint32_t>(random() % 2 == 0 ? random() : 3));
          for (uint64_t k = random() % 5; k > 0; --k) {
            command->mutable_commit()->add_token_ids(static_cast<int32_t>(random()));
          }
          command->mutable_commit()->set_lookahead(static_cast<uint32_t>(random()));
          break;
        case 3:
          command->mutable_close();
          break;
        default:
          break;  // empty
      }
    }
    ASSERT_TRUE(target.Send(batch));
  }
  v1::DraftCommandBatch closes;
  for (uint64_t sequence = 0; sequence < 10; ++sequence) {
    for (uint32_t epoch = 0; epoch < 3; ++epoch) {
      v1::DraftCommand* const command = closes.add_commands();
      command->set_sequence(sequence);
      command->set_epoch(epoch);
      command->mutable_close();
    }
  }
  ASSERT_TRUE(target.Send(closes));
  // A prompt of a million ids is dropped like any other that is too long.
  v1::DraftCommandBatch huge;
  AddOpen(huge, 77, std::vector<TokenId>(1'000'000, 1), 3);
  ASSERT_TRUE(target.Send(huge));
  v1::DraftCommandBatch good;
  AddOpen(good, 78, {1, 2, 3}, 3);
  ASSERT_TRUE(target.Send(good));
  while (true) {
    const auto proposal = target.AwaitProposal();
    ASSERT_TRUE(proposal);
    if (proposal->sequence() != 78) continue;
    EXPECT_EQ(Ids(*proposal), Draft({1, 2, 3}, 3));
    break;
  }
  EXPECT_GT(metrics_.num_dropped(DrafterDropReason::kTokenOutOfRange), 0);
  EXPECT_GT(metrics_.num_dropped(DrafterDropReason::kTooLong), 0);
}

TEST_F(DraftServiceTest, FreesWhatALostStreamHeld) {
  {
    Target target(*server_);
    ASSERT_TRUE(target.Hello(GoodHello()));
    v1::DraftCommandBatch batch;
    AddOpen(batch, 4, {1, 2, 3}, 3);
    ASSERT_TRUE(target.Send(batch));
    ASSERT_TRUE(target.AwaitProposal());
    target.context.TryCancel();
    target.AwaitStatus();
  }
  // The loss is taken in with a later turn; another stream's turns are seen to pass.
  Target other(*server_);
  ASSERT_TRUE(other.Hello(GoodHello()));
  for (uint64_t i = 1; drafter_.load().num_sequences > 1 || i == 1; ++i) {
    ASSERT_LT(i, 10000u);
    v1::DraftCommandBatch batch;
    AddOpen(batch, i, {1, 2}, 1);
    ASSERT_TRUE(other.Send(batch));
    ASSERT_TRUE(other.AwaitProposal());
    batch.Clear();
    batch.add_commands()->set_sequence(i);
    batch.mutable_commands(0)->set_epoch(1);
    batch.mutable_commands(0)->mutable_close();
    ASSERT_TRUE(other.Send(batch));
  }
}

}  // namespace
}  // namespace outrider
