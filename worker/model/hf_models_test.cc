// Models in Hugging Face's layout: checkpoints with what transformers computes from them, and models of random weights
// against the forward pass written as on paper.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "worker/model/open_checkpoint.h"
#include "worker/model/testing/hf_writer.h"
#include "worker/model/testing/model_group.h"
#include "worker/model/testing/test_device.h"

namespace outrider {
namespace {

using Json = nlohmann::json;
using kernels::DType;

constexpr const char* kCheckpoints[] = {"llama",          "llama-3.1-rope", "llama-uneven-heads",
                                        "mistral-window", "qwen2",          "qwen3"};

std::string FolderOf(const std::string& name) { return absl::StrCat("worker/model/testdata/hf/", name); }

std::unique_ptr<ModelGroup> MustCreate(const std::string& path, Numerics numerics, int world_size) {
  auto group = ModelGroup::Create(path, {.numerics = numerics, .world_size = world_size});
  EXPECT_TRUE(group.ok()) << group.status();
  return group.ok() ? *std::move(group) : nullptr;
}

SamplingParams Greedy(int max_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = max_tokens;
  return params;
}

GroupDriver::Generated Generate(ModelGroup& group, const std::vector<TokenId>& prompt,
                                const GroupDriver::GenerateOptions& options) {
  GroupDriver driver(group);
  auto generated = driver.Generate(prompt, options);
  EXPECT_TRUE(generated.ok()) << generated.status();
  return generated.ok() ? *std::move(generated) : GroupDriver::Generated();
}

// Logits of the last of `tokens`.
std::vector<float> LastLogits(ModelGroup& group, const std::vector<TokenId>& tokens, int chunk_size = 1 << 20) {
  return Generate(group, tokens, {.params = Greedy(1), .chunk_size = chunk_size, .keep_logits = true}).logits.at(0);
}

template <typename T>
double Norm(const std::vector<T>& x) {
  double sum = 0;
  for (const T value : x) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

// ||a - b|| / ||b||
double RelativeError(const std::vector<float>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  std::vector<double> difference(b.size());
  for (size_t i = 0; i < b.size(); ++i) difference[i] = a[i] - b[i];
  return Norm(difference) / Norm(b);
}

// Made by transformers 5.23, weights in bf16, arithmetic in fp32, eager attention (testdata/hf/README.md).
class Checkpoints : public testing::TestWithParam<std::tuple<const char*, int>> {
 protected:
  std::string name() const { return std::get<0>(GetParam()); }
  int world_size() const { return std::get<1>(GetParam()); }
  Json Cases() const {
    std::ifstream file(FolderOf(name()) + "/expected.json");
    EXPECT_TRUE(file.good());
    return Json::parse(file)["cases"];
  }
};

TEST_P(Checkpoints, ReferenceNumericsGiveTheExpectedLogits) {
  const auto group = MustCreate(FolderOf(name()), Numerics::kReference, world_size());
  ASSERT_NE(group, nullptr);
  double worst = 0;
  for (const Json& expected : Cases()) {
    const auto prompt = expected["prompt_token_ids"].get<std::vector<TokenId>>();
    const auto logits = expected["last_logits"].get<std::vector<double>>();
    for (const int chunk_size : {1 << 20, 3}) {
      worst = std::max(worst, RelativeError(LastLogits(*group, prompt, chunk_size), logits));
    }
    const auto norms = expected["logit_norms"].get<std::vector<double>>();
    for (size_t n = 1; n <= prompt.size(); ++n) {
      const double norm = Norm(LastLogits(*group, {prompt.begin(), prompt.begin() + static_cast<long>(n)}));
      worst = std::max(worst, std::abs(norm - norms[n - 1]) / norms[n - 1]);
    }
    const auto ids = expected["greedy_token_ids"].get<std::vector<TokenId>>();
    SamplingParams params = Greedy(static_cast<int>(ids.size()));
    EXPECT_EQ(Generate(*group, prompt, {.params = params}).output, ids);
    EXPECT_EQ(Generate(*group, prompt, {.params = params, .chunk_size = 5, .lookahead = 4, .draft_source = ids}).output,
              ids);
  }
  std::printf("worst relative error %.2e\n", worst);
  EXPECT_LT(worst, 1e-4);
}

TEST_P(Checkpoints, InvariantNumericsAgreeWhereNothingIsNearATie) {
  const bool on_gpu = TestDevice() == Device::kCuda;
  if (!TestDeviceHas(world_size())) GTEST_SKIP() << "too few GPUs";
  const auto created = ModelGroup::Create(FolderOf(name()), {.device = TestDevice(), .world_size = world_size()});
  if (on_gpu && absl::IsUnimplemented(created.status())) GTEST_SKIP() << created.status().message();
  ASSERT_TRUE(created.ok()) << created.status();
  ModelGroup* const group = created->get();
  // F16 keys and values: three digits; activations in bf16 on a GPU: two.
  const double relative_error_max = on_gpu ? 3e-2 : 3e-3;
  const double margin_min = on_gpu ? 0.2 : 0.02;
  for (const Json& expected : Cases()) {
    const auto prompt = expected["prompt_token_ids"].get<std::vector<TokenId>>();
    const auto ids = expected["greedy_token_ids"].get<std::vector<TokenId>>();
    const auto margins = expected["margins"].get<std::vector<double>>();
    const double error = RelativeError(LastLogits(*group, prompt), expected["last_logits"].get<std::vector<double>>());
    std::printf("relative error %.2e\n", error);
    EXPECT_LT(error, relative_error_max);
    const auto output = Generate(*group, prompt, {.params = Greedy(static_cast<int>(ids.size()))}).output;
    for (size_t i = 0; i < ids.size() && margins[i] > margin_min; ++i) ASSERT_EQ(output[i], ids[i]) << i;
    // The bits do not see chunks or drafts.
    for (const int chunk_size : {1, 7}) {
      EXPECT_EQ(LastLogits(*group, prompt, chunk_size), LastLogits(*group, prompt));
    }
    std::vector<TokenId> wrong_now_and_then = output;
    for (size_t i = 3; i < wrong_now_and_then.size(); i += 5) wrong_now_and_then[i] ^= 1;
    for (const auto& drafts : {output, wrong_now_and_then}) {
      EXPECT_EQ(Generate(*group, prompt,
                         {.params = Greedy(static_cast<int>(ids.size())), .lookahead = 5, .draft_source = drafts})
                    .output,
                output);
    }
  }
}

std::string TestName(const testing::TestParamInfo<std::tuple<const char*, int>>& info) {
  std::string name = absl::StrCat(std::get<0>(info.param), "_ranks_", std::get<1>(info.param));
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, Checkpoints, testing::Combine(testing::ValuesIn(kCheckpoints), testing::Values(1, 2)),
                         TestName);

TEST(HuggingFaceModels, EndTokensAreThoseOfTheGenerationConfig) {
  const auto group = MustCreate(FolderOf("qwen3"), Numerics::kInvariant, 1);
  EXPECT_EQ(group->model().end_token_ids(), (std::vector<TokenId>{2}));
  EXPECT_EQ(group->model().name(), "qwen3");
  EXPECT_TRUE(group->model().tokenizer().tokens.empty());
}

// The forward pass as on paper: every position anew, no cache, no blocks, no ranks, double all over. Shares with the
// code under test the reader of checkpoints, which has tests of its own.
class NaiveModel {
 public:
  explicit NaiveModel(const std::string& folder) {
    checkpoint_ = *OpenCheckpoint(folder);
    config_ = *checkpoint_->config();
  }

  // Of the last of `tokens`.
  std::vector<double> Logits(const std::vector<TokenId>& tokens) const {
    const int n = static_cast<int>(tokens.size()), d = config_.head_dim;
    const auto embedding = Matrix(TensorRole::kEmbedding, 0);
    std::vector<std::vector<double>> h(n);
    for (int t = 0; t < n; ++t) h[t] = embedding[tokens[t]];
    for (int layer = 0; layer < config_.num_layers; ++layer) {
      std::vector<std::vector<double>> q(n), k(n), v(n);
      for (int t = 0; t < n; ++t) {
        const auto x = Normed(h[t], TensorRole::kAttentionNorm, layer);
        q[t] = Linear(x, TensorRole::kQ, TensorRole::kQBias, config_.attention_bias, layer);
        k[t] = Linear(x, TensorRole::kK, TensorRole::kKBias, config_.attention_bias, layer);
        v[t] = Linear(x, TensorRole::kV, TensorRole::kVBias, config_.attention_bias, layer);
        q[t] = Turned(q[t], t, TensorRole::kQNorm, layer);
        k[t] = Turned(k[t], t, TensorRole::kKNorm, layer);
      }
      for (int t = 0; t < n; ++t) {
        std::vector<double> mixed(q[t].size(), 0.0);
        const int window = config_.window(layer);
        const int first = window > 0 ? std::max(0, t + 1 - window) : 0;
        for (int head = 0; head < config_.num_heads; ++head) {
          const int kv = head / (config_.num_heads / config_.num_kv_heads);
          std::vector<double> weight(t + 1);
          double sum = 0;
          for (int s = first; s <= t; ++s) {
            double score = 0;
            for (int i = 0; i < d; ++i) score += q[t][head * d + i] * k[s][kv * d + i];
            sum += weight[s] = std::exp(score / std::sqrt(static_cast<double>(d)));
          }
          for (int s = first; s <= t; ++s) {
            for (int i = 0; i < d; ++i) mixed[head * d + i] += weight[s] / sum * v[s][kv * d + i];
          }
        }
        Add(h[t], Linear(mixed, TensorRole::kAttentionOutput, TensorRole::kAttentionOutputBias,
                         config_.attention_output_bias, layer));
        const auto x = Normed(h[t], TensorRole::kFeedForwardNorm, layer);
        const bool biases = config_.feed_forward_bias;
        auto gate = Linear(x, TensorRole::kGate, TensorRole::kGateBias, biases, layer);
        const auto up = Linear(x, TensorRole::kUp, TensorRole::kUpBias, biases, layer);
        for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
        Add(h[t], Linear(gate, TensorRole::kDown, TensorRole::kDownBias, biases, layer));
      }
    }
    return Linear(Normed(h[n - 1], TensorRole::kOutputNorm, 0), TensorRole::kHead, TensorRole::kHead, false, 0);
  }

 private:
  std::vector<std::vector<double>> Matrix(TensorRole role, int layer) const {
    const CheckpointTensor& tensor = **checkpoint_->FindFor(config_, role, layer);
    const int64_t columns = tensor.shape.back();
    std::vector<std::vector<double>> rows(tensor.num_elements() / columns);
    std::vector<float> row(columns);
    for (size_t r = 0; r < rows.size(); ++r) {
      EXPECT_EQ(kernels::DequantizeRow(*tensor.dtype, tensor.data + r * kernels::RowBytes(*tensor.dtype, columns),
                                       columns, row.data()),
                kernels::KernelError::kOk);
      rows[r].assign(row.begin(), row.end());
    }
    return rows;
  }
  static void Add(std::vector<double>& x, const std::vector<double>& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  std::vector<double> Linear(const std::vector<double>& x, TensorRole role, TensorRole bias, bool has_bias,
                             int layer) const {
    const auto w = Matrix(role, layer);
    std::vector<double> y(w.size(), 0.0);
    for (size_t i = 0; i < w.size(); ++i) {
      for (size_t j = 0; j < x.size(); ++j) y[i] += w[i][j] * x[j];
    }
    if (has_bias) Add(y, Matrix(bias, layer)[0]);
    return y;
  }
  std::vector<double> Normed(const std::vector<double>& x, TensorRole role, int layer) const {
    const auto weight = Matrix(role, layer)[0];
    const double factor = 1 / std::sqrt(Norm(x) * Norm(x) / static_cast<double>(x.size()) + config_.rms_norm_epsilon);
    std::vector<double> y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * factor * weight[i];
    return y;
  }
  // Heads normed where the model does it, then elements (p, p + head_dim / 2) turned.
  std::vector<double> Turned(const std::vector<double>& heads, int position, TensorRole norm, int layer) const {
    const int d = config_.head_dim;
    std::vector<double> out;
    for (size_t at = 0; at < heads.size(); at += d) {
      std::vector<double> x(heads.begin() + at, heads.begin() + at + d);
      if (config_.qk_norm) x = Normed(x, norm, layer);
      for (int p = 0; p < d / 2; ++p) {
        double angle = position * std::pow(config_.rope.base, -2.0 * p / d);
        if (config_.rope.scaling == kernels::RopeScaling::kLinear) angle /= config_.rope.factor;
        const double a = x[p], b = x[p + d / 2];
        x[p] = a * std::cos(angle) - b * std::sin(angle);
        x[p + d / 2] = a * std::sin(angle) + b * std::cos(angle);
      }
      out.insert(out.end(), x.begin(), x.end());
    }
    return out;
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig config_;
};

struct Variant {
  const char* name;
  const char* architecture;
  Json changes;
  DType dtype = DType::kBF16;
  int num_shards = 1;
};

class Variants : public testing::TestWithParam<Variant> {};

TEST_P(Variants, ComputeWhatThePaperSays) {
  Json config = SmallHfConfig(GetParam().architecture);
  if (!GetParam().changes.is_null()) config.update(GetParam().changes);
  const std::string folder =
      WriteHfModel({.config = config, .dtype = GetParam().dtype, .seed = 5, .num_shards = GetParam().num_shards});
  const NaiveModel naive(folder);
  std::mt19937_64 random(11);
  std::vector<TokenId> tokens(37);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 320);
  const std::vector<double> expected = naive.Logits(tokens);
  for (const int world_size : {1, 2, 3}) {
    for (const Numerics numerics : {Numerics::kReference, Numerics::kInvariant}) {
      const auto group = MustCreate(folder, numerics, world_size);
      ASSERT_NE(group, nullptr);
      const double tolerance = numerics == Numerics::kReference ? 1e-5 : 3e-3;
      EXPECT_LT(RelativeError(LastLogits(*group, tokens), expected), tolerance) << world_size << " ranks";
      EXPECT_LT(RelativeError(LastLogits(*group, tokens, 10), expected), tolerance) << world_size << " ranks";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Variants,
    testing::Values(
        Variant{"llama_untied_f32", "LlamaForCausalLM", {}, DType::kF32},
        Variant{"llama_tied_f16", "LlamaForCausalLM", {{"tie_word_embeddings", true}}, DType::kF16},
        Variant{"llama_in_shards", "LlamaForCausalLM", {}, DType::kBF16, 5},
        Variant{"llama_all_biases", "LlamaForCausalLM", {{"attention_bias", true}, {"mlp_bias", true}}, DType::kF32},
        Variant{"llama_linear_rope", "LlamaForCausalLM", {{"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}}},
        Variant{"llama_derived_head_dim", "LlamaForCausalLM", {{"head_dim", nullptr}}},
        Variant{"mistral_window", "MistralForCausalLM", {{"sliding_window", 5}}, DType::kF32},
        Variant{"mistral_wide_heads", "MistralForCausalLM", {{"head_dim", 48}, {"sliding_window", 16}}},
        Variant{"qwen2_some_layers_windowed",
                "Qwen2ForCausalLM",
                {{"use_sliding_window", true}, {"sliding_window", 7}, {"max_window_layers", 1}}},
        Variant{"qwen2_tied", "Qwen2ForCausalLM", {{"tie_word_embeddings", true}}, DType::kF16},
        Variant{"qwen3_biased_untied", "Qwen3ForCausalLM", {{"attention_bias", true}, {"head_dim", 32}}},
        Variant{"qwen3_windowed_by_type",
                "Qwen3ForCausalLM",
                {{"use_sliding_window", true},
                 {"sliding_window", 3},
                 {"layer_types", {"sliding_attention", "full_attention"}}}}),
    [](const auto& info) { return std::string(info.param.name); });

// A window longer than what attention computes at once, across its ranges of 256 positions.
TEST(HuggingFaceModels, WindowsHoldAcrossRangesChunksAndDrafts) {
  Json config = SmallHfConfig("MistralForCausalLM");
  config.update({{"sliding_window", 270}, {"num_hidden_layers", 1}, {"max_position_embeddings", 1024}});
  const std::string folder = WriteHfModel({.config = config, .seed = 9});
  std::mt19937_64 random(3);
  std::vector<TokenId> tokens(560);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 320);
  const std::vector<double> expected = NaiveModel(folder).Logits(tokens);
  const auto reference = MustCreate(folder, Numerics::kReference, 1);
  EXPECT_LT(RelativeError(LastLogits(*reference, tokens, 200), expected), 1e-5);
  const auto group = MustCreate(folder, Numerics::kInvariant, 1);
  const std::vector<float> logits = LastLogits(*group, tokens, 250);
  EXPECT_LT(RelativeError(logits, expected), 3e-3);
  for (const int chunk_size : {256, 61}) EXPECT_EQ(LastLogits(*group, tokens, chunk_size), logits) << chunk_size;
  const auto plain = Generate(*group, tokens, {.params = Greedy(12), .chunk_size = 256}).output;
  EXPECT_EQ(
      Generate(*group, tokens, {.params = Greedy(12), .chunk_size = 256, .lookahead = 6, .draft_source = plain}).output,
      plain);
}

TEST(HuggingFaceModels, IdsTellFoldersApart) {
  const Json config = SmallHfConfig("LlamaForCausalLM");
  const auto id = [](const std::string& folder) {
    auto model = LoadModel(folder, {});
    EXPECT_TRUE(model.ok()) << model.status();
    return (*model)->numerics_id();
  };
  const std::string folder = WriteHfModel({.config = config});
  EXPECT_EQ(id(folder), id(WriteHfModel({.config = config})));
  EXPECT_NE(id(folder), id(WriteHfModel({.config = config, .seed = 2})));
  Json other = config;
  other["rope_theta"] = 20000.0;
  EXPECT_NE(id(folder), id(WriteHfModel({.config = other})));
}

}  // namespace
}  // namespace outrider
