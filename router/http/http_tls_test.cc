// The server over TLS, with real sockets and Boost's client.
#include <gtest/gtest.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/write.hpp>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "router/http/http_server.h"
#include "router/http/testing/http_client.h"
#include "security/testing/certificates.h"

namespace outrider::router {
namespace {

namespace asio = boost::asio;
namespace ssl = asio::ssl;

// Answers with the path; /stream in two writes, of an unknown length.
class Handler final : public HttpHandler {
 public:
  std::shared_ptr<HttpExchange> Handle(HttpRequest request, std::shared_ptr<HttpStream> stream) override {
    if (request.path != "/stream") {
      stream->Send({.body = absl::StrCat(request.path, " ", request.body.size())});
      return nullptr;
    }
    stream->StartStream("text/plain", {});
    stream->WriteStream("one ");
    return std::make_shared<Exchange>(stream);
  }
  HttpResponse Refuse(int status, const std::string& why) const override { return {.status = status, .body = why}; }

 private:
  class Exchange final : public HttpExchange {
   public:
    explicit Exchange(std::shared_ptr<HttpStream> stream) : stream_(std::move(stream)) {}
    void OnWritten() override { std::exchange(first_, false) ? stream_->WriteStream("two") : stream_->FinishStream(); }
    void OnClientGone() override {}
    void OnQuiet() override {}

   private:
    const std::shared_ptr<HttpStream> stream_;
    bool first_ = true;
  };
};

// A connection of a client that believes `files.authorities` and shows its certificate, if it has one. Every call is
// bounded by the server's time-outs.
class Client {
 public:
  Client(const std::string& address, const TlsFiles& files)
      : context_(ssl::context::tls_client), stream_(io_, context_) {
    context_.load_verify_file(files.authorities);
    if (!files.certificate.empty()) {
      SSL_use_certificate_chain_file(stream_.native_handle(), files.certificate.c_str());
      SSL_use_PrivateKey_file(stream_.native_handle(), files.private_key.c_str(), SSL_FILETYPE_PEM);
    }
    SSL_CTX_load_verify_locations(SSL_get_SSL_CTX(stream_.native_handle()), files.authorities.c_str(), nullptr);
    stream_.set_verify_mode(ssl::verify_peer);
    const std::vector<std::string> parts = absl::StrSplit(address, ':');
    asio::connect(stream_.next_layer(), asio::ip::tcp::resolver(io_).resolve(parts[0], parts[1]));
    stream_.handshake(ssl::stream_base::client, error_);
  }
  // In TLS 1.3 a client learns with its first read whether it was let in.
  const boost::system::error_code& error() const { return error_; }

  void Send(const std::string& bytes) {
    if (!error_) asio::write(stream_, asio::buffer(bytes), error_);
  }
  // All until the server ends the connection, in order or not.
  std::string ReadToEnd() {
    std::string text;
    if (!error_) asio::read(stream_, asio::dynamic_buffer(text), error_);
    return text;
  }
  // So many bytes.
  std::string Read(size_t count) {
    std::string text(count, '\0');
    if (!error_) asio::read(stream_, asio::buffer(text), error_);
    return text;
  }
  std::string CertificateName() {
    X509* const certificate = SSL_get1_peer_certificate(stream_.native_handle());
    char name[256] = "";
    if (certificate != nullptr) {
      X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name, sizeof(name));
      X509_free(certificate);
    }
    return name;
  }

