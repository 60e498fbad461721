#include "worker/worker_setup.h"

#include <gtest/gtest.h>

#include <cmath>

namespace outrider {
namespace {

v1::TargetConfig GoodTarget() {
  v1::TargetConfig config;
  config.set_model("model.gguf");
  return config;
}

// The message of the refusal; empty if there is none.
template <typename Config>
std::string Refusal(const Config& config) {
  return std::string(Validate(config).message());
}

TEST(ResolveGrpcPort, LeavesTheLeadersAddressToTheLeader) {
  v1::TargetConfig config = GoodTarget();
  config.set_tensor_parallel_size(2);
  config.set_host("127.0.0.1");
  config.set_grpc_port(9010);
  config.set_leader_address("127.0.0.1:9010");
  EXPECT_EQ(ResolveGrpcPort(config), 9010u);
  config.set_rank(1);
  EXPECT_EQ(ResolveGrpcPort(config), 0u);
  config.set_leader_address("10.0.0.1:9010");  // another machine's: the port is free here
  EXPECT_EQ(ResolveGrpcPort(config), 9010u);
}

TEST(ValidateTarget, TakesTheDefaults) { EXPECT_EQ(Refusal(GoodTarget()), ""); }

TEST(ValidateTarget, NamesTheSettingAndItsValue) {
  v1::TargetConfig config;
  EXPECT_NE(Refusal(config).find("model is not set"), std::string::npos);
  config = GoodTarget();
  config.set_tensor_parallel_size(2);
  config.set_rank(2);
  EXPECT_NE(Refusal(config).find("rank is 2, but tensor_parallel_size is 2"), std::string::npos);
  config.set_rank(1);
  EXPECT_NE(Refusal(config).find("leader_address"), std::string::npos);
  config = GoodTarget();
  config.set_block_size(24);
  EXPECT_NE(Refusal(config).find("block_size is 24"), std::string::npos);
  config = GoodTarget();
  config.set_lookahead("33");
  EXPECT_NE(Refusal(config).find("lookahead is '33'"), std::string::npos);
  config = GoodTarget();
  config.set_draft_wait_ratio(std::nan(""));
  EXPECT_NE(Refusal(config).find("draft_wait_ratio is nan"), std::string::npos);
  config = GoodTarget();
  config.set_grpc_port(70000);
  EXPECT_NE(Refusal(config).find("grpc_port is 70000"), std::string::npos);
  config = GoodTarget();
  config.set_max_step_tokens(8);
  EXPECT_NE(Refusal(config).find("max_step_tokens is 8"), std::string::npos);
}

TEST(ResolveDevice, TakesTheCpuWhereNoGpuCanBeUsedAndSaysWhyWhenOneIsAskedFor) {
  // A build for CPUs, or one with CUDA on a machine without a GPU; with a GPU there is nothing to refuse.
  if (CheckCuda(0).ok()) GTEST_SKIP() << "there is a GPU here";
  EXPECT_EQ(*ResolveDevice("auto", Numerics::kInvariant, 0), Device::kCpu);
  EXPECT_EQ(*ResolveDevice("cpu", Numerics::kReference, 0), Device::kCpu);
  const absl::Status refusal = ResolveDevice("cuda", Numerics::kInvariant, 0).status();
  EXPECT_NE(std::string(refusal.message()).find("device is cuda: "), std::string::npos);
  EXPECT_NE(std::string(refusal.message()).find("use device cpu"), std::string::npos);
  EXPECT_EQ(ResolveDevice("tpu", Numerics::kInvariant, 0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ResolveRankDevice, RanksOfAGroupDoNotDifferWhereThereAreTooFewGpus) {
  // A build without CUDA sees no GPU.
  for (int rank = 0; rank < 3; ++rank) {
    const auto resolved = ResolveRankDevice("auto", Numerics::kInvariant, rank, 3);
    ASSERT_TRUE(resolved.ok());
    EXPECT_EQ(resolved->device, Device::kCpu);
  }
  EXPECT_FALSE(ResolveRankDevice("cuda", Numerics::kInvariant, 1, 2).ok());
}

TEST(ValidateTarget, NamesADeviceAndAShareOfMemoryThatCanNotBe) {
  v1::TargetConfig config = GoodTarget();
  config.set_device("tpu");
  EXPECT_EQ(Validate(config).code(), absl::StatusCode::kInvalidArgument);
  config = GoodTarget();
  config.set_load_format("gguf");
  EXPECT_NE(Refusal(config).find("load_format is 'gguf'; it may be auto or dummy"), std::string::npos);
  config = GoodTarget();
  config.set_gpu_memory_utilization(1.5);
  EXPECT_NE(Refusal(config).find("gpu_memory_utilization is 1.5"), std::string::npos);
}

TEST(ResolveNumBlocks, UsesWhatAGpuHasLeft) {
  KvSizing sizing{
      .device_bytes = 100'500, .bytes_per_block = 1'000, .block_size = 16, .max_model_len = 1024, .max_sequences = 4};
  EXPECT_EQ(*ResolveNumBlocks(sizing), 100);
  sizing.device_bytes = 1 << 30;
  EXPECT_EQ(*ResolveNumBlocks(sizing), 4 * 64);
  sizing.kv_cache_bytes = 10'000;  // set: holds
  EXPECT_EQ(*ResolveNumBlocks(sizing), 10);
  sizing.kv_cache_bytes = 0;
  sizing.device_bytes = 63'999;
  const absl::Status refusal = ResolveNumBlocks(sizing).status();
  EXPECT_EQ(refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(std::string(refusal.message()).find("63 blocks"), std::string::npos);
}

TEST(ValidateDraft, TakesTheDefaultsAndNamesWhatIsWrong) {
  v1::DraftConfig config;
  EXPECT_NE(Refusal(config).find("model is not set"), std::string::npos);
  config.set_model("draft.gguf");
  EXPECT_EQ(Refusal(config), "");
  config.set_numerics("fast");
  EXPECT_NE(Refusal(config).find("numerics is 'fast'"), std::string::npos);
}

TEST(ResolveNumBlocks, HoldsWhatTheBytesHold) {
  KvSizing sizing{
      .kv_cache_bytes = 10'500, .bytes_per_block = 1'000, .block_size = 16, .max_model_len = 1024, .max_sequences = 4};
  EXPECT_EQ(*ResolveNumBlocks(sizing), 10);
  sizing.kv_cache_bytes = 1'000'000'000;
  EXPECT_EQ(*ResolveNumBlocks(sizing), 4 * 64);  // all sequences at full length
  sizing.kv_cache_bytes = 999;
  EXPECT_EQ(ResolveNumBlocks(sizing).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ResolveNumBlocks, ByItselfHoldsAQuarterOfEachSequenceWithinItsBound) {
  KvSizing sizing{.bytes_per_block = 1'000, .block_size = 16, .max_model_len = 16384, .max_sequences = 8};
  EXPECT_EQ(*ResolveNumBlocks(sizing), 8 * 256);
  sizing.max_sequences = 2;
  EXPECT_EQ(*ResolveNumBlocks(sizing), 1024);  // one sequence of full length at least
  sizing.max_model_len = 4096;
  EXPECT_EQ(*ResolveNumBlocks(sizing), 2 * 128);  // a quarter is less than 2,048 tokens
  sizing.max_model_len = 1024;
  EXPECT_EQ(*ResolveNumBlocks(sizing), 2 * 64);  // all of it is
  sizing.max_sequences = 1000;
  sizing.bytes_per_block = 1 << 20;
  EXPECT_EQ(*ResolveNumBlocks(sizing), 2048);  // 2 GiB
}

TEST(SplitAddresses, LeavesBlanksOut) {
  EXPECT_EQ(SplitAddresses(" a:1, unix:/x ,,b:2"), (std::vector<std::string>{"a:1", "unix:/x", "b:2"}));
  EXPECT_TRUE(SplitAddresses("").empty());
}

TEST(ParseLookahead, TakesAutoAndNumbers) {
  EXPECT_EQ(*ParseLookahead("auto"), -1);
  EXPECT_EQ(*ParseLookahead("0"), 0);
  EXPECT_EQ(*ParseLookahead("32"), 32);
  for (const char* bad : {"", "-1", "4x", "many"}) EXPECT_FALSE(ParseLookahead(bad).ok()) << bad;
}

}  // namespace
}  // namespace outrider
