// The server with real sockets and a handler that does what the test says.
#include "router/http/http_server.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "router/http/testing/http_client.h"
#include "router/testing/test_random.h"

namespace outrider::router {
namespace {

// An answer that the test steers. On the strand, but for what says otherwise.
class Exchange final : public HttpExchange {
 public:
  explicit Exchange(std::shared_ptr<HttpStream> s) : stream(std::move(s)) {}
  void OnWritten() override { Note(num_written); }
  void OnClientGone() override { Note(num_gone); }
  void OnQuiet() override { Note(num_quiet); }
  // From the test's thread: waits (20 s at most) until `count` is reached.
  bool Await(const int& number, int count) {
    MutexLock lock(mu);
    const TimePoint deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (number < count) {
      if (!changed.WaitUntil(mu, deadline)) return false;
    }
    return true;
  }
  // True once the client is gone.
  bool AwaitWrittenOrGone(int count) {
    MutexLock lock(mu);
    while (num_written < count && num_gone == 0) changed.Wait(mu);
    return num_gone > 0;
  }
  int Value(const int& number) {
    MutexLock lock(mu);
    return number;
  }

  const std::shared_ptr<HttpStream> stream;
  Mutex mu;
  CondVar changed;
  int num_written = 0, num_gone = 0, num_quiet = 0;

 private:
  void Note(int& number) {
    MutexLock lock(mu);
    ++number;
    changed.NotifyAll();
  }
};

// /echo answers with the body, /wait and /stream with an Exchange, all others with the path.
class Handler final : public HttpHandler {
 public:
  std::shared_ptr<HttpExchange> Handle(HttpRequest request, std::shared_ptr<HttpStream> stream) override {
    if (request.path == "/wait" || request.path == "/stream") {
      auto exchange = std::make_shared<Exchange>(stream);
      if (request.path == "/stream") stream->StartStream("text/event-stream", {});
      MutexLock lock(mu_);
      exchanges_.push_back(exchange);
      changed_.NotifyAll();
      return exchange;
    }
    stream->Send({.body = request.path == "/echo" ? request.body : request.path});
    return nullptr;
  }
  HttpResponse Refuse(int status, const std::string& why) const override { return {.status = status, .body = why}; }

