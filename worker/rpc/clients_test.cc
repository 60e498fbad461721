// draft_link.h and registration_client.h against peers that come, go, and do not match.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "proto/cluster.grpc.pb.h"
#include "proto/draft.grpc.pb.h"
#include "worker/engine/testing/hash_backend.h"
#include "worker/rpc/draft_link.h"
#include "worker/rpc/draft_service.h"
#include "worker/rpc/grpc_draft_source.h"
#include "worker/rpc/registration_client.h"
#include "worker/rpc/rpc_server.h"
#include "worker/rpc/testing/socket_address.h"

namespace outrider {
namespace {

constexpr int kVocabSize = 1000;

// A draft worker over a hash backend that can be started and ended at one address.
class HashDraftWorker {
 public:
  HashDraftWorker(const std::string& host, const std::string& fingerprint)
      : service_({.draft_id = "draft-3",
                  .incarnation = 40,
                  .model = "tiny",
                  .tokenizer_fingerprint = fingerprint,
                  .vocab_size = kVocabSize,
                  .max_model_len = 256,
                  .max_sequences = 8},
                 drafter_, metrics_) {
    auto started = RpcServer::Start({.host = host}, {&service_}, {}, [] { return true; });
    EXPECT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    loop_ = std::thread([this] { EXPECT_TRUE(drafter_.Run().ok()); });
  }
  ~HashDraftWorker() {
    server_->Shutdown(Duration::zero());
    drafter_.Stop();
    loop_.join();
  }

 private:
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
  DraftService service_;
  std::unique_ptr<RpcServer> server_;
  std::thread loop_;
};

class DraftLinkTest : public testing::Test {
 protected:
  std::shared_ptr<DraftLink> Start(uint64_t worker_incarnation = 0) {
    return DraftLink::Start({.address = host_,
                             .target_id = "target-7",
                             .model = "target model",
                             .tokenizer_fingerprint = "abc",
                             .vocab_size = kVocabSize,
                             .max_lookahead = 8,
                             .worker_incarnation = worker_incarnation,
                             .wake =
                                 [this] {
                                   std::lock_guard<std::mutex> lock(mu_);
                                   changed_.notify_all();
                                 }},
                            metrics_);
  }
  // Until the link has woken its user and `predicate` holds.
  template <typename Predicate>
  void Await(Predicate predicate) {
    std::unique_lock<std::mutex> lock(mu_);
    while (!predicate()) changed_.wait_for(lock, std::chrono::milliseconds(20));
  }

