// Benchmarks over HTTP, before a server that answers as told.
#include "cli/bench_endpoint.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"

namespace outrider {
namespace {

using Json = nlohmann::json;

// Answers one request after the other on each connection, a thread each.
class Server {
 public:
  Server() {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_, 64), 0);
    EXPECT_EQ(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] {
      for (int fd; (fd = ::accept(listener_, nullptr, nullptr)) >= 0;) {
        MutexLock lock(mu_);
        sockets_.push_back(fd);
        threads_.emplace_back([this, fd] { Serve(fd); });
      }
    });
  }
  ~Server() {
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    {
      MutexLock lock(mu_);
      for (const int fd : sockets_) ::shutdown(fd, SHUT_RDWR);
    }
    for (std::thread& thread : threads_) thread.join();
    for (const int fd : sockets_) ::close(fd);
    ::close(listener_);
  }
  std::string url() const { return absl::StrCat("http://127.0.0.1:", port_); }
  size_t num_connections() {
    MutexLock lock(mu_);
    return sockets_.size();
  }
  std::string last_head() {
    MutexLock lock(mu_);
    return last_head_;
  }

 private:
  static std::string Whole(int status, const std::string& body) {
    return absl::StrCat("HTTP/1.1 ", status, " X\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
  }
  static std::string Chunk(const std::string& bytes) {
    return absl::StrCat(absl::Hex(bytes.size()), "\r\n", bytes, "\r\n");
  }

  void Serve(int fd) {
    std::string in;
    char buffer[4096];
    while (true) {
      const size_t end = in.find("\r\n\r\n");
      size_t length = 0;
      if (const size_t at = in.find("Content-Length: "); at < end && end != std::string::npos) {
        EXPECT_TRUE(absl::SimpleAtoi(in.substr(at + 16, in.find("\r\n", at) - at - 16), &length));
      }
      if (end == std::string::npos || in.size() < end + 4 + length) {
        const ssize_t size = ::recv(fd, buffer, sizeof(buffer), 0);
        if (size <= 0) return;
        in.append(buffer, static_cast<size_t>(size));
        continue;
      }
      const std::string head = in.substr(0, end), body = in.substr(end + 4, length);
      in.erase(0, end + 4 + length);
      {
        MutexLock lock(mu_);
        last_head_ = head;
      }
      const std::string answer = Answer(head, body);
      ::send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
      if (absl::StrContains(body, "\"cut\"")) {
        ::shutdown(fd, SHUT_RDWR);
        return;
      }
    }
  }

  static std::string Answer(const std::string& head, const std::string& body) {
    if (absl::StartsWith(head, "GET /v1/models ")) return Whole(200, R"({"data": [{"id": "one"}, {"id": "two"}]})");
    if (absl::StartsWith(head, "POST /tokenize ")) return Whole(200, R"({"tokens": [1, 2, 3]})");
    const Json request = Json::parse(body);
    if (request["prompt"] == "bad") return Whole(400, R"({"error": {"message": "it is bad"}})");
    EXPECT_EQ(request["model"], "one");
    std::string answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (int i = 1; i <= request["max_tokens"].get<int>(); ++i) {
      answer += Chunk(absl::StrCat("data: {\"choices\":[{\"text\":\"x\"}],\"usage\":{\"prompt_tokens\":2,",
                                   "\"completion_tokens\":", i, "}}\n\n"));
    }
    if (request["prompt"] == "cut") return answer;
    return answer + Chunk("data: [DONE]\n\n") + "0\r\n\r\n";
  }

  int listener_ = -1, port_ = 0;
  std::thread acceptor_;
  Mutex mu_;
  std::vector<int> sockets_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> threads_;
  std::string last_head_ ABSL_GUARDED_BY(mu_);
};

v1::GenerateRequest Request(const std::string& prompt) {
  v1::GenerateRequest request;
  request.set_prompt(prompt);
  request.set_max_tokens(3);
  return request;
}

TEST(OpenAiEndpoint, RecordsAnswersAndErrorsOfEachRequest) {
  Server server;
  auto endpoint = MakeOpenAiEndpoint({.base_url = server.url(),
                                      .path = "/v1/completions",
                                      .api = OpenAiApi::kCompletions,
                                      .model = {},
                                      .api_key = "k"});
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  const auto info = (*endpoint)->AwaitModel(10);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->model(), "one");
  EXPECT_EQ(*(*endpoint)->CountTokens("text"), 3);
  const auto result = (*endpoint)->RunOpenLoop({.max_concurrency = 1},
                                               {Request("good"), Request("bad"), Request("cut"), Request("good")},
                                               {0, 0, 0, 0}, [](int, int) {});
  ASSERT_TRUE(result.ok()) << result.status();
  const std::vector<BenchRecord>& records = result->records;
  ASSERT_EQ(records.size(), 4u);
  for (const size_t i : {0u, 3u}) {
    EXPECT_TRUE(records[i].success) << records[i].error;
    EXPECT_EQ(records[i].text, "xxx");
    EXPECT_EQ(records[i].output_tokens, 3);
    EXPECT_EQ(records[i].prompt_tokens, 2);
    EXPECT_EQ(records[i].message_tokens, (std::vector<int>{1, 1, 1}));
    EXPECT_GT(records[i].ttft_s, 0);
  }
  EXPECT_EQ(records[1].error, "HTTP 400: it is bad");
  EXPECT_FALSE(records[1].success);
  EXPECT_NE(records[2].error.find("closed before the answer ended"), std::string::npos) << records[2].error;
  EXPECT_NE(server.last_head().find("Authorization: Bearer k"), std::string::npos);
  EXPECT_EQ(server.num_connections(), 2u);  // one was cut; all else went over the same
}

TEST(OpenAiEndpoint, ManyAtOnceAllEnd) {
  Server server;
  auto endpoint = MakeOpenAiEndpoint({.base_url = server.url(),
                                      .path = "/v1/completions",
                                      .api = OpenAiApi::kCompletions,
                                      .model = "one",
                                      .api_key = {}});
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  ASSERT_TRUE((*endpoint)->AwaitModel(10).ok());
  const auto result =
      (*endpoint)->RunOpenLoop({.max_concurrency = 16}, std::vector<v1::GenerateRequest>(200, Request("good")),
                               std::vector<double>(200, 0), [](int, int) {});
  ASSERT_TRUE(result.ok());
  for (const BenchRecord& record : result->records) EXPECT_TRUE(record.success) << record.error;
  EXPECT_LE(server.num_connections(), 17u);
}

TEST(OpenAiEndpoint, SaysWhatIsWrongBeforeItSends) {
  const auto error = [](const std::string& url) {
    return MakeOpenAiEndpoint({.base_url = url, .path = "/", .api = OpenAiApi::kChat, .model = {}, .api_key = {}})
        .status()
        .code();
  };
  for (const char* const url : {"", "http://", "http://:80", "http://a:0", "http://a:x", "a:80"}) {
    EXPECT_EQ(error(url), absl::StatusCode::kInvalidArgument) << url;
  }
  auto nobody = MakeOpenAiEndpoint(
      {.base_url = "http://127.0.0.1:1", .path = "/", .api = OpenAiApi::kChat, .model = {}, .api_key = {}});
  ASSERT_TRUE(nobody.ok());
  EXPECT_EQ((*nobody)->AwaitModel(0).status().code(), absl::StatusCode::kUnavailable);
  v1::GenerateRequest ids;
  ids.add_prompt_token_ids(1);
  EXPECT_EQ((*nobody)->RunOpenLoop({}, {ids}, {0}, [](int, int) {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace outrider
