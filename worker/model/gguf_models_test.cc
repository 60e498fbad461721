// GGUF files of Llama, Qwen 2 and Qwen 3 converted from Hugging Face folders: the folder's logits, bit by bit where the
// numbers are the same, and what transformers computed (testdata/hf/README.md).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "worker/model/gguf_checkpoint.h"
#include "worker/model/testing/gguf_conversion.h"
#include "worker/model/testing/hf_writer.h"
#include "worker/model/testing/model_group.h"

namespace outrider {
namespace {

using Json = nlohmann::json;
using kernels::DType;
using Options = GgufConversionOptions;

std::string FolderOf(const std::string& name) { return absl::StrCat("worker/model/testdata/hf/", name); }

std::string Convert(const std::string& folder, const Options& options) {
  return WriteTestFile("converted.gguf", GgufFromHuggingFace(folder, options).Finish());
}

std::unique_ptr<ModelGroup> MustCreate(const std::string& path, Numerics numerics, int world_size = 1) {
  auto group = ModelGroup::Create(path, {.numerics = numerics, .world_size = world_size});
  EXPECT_TRUE(group.ok()) << group.status();
  return group.ok() ? *std::move(group) : nullptr;
}

SamplingParams Greedy(size_t max_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = static_cast<int>(max_tokens);
  return params;
}

GroupDriver::Generated Generate(ModelGroup& group, const std::vector<TokenId>& prompt,
                                const GroupDriver::GenerateOptions& options) {
  GroupDriver driver(group);
  auto generated = driver.Generate(prompt, options);
  EXPECT_TRUE(generated.ok()) << generated.status();
  return generated.ok() ? *std::move(generated) : GroupDriver::Generated();
}

// Of the last of `tokens`.
std::vector<float> LastLogits(ModelGroup& group, const std::vector<TokenId>& tokens) {
  return Generate(group, tokens, {.params = Greedy(1), .keep_logits = true}).logits.at(0);
}

// ||a - b|| / ||b||
double RelativeError(const std::vector<float>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / size);
}

Json ExpectedOf(const std::string& name) {
  std::ifstream file(FolderOf(name) + "/expected.json");
  EXPECT_TRUE(file.good());
  return Json::parse(file)["cases"];
}

// The worst over the stored prompts.
double WorstError(ModelGroup& group, const std::string& name) {
  double worst = 0;
  for (const Json& expected : ExpectedOf(name)) {
    worst = std::max(worst, RelativeError(LastLogits(group, expected["prompt_token_ids"].get<std::vector<TokenId>>()),
                                          expected["last_logits"].get<std::vector<double>>()));
  }
  return worst;
}

class Conversions : public testing::TestWithParam<const char*> {};

TEST_P(Conversions, ReferenceNumericsGiveTheExpectedLogits) {
  const std::string name = GetParam();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const std::string path = Convert(FolderOf(name), {.matrices = dtype});
    for (const int world_size : {1, 2}) {
      const auto group = MustCreate(path, Numerics::kReference, world_size);
      ASSERT_NE(group, nullptr);
      const double worst = WorstError(*group, name);
      std::printf("%s, %s, %d ranks: worst relative error %.2e\n", name.c_str(), kernels::DTypeName(dtype), world_size,
                  worst);
      EXPECT_LT(worst, 1e-4);
      for (const Json& expected : ExpectedOf(name)) {
        const auto prompt = expected["prompt_token_ids"].get<std::vector<TokenId>>();
        const auto ids = expected["greedy_token_ids"].get<std::vector<TokenId>>();
        EXPECT_EQ(Generate(*group, prompt, {.params = Greedy(ids.size())}).output, ids);
        EXPECT_EQ(Generate(*group, prompt,
                           {.params = Greedy(ids.size()), .chunk_size = 5, .lookahead = 4, .draft_source = ids})
                      .output,
                  ids);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Conversions, testing::Values("llama", "llama-uneven-heads", "qwen2", "qwen3"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

struct Source {
  const char* name;
  const char* folder;  // of testdata, or null: random weights by `config`
  const char* architecture;
  Json changes;
};

class Qwen : public testing::TestWithParam<Source> {
 protected:
  std::string Folder() const {
    if (GetParam().folder != nullptr) return FolderOf(GetParam().folder);
    Json config = SmallHfConfig(GetParam().architecture);
    config.update(GetParam().changes);
    return WriteHfModel({.config = config, .seed = 7});
  }
};

TEST_P(Qwen, FilesHaveTheBitsOfTheFolder) {
  std::mt19937_64 random(17);
  std::vector<TokenId> tokens(41);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 320);
  const std::string source = Folder();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
    SCOPED_TRACE(kernels::DTypeName(dtype));
    const std::string folder = HuggingFaceFolderIn(source, dtype);
    const std::string file = Convert(kernels::IsQuantized(dtype) ? source : folder, {.matrices = dtype});
    for (const Numerics numerics : {Numerics::kReference, Numerics::kInvariant}) {
      // In invariant numerics quantised weights have kernels of their own.
      if (kernels::IsQuantized(dtype) && numerics == Numerics::kInvariant) continue;
      for (const int world_size : {1, 2}) {
        const auto of_folder = MustCreate(folder, numerics, world_size);
        const auto of_file = MustCreate(file, numerics, world_size);
        ASSERT_TRUE(of_folder != nullptr && of_file != nullptr);
        EXPECT_EQ(LastLogits(*of_file, tokens), LastLogits(*of_folder, tokens))
            << NumericsName(numerics) << ", " << world_size << " ranks";
        EXPECT_EQ(Generate(*of_file, tokens, {.params = Greedy(12)}).output,
                  Generate(*of_folder, tokens, {.params = Greedy(12)}).output);
      }
    }
  }
}

// Quantised rows in invariant numerics: the same model to the digits that Q8_0 keeps, drafts or not.
TEST_P(Qwen, QuantisedFilesAreNearTheirFolder) {
  const std::string folder = Folder();
  const std::vector<TokenId> tokens = {3, 50, 77, 200, 9, 9, 310, 42, 8};
  const auto exact = MustCreate(folder, Numerics::kReference);
  const auto quantised = MustCreate(Convert(folder, {.matrices = DType::kQ8_0}), Numerics::kInvariant);
  ASSERT_TRUE(exact != nullptr && quantised != nullptr);
  const std::vector<float> expected = LastLogits(*exact, tokens);
  const double error = RelativeError(LastLogits(*quantised, tokens), {expected.begin(), expected.end()});
  std::printf("Q8_0: relative error %.2e\n", error);
  EXPECT_LT(error, 0.05);
  const auto plain = Generate(*quantised, tokens, {.params = Greedy(20)}).output;
  EXPECT_EQ(Generate(*quantised, tokens, {.params = Greedy(20), .lookahead = 4, .draft_source = plain}).output, plain);
}

INSTANTIATE_TEST_SUITE_P(All, Qwen,
                         testing::Values(Source{"qwen2", "qwen2", nullptr, {}}, Source{"qwen3", "qwen3", nullptr, {}},
                                         Source{"qwen2_untied", nullptr, "Qwen2ForCausalLM", {{"rope_theta", 1e6}}},
                                         Source{"qwen3_untied_wide_heads",
                                                nullptr,
                                                "Qwen3ForCausalLM",
                                                {{"head_dim", 32}, {"rope_theta", 1e6}, {"rms_norm_eps", 1e-6}}},
                                         Source{
                                             "qwen3_biased", nullptr, "Qwen3ForCausalLM", {{"attention_bias", true}}}),
                         [](const auto& info) { return std::string(info.param.name); });

// What a reader or converter may get wrong without an error: each is far outside the bound of the tests above.
TEST(GgufFaults, WrongNumbersAreFound) {
  const auto zeroes = [](const char* part) {
    return [part](const std::string& name, const std::vector<int64_t>&, std::vector<float>& values) {
      if (absl::StrContains(name, part)) std::fill(values.begin(), values.end(), 0.0f);
      return true;
    };
  };
  const auto ones = [](const char* part) {
    return [part](const std::string& name, const std::vector<int64_t>&, std::vector<float>& values) {
      if (absl::StrContains(name, part)) std::fill(values.begin(), values.end(), 1.0f);
      return true;
    };
  };
  const auto error = [](const char* name, const Options& options) {
    const auto group = MustCreate(Convert(FolderOf(name), options), Numerics::kReference);
    const double worst = group == nullptr ? 0 : WorstError(*group, name);
    std::printf("%s: relative error %.2e\n", name, worst);
    return worst;
  };
  for (const char* name : {"qwen2", "qwen3"}) {
    EXPECT_LT(error(name, {}), 1e-4);
    EXPECT_GT(error(name, {.permute_qwen = true}), 1e-3);
    EXPECT_GT(error(name, {.rope_base = 20000}), 1e-3);
  }
  for (const char* bias : {"attn_q.bias", "attn_k.bias", "attn_v.bias"}) {
    EXPECT_GT(error("qwen2", {.edit = zeroes(bias)}), 1e-3) << bias;
  }
  for (const char* norm : {"attn_q_norm", "attn_k_norm"}) {
    EXPECT_GT(error("qwen3", {.edit = ones(norm)}), 1e-3) << norm;
  }
}

absl::Status LoadStatus(const std::string& path) { return LoadModel(path, {}).status(); }

void ExpectError(const absl::Status& status, absl::StatusCode code, absl::string_view part) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), part)) << "wanted: " << part << "\ngot: " << status;
}

