#include "worker/model/model_runner.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/common/dtype.h"
#include "worker/model/testing/gguf_writer.h"
#include "worker/model/testing/model_group.h"

namespace outrider {
namespace {

using kernels::DType;
using Rope = TinyModelOptions::Rope;
using Logits = std::vector<std::vector<float>>;

std::unique_ptr<ModelGroup> MustCreate(const std::string& path, const ModelGroupOptions& options = {}) {
  absl::StatusOr<std::unique_ptr<ModelGroup>> group = ModelGroup::Create(path, options);
  EXPECT_TRUE(group.ok()) << group.status();
  return group.ok() ? *std::move(group) : nullptr;
}

std::vector<TokenId> RandomTokens(int count, int vocab_size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % vocab_size);
  return tokens;
}

SamplingParams Greedy(int max_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = max_tokens;
  return params;
}

SamplingParams Sampled(int max_tokens, uint64_t seed = 7) {
  SamplingParams params;
  params.temperature = 0.8f;
  params.top_p = 0.9f;
  params.max_tokens = max_tokens;
  params.seed = seed;
  return params;
}

GroupDriver::Generated MustGenerate(ModelGroup& group, const std::vector<TokenId>& prompt,
                                    const GroupDriver::GenerateOptions& options) {
  GroupDriver driver(group);
  absl::StatusOr<GroupDriver::Generated> generated = driver.Generate(prompt, options);
  EXPECT_TRUE(generated.ok()) << generated.status();
  return generated.ok() ? *std::move(generated) : GroupDriver::Generated();
}

// The forward pass as one would write it on paper: every position anew, no cache, no blocks, no ranks, double all over.
// Shares with the code under test the GGUF reader and the dequantisation, which have tests of their own.
class NaiveLlama {
 public:
  explicit NaiveLlama(const std::string& path) {
    file_ = *GgufFile::Open(path);
    num_layers_ = Int("llama.block_count");
    hidden_ = Int("llama.embedding_length");
    heads_ = Int("llama.attention.head_count");
    kv_heads_ = Int("llama.attention.head_count_kv");
    head_dim_ = Int("llama.attention.key_length");
    epsilon_ = *file_->GetFloat("llama.attention.layer_norm_rms_epsilon");
  }

