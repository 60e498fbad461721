// Models of random weights: a configuration is all they need.
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "worker/model/loaded_model.h"
#include "worker/model/model_description.h"
#include "worker/model/open_checkpoint.h"
#include "worker/model/testing/hf_writer.h"

namespace outrider {
namespace {

std::string FolderOfConfig(const char* architecture) {
  const std::string folder = MakeTestFolder();
  WriteFileIn(folder, "config.json", SmallHfConfig(architecture).dump());
  return folder;
}

TEST(DummyModel, NeedsAConfigurationOnly) {
  const std::string folder = FolderOfConfig("Qwen3ForCausalLM");
  EXPECT_EQ(LoadModel(folder, {}).status().code(), absl::StatusCode::kNotFound);
  for (const int world_size : {1, 2}) {
    const auto model = LoadModel(folder, {.world_size = world_size, .load_format = LoadFormat::kDummy});
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->weights().layers[1].q_norm, std::vector<float>(16, 1.0f));
    EXPECT_TRUE((*model)->tokenizer().tokens.empty());
  }
  const absl::Status status = LoadModel(folder + "/config.json", {.load_format = LoadFormat::kDummy}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "load_format is dummy, which takes a folder")) << status;
}

TEST(DummyModel, IsTheSameEachTimeAndTakenForNoOther) {
  const std::string folder = FolderOfConfig("Qwen3ForCausalLM");
  const auto id = [](const std::string& path, LoadFormat format) {
    const auto model = LoadModel(path, {.load_format = format});
    EXPECT_TRUE(model.ok()) << model.status();
    return (*model)->numerics_id();
  };
  const std::string dummy = id(folder, LoadFormat::kDummy);
  EXPECT_EQ(id(FolderOfConfig("Qwen3ForCausalLM"), LoadFormat::kDummy), dummy);
  EXPECT_NE(id(FolderOfConfig("LlamaForCausalLM"), LoadFormat::kDummy), dummy);
  const std::string whole = WriteHfModel({.config = SmallHfConfig("Qwen3ForCausalLM")});
  EXPECT_NE(id(whole, LoadFormat::kDummy), id(whole, LoadFormat::kAuto));
}

TEST(DummyModel, HasOtherNumbersInEachTensor) {
  const auto checkpoint = OpenCheckpoint(FolderOfConfig("LlamaForCausalLM"), LoadFormat::kDummy);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto* const k = (*checkpoint)->Find("model.layers.0.self_attn.k_proj.weight");
  const auto* const v = (*checkpoint)->Find("model.layers.0.self_attn.v_proj.weight");
  const auto* const next = (*checkpoint)->Find("model.layers.1.self_attn.k_proj.weight");
  ASSERT_TRUE(k != nullptr && v != nullptr && next != nullptr);
  EXPECT_NE(std::memcmp(k->data, v->data, static_cast<size_t>(k->bytes)), 0);
  EXPECT_NE(std::memcmp(k->data, next->data, static_cast<size_t>(k->bytes)), 0);
}

TEST(DummyModel, OfAnUnknownArchitectureIsRefusedByName) {
  const std::string folder = MakeTestFolder();
  auto config = SmallHfConfig("LlamaForCausalLM");
  config["architectures"] = {"MambaForCausalLM"};
  WriteFileIn(folder, "config.json", config.dump());
  const absl::Status status = LoadModel(folder, {.load_format = LoadFormat::kDummy}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(absl::StrContains(status.message(), "MambaForCausalLM")) << status;
}

// Parameters as their authors publish them.
TEST(Shapes, AreThoseOfTheModelsTheyAreNamedAfter) {
  const std::pair<const char*, int64_t> shapes[] = {
      {"Llama-3.2-1B", 1'235'814'400}, {"Llama-3.1-8B", 8'030'261'248}, {"Llama-3.1-70B", 70'553'706'496},
      {"Qwen3-0.6B", 596'049'920},     {"Qwen3-8B", 8'190'735'360},     {"Qwen3-32B", 32'762'123'264},
  };
  for (const auto& [name, num_parameters] : shapes) {
    const auto model = DescribeModel(absl::StrCat("deploy/models/shapes/", name), LoadFormat::kDummy);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_TRUE(model->servable.ok()) << model->servable;
    EXPECT_EQ(model->name, name);
    EXPECT_EQ(model->num_parameters, num_parameters) << name;
  }
}

}  // namespace
}  // namespace outrider