TEST(GgufFaults, MissingTensorsAreNamed) {
  const auto without = [](const char* folder, const std::string& left_out) {
    return LoadStatus(Convert(FolderOf(folder), {.edit = [&](const std::string& name, const std::vector<int64_t>&,
                                                             std::vector<float>&) { return name != left_out; }}));
  };
  const auto code = absl::StatusCode::kInvalidArgument;
  for (const char* name : {"blk.0.attn_q.bias", "blk.1.attn_k.bias", "blk.1.attn_v.bias", "blk.0.attn_q.weight",
                           "blk.1.ffn_gate.weight", "output_norm.weight", "token_embd.weight"}) {
    ExpectError(without("qwen2", name), code, absl::StrCat("tensor '", name, "' is missing"));
  }
  for (const char* name : {"blk.0.attn_q_norm.weight", "blk.2.attn_k_norm.weight", "blk.1.attn_norm.weight"}) {
    ExpectError(without("qwen3", name), code, absl::StrCat("tensor '", name, "' is missing"));
  }
}

TEST(GgufFaults, MissingKeysAreNamed) {
  for (const std::string architecture : {"qwen2", "qwen3"}) {
    for (const char* suffix : {"block_count", "context_length", "embedding_length", "feed_forward_length",
                               "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
      const std::string key = absl::StrCat(architecture, ".", suffix);
      ExpectError(LoadStatus(Convert(FolderOf(architecture), {.keys_left_out = {key}})),
                  absl::StatusCode::kInvalidArgument, absl::StrCat("metadata key '", key, "' is missing; it is"));
    }
  }
  ExpectError(LoadStatus(Convert(FolderOf("qwen2"), {.keys_left_out = {"general.architecture"}})),
              absl::StatusCode::kInvalidArgument, "'general.architecture' is missing");
  // Heads as wide as hidden_size / heads would make them: the tensor and both shapes are named.
  ExpectError(LoadStatus(Convert(FolderOf("qwen3"),
                                 {.keys_left_out = {"qwen3.attention.key_length", "qwen3.attention.value_length"}})),
              absl::StatusCode::kInvalidArgument,
              "'blk.0.attn_q.weight' has shape [64, 128]; the configuration asks for [64, 64]");
}

TEST(GgufFaults, WrongKeysAndTensorsAreNamed) {
  const auto with = [](const char* name, const std::set<std::string>& left_out, auto change) {
    GgufWriter writer = GgufFromHuggingFace(FolderOf(name), {.keys_left_out = left_out});
    change(writer);
    return LoadStatus(WriteTestFile("changed.gguf", writer.Finish()));
  };
  const auto wrong = absl::StatusCode::kInvalidArgument, unknown = absl::StatusCode::kUnimplemented;
  using W = GgufWriter;
  for (const char* moe : {"qwen2moe", "qwen3moe"}) {
    ExpectError(with("qwen2", {"general.architecture"}, [&](W& w) { w.String("general.architecture", moe); }), unknown,
                absl::StrCat("'general.architecture' is '", moe,
                             "', a mixture of experts; this build serves llama, "
                             "qwen2 (also Qwen 2.5) and qwen3, all dense"));
  }
  for (const char* other : {"qwen2vl", "qwen35", "gemma3", "Qwen2"}) {
    ExpectError(with("qwen2", {"general.architecture"}, [&](W& w) { w.String("general.architecture", other); }),
                unknown, absl::StrCat("is '", other, "', unknown here"));
  }
  ExpectError(with("qwen3", {}, [](W& w) { w.Uint32("qwen3.expert_count", 8); }), unknown, "'qwen3.expert_count' is 8");
  ExpectError(with("qwen2", {"qwen2.block_count"}, [](W& w) { w.String("qwen2.block_count", "2"); }), wrong,
              "'qwen2.block_count' is string, not an integer");
  ExpectError(with("qwen2", {"qwen2.rope.freq_base"}, [](W& w) { w.Float32("qwen2.rope.freq_base", 0); }), wrong,
              "'qwen2.rope.freq_base' is 0, outside");
  ExpectError(
      with("qwen3", {"qwen3.attention.head_count_kv"}, [](W& w) { w.Uint32("qwen3.attention.head_count_kv", 3); }),
      wrong, "'qwen3.attention.head_count' is 4, no multiple of");
  ExpectError(
      with("qwen3", {"qwen3.attention.value_length"}, [](W& w) { w.Uint32("qwen3.attention.value_length", 16); }),
      unknown, "'qwen3.attention.value_length' is 16");
  ExpectError(with("qwen2", {}, [](W& w) { w.Uint32("qwen2.rope.dimension_count", 8); }), unknown,
              "'qwen2.rope.dimension_count' is 8");
  ExpectError(with("qwen2", {}, [](W& w) { w.String("qwen2.rope.scaling.type", "longrope"); }), unknown, "'longrope'");
  ExpectError(with("qwen2", {}, [](W& w) { w.Uint32("qwen2.attention.sliding_window", 128); }), unknown,
              "'qwen2.attention.sliding_window' is 128");
  ExpectError(with("qwen3", {}, [](W& w) { w.Bool("qwen3.attention.causal", false); }), unknown,
              "'qwen3.attention.causal' is false");
  ExpectError(with("qwen3", {}, [](W& w) { w.Uint32("split.count", 3); }), unknown, "llama-gguf-split --merge");
  const auto zero = [](int64_t size) { return std::vector<float>(static_cast<size_t>(size), 0.5f); };
  ExpectError(with("qwen2", {}, [&](W& w) { w.Tensor("rope_freqs.weight", {8}, DType::kF32, zero(8)); }), unknown,
              "'rope_freqs.weight'");
  for (const char* name : {"output.bias", "blk.0.attn_q_norm.weight", "cls.output.weight"}) {
    ExpectError(with("qwen2", {}, [&](W& w) { w.Tensor(name, {16}, DType::kF32, zero(16)); }), unknown,
                absl::StrCat("'", name, "'"));
  }
  // A bias in one layer only.
  ExpectError(with("qwen3", {}, [&](W& w) { w.Tensor("blk.0.attn_q.bias", {128}, DType::kF32, zero(128)); }), wrong,
              "'blk.0.attn_k.bias' is missing");
  // Windows that reach as far as the context say nothing.
  EXPECT_TRUE(with("qwen2", {}, [](W& w) { w.Uint32("qwen2.attention.sliding_window", 32768); }).ok());
}

uint64_t Seed() {
  const char* const given = std::getenv("OUTRIDER_TEST_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : 23;
}

// A damaged header gives a status, or a model whose every tensor has the shape that its configuration asks for.
TEST(GgufFaults, FlippedBitsNeverCrash) {
  SCOPED_TRACE(absl::StrCat("OUTRIDER_TEST_SEED=", Seed()));
  std::mt19937_64 random(Seed());
  const text::TokenizerDefinition tokenizer = TinyTokenizer(320);
  int num_refused = 0, num_whole = 0;
  for (const char* name : {"qwen2", "qwen3"}) {
    std::vector<size_t> fields;
    const std::string good = GgufFromHuggingFace(FolderOf(name), {.tokenizer = &tokenizer}).Finish(&fields);
    for (int round = 0; round < 1500; ++round) {
      std::string bytes = good;
      for (uint64_t flips = 1 + random() % 3; flips > 0; --flips) {
        const size_t at = std::min(fields[random() % fields.size()] + random() % 9, fields.back());
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << (random() % 8)));
      }
      auto file = GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()),
                                  "damaged.gguf");
      if (!file.ok()) continue;
      const auto checkpoint = MakeGgufCheckpoint(*std::move(file));
      bool whole = checkpoint->config().ok();
      if (whole) {
        for (const TensorPlace& place : TensorsOf(*checkpoint->config())) {
          const auto found = checkpoint->FindFor(*checkpoint->config(), place.role, place.layer);
          whole = whole && found.ok();
          if (!found.ok()) continue;
          EXPECT_EQ((*found)->shape, ShapeOf(place.role, *checkpoint->config()));
        }
      }
      ++(whole ? num_whole : num_refused);
    }
  }
  std::printf("%d models refused, %d whole\n", num_refused, num_whole);
  EXPECT_GT(num_refused, 10);
  EXPECT_GT(num_whole, 10);
}

TEST(GgufConfig, ReadsYarnOfQwen) {
  GgufWriter writer = GgufFromHuggingFace(FolderOf("qwen2"), {});
  writer.String("qwen2.rope.scaling.type", "yarn");
  writer.Float32("qwen2.rope.scaling.factor", 4.0f);
  writer.Uint32("qwen2.rope.scaling.original_context_length", 64);
  const auto file = GgufFile::Open(WriteTestFile("yarn.gguf", writer.Finish()));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto config = ModelConfigFromGguf(**file);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.scaling, kernels::RopeScaling::kYarn);
  EXPECT_EQ(config->rope.layout, kernels::RopeLayout::kHalves);
  EXPECT_EQ(config->rope.original_context, 64);
  EXPECT_EQ(config->architecture, "qwen2");
  EXPECT_TRUE(config->attention_bias);
  EXPECT_TRUE(config->tied_embedding);
}

}  // namespace
}  // namespace outrider
