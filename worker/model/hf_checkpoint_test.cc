#include "worker/model/hf_checkpoint.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "worker/model/loaded_model.h"
#include "worker/model/model_description.h"
#include "worker/model/safetensors.h"
#include "worker/model/testing/hf_writer.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using absl::StatusCode;
using kernels::DType;

std::string ReadIn(const std::string& folder, const std::string& name) {
  std::ifstream file(folder + "/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void ExpectError(const std::string& folder, StatusCode code, absl::string_view part) {
  const auto model = LoadModel(folder, {});
  ASSERT_FALSE(model.ok()) << part;
  EXPECT_EQ(model.status().code(), code) << model.status();
  EXPECT_TRUE(absl::StrContains(model.status().message(), part)) << model.status();
}

// A sound model and one more tensor.
std::string WithTensor(const Json& config, const std::string& name, const std::vector<int64_t>& shape,
                       const std::string& dtype, const std::string& bytes) {
  const std::string folder = WriteHfModel({.config = config});
  SafetensorsWriter extra;
  extra.AddRaw(name, shape, dtype, bytes);
  WriteFileIn(folder, "extra.safetensors", extra.Finish());
  fs::rename(folder + "/model.safetensors", folder + "/main.safetensors");
  Json map = {{name, "extra.safetensors"}};
  const auto file = SafetensorsFile::Open(folder + "/main.safetensors");
  for (const Safetensor& tensor : (*file)->tensors()) map.emplace(tensor.name, "main.safetensors");
  WriteFileIn(folder, "model.safetensors.index.json", Json({{"weight_map", map}}).dump());
  return folder;
}

TEST(HuggingFaceCheckpoint, IsDescribed) {
  Json config = SmallHfConfig("Qwen3ForCausalLM");
  const std::string folder = WriteHfModel({.config = config, .num_shards = 3});
  const auto description = DescribeModel(folder);
  ASSERT_TRUE(description.ok()) << description.status();
  EXPECT_EQ(description->format, "Hugging Face");
  EXPECT_EQ(description->architecture, "Qwen3ForCausalLM");
  EXPECT_TRUE(description->servable.ok()) << description->servable;
  EXPECT_EQ(description->name, fs::path(folder).filename().string());
  EXPECT_EQ(description->tensors.size(), 3 + 2 * 11);
  EXPECT_EQ(description->dtypes.size(), 1);
  EXPECT_EQ(description->memory.size(), 3);  // 3 units of 32 intermediate features
  config["architectures"] = {"GPT2LMHeadModel"};
  WriteFileIn(folder, "config.json", config.dump());
  const auto unknown = DescribeModel(folder);
  ASSERT_TRUE(unknown.ok()) << unknown.status();
  EXPECT_EQ(unknown->architecture, "GPT2LMHeadModel");
  EXPECT_EQ(unknown->servable.code(), StatusCode::kUnimplemented);
}

TEST(HuggingFaceCheckpoint, MayBeMadeOfLinks) {
  // As the hub's cache has it.
  const std::string blobs = WriteHfModel({.config = SmallHfConfig("LlamaForCausalLM"), .num_shards = 2});
  const std::string cache = MakeTestFolder();
  const fs::path snapshot = fs::path(cache) / "models--someone--Small-Llama" / "snapshots" / "0123abcd";
  fs::create_directories(snapshot);
  for (const auto& entry : fs::directory_iterator(blobs)) {
    fs::create_symlink(entry.path(), snapshot / entry.path().filename());
  }
  const auto model = LoadModel(snapshot.string(), {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->name(), "Small-Llama");
  EXPECT_EQ((*model)->numerics_id(), (*LoadModel(blobs, {}))->numerics_id());
}

TEST(HuggingFaceCheckpoint, NamesMissingFiles) {
  ExpectError(MakeTestFolder(), StatusCode::kNotFound, "config.json is not there");
  const std::string folder = MakeTestFolder();
  WriteFileIn(folder, "config.json", SmallHfConfig("LlamaForCausalLM").dump());
  ExpectError(folder, StatusCode::kNotFound, "model.safetensors.index.json");
  const std::string sharded = WriteHfModel({.config = SmallHfConfig("LlamaForCausalLM"), .num_shards = 2});
  fs::remove(sharded + "/model-2-of-2.safetensors");
  ExpectError(sharded, StatusCode::kNotFound, "model-2-of-2.safetensors");
}

TEST(HuggingFaceCheckpoint, NamesWhatDoesNotFit) {
  const Json llama = SmallHfConfig("LlamaForCausalLM");
  const auto with = [&](const Json& changes) {
    const std::string folder = WriteHfModel({.config = llama});
    Json changed = llama;
    changed.update(changes);
    WriteFileIn(folder, "config.json", changed.dump());
    return folder;
  };
  ExpectError(with({{"vocab_size", 321}}), StatusCode::kInvalidArgument,
              "tensor 'model.embed_tokens.weight' has shape [320, 64]; the configuration asks for [321, 64]");
  ExpectError(with({{"num_hidden_layers", 3}}), StatusCode::kInvalidArgument,
              "'model.layers.2.input_layernorm.weight' is missing");
  ExpectError(with({{"num_hidden_layers", 1}}), StatusCode::kUnimplemented, "'model.layers.1.");
  ExpectError(with({{"head_dim", 32}}), StatusCode::kInvalidArgument, "q_proj.weight' has shape [64, 64]");
  ExpectError(with({{"tie_word_embeddings", true}}), StatusCode::kInvalidArgument, "'lm_head.weight' is not equal");
  ExpectError(with({{"eos_token_id", 320}}), StatusCode::kInvalidArgument, "end token 320");
  ExpectError(WithTensor(llama, "model.layers.0.self_attn.q_proj.bias", {64}, "BF16", std::string(128, '\0')),
              StatusCode::kUnimplemented, "q_proj.bias");
  ExpectError(WithTensor(llama, "model.norm.weight", {64}, "BF16", std::string(128, '\0')),
              StatusCode::kInvalidArgument, "'model.norm.weight' is also in");
  Json tied = llama;
  tied["tie_word_embeddings"] = true;
  const std::string unheaded = WriteHfModel({.config = tied});
  WriteFileIn(unheaded, "config.json", llama.dump());
  ExpectError(unheaded, StatusCode::kInvalidArgument, "'lm_head.weight' is missing");
}

TEST(HuggingFaceCheckpoint, LeavesOutWhatOldFilesHoldBeside) {
  const Json llama = SmallHfConfig("LlamaForCausalLM");
  EXPECT_TRUE(
      LoadModel(WithTensor(llama, "model.layers.0.self_attn.rotary_emb.inv_freq", {8}, "F32", std::string(32, '\0')),
                {})
          .ok());
  Json tied = llama;
  tied["tie_word_embeddings"] = true;
  const std::string folder = WriteHfModel({.config = tied});
  const auto file = SafetensorsFile::Open(folder + "/model.safetensors");
  const Safetensor* const embedding = (*file)->Find("model.embed_tokens.weight");
  const std::string bytes(reinterpret_cast<const char*>(embedding->data), static_cast<size_t>(embedding->bytes));
  const auto model = LoadModel(WithTensor(tied, "lm_head.weight", {320, 64}, "BF16", bytes), {});
  EXPECT_TRUE(model.ok()) << model.status();
}

TEST(HuggingFaceCheckpoint, RefusesDtypesItHasNoCodeFor) {
  Json tied = SmallHfConfig("LlamaForCausalLM");
  const std::string folder = WriteHfModel({.config = tied});
  std::string bytes = ReadIn(folder, "model.safetensors");
  // The same bytes, said to be integers of that size.
  for (size_t at; (at = bytes.find("\"BF16\"")) != std::string::npos;) bytes.replace(at, 6, "\"I16\" ");
  WriteFileIn(folder, "model.safetensors", bytes);
  ExpectError(folder, StatusCode::kUnimplemented, "has dtype I16; this build computes with F32, F16 and BF16");
}

TEST(HuggingFaceCheckpoint, ReadsTokenizerTemplateAndEndTokens) {
  Json config = SmallHfConfig("LlamaForCausalLM");
  const std::string folder = WriteHfModel({.config = config});
  Json vocab = {{"a", 0}, {"b", 1}, {"ab", 2}, {"Ġ", 3}};
  const Json tokenizer = {{"added_tokens", {{{"id", 4}, {"content", "<s>"}, {"special", true}}}},
                          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
                          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b"}}}}};
  WriteFileIn(folder, "tokenizer.json", tokenizer.dump());
  WriteFileIn(folder, "tokenizer_config.json", R"({"chat_template": "T", "eos_token": "<s>"})");
  WriteFileIn(folder, "generation_config.json", R"({"eos_token_id": [7], "top_p": 0.9})");
  auto model = LoadModel(folder, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->tokenizer().tokens.size(), 320);
  EXPECT_EQ((*model)->tokenizer().types[319], text::TokenType::kUnused);
  EXPECT_EQ((*model)->tokenizer().chat_template, "T");
  EXPECT_EQ((*model)->end_token_ids(), (std::vector<TokenId>{4, 7}));
  EXPECT_FLOAT_EQ(*(*model)->generation_defaults().top_p, 0.9f);
  WriteFileIn(folder, "chat_template.jinja", "J");
  EXPECT_EQ((*LoadModel(folder, {}))->tokenizer().chat_template, "J");

  // A tokenizer of another kind leaves token ids; one that is damaged is an error.
  WriteFileIn(folder, "tokenizer.json", R"({"model": {"type": "Unigram"}})");
  model = LoadModel(folder, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->tokenizer().tokens.empty());
  EXPECT_FALSE(DescribeModel(folder)->tokenizer_not_known.empty());
  WriteFileIn(folder, "tokenizer.json", tokenizer.dump().substr(0, 100));
  ExpectError(folder, StatusCode::kInvalidArgument, "tokenizer.json");
  vocab["zz"] = 320;
  Json larger = tokenizer;
  larger["model"]["vocab"] = vocab;
  WriteFileIn(folder, "tokenizer.json", larger.dump());
  ExpectError(folder, StatusCode::kInvalidArgument, "the tokenizer has 321 tokens, the embedding table 320 rows");
}

TEST(HuggingFaceCheckpoint, DamagedFilesNeitherCrashNorPassUnchecked) {
  const char* text = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 10) : 20261123;
  std::printf("seed %lu\n", static_cast<unsigned long>(seed));
  std::mt19937_64 random(seed);
  const std::string folder = WriteHfModel({.config = SmallHfConfig("Qwen2ForCausalLM"), .num_shards = 2});
  WriteFileIn(folder, "generation_config.json", R"({"eos_token_id": [1, 2], "temperature": 0.7, "top_k": 5})");
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors.index.json"}) {
    const std::string good = ReadIn(folder, name);
    int num_refused = 0;
    for (int i = 0; i < 150; ++i) {
      std::string bad = i % 2 == 0 ? good.substr(0, random() % good.size()) : good;
      for (size_t n = random() % 4; n > 0 && !bad.empty(); --n) {
        bad[random() % bad.size()] = static_cast<char>(32 + random() % 95);
      }
      // Numbers may become ones that ask for much memory, truthfully.
      WriteFileIn(folder, name, bad);
      num_refused += !DescribeModel(folder).ok();
    }
    EXPECT_GT(num_refused, 50) << name;
    WriteFileIn(folder, name, good);
  }
  EXPECT_TRUE(LoadModel(folder, {}).ok());
}

}  // namespace
}  // namespace outrider