  std::shared_ptr<Exchange> Await(size_t number) {
    MutexLock lock(mu_);
    const TimePoint deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (exchanges_.size() < number) {
      if (!changed_.WaitUntil(mu_, deadline)) return nullptr;
    }
    return exchanges_[number - 1];
  }
  void Forget() {
    MutexLock lock(mu_);
    exchanges_.clear();
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::vector<std::shared_ptr<Exchange>> exchanges_ ABSL_GUARDED_BY(mu_);
};

class HttpServerTest : public testing::Test {
 protected:
  void StartServer(const HttpServer::Options& options = {}) {
    auto started = HttpServer::Start(options, &handler_);
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }
  // Exchanges hold their connections, which end before the server does.
  ~HttpServerTest() override {
    if (server_ != nullptr) server_->Shutdown();
    handler_.Forget();
  }
  // Waits (20 s at most) until so many connections are open.
  bool AwaitConnections(int count) {
    for (int i = 0; i < 4000 && server_->num_connections() != count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return server_->num_connections() == count;
  }
  const std::string& address() const { return server_->address(); }

  Handler handler_;
  std::unique_ptr<HttpServer> server_;
};

constexpr char kGet[] = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";

TEST_F(HttpServerTest, AnswersOneRequestAfterTheOtherOnAConnection) {
  StartServer();
  HttpClient client(address());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.Send(PostText("/echo", absl::StrCat("body ", i))));
    const HttpReply reply = client.ReadReply();
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(reply.body, absl::StrCat("body ", i));
    EXPECT_TRUE(reply.complete);
    EXPECT_EQ(reply.headers.count("connection"), 0);
    EXPECT_EQ(reply.headers.count("date"), 1);
  }
}

TEST_F(HttpServerTest, AnswersPipelinedRequestsInOrder) {
  StartServer();
  HttpClient client(address());
  std::string all;
  for (int i = 0; i < 50; ++i) all += PostText("/echo", absl::StrCat(i));
  ASSERT_TRUE(client.Send(all));
  for (int i = 0; i < 50; ++i) EXPECT_EQ(client.ReadReply().body, absl::StrCat(i));
}

TEST_F(HttpServerTest, TakesARequestInAnyPieces) {
  StartServer();
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 20; ++round) {
    const std::string body(random() % 3000, 'x');
    const bool chunked = random() % 2 == 0;
    std::string text = PostText("/echo", body);
    if (chunked) {
      text = "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
      for (size_t i = 0; i < body.size();) {
        const size_t size = std::min<size_t>(1 + random() % 700, body.size() - i);
        text += RenderChunk(body.substr(i, size));
        i += size;
      }
      text += std::string(kLastChunk);
    }
    HttpClient client(address());
    for (size_t i = 0; i < text.size();) {
      const size_t size = std::min<size_t>(1 + random() % 1000, text.size() - i);
      ASSERT_TRUE(client.Send(text.substr(i, size)));
      i += size;
    }
    const HttpReply reply = client.ReadReply();
    EXPECT_EQ(reply.status, 200) << round;
    EXPECT_EQ(reply.body, body) << round;
  }
}

TEST_F(HttpServerTest, SaysToContinueWhereThatIsWaitedFor) {
  StartServer();
  HttpClient client(address());
  client.Send("POST /echo HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  client.Send("ab");
  EXPECT_EQ(client.ReadReply().body, "ab");
}

TEST_F(HttpServerTest, AnswersHeadWithoutABody) {
  StartServer();
  HttpClient client(address());
  client.Send("HEAD /abc HTTP/1.1\r\n\r\n");
  EXPECT_EQ(client.ReadReply(/*head_only=*/true).headers["content-length"], "4");
  client.Send(kGet);
  EXPECT_EQ(client.ReadReply().body, "/a");
}

TEST_F(HttpServerTest, EndsConnectionsThatAskForIt) {
  StartServer();
  for (const char* request : {"GET /a HTTP/1.1\r\nConnection: close\r\n\r\n", "GET /a HTTP/1.0\r\n\r\n"}) {
    HttpClient client(address());
    client.Send(request);
    const HttpReply reply = client.ReadReply();
    EXPECT_EQ(reply.body, "/a");
    EXPECT_EQ(reply.headers.at("connection"), "close");
    EXPECT_TRUE(client.AtEnd());
  }
  HttpClient old(address());
  old.Send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(old.ReadReply().headers["connection"], "keep-alive");
}

TEST_F(HttpServerTest, RefusesWhatIsNoHttp) {
  StartServer();
  for (const char* request : {"\x16\x03\x01\x02nonsense\r\n\r\n", "GET\r\n\r\n", "GET /a HTTP/1.1\r\nno colon\r\n\r\n",
                              "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                              "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                              "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
                              "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    HttpClient client(address());
    client.Send(request);
    const HttpReply reply = client.ReadReply();
    EXPECT_EQ(reply.status, 400) << request;
    EXPECT_TRUE(client.AtEnd());
  }
  HttpClient version(address());
  version.Send("GET / HTTP/2.0\r\n\r\n");
  EXPECT_EQ(version.ReadReply().status, 505);
  HttpClient packed(address());
  packed.Send(PostText("/echo", "x", "Content-Encoding: gzip\r\n"));
  EXPECT_EQ(packed.ReadReply().status, 415);
}

TEST_F(HttpServerTest, RefusesHeadsAndBodiesBeyondTheirBounds) {
  StartServer({.max_head_bytes = 4096, .max_body_bytes = 100000});
  {
    HttpClient client(address());
    client.Send(absl::StrCat("GET /a HTTP/1.1\r\nX: ", std::string(5000, 'a'), "\r\n\r\n"));
    EXPECT_EQ(client.ReadReply().status, 431);
    EXPECT_TRUE(client.AtEnd());
  }
  {
    HttpClient client(address());
    std::string flood = "GET /a HTTP/1.1\r\n";
    for (int i = 0; i < 1000; ++i) flood += absl::StrCat("X-", i, ": 1\r\n");
    client.Send(flood);
    EXPECT_EQ(client.ReadReply().status, 431);
  }
  {
    HttpClient client(address());  // refused by what it announces
    client.Send("POST /echo HTTP/1.1\r\nContent-Length: 100001\r\n\r\n");
    const HttpReply reply = client.ReadReply();
    EXPECT_EQ(reply.status, 413);
    EXPECT_NE(reply.body.find("more than 100000 bytes"), std::string::npos) << reply.body;
  }
  {
    HttpClient client(address());  // by what it sends; the answer arrives though more is on its way
    client.Send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 40 && client.Send(RenderChunk(std::string(10000, 'x'))); ++i) {
    }
    EXPECT_EQ(client.ReadReply().status, 413);
  }
  HttpClient client(address());
  client.Send(PostText("/echo", std::string(100000, 'x')));
  EXPECT_EQ(client.ReadReply().body.size(), 100000);
}

TEST_F(HttpServerTest, BoundsTheBytesOfAllBodiesTogether) {
  StartServer({.max_body_bytes = 100000, .max_all_body_bytes = 150000});
  HttpClient first(address());
  first.Send("POST /echo HTTP/1.1\r\nContent-Length: 100000\r\n\r\n");
  first.Send(std::string(99999, 'x'));
  HttpReply reply;
  // The first one's bytes may take a moment to be counted.
  for (int i = 0; i < 1000 && reply.status != 503; ++i) reply = Post(address(), "/echo", std::string(90000, 'x'));
  EXPECT_EQ(reply.status, 503);
  first.Send("x");
  EXPECT_EQ(first.ReadReply().body.size(), 100000);
  EXPECT_EQ(Post(address(), "/echo", std::string(90000, 'x')).status, 200);
}

TEST_F(HttpServerTest, EndsConnectionsThatAreTooSlow) {
  StartServer({.idle_timeout = std::chrono::milliseconds(50),
               .head_timeout = std::chrono::milliseconds(50),
               .body_timeout = std::chrono::milliseconds(50)});
  HttpClient idle(address());
  EXPECT_TRUE(idle.AtEnd());
  HttpClient head(address());
  head.Send("GET /a HT");
  EXPECT_EQ(head.ReadReply().status, 408);
  EXPECT_TRUE(head.AtEnd());
  HttpClient body(address());
  body.Send("POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_EQ(body.ReadReply().status, 408);
  EXPECT_TRUE(body.AtEnd());
  EXPECT_TRUE(AwaitConnections(0));
}

TEST_F(HttpServerTest, CutsAClientThatTakesNothing) {
  StartServer({.write_timeout = std::chrono::milliseconds(100)});
  HttpClient client(address(), /*receive_buffer=*/4096);
  client.Send("GET /stream HTTP/1.1\r\n\r\n");
  const auto exchange = handler_.Await(1);
  ASSERT_NE(exchange, nullptr);
  // Far more than the system takes for a client that does not read.
  int num_written = 0;
  while (num_written < 2000 && exchange->Value(exchange->num_gone) == 0) {
    exchange->stream->Post([exchange] { exchange->stream->WriteStream(std::string(60000, 'x')); });
    if (exchange->AwaitWrittenOrGone(++num_written)) break;
  }
  EXPECT_EQ(exchange->Value(exchange->num_gone), 1);
  EXPECT_TRUE(AwaitConnections(0));
}

TEST_F(HttpServerTest, TellsAnExchangeAtOnceThatItsClientLeft) {
  StartServer();
  for (const char* path : {"/wait", "/stream"}) {
    for (const bool reset : {false, true}) {
      HttpClient client(address());
      client.Send(absl::StrCat("GET ", path, " HTTP/1.1\r\n\r\n"));
      const auto exchange = handler_.Await(1);
      ASSERT_NE(exchange, nullptr);
      client.Close(reset);
      EXPECT_TRUE(exchange->Await(exchange->num_gone, 1)) << path;
      EXPECT_TRUE(AwaitConnections(0));
      handler_.Forget();
    }
  }
}

TEST_F(HttpServerTest, StreamsChunksAndGoesOnWithTheConnection) {
  StartServer();
  HttpClient client(address());
  client.Send("GET /stream HTTP/1.1\r\n\r\n");
  const auto exchange = handler_.Await(1);
  ASSERT_NE(exchange, nullptr);
  for (int i = 0; i < 3; ++i) {
    exchange->stream->Post([exchange, i] { exchange->stream->WriteStream(absl::StrCat("data: ", i, "\n\n")); });
    ASSERT_TRUE(exchange->Await(exchange->num_written, i + 1));
  }
  EXPECT_EQ(client.ReadHead().headers["content-type"], "text/event-stream");
  // What comes meanwhile waits for its turn.
  client.Send(kGet);
  exchange->stream->Post([exchange] { exchange->stream->FinishStream(); });
  EXPECT_EQ(client.ReadEvents(), (std::vector<std::string>{"0", "1", "2"}));
  EXPECT_TRUE(client.stream_complete);
  EXPECT_EQ(client.ReadReply().body, "/a");
}

TEST_F(HttpServerTest, StreamsToOldClientsUntilTheConnectionEnds) {
  StartServer();
  HttpClient client(address());
  client.Send("GET /stream HTTP/1.0\r\n\r\n");
  const auto exchange = handler_.Await(1);
  ASSERT_NE(exchange, nullptr);
  exchange->stream->Post([exchange] { exchange->stream->WriteStream("abc"); });
  ASSERT_TRUE(exchange->Await(exchange->num_written, 1));
  exchange->stream->Post([exchange] { exchange->stream->FinishStream(); });
  EXPECT_EQ(client.ReadReply().body, "abc");
}

TEST_F(HttpServerTest, TellsAnExchangeThatNothingWasSentForAWhile) {
  StartServer({.quiet_interval = std::chrono::milliseconds(20)});
  HttpClient client(address());
  client.Send("GET /wait HTTP/1.1\r\n\r\n");
  const auto exchange = handler_.Await(1);
  ASSERT_NE(exchange, nullptr);
  EXPECT_TRUE(exchange->Await(exchange->num_quiet, 3));
  exchange->stream->Post([exchange] { exchange->stream->Send({.body = "done"}); });
  EXPECT_EQ(client.ReadReply().body, "done");
  EXPECT_TRUE(exchange->Await(exchange->num_written, 1));
}

TEST_F(HttpServerTest, CutShowsThatAnAnswerIsNotComplete) {
  StartServer();
  HttpClient client(address());
  client.Send("GET /stream HTTP/1.1\r\n\r\n");
  const auto exchange = handler_.Await(1);
  ASSERT_NE(exchange, nullptr);
  exchange->stream->Post([exchange] { exchange->stream->WriteStream("data: a\n\n"); });
  ASSERT_TRUE(exchange->Await(exchange->num_written, 1));
  exchange->stream->Post([exchange] { exchange->stream->Cut(); });
  const HttpReply reply = client.ReadReply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_FALSE(reply.complete);
  EXPECT_EQ(exchange->Value(exchange->num_gone), 0);
}

TEST_F(HttpServerTest, RefusesConnectionsBeyondTheBoundAndTakesThemAgainLater) {
  StartServer({.max_connections = 2});
  HttpClient first(address()), second(address());
  ASSERT_TRUE(AwaitConnections(2));
  HttpClient third(address());
  EXPECT_EQ(third.ReadReply().status, 503);
  first.Close();
  ASSERT_TRUE(AwaitConnections(1));
  EXPECT_EQ(Get(address(), "/a").status, 200);
}

TEST_F(HttpServerTest, DrainingEndsIdleConnectionsAndOthersWithTheirAnswer) {
  StartServer();
  HttpClient idle(address()), busy(address());
  busy.Send("GET /wait HTTP/1.1\r\n\r\n");
  const auto exchange = handler_.Await(1);
  ASSERT_NE(exchange, nullptr);
  ASSERT_TRUE(AwaitConnections(2));
  server_->StartDrain();
  EXPECT_TRUE(idle.AtEnd());
  EXPECT_EQ(Get(address(), "/new").headers["connection"], "close");
  exchange->stream->Post([exchange] { exchange->stream->Send({.body = "done"}); });
  const HttpReply reply = busy.ReadReply();
  EXPECT_EQ(reply.body, "done");
  EXPECT_EQ(reply.headers.at("connection"), "close");
  EXPECT_TRUE(busy.AtEnd());
}

TEST_F(HttpServerTest, ShutdownEndsEverythingAtOnce) {
  StartServer();
  HttpClient client(address());
  client.Send("GET /stream HTTP/1.1\r\n\r\n");
  const auto exchange = handler_.Await(1);
  ASSERT_NE(exchange, nullptr);
  server_->Shutdown();
  EXPECT_TRUE(exchange->Await(exchange->num_gone, 1));
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(HttpServerTest, NamesAnAddressThatIsTaken) {
  StartServer();
  const std::string& taken = address();
  const auto second =
      HttpServer::Start({.port = static_cast<uint32_t>(std::stoi(taken.substr(taken.rfind(':') + 1)))}, &handler_);
  ASSERT_FALSE(second.ok());
  EXPECT_TRUE(absl::StrContains(second.status().message(), taken)) << second.status();
}

TEST_F(HttpServerTest, OutlivesGarbageOfAnyKind) {
  StartServer({.max_head_bytes = 2048, .max_body_bytes = 4096});
  std::mt19937_64 random(TestSeed());
  const std::string seeds[] = {kGet, PostText("/echo", "{\"a\": 1}"),
                               "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
                               "GET /wait HTTP/1.1\r\n\r\n", "HEAD /x HTTP/1.0\r\nExpect: 100-continue\r\n\r\n"};
  for (int round = 0; round < 400; ++round) {
    std::string text;
    for (int i = 0; i < 3; ++i) text += seeds[random() % std::size(seeds)];
    for (uint64_t edits = random() % 8; edits > 0; --edits) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 20);
          break;
        default:
          text.insert(at, std::string(random() % 300, static_cast<char>(random())));
      }
      if (text.empty()) text = "x";
    }
    HttpClient client(address());
    client.Send(text);
    client.Close(random() % 2 == 0);
  }
  EXPECT_EQ(Get(address(), "/a").body, "/a");
  handler_.Forget();
  EXPECT_TRUE(AwaitConnections(0));
}

}  // namespace
}  // namespace outrider::router