  // Logits of every position of `tokens`.
  std::vector<std::vector<double>> Forward(const std::vector<TokenId>& tokens) const {
    const int n = static_cast<int>(tokens.size());
    const std::vector<std::vector<double>> embedding = Matrix("token_embd.weight");
    std::vector<std::vector<double>> h(n);
    for (int t = 0; t < n; ++t) h[t] = embedding[tokens[t]];
    for (int layer = 0; layer < num_layers_; ++layer) {
      const std::string blk = absl::StrCat("blk.", layer, ".");
      const auto wq = Matrix(blk + "attn_q.weight"), wk = Matrix(blk + "attn_k.weight");
      const auto wv = Matrix(blk + "attn_v.weight"), wo = Matrix(blk + "attn_output.weight");
      std::vector<std::vector<double>> q(n), k(n), v(n);
      for (int t = 0; t < n; ++t) {
        const std::vector<double> x = Norm(h[t], blk + "attn_norm.weight");
        q[t] = AddBias(Times(wq, x), blk + "attn_q.bias");
        k[t] = AddBias(Times(wk, x), blk + "attn_k.bias");
        v[t] = AddBias(Times(wv, x), blk + "attn_v.bias");
        Rotate(q[t], t);
        Rotate(k[t], t);
      }
      for (int t = 0; t < n; ++t) {
        std::vector<double> mixed(heads_ * head_dim_, 0.0);
        for (int head = 0; head < heads_; ++head) {
          const int kv = head / (heads_ / kv_heads_);
          std::vector<double> weight(t + 1);
          double sum = 0;
          for (int s = 0; s <= t; ++s) {
            double score = 0;
            for (int d = 0; d < head_dim_; ++d) score += q[t][head * head_dim_ + d] * k[s][kv * head_dim_ + d];
            weight[s] = std::exp(score / std::sqrt(static_cast<double>(head_dim_)));
            sum += weight[s];
          }
          for (int s = 0; s <= t; ++s) {
            for (int d = 0; d < head_dim_; ++d) {
              mixed[head * head_dim_ + d] += weight[s] / sum * v[s][kv * head_dim_ + d];
            }
          }
        }
        Add(h[t], Times(wo, mixed));
      }
      const auto gate = Matrix(blk + "ffn_gate.weight"), up = Matrix(blk + "ffn_up.weight");
      const auto down = Matrix(blk + "ffn_down.weight");
      for (int t = 0; t < n; ++t) {
        const std::vector<double> x = Norm(h[t], blk + "ffn_norm.weight");
        std::vector<double> g = Times(gate, x);
        const std::vector<double> u = Times(up, x);
        for (size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
        Add(h[t], Times(down, g));
      }
    }
    const auto head = file_->FindTensor("output.weight") ? Matrix("output.weight") : embedding;
    std::vector<std::vector<double>> logits(n);
    for (int t = 0; t < n; ++t) logits[t] = Times(head, Norm(h[t], "output_norm.weight"));
    return logits;
  }

 private:
  int Int(const char* key) const { return static_cast<int>(*file_->GetInt(key)); }

  std::vector<std::vector<double>> Matrix(const std::string& name) const {
    const GgufTensor* tensor = file_->FindTensor(name);
    DType dtype = DType::kF32;
    EXPECT_TRUE(kernels::DTypeFromGgml(tensor->type.id, &dtype));
    std::vector<std::vector<double>> rows(tensor->dims[1]);
    std::vector<float> row(tensor->dims[0]);
    for (size_t r = 0; r < rows.size(); ++r) {
      EXPECT_EQ(kernels::DequantizeRow(dtype, tensor->data + r * RowBytes(dtype, tensor->dims[0]), tensor->dims[0],
                                       row.data()),
                kernels::KernelError::kOk);
      rows[r].assign(row.begin(), row.end());
    }
    return rows;
  }
  static std::vector<double> Times(const std::vector<std::vector<double>>& w, const std::vector<double>& x) {
    std::vector<double> y(w.size(), 0.0);
    for (size_t i = 0; i < w.size(); ++i) {
      for (size_t j = 0; j < x.size(); ++j) y[i] += w[i][j] * x[j];
    }
    return y;
  }
  static void Add(std::vector<double>& x, const std::vector<double>& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  std::vector<double> AddBias(std::vector<double> x, const std::string& name) const {
    if (file_->FindTensor(name) != nullptr) Add(x, Matrix(name)[0]);
    return x;
  }
  std::vector<double> Norm(const std::vector<double>& x, const std::string& name) const {
    const std::vector<double> weight = Matrix(name)[0];
    double squares = 0;
    for (const double value : x) squares += value * value;
    std::vector<double> y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] / std::sqrt(squares / x.size() + epsilon_) * weight[i];
    return y;
  }
  // Neighbouring elements (2p, 2p + 1) turn by position * base^(-2p / head_dim), scaled as the file says.
  void Rotate(std::vector<double>& x, int position) const {
    const bool linear = file_->Has("llama.rope.scaling.type");
    const GgufTensor* factors = file_->FindTensor("rope_freqs.weight");
    for (size_t at = 0; at < x.size(); at += head_dim_) {
      for (int p = 0; p < head_dim_ / 2; ++p) {
        double angle = position * std::pow(10000.0, -2.0 * p / head_dim_);
        if (linear) angle /= 4;
        if (factors != nullptr) {
          float factor;
          std::memcpy(&factor, factors->data + p * sizeof(float), sizeof(float));
          angle /= factor;
        }
        const double a = x[at + 2 * p], b = x[at + 2 * p + 1];
        x[at + 2 * p] = a * std::cos(angle) - b * std::sin(angle);
        x[at + 2 * p + 1] = a * std::sin(angle) + b * std::cos(angle);
      }
    }
  }

  std::unique_ptr<GgufFile> file_;
  int num_layers_, hidden_, heads_, kv_heads_, head_dim_;
  double epsilon_;
};

// ||a - b|| / ||b||
double RelativeError(const std::vector<float>& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

struct NaiveCase {
  const char* name;
  TinyModelOptions model;
  // Bound on the relative error of a row of logits in `invariant`. Keys and values are rounded to F16 (2^-11), and with
  // quantised weights activations to int8 blocks, whose rounding error relative to a block's norm is about
  // 1 / (127 * sqrt(12)) * max / rms = 0.006; some ten products in a row, adding up as a random walk, and the gains of
  // TinyModel's layers.
  double invariant_bound;
};

class AgainstNaive : public testing::TestWithParam<NaiveCase> {};

TEST_P(AgainstNaive, LogitsOfEveryPositionAgree) {
  const NaiveCase& test = GetParam();
  const std::string path = WriteTinyModel(test.model);
  const std::vector<TokenId> tokens = RandomTokens(37, test.model.vocab_size, 11);
  const std::vector<std::vector<double>> expected = NaiveLlama(path).Forward(tokens);
  for (const Numerics numerics : {Numerics::kReference, Numerics::kInvariant}) {
    for (const int world_size : {1, 2, 3}) {
      SCOPED_TRACE(absl::StrCat(NumericsName(numerics), " over ", world_size, " ranks"));
      const auto group = MustCreate(path, {.numerics = numerics, .world_size = world_size});
      ASSERT_NE(group, nullptr);
      // fp32 storage between double sums: some 20 roundings of 2^-24, amplified by the layers' gains.
      const double bound = numerics == Numerics::kReference ? 1e-5 : test.invariant_bound;
      double worst = 0;
      for (const int length : {1, 2, 17, 37}) {
        const std::vector<TokenId> prompt(tokens.begin(), tokens.begin() + length);
        const GroupDriver::Generated generated =
            MustGenerate(*group, prompt, {.params = Greedy(1), .keep_logits = true});
        ASSERT_EQ(generated.logits.size(), 1);
        worst = std::max(worst, RelativeError(generated.logits[0], expected[length - 1]));
        const auto& row = generated.logits[0];
        EXPECT_EQ(generated.output[0], std::max_element(row.begin(), row.end()) - row.begin());
      }
      EXPECT_LT(worst, bound);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, AgainstNaive,
    testing::Values(
        NaiveCase{"F32", {.dtype = DType::kF32, .embedding_dtype = DType::kF32}, 0.003},
        NaiveCase{"F16Tied", {.tied = true, .dtype = DType::kF16, .embedding_dtype = DType::kF16}, 0.003},
        NaiveCase{"BF16Bias", {.attention_bias = true, .dtype = DType::kBF16, .embedding_dtype = DType::kBF16}, 0.003},
        NaiveCase{"Q8_0", {.dtype = DType::kQ8_0}, 0.1},
        NaiveCase{"Q4_0Linear", {.dtype = DType::kQ4_0, .rope = Rope::kLinear}, 0.1},
        NaiveCase{"Q4_1Tied", {.tied = true, .dtype = DType::kQ4_1}, 0.1},
        NaiveCase{"F32Factors", {.dtype = DType::kF32, .embedding_dtype = DType::kF32, .rope = Rope::kFactors}, 0.003},
        // 16-wide heads: a rank's columns of the attention output cut through quantised blocks.
        NaiveCase{"Q8_0CutBlocks", {.num_heads = 6, .num_kv_heads = 6, .head_dim = 16, .dtype = DType::kQ8_0}, 0.1},
        // More ranks than KV heads.
        NaiveCase{"Q4_1OneKvHead", {.num_heads = 4, .num_kv_heads = 1, .dtype = DType::kQ4_1}, 0.1}),
    [](const testing::TestParamInfo<NaiveCase>& info) { return info.param.name; });

// What must not change a bit of any row: `change` is applied to one way of running a sequence.
struct Way {
  const char* name;
  GroupDriver::GenerateOptions options;
  int num_threads = 1;
};

class SameBits : public testing::TestWithParam<std::tuple<Numerics, int>> {};

TEST_P(SameBits, WhateverTheNeighboursChunksThreadsAndDrafts) {
  const auto [numerics, world_size] = GetParam();
  const TinyModelOptions options{.seed = 3};
  const std::string path = WriteTinyModel(options);
  const std::vector<TokenId> prompt = RandomTokens(50, options.vocab_size, 5);
  constexpr int kOutput = 24;
  const ModelGroupOptions group_options{.numerics = numerics, .world_size = world_size, .num_kv_blocks = 160};
  for (const SamplingParams& params : {Greedy(kOutput), Sampled(kOutput)}) {
    const auto alone = MustCreate(path, group_options);
    ASSERT_NE(alone, nullptr);
    const GroupDriver::Generated expected = MustGenerate(*alone, prompt, {.params = params, .keep_logits = true});
    ASSERT_EQ(expected.output.size(), kOutput);

    std::vector<std::vector<TokenId>> neighbours;
    for (int i = 0; i < 9; ++i) neighbours.push_back(RandomTokens(3 + 4 * i, options.vocab_size, 100 + i));
    std::vector<TokenId> half_wrong = expected.output;
    for (size_t i = 2; i < half_wrong.size(); i += 3) half_wrong[i] = (half_wrong[i] + 1) % options.vocab_size;
    std::vector<TokenId> all_wrong = expected.output;
    for (TokenId& token : all_wrong) token = (token + 1) % options.vocab_size;

    const std::vector<Way> ways = {
        {"again", {.params = params}},
        {"chunks of 1", {.params = params, .chunk_size = 1}},
        {"chunks of 7", {.params = params, .chunk_size = 7}},
        {"chunks of 16", {.params = params, .chunk_size = 16}},
        {"neighbours behind", {.params = params, .neighbours = neighbours}},
        {"neighbours before", {.params = params, .neighbours = neighbours, .neighbours_first = true}},
        {"neighbours and chunks", {.params = params, .chunk_size = 5, .neighbours = neighbours}},
        {"two threads", {.params = params, .neighbours = neighbours}, 2},
        {"three threads", {.params = params}, 3},
        {"right drafts", {.params = params, .lookahead = 4, .draft_source = expected.output}},
        {"half wrong drafts", {.params = params, .lookahead = 4, .draft_source = half_wrong}},
        {"wrong drafts", {.params = params, .lookahead = 3, .draft_source = all_wrong}},
        {"one draft token, neighbours",
         {.params = params, .lookahead = 1, .draft_source = half_wrong, .neighbours = neighbours}},
        {"planned ahead", {.params = params, .plan_ahead = true}},
        {"planned ahead with drafts",
         {.params = params, .lookahead = 5, .draft_source = half_wrong, .plan_ahead = true}},
    };
    for (const Way& way : ways) {
      SCOPED_TRACE(absl::StrCat(way.name, ", temperature ", params.temperature));
      ModelGroupOptions changed = group_options;
      changed.num_threads = way.num_threads;
      const auto group = MustCreate(path, changed);
      ASSERT_NE(group, nullptr);
      GroupDriver::GenerateOptions generate = way.options;
      generate.keep_logits = true;
      const GroupDriver::Generated generated = MustGenerate(*group, prompt, generate);
      EXPECT_EQ(generated.output, expected.output);
      ASSERT_EQ(generated.logits.size(), expected.logits.size());
      for (size_t i = 0; i < expected.logits.size(); ++i) {
        ASSERT_EQ(std::memcmp(generated.logits[i].data(), expected.logits[i].data(),
                              expected.logits[i].size() * sizeof(float)),
                  0)
            << "logits of output token " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Numerics, SameBits,
                         testing::Combine(testing::Values(Numerics::kInvariant, Numerics::kReference),
                                          testing::Values(1, 2, 3)),
                         [](const testing::TestParamInfo<std::tuple<Numerics, int>>& info) {
                           return absl::StrCat(NumericsName(std::get<0>(info.param)), "Over", std::get<1>(info.param));
                         });

TEST(ModelRunner, RankCountsAgreeUpToNearTies) {
  const TinyModelOptions options{.seed = 4};
  const std::string path = WriteTinyModel(options);
  const auto one = MustCreate(path, {});
  for (const int world_size : {2, 3}) {
    const auto several = MustCreate(path, {.world_size = world_size});
    for (uint64_t seed = 0; seed < 4; ++seed) {
      const std::vector<TokenId> prompt = RandomTokens(20, options.vocab_size, seed);
      const auto a = MustGenerate(*one, prompt, {.params = Greedy(24), .keep_logits = true});
      const auto b = MustGenerate(*several, prompt, {.params = Greedy(24), .keep_logits = true});
      const auto [at_a, at_b] = std::mismatch(a.output.begin(), a.output.end(), b.output.begin());
      if (at_a == a.output.end()) continue;
      std::vector<float> row = a.logits[at_a - a.output.begin()];
      std::nth_element(row.begin(), row.begin() + 1, row.end(), std::greater<float>());
      // Two rounding errors of int8 activations, each below 2 % of a logit's standard deviation of 3.
      EXPECT_LT(std::abs(row[0] - row[1]), 0.12) << "over " << world_size << " ranks, seed " << seed;
    }
  }
}

TEST(ModelRunner, AcceptsWhatTheTargetWouldHaveChosen) {
  const std::string path = WriteTinyModel({.seed = 5});
  for (const int world_size : {1, 2}) {
    for (const SamplingParams& params : {Greedy(21), Sampled(21)}) {
      const auto group = MustCreate(path, {.world_size = world_size});
      const std::vector<TokenId> prompt = RandomTokens(10, 320, 1);
      const auto plain = MustGenerate(*group, prompt, {.params = params});
      EXPECT_EQ(plain.rounds, 21);
      const auto oracle =
          MustGenerate(*group, prompt, {.params = params, .lookahead = 4, .draft_source = plain.output});
      EXPECT_EQ(oracle.output, plain.output);
      // The prompt's own step verifies too. Four rounds accept 4 and choose 1; the fifth accepts token 21, the last.
      EXPECT_EQ(oracle.rounds, 5);
      EXPECT_EQ(oracle.accepted, 17);
    }
  }
}

TEST(ModelRunner, ContinuesADeliveredOutput) {
  const std::string path = WriteTinyModel({.seed = 6});
  const auto group = MustCreate(path, {});
  const std::vector<TokenId> prompt = RandomTokens(10, 320, 1);
  SamplingParams params = Sampled(20);
  params.frequency_penalty = 0.7f;
  params.repetition_penalty = 1.3f;
  params.min_tokens = 12;
  params.end_token_ids = {2};
  const auto whole = MustGenerate(*group, prompt, {.params = params});
  const std::vector<TokenId> delivered(whole.output.begin(), whole.output.begin() + 7);
  const auto rest = MustGenerate(*group, prompt, {.params = params, .delivered = delivered});
  EXPECT_EQ(rest.output, std::vector<TokenId>(whole.output.begin() + 7, whole.output.end()));
}

TEST(ModelRunner, StopsAtEndTokensInsideAnAcceptedRun) {
  const std::string path = WriteTinyModel({.seed = 7});
  const auto group = MustCreate(path, {});
  const std::vector<TokenId> prompt = RandomTokens(10, 320, 1);
  const auto plain = MustGenerate(*group, prompt, {.params = Greedy(20)});
  SamplingParams params = Greedy(20);
  params.end_token_ids = {plain.output[6]};
  const auto first = std::find(plain.output.begin(), plain.output.end(), plain.output[6]) - plain.output.begin();
  const auto cut = MustGenerate(*group, prompt, {.params = params, .lookahead = 8, .draft_source = plain.output});
  EXPECT_EQ(cut.finish, FinishReason::kEndToken);
  EXPECT_EQ(cut.output, std::vector<TokenId>(plain.output.begin(), plain.output.begin() + first + 1));

  // Masked until min_tokens: another token is chosen there.
  params.min_tokens = static_cast<int>(first) + 2;
  const auto masked = MustGenerate(*group, prompt, {.params = params});
  ASSERT_GT(masked.output.size(), first + 1);
  EXPECT_NE(masked.output[first], plain.output[first]);
}

TEST(ModelRunner, GivesLogprobsOfRawLogits) {
  const std::string path = WriteTinyModel({.seed = 8});
  for (const int world_size : {1, 3}) {
    const auto group = MustCreate(path, {.world_size = world_size});
    SamplingParams params = Sampled(6);
    params.num_logprobs = 3;
    const auto generated = MustGenerate(*group, RandomTokens(10, 320, 1), {.params = params, .keep_logits = true});
    ASSERT_EQ(generated.logprobs.size(), 6);
    for (size_t i = 0; i < 6; ++i) {
      const std::vector<float>& row = generated.logits[i];
      double sum = 0;
      for (const float logit : row) sum += std::exp(static_cast<double>(logit));
      EXPECT_NEAR(generated.logprobs[i].logprob, row[generated.output[i]] - std::log(sum), 1e-4);
      ASSERT_EQ(generated.logprobs[i].top.size(), 3);
      EXPECT_EQ(generated.logprobs[i].top[0].first, std::max_element(row.begin(), row.end()) - row.begin());
      EXPECT_GE(generated.logprobs[i].top[0].second, generated.logprobs[i].top[1].second);
    }
  }
}

// The logits of a position are those of a prompt that ends there.
TEST(ModelRunner, GivesLogprobsOfThePromptWhateverTheChunksAndNeighbours) {
  const std::string path = WriteTinyModel({.seed = 8});
  const std::vector<TokenId> prompt = RandomTokens(30, 320, 4);
  for (const Numerics numerics : {Numerics::kInvariant, Numerics::kReference}) {
    for (const int world_size : {1, 3}) {
      SCOPED_TRACE(absl::StrCat(NumericsName(numerics), " over ", world_size, " ranks"));
      const auto group = MustCreate(path, {.numerics = numerics, .world_size = world_size, .num_kv_blocks = 160});
      ASSERT_NE(group, nullptr);
      SamplingParams params = Greedy(3);
      const auto without = MustGenerate(*group, prompt, {.params = params});
      EXPECT_TRUE(without.prompt_logprobs.empty());
      params.num_prompt_logprobs = 3;
      const auto whole = MustGenerate(*group, prompt, {.params = params});
      EXPECT_EQ(whole.output, without.output);
      ASSERT_EQ(whole.prompt_logprobs.size(), prompt.size() - 1);
      for (size_t p = 1; p < prompt.size(); ++p) {
        const auto before = MustGenerate(*group, {prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(p)},
                                         {.params = Greedy(1), .keep_logits = true});
        const std::vector<float>& row = before.logits[0];
        double sum = 0;
        int rank = 1;
        for (const float logit : row) {
          sum += std::exp(static_cast<double>(logit));
          rank += logit > row[prompt[p]];
        }
        const TokenLogprobs& told = whole.prompt_logprobs[p - 1];
        // Of fp32 logits in double: one rounding of the result, which is at most some tens.
        EXPECT_NEAR(told.logprob, row[prompt[p]] - std::log(sum), 1e-5) << "position " << p;
        EXPECT_EQ(told.rank, rank);
        ASSERT_EQ(told.top.size(), 3);
        EXPECT_EQ(told.top[0].first, before.output[0]);
      }
      const std::vector<std::vector<TokenId>> neighbours = {RandomTokens(5, 320, 6), RandomTokens(9, 320, 7)};
      for (const GroupDriver::GenerateOptions& options :
           {GroupDriver::GenerateOptions{.params = params, .chunk_size = 1},
            GroupDriver::GenerateOptions{.params = params, .chunk_size = 7},
            GroupDriver::GenerateOptions{.params = params, .chunk_size = 16, .plan_ahead = true},
            GroupDriver::GenerateOptions{
                .params = params, .chunk_size = 11, .neighbours = neighbours, .neighbours_first = true}}) {
        const auto other = MustGenerate(*group, prompt, options);
        EXPECT_EQ(other.output, whole.output);
        ASSERT_EQ(other.prompt_logprobs.size(), whole.prompt_logprobs.size());
        for (size_t i = 0; i < whole.prompt_logprobs.size(); ++i) {
          EXPECT_EQ(other.prompt_logprobs[i].logprob, whole.prompt_logprobs[i].logprob);
          EXPECT_EQ(other.prompt_logprobs[i].top, whole.prompt_logprobs[i].top);
          EXPECT_EQ(other.prompt_logprobs[i].rank, whole.prompt_logprobs[i].rank);
        }
      }
    }
  }
}

TEST(ModelRunner, ReportsLogitsThatAreNotFinite) {
  // Row 5 of the embedding table becomes NaN: harmless until a sequence holds token 5.
  std::string bytes = TinyModel({.seed = 9, .dtype = DType::kF32, .embedding_dtype = DType::kF32}).Finish();
  const auto file =
      GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "nan.gguf");
  ASSERT_TRUE(file.ok());
  const size_t at = reinterpret_cast<const char*>((*file)->FindTensor("token_embd.weight")->data) - bytes.data();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(bytes.data() + at + 5 * 64 * sizeof(float), &nan, sizeof(nan));
  const std::string path = WriteTestFile("nan.gguf", bytes);
  for (const int world_size : {1, 2}) {
    for (const SamplingParams& params : {Greedy(4), Sampled(4)}) {
      const auto group = MustCreate(path, {.world_size = world_size});
      EXPECT_TRUE(MustGenerate(*group, {1, 5, 7}, {.params = params}).not_finite);
      EXPECT_FALSE(MustGenerate(*group, {1, 6, 7}, {.params = params}).not_finite);
    }
  }
}

TEST(ModelRunner, PlantedFaultsChangeWhatIsGenerated) {
  const std::string path = WriteTinyModel({.seed = 10});
  const std::vector<TokenId> prompt = RandomTokens(30, 320, 2);
  const auto sound = MustCreate(path, {});
  const auto expected = MustGenerate(*sound, prompt, {.params = Greedy(40)});
  std::vector<TokenId> wrong = expected.output;
  for (size_t i = 0; i < wrong.size(); ++i) {
    if (i % 3 != 0) wrong[i] = (wrong[i] + 17) % 320;
  }
  for (const PlantedFault fault :
       {PlantedFault::kAcceptUnverified, PlantedFault::kSkipRollback, PlantedFault::kReverseSumOrder}) {
    const auto group = MustCreate(path, {.fault = fault});
    const auto faulty = MustGenerate(*group, prompt, {.params = Greedy(40), .lookahead = 4, .draft_source = wrong});
    EXPECT_NE(faulty.output, expected.output) << static_cast<int>(fault);
  }
}

// Plans that a broken or hostile leader might send.
TEST(ModelRunner, RefusesPlansThatLeaveItsBuffers) {
  const std::string path = WriteTinyModel({.seed = 11});
  const auto group =
      MustCreate(path, {.num_kv_blocks = 8, .block_size = 16, .max_step_tokens = 32, .max_sequences = 2});
  StepPlan good;
  good.step = StepId(1);
  good.starts.push_back({SequenceId(1), {1, 2, 3, 4}, {}, Greedy(40)});
  good.spans.push_back({.sequence = SequenceId(1), .num_committed_tokens = 4, .samples = true, .blocks = {0, 1, 2}});
  ASSERT_TRUE(group->Step(good).ok());

  Span next{.sequence = SequenceId(1), .first_position = 4, .num_committed_tokens = 1, .samples = true};
  const auto expect_refused = [&](const StepPlan& plan, absl::string_view part) {
    const auto result = group->Step(plan);
    ASSERT_FALSE(result.ok()) << part;
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
    EXPECT_TRUE(absl::StrContains(result.status().message(), part)) << result.status();
  };
  const auto with_span = [&](auto change) {
    StepPlan plan;
    plan.step = StepId(2);
    plan.spans.push_back(next);
    change(plan.spans[0]);
    return plan;
  };
  expect_refused(with_span([](Span& s) { s.sequence = SequenceId(9); }), "not known");
  expect_refused(with_span([](Span& s) { s.first_position = -1; }), "impossible");
  expect_refused(with_span([](Span& s) { s.first_position = 5; }), "does not fit");
  expect_refused(with_span([](Span& s) { s.first_position = std::numeric_limits<int>::max(); }), "does not fit");
  expect_refused(with_span([](Span& s) { s.num_committed_tokens = 0; }), "impossible");
  expect_refused(with_span([](Span& s) { s.num_committed_tokens = std::numeric_limits<int>::max(); }), "does not fit");
  expect_refused(with_span([](Span& s) { s.first_position = 2; }), "does not fit");
  expect_refused(with_span([](Span& s) { s.lookahead = -1; }), "impossible");
  expect_refused(with_span([](Span& s) { s.blocks = {8}; }), "block 8");
  expect_refused(with_span([](Span& s) { s.blocks = {-1}; }), "block -1");
  expect_refused(with_span([](Span& s) {
                   s.first_block_index = 4;
                   s.blocks = {3};
                 }),
                 "do not join");
  expect_refused(with_span([](Span& s) {
                   s.first_block_index = std::numeric_limits<int>::max();
                   s.blocks = {3};
                 }),
                 "do not join");
  expect_refused(with_span([](Span& s) {
                   s.lookahead = 2;
                   s.paths = {{.base_position = 5, .tokens = {320}}};
                 }),
                 "token id 320");
  expect_refused(with_span([](Span& s) {
                   s.lookahead = 2;
                   s.paths = {{.base_position = -5, .tokens = {1}}};
                 }),
                 "draft path");
  expect_refused(with_span([](Span& s) {
                   s.lookahead = 40;
                   s.paths = {{.base_position = 5, .tokens = std::vector<TokenId>(40, 7)}};
                   s.first_block_index = 3;
                   s.blocks = {3, 4};
                 }),
                 "32 rows");
  StepPlan twice = with_span([](Span&) {});
  twice.spans.push_back(twice.spans[0]);
  expect_refused(twice, "two spans");
  StepPlan many = twice;
  many.spans.push_back(twice.spans[0]);
  expect_refused(many, "3 spans");

  const auto with_start = [&](SequenceStart start) {
    StepPlan plan;
    plan.step = StepId(3);
    plan.starts.push_back(std::move(start));
    return plan;
  };
  expect_refused(with_start({SequenceId(1), {1}, {}, Greedy(4)}), "started twice");
  expect_refused(with_start({SequenceId(2), {}, {}, Greedy(4)}), "empty");
  expect_refused(with_start({SequenceId(3), {-1}, {}, Greedy(4)}), "token id -1");
  expect_refused(with_start({SequenceId(4), {1}, {320}, Greedy(4)}), "token id 320");
  expect_refused(with_start({SequenceId(5), std::vector<TokenId>(513, 1), {}, Greedy(4)}), "513 tokens");
  SamplingParams nan = Greedy(4);
  nan.top_p = std::nanf("");
  expect_refused(with_start({SequenceId(6), {1}, {}, nan}), "sequence 6");

  // None of that disturbed the sequence.
  StepPlan plan = with_span([](Span&) {});
  EXPECT_TRUE(group->Step(plan).ok());
}

TEST(ModelRunner, DiscardsASpanPlannedBeforeItsSequenceEnded) {
  const auto group = MustCreate(WriteTinyModel({.seed = 12}), {});
  StepPlan plan;
  plan.step = StepId(1);
  plan.starts.push_back({SequenceId(1), {1, 2, 3}, {}, Greedy(1)});
  plan.spans.push_back({.sequence = SequenceId(1), .num_committed_tokens = 3, .samples = true, .blocks = {0}});
  const auto first = group->Step(plan);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->spans[0].finish, FinishReason::kLength);

  StepPlan ahead;
  ahead.step = StepId(2);
  ahead.spans.push_back({.sequence = SequenceId(1),
                         .predecessor = StepId(1),
                         .first_position = 3,
                         .num_committed_tokens = 1,
                         .samples = true});
  const auto second = group->Step(ahead);
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_EQ(second->spans.size(), 1);
  EXPECT_TRUE(second->spans[0].tokens.empty());

  StepPlan end;
  end.step = StepId(3);
  end.ends = {SequenceId(1)};
  ASSERT_TRUE(group->Step(end).ok());
  EXPECT_EQ(group->runner().num_sequences(), 0);
}

TEST(LoadModel, GivesIdsThatTellNumericsApart) {
  const std::string path = WriteTinyModel({.seed = 13, .name = "named"});
  const std::string other = WriteTinyModel({.seed = 14, .name = "named"});
  const auto load = [](const std::string& file, LoadOptions options) {
    auto model = LoadModel(file, options);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  };
  const auto base = load(path, {});
  EXPECT_EQ(base->numerics_id().size(), 32);
  EXPECT_EQ(base->name(), "named");
  EXPECT_EQ(base->end_token_ids(), (std::vector<TokenId>{0, 2}));
  EXPECT_EQ(base->max_model_len(), 512);
  EXPECT_EQ(load(path, {.max_model_len = 100})->max_model_len(), 100);
  EXPECT_EQ(base->numerics_id(), load(path, {.num_threads = 2})->numerics_id());
  EXPECT_NE(base->numerics_id(), load(other, {})->numerics_id());
  EXPECT_NE(base->numerics_id(), load(path, {.numerics = Numerics::kReference})->numerics_id());
  const auto rank0 = load(path, {.rank = 0, .world_size = 2});
  const auto rank1 = load(path, {.rank = 1, .world_size = 2});
  EXPECT_EQ(rank0->numerics_id(), rank1->numerics_id());
  EXPECT_NE(base->numerics_id(), rank0->numerics_id());
  // 2 layers, K and V, 16 positions, 3 or 2 or 1 heads of 32, F16.
  EXPECT_EQ(base->kv_bytes_per_block(16), 2 * 2 * 16 * 3 * 32 * 2);
  EXPECT_EQ(rank0->kv_bytes_per_block(16), 2 * 2 * 16 * 2 * 32 * 2);
  EXPECT_EQ(rank1->kv_bytes_per_block(16), 2 * 2 * 16 * 1 * 32 * 2);
}

TEST(LoadModel, NamesWhatIsWrong) {
  const auto expect = [](const std::string& path, LoadOptions options, absl::StatusCode code, absl::string_view part) {
    const auto model = LoadModel(path, options);
    ASSERT_FALSE(model.ok()) << part;
    EXPECT_EQ(model.status().code(), code) << model.status();
    EXPECT_TRUE(absl::StrContains(model.status().message(), part)) << model.status();
  };
  const std::string path = WriteTinyModel({});
  using absl::StatusCode;
  expect(path, {.rank = 2, .world_size = 2}, StatusCode::kInvalidArgument, "rank 2 of 2");
  expect(path, {.rank = 0, .world_size = 10}, StatusCode::kInvalidArgument, "9 attention heads");
  expect(path, {.num_threads = 0}, StatusCode::kInvalidArgument, "threads");
  expect(path, {.max_model_len = 513}, StatusCode::kInvalidArgument, "513");
  expect("/no/such.gguf", {}, StatusCode::kNotFound, "/no/such.gguf");

  const auto write = [](auto change) {
    GgufWriter writer = TinyModel({.num_layers = 1, .tokenizer = false});
    change(writer);
    return WriteTestFile("changed.gguf", writer.Finish());
  };
  expect(write([](GgufWriter& w) { w.RawTensor("blk.0.attn_sinks.weight", {9}, 0, std::string(36, '\0')); }), {},
         StatusCode::kUnimplemented, "'blk.0.attn_sinks.weight'");
  expect(write([](GgufWriter& w) { w.Uint32("llama.expert_count", 4); }), {}, StatusCode::kUnimplemented,
         "expert_count");
  GgufWriter quantised = TinyModel({.num_layers = 1, .hidden_size = 256, .tied = true, .tokenizer = false});
  quantised.RawTensor("output.weight", {256, 320}, 14, std::string(210 * 320, '\0'));
  expect(WriteTestFile("q6_k.gguf", quantised.Finish()), {}, StatusCode::kUnimplemented, "Q6_K");
  GgufWriter missing = TinyModel({.num_layers = 1, .tokenizer = false});
  std::string bytes = missing.Finish();
  bytes[bytes.find("blk.0.ffn_up")] = 'x';
  expect(WriteTestFile("missing.gguf", bytes), {}, StatusCode::kInvalidArgument, "'blk.0.ffn_up.weight' is missing");
}

}  // namespace
}  // namespace outrider
