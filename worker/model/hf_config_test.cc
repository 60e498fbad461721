#include "worker/model/hf_config.h"

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "worker/model/testing/hf_writer.h"

namespace outrider {
namespace {

using Json = nlohmann::json;
using absl::StatusCode;

absl::StatusOr<ModelConfig> Read(absl::string_view architecture, const Json& changes) {
  Json config = SmallHfConfig(architecture);
  if (!changes.is_null()) config.update(changes);
  return ModelConfigFromHuggingFace("m/config.json", config);
}

TEST(HuggingFaceConfig, ReadsPublishedShapes) {
  const auto config = ModelConfigFromHuggingFace("config.json", Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "vocab_size": 128256})"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 128);
  EXPECT_EQ(config->rope.base, 500000.0);
  EXPECT_EQ(config->rope.scaling, kernels::RopeScaling::kLlama3);
  EXPECT_EQ(config->rope.layout, kernels::RopeLayout::kHalves);
  EXPECT_EQ(config->rope.original_context, 8192);
  EXPECT_FALSE(config->tied_embedding);
  EXPECT_TRUE(config->layer_windows.empty());
}

TEST(HuggingFaceConfig, TakesTheDefaultsOfTheArchitecture) {
  Json small = SmallHfConfig("MistralForCausalLM");
  small.erase("sliding_window");
  small.erase("num_key_value_heads");
  small["num_attention_heads"] = 16;
  const auto mistral = ModelConfigFromHuggingFace("config.json", small);
  ASSERT_TRUE(mistral.ok()) << mistral.status();
  EXPECT_EQ(mistral->num_kv_heads, 8);
  EXPECT_EQ(mistral->layer_windows, (std::vector<int>{4096, 4096}));
  EXPECT_TRUE(Read("MistralForCausalLM", {})->layer_windows.empty());
  EXPECT_TRUE(Read("Qwen2ForCausalLM", {})->attention_bias);
  EXPECT_FALSE(Read("Qwen2ForCausalLM", {})->attention_output_bias);
  Json qwen3 = SmallHfConfig("Qwen3ForCausalLM");
  qwen3.erase("head_dim");
  EXPECT_EQ(ModelConfigFromHuggingFace("config.json", qwen3)->head_dim, 128);
  EXPECT_TRUE(Read("Qwen3ForCausalLM", {})->qk_norm);
  EXPECT_EQ(Read("LlamaForCausalLM", {{"num_key_value_heads", nullptr}})->num_kv_heads, 4);
}

TEST(HuggingFaceConfig, QwenWindowsAreOnlyThoseInUse) {
  const Json window = {{"sliding_window", 32}, {"max_window_layers", 1}};
  EXPECT_TRUE(Read("Qwen2ForCausalLM", window)->layer_windows.empty());
  Json used = window;
  used["use_sliding_window"] = true;
  EXPECT_EQ(Read("Qwen2ForCausalLM", used)->layer_windows, (std::vector<int>{0, 32}));
  used["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_EQ(Read("Qwen2ForCausalLM", used)->layer_windows, (std::vector<int>{32, 0}));
}

TEST(HuggingFaceConfig, RopeParametersGoBeforeTheOlderKeys) {
  const auto config =
      Read("LlamaForCausalLM", {{"rope_theta", 1000.0},
                                {"rope_scaling", {{"type", "yarn"}}},
                                {"rope_parameters", {{"rope_theta", 5000.0}, {"rope_type", "default"}}}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.base, 5000.0);
}

TEST(HuggingFaceConfig, NamesWhatItCanNotServe) {
  const auto expect = [](absl::string_view architecture, const Json& changes, StatusCode code, absl::string_view part) {
    const auto config = Read(architecture, changes);
    ASSERT_FALSE(config.ok()) << changes;
    EXPECT_EQ(config.status().code(), code) << config.status();
    EXPECT_TRUE(absl::StrContains(config.status().message(), part)) << config.status();
    EXPECT_TRUE(absl::StrContains(config.status().message(), "m/config.json")) << config.status();
  };
  const char* const llama = "LlamaForCausalLM";
  expect("MixtralForCausalLM", {}, StatusCode::kUnimplemented, "'MixtralForCausalLM'");
  expect(llama, {{"architectures", Json::array()}}, StatusCode::kInvalidArgument, "'architectures'");
  expect(llama, {{"quantization_config", {{"quant_method", "gptq"}}}}, StatusCode::kUnimplemented, "\"gptq\"");
  expect(llama, {{"hidden_act", "gelu"}}, StatusCode::kUnimplemented, "\"gelu\"");
  expect(llama, {{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}}}}, StatusCode::kUnimplemented,
         "'rope_scaling.rope_type' is \"yarn\"");
  expect(llama, {{"rope_parameters", {{"rope_type", "dynamic"}}}}, StatusCode::kUnimplemented, "\"dynamic\"");
  expect(llama, {{"rope_scaling", {{"type", "linear"}}}}, StatusCode::kInvalidArgument, "'rope_scaling.factor'");
  expect(llama, {{"rope_scaling", 3}}, StatusCode::kInvalidArgument, "'rope_scaling' is 3");
  expect(llama, {{"partial_rotary_factor", 0.5}}, StatusCode::kUnimplemented, "partial_rotary_factor");
  expect(llama, {{"hidden_size", "64"}}, StatusCode::kInvalidArgument, "'hidden_size' is \"64\"");
  expect(llama, {{"num_hidden_layers", 0}}, StatusCode::kInvalidArgument, "'num_hidden_layers' is 0");
  expect(llama, {{"num_hidden_layers", 18446744073709551615u}}, StatusCode::kInvalidArgument, "'num_hidden_layers'");
  expect(llama, {{"vocab_size", nullptr}}, StatusCode::kInvalidArgument, "'vocab_size' is missing");
  expect(llama, {{"num_key_value_heads", 3}}, StatusCode::kInvalidArgument, "num_key_value_heads 3");
  expect(llama, {{"head_dim", nullptr}, {"num_attention_heads", 6}}, StatusCode::kInvalidArgument, "'hidden_size'");
  expect(llama, {{"rms_norm_eps", 0}}, StatusCode::kInvalidArgument, "'rms_norm_eps'");
  expect(llama, {{"head_dim", 15}}, StatusCode::kInvalidArgument, "rotary_dim 15 is odd");
  expect("Qwen3ForCausalLM", {{"layer_types", {"full_attention"}}}, StatusCode::kInvalidArgument, "'layer_types'");
  expect("Qwen3ForCausalLM", {{"layer_types", {"full_attention", "sliding_attention"}}}, StatusCode::kInvalidArgument,
         "'layer_types'");
  expect("Qwen3ForCausalLM", {{"layer_types", {"full_attention", "chunked_attention"}}}, StatusCode::kUnimplemented,
         "'layer_types'");
}

TEST(GenerationDefaults, ComeFromTheGenerationConfigThenFromConfig) {
  const auto both = GenerationDefaultsFromHuggingFace(
      "m", {{"eos_token_id", 2}}, {{"eos_token_id", {9, 4, 9}}, {"temperature", 0.6}, {"top_k", 20}});
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_EQ(both->end_token_ids, (std::vector<TokenId>{4, 9}));
  EXPECT_FLOAT_EQ(*both->temperature, 0.6f);
  EXPECT_EQ(both->top_k, 20u);
  EXPECT_FALSE(both->top_p.has_value());
  EXPECT_EQ(GenerationDefaultsFromHuggingFace("m", {{"eos_token_id", 2}}, Json())->end_token_ids,
            (std::vector<TokenId>{2}));
  EXPECT_TRUE(GenerationDefaultsFromHuggingFace("m", Json::object(), Json())->end_token_ids.empty());
}

TEST(GenerationDefaults, NamesWhatCanNotBe) {
  const auto message = [](const Json& generation) {
    const auto defaults = GenerationDefaultsFromHuggingFace("m", Json::object(), generation);
    return defaults.ok() ? std::string() : std::string(defaults.status().message());
  };
  EXPECT_TRUE(absl::StrContains(message({{"eos_token_id", "x"}}), "m/generation_config.json: key 'eos_token_id'"));
  EXPECT_TRUE(absl::StrContains(message({{"eos_token_id", -1}}), "'eos_token_id' is -1"));
  EXPECT_TRUE(absl::StrContains(message({{"top_p", 1.5}}), "'top_p' is 1.5"));
}

}  // namespace
}  // namespace outrider
