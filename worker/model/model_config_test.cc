#include "worker/model/model_config.h"

#include <cmath>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "text/tokenizer.h"
#include "worker/model/gguf_tokenizer.h"
#include "worker/model/model_description.h"
#include "worker/model/testing/gguf_writer.h"

namespace outrider {
namespace {

using kernels::DType;
using kernels::RopeScaling;

absl::StatusOr<ModelConfig> Read(const GgufWriter& writer) {
  const std::string bytes = writer.Finish();
  const auto file =
      GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "test.gguf");
  if (!file.ok()) return file.status();
  return ModelConfigFromGguf(**file);
}

// The least that a Llama needs.
GgufWriter Minimal(uint32_t num_heads = 4) {
  GgufWriter writer;
  writer.String("general.architecture", "llama");
  writer.Uint32("llama.block_count", 1);
  writer.Uint32("llama.context_length", 128);
  writer.Uint32("llama.embedding_length", 64);
  writer.Uint32("llama.feed_forward_length", 96);
  writer.Uint32("llama.attention.head_count", num_heads);
  writer.Tensor("token_embd.weight", {64, 16}, DType::kF32, std::vector<float>(64 * 16, 0.5f));
  return writer;
}

TEST(ModelConfig, ReadsDimensionsOfATinyModel) {
  const auto config = Read(TinyModel({.name = "nine heads", .tied = true}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "llama");
  EXPECT_EQ(config->name, "nine heads");
  EXPECT_EQ(config->num_heads, 9);
  EXPECT_EQ(config->num_kv_heads, 3);
  EXPECT_EQ(config->head_dim, 32);  // key_length, not hidden_size / num_heads
  EXPECT_EQ(config->vocab_size, 320);
  EXPECT_TRUE(config->tied_embedding);
  EXPECT_EQ(config->rope.layout, kernels::RopeLayout::kInterleaved);
  EXPECT_FALSE(Read(TinyModel({}))->tied_embedding);
}

TEST(ModelConfig, FillsInWhatLlamaFilesMayLeaveOut) {
  const auto config = Read(Minimal());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->rope.rotary_dim, 16);
  EXPECT_EQ(config->rope.base, 10000.0);
  EXPECT_EQ(config->rope.scaling, RopeScaling::kNone);
}

TEST(ModelConfig, ReadsRopeScaling) {
  using Rope = TinyModelOptions::Rope;
  EXPECT_EQ(Read(TinyModel({.rope = Rope::kLinear}))->rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(Read(TinyModel({.rope = Rope::kLinear}))->rope.factor, 4.0);
  const auto yarn = Read(TinyModel({.rope = Rope::kYarn}));
  EXPECT_EQ(yarn->rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(yarn->rope.original_context, 128);
  EXPECT_NEAR(yarn->rope.attention_factor, 0.1 * std::log(4.0) + 1.0, 1e-12);
  const auto factors = Read(TinyModel({.rope = Rope::kFactors}));
  EXPECT_EQ(factors->rope.scaling, RopeScaling::kFactors);
  EXPECT_EQ(factors->rope.factors.size(), 16);
}

TEST(ModelConfig, NamesTheUnknown) {
  GgufWriter architecture;
  architecture.String("general.architecture", "mamba");
  EXPECT_EQ(Read(architecture).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(absl::StrContains(Read(architecture).status().message(), "'mamba'"));

  GgufWriter experts = Minimal();
  experts.Uint32("llama.expert_count", 8);
  EXPECT_EQ(Read(experts).status().code(), absl::StatusCode::kUnimplemented);

  GgufWriter scaling = Minimal();
  scaling.String("llama.rope.scaling.type", "longrope");
  EXPECT_TRUE(absl::StrContains(Read(scaling).status().message(), "'longrope'"));
}

TEST(ModelConfig, RefusesWhatDoesNotFit) {
  EXPECT_EQ(Read(Minimal(0)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(Read(Minimal(7)).status().message(), "head_count"));
  GgufWriter kv = Minimal();
  kv.Uint32("llama.attention.head_count_kv", 3);
  EXPECT_EQ(Read(kv).status().code(), absl::StatusCode::kInvalidArgument);
  GgufWriter vocab = Minimal();
  vocab.Uint32("llama.vocab_size", 17);
  EXPECT_TRUE(absl::StrContains(Read(vocab).status().message(), "17"));
  GgufWriter rope = Minimal();
  rope.Uint32("llama.rope.dimension_count", 15);
  EXPECT_EQ(Read(rope).status().code(), absl::StatusCode::kInvalidArgument);
  GgufWriter base = Minimal();
  base.Float32("llama.rope.freq_base", -1.0f);
  EXPECT_EQ(Read(base).status().code(), absl::StatusCode::kInvalidArgument);
  GgufWriter nan = Minimal();
  nan.Float32("llama.attention.layer_norm_rms_epsilon", std::nanf(""));
  EXPECT_EQ(Read(nan).status().code(), absl::StatusCode::kInvalidArgument);
  GgufWriter freqs = Minimal();
  freqs.Tensor("rope_freqs.weight", {9}, DType::kF32, std::vector<float>(9, 1.0f));
  EXPECT_TRUE(absl::StrContains(Read(freqs).status().message(), "rope_freqs"));
}

TEST(GgufTokenizer, RefusesBytePairsWithoutMerges) {
  std::string bytes = TinyModel({}).Finish();
  bytes.replace(bytes.find("tokenizer.ggml.merges"), 21, "tokenizer.ggml.mergez");
  const auto file =
      GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "test.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::Status status = TokenizerFromGguf(**file).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "tokenizer.ggml.merges")) << status;
}

TEST(GgufTokenizer, ReadsTheDefinitionThatTheFileHolds) {
  const std::string bytes = TinyModel({}).Finish();
  const auto file =
      GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "test.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto definition = TokenizerFromGguf(**file);
  ASSERT_TRUE(definition.ok()) << definition.status();
  const text::TokenizerDefinition expected = TinyTokenizer(320);
  EXPECT_EQ(definition->tokens, expected.tokens);
  EXPECT_EQ(definition->types, expected.types);
  EXPECT_EQ(definition->merges, expected.merges);
  EXPECT_EQ(definition->eos_id, 2);
  EXPECT_EQ(definition->chat_template, expected.chat_template);
  EXPECT_EQ(text::Fingerprint(*definition), text::Fingerprint(expected));
  const auto tokenizer = text::MakeTokenizer(*definition);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode("the end and in"), false), "the end and in");
}

TEST(DescribeModel, SaysWhatAFileHolds) {
  const auto description = DescribeModel(WriteTinyModel({.name = "shown"}));
  ASSERT_TRUE(description.ok()) << description.status();
  EXPECT_EQ(description->format, "GGUF v3");
  EXPECT_EQ(description->name, "shown");
  EXPECT_TRUE(description->servable.ok()) << description->servable;
  EXPECT_EQ(description->tensors.size(), 3 + 2 * 9);
  // 3 units of 32 intermediate features: no more than 3 ranks.
  ASSERT_EQ(description->memory.size(), 3);
  EXPECT_EQ(description->memory[0].tensor_parallel_size, 1);
  EXPECT_LT(description->memory[2].weight_bytes_max, description->memory[0].weight_bytes_max);
  // 2 layers, K and V, 3 heads of 32, F16; a third on each of three ranks.
  EXPECT_EQ(description->memory[0].kv_bytes_per_token_max, 2 * 2 * 3 * 32 * 2);
  EXPECT_EQ(description->memory[2].kv_bytes_per_token_max, 2 * 2 * 1 * 32 * 2);
}

TEST(DescribeModel, DescribesWhatItCanNotServe) {
  GgufWriter writer;
  writer.String("general.architecture", "mamba");
  writer.RawTensor("odd", {256}, 12, std::string(144, '\0'));
  const auto description = DescribeModel(WriteTestFile("mamba.gguf", writer.Finish()));
  ASSERT_TRUE(description.ok()) << description.status();
  EXPECT_EQ(description->architecture, "mamba");
  EXPECT_EQ(description->tensors[0].dtype, "Q4_K");
  EXPECT_EQ(description->servable.code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace outrider
