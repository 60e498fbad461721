#include "cli/config_loader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <map>

#include "cli/config_schema.h"
#include "proto/config.pb.h"

namespace outrider {
namespace {

class ConfigLoader : public ::testing::Test {
 protected:
  std::string WriteFile(const std::string& text) {
    const std::string path = ::testing::TempDir() + "/config_" + std::to_string(::getpid()) + ".yaml";
    std::ofstream(path) << text;
    return path;
  }
  absl::Status Load(const std::string& yaml) {
    ConfigSources sources;
    sources.file = WriteFile(yaml);
    sources.variable = [this](const std::string& name) -> const char* {
      const auto it = variables_.find(name);
      return it == variables_.end() ? nullptr : it->second.c_str();
    };
    sources.flags = flags_;
    return LoadConfig(sources, &config_);
  }
  std::string Message(const std::string& yaml) { return std::string(Load(yaml).message()); }

  std::map<std::string, std::string> variables_;
  std::vector<std::pair<std::string, std::string>> flags_;
  v1::TargetConfig config_;
};

TEST_F(ConfigLoader, ReadsEveryKindOfValue) {
  ASSERT_TRUE(Load("model: /models/a.gguf\ntensor_parallel_size: 2\nprefix_cache: false\nkv_cache_bytes: 8589934592\n"
                   "draft_wait_ratio: 0.25\n")
                  .ok());
  EXPECT_EQ(config_.model(), "/models/a.gguf");
  EXPECT_EQ(config_.tensor_parallel_size(), 2);
  EXPECT_FALSE(config_.prefix_cache());
  EXPECT_EQ(config_.kv_cache_bytes(), 8589934592u);
  EXPECT_EQ(config_.draft_wait_ratio(), 0.25);
  EXPECT_EQ(config_.block_size(), 16);  // default
}

TEST_F(ConfigLoader, FlagBeatsVariableBeatsFile) {
  variables_["OUTRIDER_MAX_MODEL_LEN"] = "200";
  ASSERT_TRUE(Load("max_model_len: 100\n").ok());
  EXPECT_EQ(config_.max_model_len(), 200);
  flags_ = {{"max_model_len", "300"}};
  ASSERT_TRUE(Load("max_model_len: 100\n").ok());
  EXPECT_EQ(config_.max_model_len(), 300);
}

TEST_F(ConfigLoader, TakesARankFromItsLeaderWorkerSetUnlessItIsSet) {
  variables_ = {{"LWS_WORKER_INDEX", "2"}, {"LWS_GROUP_SIZE", "4"}, {"LWS_LEADER_ADDRESS", "target-0.target"}};
  ASSERT_TRUE(Load("grpc_port: 9010\n").ok());
  EXPECT_EQ(config_.rank(), 2);
  EXPECT_EQ(config_.tensor_parallel_size(), 4);
  EXPECT_EQ(config_.leader_address(), "target-0.target:9010");
  config_.Clear();
  flags_ = {{"rank", "0"}};
  ASSERT_TRUE(Load("tensor_parallel_size: 1\n").ok());
  EXPECT_EQ(config_.rank(), 0);
  EXPECT_EQ(config_.tensor_parallel_size(), 1);
  EXPECT_FALSE(config_.has_leader_address());
}

TEST_F(ConfigLoader, NamesFileLineAndNearestNameOfAnUnknownKey) {
  const std::string message = Message("model: a\n# comment\nmax_modle_len: 5\n");
  EXPECT_NE(message.find(".yaml:3: unknown setting 'max_modle_len'; did you mean 'max_model_len'?"), std::string::npos)
      << message;
}

TEST_F(ConfigLoader, RefusesWrongTypesRangesDoublesAndShapes) {
  EXPECT_NE(Message("block_size: big\n").find(":1: block_size = 'big' is not a whole number"), std::string::npos);
  EXPECT_NE(Message("block_size: -1\n").find("is not a whole number"), std::string::npos);
  EXPECT_NE(Message("block_size: 4294967296\n").find("is not a whole number"), std::string::npos);
  EXPECT_NE(Message("draft_wait_ratio: nan\n").find("is not a number"), std::string::npos);
  EXPECT_NE(Message("prefix_cache: perhaps\n").find("is not true or false"), std::string::npos);
  EXPECT_NE(Message("rank: 0\nrank: 1\n").find(":2: 'rank' is set twice"), std::string::npos);
  EXPECT_NE(Message("rank: [1, 2]\n").find("takes one value"), std::string::npos);
  EXPECT_NE(Message("- rank\n").find("expected 'name: value'"), std::string::npos);
  EXPECT_NE(Message("a: b: c\n").find(":1: not YAML"), std::string::npos);
  EXPECT_EQ(Load("").code(), absl::StatusCode::kOk);
}

TEST_F(ConfigLoader, NamesTheVariableThatIsWrong) {
  variables_["OUTRIDER_RANK"] = "first";
  EXPECT_NE(Message("").find("OUTRIDER_RANK: rank = 'first' is not"), std::string::npos);
}

TEST_F(ConfigLoader, TellsWhereEachValueComesFrom) {
  variables_["OUTRIDER_MAX_MODEL_LEN"] = "200";
  flags_ = {{"block_size", "32"}, {"rank", "1"}};
  ConfigSources sources;
  sources.file = WriteFile("# a comment\nmax_model_len: 100\nmodel: a.gguf\nrank: 0\n");
  sources.variable = [this](const std::string& name) -> const char* {
    const auto it = variables_.find(name);
    return it == variables_.end() ? nullptr : it->second.c_str();
  };
  sources.flags = flags_;
  SettingOrigins origins;
  ASSERT_TRUE(LoadConfig(sources, &config_, &origins).ok());
  ASSERT_EQ(origins.size(), 4u);
  EXPECT_EQ(origins["model"].source, SettingOrigin::Source::kFile);
  EXPECT_EQ(origins["model"].place, sources.file + ":3");
  EXPECT_EQ(origins["max_model_len"].source, SettingOrigin::Source::kEnvironment);
  EXPECT_EQ(origins["max_model_len"].place, "OUTRIDER_MAX_MODEL_LEN");
  EXPECT_EQ(origins["rank"].place, "--rank");
  EXPECT_EQ(origins["block_size"].place, "--block-size");
}

TEST_F(ConfigLoader, KnowsAVariableOfKubernetesThatIsNoSetting) {
  variables_["OUTRIDER_GRPC_PORT"] = "tcp://10.0.0.1:9000";
  EXPECT_NE(Message("").find("enableServiceLinks: false"), std::string::npos);
}

TEST_F(ConfigLoader, NamesAMissingFile) {
  ConfigSources sources;
  sources.file = "/nowhere/router.yaml";
  EXPECT_NE(LoadConfig(sources, &config_).message().find("/nowhere/router.yaml"), absl::string_view::npos);
}

TEST(ConfigSchema, EverySettingOfEveryProcessIsExplainedOrSelfExplaining) {
  for (const auto* message :
       {v1::RouterConfig::descriptor(), v1::TargetConfig::descriptor(), v1::DraftConfig::descriptor()}) {
    int explained = 0;
    for (const Setting& setting : SettingsOf(*message)) explained += !setting.help.empty();
    EXPECT_GE(explained, 4) << message->name();
  }
  EXPECT_EQ(SettingsOf(*v1::TargetConfig::descriptor())[0].help,
            "GGUF file or Hugging Face folder of the target model.");
}

}  // namespace
}  // namespace outrider
