// The router's stream to a group on a way that is lost without a word.
#include "router/target_client.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

#include "base/clock.h"
#include "base/mutex.h"
#include "proto/target.grpc.pb.h"
#include "router/testing/swallowing_proxy.h"

namespace outrider::router {
namespace {

constexpr Duration kPatience = std::chrono::seconds(30);

// Takes streams, answers their first message and says nothing more.
class QuietTarget final : public v1::Target::Service {
 public:
  // `refuses`: it reads the first message and ends the stream, as a group in another life does.
  explicit QuietTarget(bool refuses = false) : refuses_(refuses) {
    grpc::ServerBuilder builder;
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1);
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
  }
  ~QuietTarget() override { server_->Shutdown(std::chrono::system_clock::now()); }
  int port() const { return port_; }
  int num_streams() const { return num_streams_; }

  grpc::Status Serve(grpc::ServerContext*,
                     grpc::ServerReaderWriter<v1::TargetEvents, v1::TargetCommands>* stream) override {
    ++num_streams_;
    v1::TargetCommands commands;
    if (stream->Read(&commands)) {
      if (refuses_) return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "this is another life");
      stream->Write(v1::TargetEvents());
    }
    while (stream->Read(&commands)) {
    }
    return grpc::Status::OK;
  }

 private:
  const bool refuses_;
  int port_ = 0;
  std::atomic<int> num_streams_{0};
  std::unique_ptr<grpc::Server> server_;
};

bool Await(const std::function<bool()>& condition) {
  const TimePoint give_up = std::chrono::steady_clock::now() + kPatience;
  while (!condition() && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  return condition();
}

class Client {
 public:
  Client(const std::string& address, Duration keepalive_time, Duration keepalive_timeout)
      : client_(TargetClient::Create({.group_id = "group-0",
                                      .address = address,
                                      .keepalive_time = keepalive_time,
                                      .keepalive_timeout = keepalive_timeout,
                                      .clock = &clock_,
                                      .gate = &gate_,
                                      .on_connected =
                                          [this](bool connected) {
                                            connected_ = connected;
                                            num_connections_ += connected;
                                            num_losses_ += !connected;
                                          },
                                      .on_gone = [this] { gone_ = true; },
                                      .on_stale = [](StaleReason, int) {}})) {
    client_->KeepOpen();
  }
  ~Client() {
    client_->Close();
    client_.reset();
    gate_.AwaitNone();
  }
  void KeepOpen() { client_->KeepOpen(); }
  bool connected() const { return connected_; }
  int num_connections() const { return num_connections_; }
  int num_losses() const { return num_losses_; }
  bool gone() const { return gone_; }

 private:
  SystemClock clock_;
  CallGate gate_;
  std::atomic<bool> connected_{false};
  std::atomic<int> num_connections_{0};
  std::atomic<int> num_losses_{0};
  std::atomic<bool> gone_{false};
  std::shared_ptr<TargetClient> client_;
};

TEST(TargetClient, LosesAStreamWhoseWayWasLostAlsoWhileItIsIdleAndComesBack) {
  QuietTarget target;
  SwallowingProxy proxy(target.port());
  Client watched(proxy.address(), std::chrono::milliseconds(100), std::chrono::milliseconds(500));
  // The same without a keepalive that would run out in this test.
  Client unwatched(proxy.address(), std::chrono::hours(1), std::chrono::hours(1));
  ASSERT_TRUE(Await([&] { return watched.connected() && unwatched.connected() && target.num_streams() == 2; }));
  proxy.Swallow();
  ASSERT_TRUE(Await([&] { return watched.num_losses() == 1; }));
  EXPECT_GT(proxy.num_bytes_swallowed(), 0) << "the keepalive's ping";
  EXPECT_EQ(unwatched.num_losses(), 0) << "what is seen is not the keepalive's doing";
  EXPECT_FALSE(watched.gone()) << "a way that is lost is no death";
  ASSERT_TRUE(Await([&] {
    watched.KeepOpen();
    return watched.connected();
  }));
}

// What is submitted to a group that was over before counts as lost with it, and a request that was on two dead groups
// is quarantined.
TEST(TargetClient, IsNotConnectedToAGroupThatRefusesItsFirstMessage) {
  QuietTarget target(/*refuses=*/true);
  Client client("127.0.0.1:" + std::to_string(target.port()), std::chrono::seconds(20), std::chrono::seconds(20));
  ASSERT_TRUE(Await([&] {
    client.KeepOpen();
    return client.num_losses() >= 5;
  }));
  EXPECT_EQ(client.num_connections(), 0);
  EXPECT_FALSE(client.gone());
}

TEST(TargetClient, KeepsAStreamThatIsIdleAndAnswers) {
  QuietTarget target;
  SwallowingProxy proxy(target.port());
  Client client(proxy.address(), std::chrono::milliseconds(20), std::chrono::seconds(20));
  ASSERT_TRUE(Await([&] { return client.connected(); }));
  // Many keepalives go by; a second connection is an ordinary one.
  const TimePoint end = std::chrono::steady_clock::now() + std::chrono::milliseconds(500);
  while (std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_EQ(client.num_losses(), 0);
  EXPECT_EQ(target.num_streams(), 1);
}

TEST(TargetClient, TellsThatNobodyListensAnyMore) {
  auto target = std::make_unique<QuietTarget>();
  Client client("127.0.0.1:" + std::to_string(target->port()), std::chrono::seconds(20), std::chrono::seconds(20));
  ASSERT_TRUE(Await([&] { return client.connected(); }));
  target.reset();
  EXPECT_TRUE(Await([&] {
    client.KeepOpen();
    return client.gone();
  }));
}

}  // namespace
}  // namespace outrider::router
