#include "cli/health_query.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/metrics.h"
#include "cli/page_address.h"
#include "proto/inference.grpc.pb.h"

namespace outrider {
namespace {

constexpr Duration kBound = std::chrono::seconds(20);

std::string PagesOf(const MetricsServer& server) { return "localhost:" + std::to_string(server.port()); }

TEST(HealthQuery, TellsFromThePagesWhetherAProcessIsReadyAndWhyNot) {
  MetricsRegistry registry;
  ProcessHealth health;
  const auto server = MetricsServer::Start("127.0.0.1", 0, registry, &health);
  ASSERT_TRUE(server.ok());
  HealthAnswer answer = QueryHealthPages(PagesOf(**server), kBound);
  EXPECT_TRUE(answer.live);
  EXPECT_FALSE(answer.ready);
  EXPECT_NE(answer.reason.find("starting"), std::string::npos) << answer.reason;
  health.Set([] { return ""; }, [] { return ""; });
  answer = QueryHealthPages(PagesOf(**server), kBound);
  EXPECT_TRUE(answer.live && answer.ready);
  EXPECT_EQ(answer.reason, "");
  health.Set([] { return "it hangs"; }, [] { return ""; });
  answer = QueryHealthPages(PagesOf(**server), kBound);
  EXPECT_FALSE(answer.live || answer.ready);
  EXPECT_NE(answer.reason.find("it hangs"), std::string::npos) << answer.reason;
}

TEST(HealthQuery, ADeadAddressIsNeitherAliveNorReady) {
  const HealthAnswer pages = QueryHealthPages("unix:/nowhere/socket", kBound);
  EXPECT_FALSE(pages.live || pages.ready);
  EXPECT_NE(pages.reason.find("no answer"), std::string::npos) << pages.reason;
  EXPECT_NE(QueryHealthPages("9100", kBound).reason.find("HOST:PORT"), std::string::npos);
  const HealthAnswer rpc = QueryHealthService("unix:/nowhere/socket", grpc::InsecureChannelCredentials(), "",
                                              std::chrono::milliseconds(200));
  EXPECT_FALSE(rpc.live || rpc.ready);
  EXPECT_NE(rpc.reason.find("nobody speaks gRPC"), std::string::npos) << rpc.reason;
}

TEST(HealthQuery, TellsFromTheHealthServiceOfAServer) {
  grpc::EnableDefaultHealthCheckService(true);
  int port = 0;
  v1::Inference::Service service;  // a server without one has nobody who polls
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  const auto server = builder.BuildAndStart();
  const std::string address = "127.0.0.1:" + std::to_string(port);
  server->GetHealthCheckService()->SetServingStatus("a", true);
  server->GetHealthCheckService()->SetServingStatus("b", false);
  EXPECT_TRUE(QueryHealthService(address, grpc::InsecureChannelCredentials(), "", kBound).ready);
  EXPECT_TRUE(QueryHealthService(address, grpc::InsecureChannelCredentials(), "a", kBound).ready);
  EXPECT_EQ(QueryHealthService(address, grpc::InsecureChannelCredentials(), "b", kBound).reason,
            "not ready: service 'b' is not serving");
  EXPECT_EQ(QueryHealthService(address, grpc::InsecureChannelCredentials(), "c", kBound).reason,
            "not ready: service 'c' is not there");
  server->GetHealthCheckService()->SetServingStatus("liveness", false);
  const HealthAnswer answer = QueryHealthService(address, grpc::InsecureChannelCredentials(), "a", kBound);
  EXPECT_FALSE(answer.live);
  EXPECT_EQ(answer.reason, "not live");
  server->Shutdown();
}

TEST(HealthQuery, ItsJsonHasEveryField) {
  const auto json = nlohmann::json::parse(HealthJson({"h:1", true, false, "not ready: \"x\""}));
  EXPECT_EQ(json["address"], "h:1");
  EXPECT_EQ(json["live"], true);
  EXPECT_EQ(json["ready"], false);
  EXPECT_EQ(json["reason"], "not ready: \"x\"");
}

TEST(PageAddress, TakesNamesDigitsAndSocketsAndNamesWhatIsNone) {
  EXPECT_EQ(*ResolvePageAddress("localhost:9100"), "127.0.0.1:9100");
  EXPECT_EQ(*ResolvePageAddress(":9100"), "127.0.0.1:9100");
  EXPECT_EQ(*ResolvePageAddress("10.0.0.1:80"), "10.0.0.1:80");
  EXPECT_EQ(*ResolvePageAddress("unix:/a/b"), "unix:/a/b");
  for (const char* const bad : {"", "localhost", "h:0", "h:65536", "h:x"}) {
    EXPECT_EQ(ResolvePageAddress(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace outrider
