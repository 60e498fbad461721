#include "cli/leader_worker_set.h"

#include <gtest/gtest.h>

#include <map>

namespace outrider {
namespace {

using Environment = std::map<std::string, std::string>;

absl::Status Apply(const Environment& environment, v1::TargetConfig& config, Environment* told = nullptr) {
  Environment taken;
  const absl::Status status = ApplyLeaderWorkerSet(
      [&](const std::string& name) {
        const auto found = environment.find(name);
        return found == environment.end() ? nullptr : found->second.c_str();
      },
      config, taken);
  if (told != nullptr) *told = taken;
  return status;
}

const Environment& SecondPod() {
  static const Environment environment = {
      {"LWS_LEADER_ADDRESS", "target-0.target.ml"}, {"LWS_GROUP_SIZE", "4"}, {"LWS_WORKER_INDEX", "1"}};
  return environment;
}

TEST(ApplyLeaderWorkerSet, MakesARankOfAPod) {
  v1::TargetConfig config;
  config.set_grpc_port(9010);
  Environment taken;
  ASSERT_TRUE(Apply(SecondPod(), config, &taken).ok());
  EXPECT_EQ(taken, (Environment{{"rank", "LWS_WORKER_INDEX"},
                                {"tensor_parallel_size", "LWS_GROUP_SIZE"},
                                {"leader_address", "LWS_LEADER_ADDRESS"}}));
  EXPECT_EQ(config.rank(), 1u);
  EXPECT_EQ(config.tensor_parallel_size(), 4u);
  EXPECT_EQ(config.leader_address(), "target-0.target.ml:9010");
}

TEST(ApplyLeaderWorkerSet, TellsTheLeaderOfNoLeader) {
  Environment environment = SecondPod();
  environment["LWS_WORKER_INDEX"] = "0";
  v1::TargetConfig config;
  ASSERT_TRUE(Apply(environment, config).ok());
  EXPECT_EQ(config.rank(), 0u);
  EXPECT_EQ(config.tensor_parallel_size(), 4u);
  EXPECT_FALSE(config.has_leader_address());
}

TEST(ApplyLeaderWorkerSet, LeavesWhatIsSet) {
  v1::TargetConfig config;
  config.set_rank(0);
  config.set_tensor_parallel_size(1);
  ASSERT_TRUE(Apply(SecondPod(), config).ok());
  EXPECT_EQ(config.rank(), 0u);
  EXPECT_EQ(config.tensor_parallel_size(), 1u);
  config.set_rank(3);
  config.set_leader_address("10.0.0.1:1");
  ASSERT_TRUE(Apply(SecondPod(), config).ok());
  EXPECT_EQ(config.leader_address(), "10.0.0.1:1");
}

TEST(ApplyLeaderWorkerSet, DoesNothingElsewhere) {
  v1::TargetConfig config;
  ASSERT_TRUE(Apply({}, config).ok());
  EXPECT_FALSE(config.has_rank() || config.has_tensor_parallel_size() || config.has_leader_address());
}

TEST(ApplyLeaderWorkerSet, NamesWhatItCanNotUse) {
  v1::TargetConfig config;
  Environment environment = SecondPod();
  EXPECT_EQ(Apply(environment, config).message(),
            "LWS_LEADER_ADDRESS = 'target-0.target.ml' has no port: set grpc_port, the same on all ranks");
  for (const char* name : {"LWS_WORKER_INDEX", "LWS_GROUP_SIZE"}) {
    environment = SecondPod();
    environment[name] = "-1";
    v1::TargetConfig fresh;
    EXPECT_NE(std::string(Apply(environment, fresh).message()).find(std::string(name) + " = '-1'"), std::string::npos);
  }
}

}  // namespace
}  // namespace outrider
