#include "cli/config_report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "proto/config.pb.h"

namespace outrider {
namespace {

using Source = SettingOrigin::Source;

TEST(ConfigReport, TellsEachValueAndItsSource) {
  v1::RouterConfig config;
  config.set_grpc_port(9001);
  config.set_host("::");
  const std::string yaml = ConfigYaml(
      config, {{"grpc_port", {Source::kFlag, "--grpc-port"}}, {"host", {Source::kFile, "router.yaml:1"}}}, false);
  EXPECT_NE(yaml.find("host: \"::\""), std::string::npos) << yaml;
  EXPECT_NE(yaml.find("# file router.yaml:1\n"), std::string::npos) << yaml;
  EXPECT_NE(yaml.find("# flag --grpc-port\n"), std::string::npos) << yaml;
  EXPECT_NE(yaml.find("metrics_port: 9100"), std::string::npos) << yaml;
}

TEST(ConfigReport, ItsYamlIsAConfigurationOfTheSameValues) {
  v1::TargetConfig config;
  config.set_model("a \"quoted\"\nname # no comment");
  config.set_draft_wait_ratio(0.1 + 0.2);
  config.set_prefix_cache(false);
  config.set_kv_cache_bytes(1ull << 63);
  const std::string path = ::testing::TempDir() + "/dump_" + std::to_string(::getpid()) + ".yaml";
  std::ofstream(path) << ConfigYaml(config, {}, false);
  v1::TargetConfig again;
  const absl::Status status = LoadConfig({.file = path}, &again);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(again.model(), config.model());
  EXPECT_EQ(again.draft_wait_ratio(), config.draft_wait_ratio());
  EXPECT_EQ(again.prefix_cache(), false);
  EXPECT_EQ(again.kv_cache_bytes(), config.kv_cache_bytes());
  EXPECT_FALSE(again.has_metrics_port());  // absent stays absent
}

TEST(ConfigReport, ShowsOnlyWhatIsSetIfAsked) {
  v1::DraftConfig config;
  config.set_lease_ms(5);
  const auto json = nlohmann::json::parse(
      ConfigJson(config, {{"lease_ms", {Source::kEnvironment, "OUTRIDER_LEASE_MS"}}}, /*only_set=*/true));
  ASSERT_EQ(json.size(), 1u);
  EXPECT_EQ(json[0]["name"], "lease_ms");
  EXPECT_EQ(json[0]["value"], 5);
  EXPECT_EQ(json[0]["default"], 60000);
  EXPECT_EQ(json[0]["source"], "environment");
  EXPECT_EQ(json[0]["place"], "OUTRIDER_LEASE_MS");
}

}  // namespace
}  // namespace outrider
