#include "tests/simulation/simulated_network.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "tests/simulation/scenario.pb.h"
#include "tests/simulation/world.h"

namespace outrider::simulation {
namespace {

constexpr char kService[] = "echo";

// Two processes and a stream between them.
class NetworkTest : public testing::Test {
 protected:
  NetworkTest() : world_(7, Sabotage::kNone, {.delay_ms_min = 1, .delay_ms_max = 20}, nullptr) {
    a_ = &world_.AddProcess("a", [] {});
    b_ = &world_.AddProcess("b", [] {});
    world_.Start(*a_);
    Serve();
  }
  void Serve() {
    world_.Start(*b_);
    world_.network.Listen(*b_, kService, {}, [this](StreamPtr stream) {
      served_ = stream;
      stream->on_message = [this](const Message& message) {
        heard_.push_back(static_cast<const ClientCall&>(*message).request());
      };
      stream->on_closed = [this](const absl::Status&) { served_closed_ = true; };
    });
  }
  StreamPtr Connect(Stream::Options options = {}) {
    StreamPtr stream = world_.network.Connect(*a_, *b_, b_->life, kService, options);
    stream->on_closed = [this](const absl::Status& status) { closed_ = status; };
    return stream;
  }
  void Say(const StreamPtr& stream, const std::string& word) {
    const auto message = std::make_shared<ClientCall>();
    message->set_request(word);
    stream->Send(message);
  }
  void RunFor(double ms) {
    const TimePoint end = world_.queue.now() + FromMillis(ms);
    while (world_.queue.next().has_value() && *world_.queue.next() <= end) world_.queue.RunNext();
    world_.queue.At(end, nullptr, [] {});
    world_.queue.RunNext();
  }

  World world_;
  Process* a_ = nullptr;
  Process* b_ = nullptr;
  StreamPtr served_;
  std::vector<std::string> heard_;
  std::optional<absl::Status> closed_;
  bool served_closed_ = false;
};

TEST_F(NetworkTest, KeepsTheOrderOfAStreamHoweverLongEachMessageTakes) {
  const StreamPtr stream = Connect();
  RunFor(100);
  std::vector<std::string> said;
  for (int i = 0; i < 50; ++i) Say(stream, said.emplace_back(std::to_string(i)));
  RunFor(1000);
  EXPECT_EQ(heard_, said);
}

TEST_F(NetworkTest, DeliversAfterACutLinkIsMended) {
  const StreamPtr stream = Connect();
  RunFor(100);
  world_.network.Cut(*a_, *b_);
  Say(stream, "late");
  RunFor(5000);
  EXPECT_TRUE(heard_.empty());
  world_.network.Mend(*a_, *b_);
  RunFor(100);
  EXPECT_EQ(heard_, std::vector<std::string>{"late"});
  EXPECT_FALSE(closed_.has_value());
}

TEST_F(NetworkTest, TellsOfACrashAndNotOfAMachineThatIsGone) {
  const StreamPtr first = Connect();
  RunFor(100);
  world_.End(*b_);
  RunFor(100);
  ASSERT_TRUE(closed_.has_value());
  EXPECT_EQ(closed_->message(), "connection reset by peer");

  closed_.reset();
  Serve();
  const StreamPtr second = Connect();
  RunFor(100);
  world_.End(*b_, /*silent=*/true);
  RunFor(60000);
  EXPECT_FALSE(closed_.has_value());
  Serve();  // the machine is back, and knows nothing of the connection
  Say(second, "are you there");
  RunFor(100);
  EXPECT_TRUE(closed_.has_value());
}

TEST_F(NetworkTest, GivesUpOnASilentPeerByKeepalive) {
  const StreamPtr stream = Connect({.keepalive = FromMillis(3000)});
  RunFor(100);
  world_.Stop(*b_);
  RunFor(2000);
  EXPECT_FALSE(closed_.has_value());
  RunFor(2000);
  ASSERT_TRUE(closed_.has_value());
  EXPECT_FALSE(served_closed_);  // it stands still
  world_.Continue(*b_);
  RunFor(100);
  EXPECT_TRUE(served_closed_);
}

TEST_F(NetworkTest, HoldsAWriteBackBeyondTheWindow) {
  const StreamPtr stream = Connect({.window = 2});
  RunFor(100);
  int num_written = 0;
  stream->on_written = [&](bool ok) { num_written += ok; };
  world_.Stop(*b_);
  for (int i = 0; i < 3; ++i) Say(stream, std::to_string(i));
  RunFor(1000);
  EXPECT_EQ(num_written, 2);
  world_.Continue(*b_);
  RunFor(1000);
  EXPECT_EQ(num_written, 3);
  EXPECT_EQ(heard_.size(), 3u);
}

TEST_F(NetworkTest, RefusesWhoKnowsAnEarlierLife) {
  world_.End(*b_);
  Serve();
  StreamPtr stream = world_.network.Connect(*a_, *b_, b_->life - 1, kService, {});
  stream->on_closed = [this](const absl::Status& status) { closed_ = status; };
  RunFor(100);
  EXPECT_TRUE(closed_.has_value());
}

}  // namespace
}  // namespace outrider::simulation
