// The client before a server with TLS.
#include "cli/http_client.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "router/http/http_server.h"
#include "security/testing/certificates.h"
#include "security/tls_context.h"

namespace outrider {
namespace {

constexpr double kPatienceS = 30;

// Answers with the path and the body.
class Echo final : public router::HttpHandler {
 public:
  std::shared_ptr<router::HttpExchange> Handle(router::HttpRequest request,
                                               std::shared_ptr<router::HttpStream> stream) override {
    stream->Send({.body = absl::StrCat(request.path, " ", request.body)});
    return nullptr;
  }
  router::HttpResponse Refuse(int status, const std::string& why) const override {
    return {.status = status, .body = why};
  }
};

class HttpClientTls : public ::testing::Test {
 protected:
  // A server whose certificate is for `name`; with_clients: one that asks for theirs.
  void Start(const std::string& name, bool with_clients = false) {
    TlsFiles files = authority_.Issue("edge", name);
    if (!with_clients) files.authorities.clear();
    auto tls = TlsContext::Create(files, &clock_);
    ASSERT_TRUE(tls.ok()) << tls.status();
    tls_ = *std::move(tls);
    router::HttpServer::Options options;
    options.tls = tls_.get();
    auto server = router::HttpServer::Start(options, &handler_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  absl::StatusOr<HttpReply> Ask(const TlsFiles& tls) {
    auto client = HttpClient::Make(absl::StrCat("https://", server_->address()), "", tls);
    if (!client.ok()) return client.status();
    absl::StatusOr<HttpReply> reply = absl::UnknownError("");
    // Twice: the second time over the same connection.
    for (int i = 0; i < 2; ++i) reply = (*client)->Call("/a", "body", kPatienceS);
    return reply;
  }
  TlsFiles Believing(const TestAuthority& authority) const {
    TlsFiles files;
    files.authorities = authority.folder() + "/authority.crt";
    return files;
  }

  static TlsFiles NoSuchFile() {
    TlsFiles files;
    files.authorities = "/none.pem";
    return files;
  }

  SystemClock clock_;
  TestAuthority authority_{"authority"};
  Echo handler_;
  std::unique_ptr<TlsContext> tls_;
  std::unique_ptr<router::HttpServer> server_;
};

TEST_F(HttpClientTls, CallsAServerThatItsAuthorityNames) {
  Start("127.0.0.1");
  const auto reply = Ask(Believing(authority_));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->status, 200);
  EXPECT_EQ(reply->body, "/a body");
}

TEST_F(HttpClientTls, RefusesAStrangerAndAnotherHostsCertificate) {
  TestAuthority other("other");
  Start("127.0.0.1");
  for (const TlsFiles& files : {Believing(other), TlsFiles{}}) {
    const auto reply = Ask(files);
    EXPECT_TRUE(absl::IsUnavailable(reply.status())) << reply.status();
    EXPECT_TRUE(absl::StrContains(reply.status().message(), "TLS handshake: certificate verify failed"))
        << reply.status();
  }
  server_.reset();
  Start("elsewhere.example");
  EXPECT_TRUE(absl::StrContains(Ask(Believing(authority_)).status().message(), "certificate verify failed"));
}

TEST_F(HttpClientTls, ShowsItsCertificateToAServerThatAsks) {
  Start("127.0.0.1", /*with_clients=*/true);
  const auto reply = Ask(authority_.Issue("bench", "bench"));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->status, 200);
  EXPECT_FALSE(Ask(Believing(authority_)).ok());
}

TEST_F(HttpClientTls, SaysWhatIsWrongWithTheUrlOrTheFiles) {
  const auto error = [](const std::string& url, const TlsFiles& files) {
    return std::string(HttpClient::Make(url, "", files).status().message());
  };
  EXPECT_TRUE(absl::StrContains(error("ftp://x", {}), "is not http://HOST:PORT or https://HOST:PORT"));
  EXPECT_TRUE(absl::StrContains(error("https://", {}), "is not http://HOST:PORT or https://HOST:PORT"));
  EXPECT_TRUE(absl::StrContains(error("https://127.0.0.1:1", NoSuchFile()), "/none.pem"));
  EXPECT_TRUE(absl::StrContains(error("http://127.0.0.1:1", Believing(authority_)), "the TLS files want https://"));
}

}  // namespace
}  // namespace outrider