  const std::string host_ = NewSocketAddress();
  MetricsRegistry registry_;
  DraftLinkMetrics metrics_{registry_};
  std::mutex mu_;
  std::condition_variable changed_;
};

TEST_F(DraftLinkTest, CarriesCommandsOutAndProposalsIn) {
  HashDraftWorker worker(host_, "abc");
  const auto link = Start();
  GrpcDraftSource source(link);
  Await([&] { return source.connection() != 0; });
  const std::vector<TokenId> prompt = {1, 2, 3};
  SamplingParams params;
  params.max_tokens = 50;
  source.Open({.sequence = SequenceId(9), .epoch = 1, .prompt = prompt, .params = &params, .lookahead = 2});
  source.Flush();
  std::vector<DraftSource::Proposal> proposals;
  Await([&] {
    source.TakeProposals(proposals);
    return !proposals.empty();
  });
  ASSERT_EQ(proposals.size(), 1u);
  EXPECT_EQ(proposals[0].sequence, SequenceId(9));
  EXPECT_EQ(proposals[0].path.base_position, 3);
  ASSERT_EQ(proposals[0].path.tokens.size(), 2u);
  EXPECT_EQ(proposals[0].path.tokens[0], HashNextToken(prompt, params, kVocabSize));
  EXPECT_EQ(metrics_.round_trip_seconds.count(), 1u);
  link->Stop();
}

TEST_F(DraftLinkTest, ConnectsWheneverThePeerComesUnderANewNumberEachTime) {
  const auto link = Start();  // nobody is there yet
  auto worker = std::make_unique<HashDraftWorker>(host_, "abc");
  Await([&] { return link->connection() != 0; });
  const uint64_t first = link->connection();
  worker.reset();
  Await([&] { return link->connection() == 0; });
  worker = std::make_unique<HashDraftWorker>(host_, "abc");
  Await([&] { return link->connection() != 0; });
  EXPECT_NE(link->connection(), first);
  link->Stop();
}

TEST_F(DraftLinkTest, DropsAndCountsWhatHasNoPeer) {
  const auto link = Start();
  GrpcDraftSource source(link);
  source.Close(SequenceId(1), 1);
  source.Flush();
  EXPECT_EQ(metrics_.commands_dropped.value(), 1);
  link->Stop();
}

TEST_F(DraftLinkTest, CountsAPeerThatDoesNotMatch) {
  HashDraftWorker worker(host_, "another");
  const auto link = Start();
  Await([&] { return metrics_.refusals.value() > 0; });
  EXPECT_EQ(link->connection(), 0u);
  link->Stop();
}

TEST_F(DraftLinkTest, MeasuresTheRoundTripAndTellsWhoIsThere) {
  HashDraftWorker worker(host_, "abc");
  const auto link = Start(40);
  Await([&] { return link->status().round_trip_ms > 0; });
  EXPECT_EQ(link->status().worker_id, "draft-3");
  EXPECT_EQ(link->status().incarnation, 40u);
  EXPECT_TRUE(link->status().connected);
  link->Stop();
}

TEST_F(DraftLinkTest, RefusesAWorkerOfAPastLife) {
  HashDraftWorker worker(host_, "abc");
  const auto link = Start(41);
  Await([&] { return metrics_.refusals.value() > 0; });
  EXPECT_EQ(link->connection(), 0u);
  link->Stop();
}

// Says hello and then nothing any more, like a process that was stopped.
class SilentDraftWorker final : public v1::Draft::Service {
 public:
  explicit SilentDraftWorker(const std::string& host) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(host, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~SilentDraftWorker() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Connect(grpc::ServerContext*,
                       grpc::ServerReaderWriter<v1::DraftEvents, v1::DraftCommands>* stream) override {
    v1::DraftEvents events;
    events.mutable_hello()->set_protocol_version(1);
    events.mutable_hello()->set_tokenizer_fingerprint("abc");
    events.mutable_hello()->set_vocab_size(kVocabSize);
    stream->Write(events);
    v1::DraftCommands commands;
    while (stream->Read(&commands)) {
    }
    return grpc::Status::OK;
  }

 private:
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(DraftLinkTest, GivesUpAPeerThatSaysNothingAnyMore) {
  SilentDraftWorker worker(host_);
  const auto link = Start();
  Await([&] { return link->connection() != 0; });
  Await([&] { return link->connection() == 0; });
  EXPECT_EQ(metrics_.connections_lost.value(), 1);
  link->Stop();
}

class FakeRouter final : public v1::Cluster::Service {
 public:
  explicit FakeRouter(const std::string& host) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(host, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeRouter() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Heartbeat(grpc::ServerContext*, const v1::HeartbeatRequest* request,
                         v1::HeartbeatResponse* response) override {
    response->set_interval_ms(20);
    response->add_draft_workers()->set_address("a-draft-worker");
    std::lock_guard<std::mutex> lock(mu_);
    heartbeats_.push_back(*request);
    changed_.notify_all();
    return grpc::Status::OK;
  }
  v1::HeartbeatRequest Await(size_t count) {
    std::unique_lock<std::mutex> lock(mu_);
    changed_.wait(lock, [&] { return heartbeats_.size() >= count; });
    return heartbeats_.back();
  }

 private:
  std::unique_ptr<grpc::Server> server_;
  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<v1::HeartbeatRequest> heartbeats_;
};

TEST(RegistrationClient, RegistersAgainWithARouterThatRestarted) {
  const std::string host = NewSocketAddress();
  std::mutex mu;
  std::string assigned;
  RegistrationClient client({.router_address = host,
                             .status =
                                 [] {
                                   v1::HeartbeatRequest request;
                                   request.set_worker_id("group-0");
                                   return request;
                                 },
                             .on_response =
                                 [&](const v1::HeartbeatResponse& response) {
                                   std::lock_guard<std::mutex> lock(mu);
                                   assigned = response.draft_workers(0).address();
                                 }});
  {
    FakeRouter router(host);
    EXPECT_EQ(router.Await(3).worker_id(), "group-0");
  }
  FakeRouter router(host);
  EXPECT_EQ(router.Await(3).worker_id(), "group-0");
  std::lock_guard<std::mutex> lock(mu);
  EXPECT_EQ(assigned, "a-draft-worker");
}

TEST(RegistrationClient, EndsThoughNoRouterIsThere) {
  RegistrationClient client({.router_address = NewSocketAddress(), .status = [] { return v1::HeartbeatRequest(); }});
}

TEST(RpcServer, SaysThatASocketsPathIsTooLong) {
  const std::string host = "unix:/" + std::string(120, 'x');
  const auto server = RpcServer::Start({.host = host}, {}, {}, [] { return true; });
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(server.status().message().find("121 bytes"), std::string::npos) << server.status();
  EXPECT_NE(server.status().message().find(host), std::string::npos) << server.status();
}

TEST(RpcServer, NamesThePortThatIsInUse) {
  auto first = RpcServer::Start({.host = "127.0.0.1"}, {}, {}, [] { return true; });
  ASSERT_TRUE(first.ok());
  testing::internal::CaptureStderr();
  const auto second = RpcServer::Start({.host = "127.0.0.1", .port = (*first)->port()}, {}, {}, [] { return true; });
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "the error says it, and says it alone";
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(second.status().message()).find(std::to_string((*first)->port())), std::string::npos);
}

}  // namespace
}  // namespace outrider