 private:
  asio::io_context io_;
  ssl::context context_;
  ssl::stream<asio::ip::tcp::socket> stream_;
  boost::system::error_code error_;
};

class HttpTls : public testing::Test {
 protected:
  void Start(const TlsFiles& files, HttpServer::Options options = {}) {
    ASSERT_TRUE(CheckTlsFiles(files, "tls").ok());
    auto tls = TlsContext::Create(files, &clock_);
    ASSERT_TRUE(tls.ok()) << tls.status();
    tls_ = *std::move(tls);
    options.tls = tls_.get();
    auto server = HttpServer::Start(options, &handler_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  // The server's own certificate, without clients asked for theirs.
  TlsFiles ServerFiles(const std::string& name = "edge") {
    TlsFiles files = authority_.Issue(name, "127.0.0.1");
    files.authorities.clear();
    return files;
  }
  std::unique_ptr<Client> Connect(const TlsFiles& files) { return std::make_unique<Client>(server_->address(), files); }
  std::unique_ptr<Client> Connect() { return Connect({.authorities = authority_.folder() + "/authority.crt"}); }

  TestAuthority authority_{"edge authority"};
  Handler handler_;
  ManualClock clock_;
  std::unique_ptr<TlsContext> tls_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpTls, AnswersOverOneConnection) {
  Start(ServerFiles());
  const auto client = Connect();
  ASSERT_FALSE(client->error()) << client->error().message();
  EXPECT_EQ(client->CertificateName(), "edge");
  client->Send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
  client->Send("POST /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc");
  const std::string text = client->ReadToEnd();
  EXPECT_EQ(client->error(), asio::error::eof) << "ended as TLS has it, not cut: " << client->error().message();
  const size_t first = text.find("\r\n\r\n/a 0"), second = text.find("\r\n\r\n/b 3");
  EXPECT_NE(first, std::string::npos) << text;
  EXPECT_NE(second, std::string::npos) << text;
  EXPECT_LT(first, second);
}

TEST_F(HttpTls, StreamsAndSaysWhereTheStreamEnds) {
  Start(ServerFiles());
  const auto chunked = Connect();
  chunked->Send("GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(absl::EndsWith(chunked->ReadToEnd(), "\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n"));
  // Of HTTP/1.0 the end of the connection is the end of the answer: it must not be one that anybody could make.
  const auto old = Connect();
  old->Send("GET /stream HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(absl::EndsWith(old->ReadToEnd(), "\r\n\r\none two"));
  EXPECT_EQ(old->error(), asio::error::eof) << old->error().message();
}

TEST_F(HttpTls, RefusesABodyThatIsTooLargeSoThatTheClientReadsWhy) {
  HttpServer::Options options;
  options.max_body_bytes = 1000;
  Start(ServerFiles(), options);
  const auto client = Connect();
  client->Send(
      absl::StrCat("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n", std::string(300'000, 'x')));
  EXPECT_TRUE(absl::StartsWith(client->ReadToEnd(), "HTTP/1.1 413 "));
}

TEST_F(HttpTls, LetsInOnlyClientsOfItsAuthoritiesIfItHasThem) {
  TestAuthority clients("clients"), strangers("strangers");
  TlsFiles files = ServerFiles();
  files.authorities = clients.folder() + "/authority.crt";
  Start(files);
  const std::string request = "GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  const auto ask = [&](TlsFiles shown) {
    shown.authorities = authority_.folder() + "/authority.crt";
    const auto client = Connect(shown);
    client->Send(request);
    return client->ReadToEnd();
  };
  EXPECT_TRUE(absl::StartsWith(ask(clients.Issue("alice", "alice")), "HTTP/1.1 200 "));
  EXPECT_EQ(ask({}), "");
  EXPECT_EQ(ask(strangers.Issue("mallory", "mallory")), "");
  EXPECT_EQ(ask(clients.Issue("late", "late", -7200, -3600)), "");
}

TEST_F(HttpTls, EndsWhoSpeaksNoTls) {
  HttpServer::Options options;
  options.head_timeout = std::chrono::milliseconds(200);
  Start(ServerFiles(), options);
  HttpClient plain(server_->address());
  plain.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(plain.ReadReply().status, 0);
  // Nor does one who says nothing keep its place.
  HttpClient silent(server_->address());
  EXPECT_TRUE(silent.AtEnd());
}

TEST_F(HttpTls, TakesRenewedCertificatesForNewConnections) {
  TlsFiles files = ServerFiles("first");
  Start(files);
  const auto before = Connect();
  EXPECT_EQ(before->CertificateName(), "first");
  const TlsFiles renewed = ServerFiles("second");
  std::filesystem::rename(renewed.private_key, files.private_key);
  clock_.Advance(kTlsReloadInterval);
  EXPECT_EQ(Connect()->CertificateName(), "first") << "a key without its certificate changes nothing";
  std::filesystem::rename(renewed.certificate, files.certificate);
  clock_.Advance(kTlsReloadInterval);
  EXPECT_EQ(Connect()->CertificateName(), "second");
  before->Send("GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(absl::EndsWith(before->ReadToEnd(), "/a 0")) << "it goes on";
}

}  // namespace
}  // namespace outrider::router
