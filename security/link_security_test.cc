#include "security/link_security.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "absl/strings/str_cat.h"
#include "security/testing/certificates.h"

namespace outrider {
namespace {

constexpr auto kCallBound = std::chrono::seconds(20);

// A server without any method: who is let in hears UNIMPLEMENTED.
class Server {
 public:
  explicit Server(std::shared_ptr<grpc::ServerCredentials> credentials) {
    grpc::ServerBuilder builder;
    builder.RegisterCallbackGenericService(&service_);
    builder.AddListeningPort("127.0.0.1:0", std::move(credentials), &port_);
    server_ = builder.BuildAndStart();
  }
  ~Server() { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Call(const std::shared_ptr<grpc::ChannelCredentials>& credentials, const char* host = "127.0.0.1") {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    grpc::GenericStub stub(grpc::CreateCustomChannel(absl::StrCat(host, ":", port_), credentials, arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallBound);
    grpc::CompletionQueue queue;
    const auto call = stub.PrepareUnaryCall(&context, "/x.Y/Z", grpc::ByteBuffer(), &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag;
    bool ok;
    queue.Next(&tag, &ok);
    return status;
  }
  bool LetsIn(const std::shared_ptr<grpc::ChannelCredentials>& credentials, const char* host = "127.0.0.1") {
    return Call(credentials, host).error_code() == grpc::StatusCode::UNIMPLEMENTED;
  }

 private:
  grpc::CallbackGenericService service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

std::shared_ptr<const LinkSecurity> Links(const TlsFiles& files) {
  auto links = LinkSecurity::Create(files, /*allow_insecure_links=*/false);
  EXPECT_TRUE(links.ok()) << links.status();
  return *links;
}

TEST(LinkSecurity, LetsInOnlyWhoShowsACertificateOfTheSameAuthority) {
  TestAuthority ours("ours"), theirs("theirs");
  const auto links = Links(ours.Issue("router", "router.internal"));
  Server server(*links->ForListener("0.0.0.0", "host"));
  EXPECT_TRUE(server.LetsIn(Links(ours.Issue("target", "anything"))->ForPeer("127.0.0.1:1")));

  // Another authority, none, an expired certificate, an old one, no TLS.
  TlsFiles stranger = theirs.Issue("target", "anything");
  EXPECT_FALSE(server.LetsIn(Links(stranger)->ForPeer("127.0.0.1:1")));
  stranger.authorities = ours.folder() + "/authority.crt";  // it believes us, we do not believe it
  EXPECT_FALSE(server.LetsIn(Links(stranger)->ForPeer("127.0.0.1:1")));
  EXPECT_FALSE(server.LetsIn(TlsChannel({.authorities = stranger.authorities}, TlsPeer::kAnyOfAuthorities)));
  EXPECT_FALSE(server.LetsIn(TlsChannel(ours.Issue("late", "anything", /*first_second=*/-7200, /*end_second=*/-3600),
                                        TlsPeer::kAnyOfAuthorities)));
  EXPECT_FALSE(server.LetsIn(grpc::InsecureChannelCredentials()));
}

TEST(LinkSecurity, DoesNotSpeakToAServerOfAnotherAuthorityOrOfNone) {
  TestAuthority ours("ours"), theirs("theirs");
  const auto peer = Links(ours.Issue("target", "anything"))->ForPeer("127.0.0.1:1");
  Server stranger(TlsServer(theirs.Issue("router", "127.0.0.1")));
  EXPECT_FALSE(stranger.LetsIn(peer));
  Server open(grpc::InsecureServerCredentials());
  EXPECT_FALSE(open.LetsIn(peer));
  EXPECT_TRUE(open.LetsIn(grpc::InsecureChannelCredentials()));
}

TEST(LinkSecurity, WithoutCertificatesListensOnlyWhereNoOtherMachineComes) {
  const auto links = Links({});
  for (const char* host : {"127.0.0.1", "127.0.0.7", "localhost", "::1", "[::1]", "unix:/run/x.sock"}) {
    EXPECT_TRUE(links->ForListener(host, "host").ok()) << host;
  }
  for (const char* host : {"0.0.0.0", "::", "[::]", "10.0.0.3", "router.example"}) {
    const absl::Status status = links->ForListener(host, "cluster_host").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << host;
    EXPECT_NE(status.message().find(absl::StrCat("cluster_host '", host, "'")), std::string::npos) << status;
    EXPECT_NE(status.message().find("allow_insecure_links"), std::string::npos) << status;
  }
  EXPECT_TRUE((*LinkSecurity::Create({}, /*allow_insecure_links=*/true))->ForListener("0.0.0.0", "host").ok());
  EXPECT_FALSE(links->mutual());
}

TEST(LinkSecurity, TakesNewFilesWithoutARestart) {
  TestAuthority first("first"), second("second");
  const TlsFiles files = first.Issue("router", "127.0.0.1");
  const TlsFiles renewed = second.Issue("router", "127.0.0.1");
  Server server(TlsServer({.certificate = files.certificate, .private_key = files.private_key}));
  const auto believes_second = TlsChannel({.authorities = renewed.authorities}, TlsPeer::kNamed);
  EXPECT_FALSE(server.LetsIn(believes_second));
  std::filesystem::rename(renewed.private_key, files.private_key);
  std::filesystem::rename(renewed.certificate, files.certificate);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  bool let_in = false;
  while (!let_in && std::chrono::steady_clock::now() < deadline) let_in = server.LetsIn(believes_second);
  EXPECT_TRUE(let_in);
}

TEST(TlsChannel, AsksForTheNameThatWasCalled) {
  TestAuthority authority("authority");
  const auto named = TlsChannel({.authorities = authority.folder() + "/authority.crt"}, TlsPeer::kNamed);
  Server right(TlsServer(authority.Issue("right", "127.0.0.1"))),
      wrong(TlsServer(authority.Issue("wrong", "a.example")));
  EXPECT_FALSE(wrong.LetsIn(named));
  // It shows its certificate and asks for one, as its files hold authorities.
  TlsFiles client = authority.Issue("client", "client");
  EXPECT_FALSE(right.LetsIn(named));
  EXPECT_TRUE(right.LetsIn(TlsChannel(client, TlsPeer::kNamed)));
}

TEST(CheckTlsFiles, NamesTheSettingTheFileAndWhatIsWrong) {
  TestAuthority authority("authority");
  const TlsFiles good = authority.Issue("good", "a"), other = authority.Issue("other", "b");
  const TlsFiles expired = authority.Issue("expired", "a", -7200, -3600);
  const TlsFiles early = authority.Issue("early", "a", 3600, 7200);
  const std::string nonsense = authority.folder() + "/nonsense";
  std::ofstream(nonsense) << "nonsense";
  EXPECT_TRUE(CheckTlsFiles(good, "tls").ok());
  EXPECT_TRUE(CheckTlsFiles({}, "tls").ok());
  const auto expect = [&](const std::function<void(TlsFiles&)>& change, const std::string& words) {
    TlsFiles files = good;
    change(files);
    const absl::Status status = CheckTlsFiles(files, "tls");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(words), std::string::npos) << status << " lacks: " << words;
  };
  expect([](TlsFiles& f) { f.private_key.clear(); }, "come together");
  expect([](TlsFiles& f) { f.certificate.clear(); }, "come together");
  expect([](TlsFiles& f) { f.certificate = "/nowhere"; }, "tls_certificate '/nowhere' can not be read");
  expect([&](TlsFiles& f) { f.certificate = nonsense; }, "holds no certificate");
  expect([](TlsFiles& f) { f.private_key = "/nowhere"; }, "tls_private_key '/nowhere' can not be read");
  expect([&](TlsFiles& f) { f.private_key = nonsense; }, "holds no key");
  expect([&](TlsFiles& f) { f.private_key = other.private_key; }, "is not the key of tls_certificate");
  expect([](TlsFiles& f) { f.authorities = "/nowhere"; }, "tls_authorities '/nowhere' can not be read");
  expect([&](TlsFiles& f) { f = expired; }, "has expired");
  expect([&](TlsFiles& f) { f = early; }, "is not valid yet");

  TlsFiles partial = good;
  partial.authorities.clear();
  EXPECT_NE(LinkSecurity::Create(partial, false).status().message().find("link_authorities ''"), std::string::npos);
}

}  // namespace
}  // namespace outrider
