// Whole models on a GPU: near to the CPU's oracle, and bits of a row that depend on the row alone.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "worker/model/cuda_backend.h"
#include "worker/model/testing/gguf_writer.h"
#include "worker/model/testing/model_group.h"

namespace outrider {
namespace {

constexpr char kDraftModel[] = "deploy/models/smollm2-135m-draft-16m-q8_0.gguf";

std::unique_ptr<ModelGroup> Load(const std::string& path, Device device, Numerics numerics, int world_size = 1,
                                 DeviceTransport transport = DeviceTransport::kAuto) {
  auto group = ModelGroup::Create(path, {.device = device,
                                         .numerics = numerics,
                                         .world_size = world_size,
                                         .num_threads = 2,
                                         .num_kv_blocks = 4096,
                                         .max_step_tokens = 2304,
                                         .max_sequences = 300,
                                         .transport = transport});
  EXPECT_TRUE(group.ok()) << group.status();
  return group.ok() ? *std::move(group) : nullptr;
}

std::vector<TokenId> RandomPrompt(int size, int vocab_size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> prompt(size);
  for (TokenId& id : prompt) id = 3 + static_cast<TokenId>(random() % (vocab_size - 3));
  return prompt;
}

GroupDriver::Generated Generate(ModelGroup& group, const std::vector<TokenId>& prompt,
                                GroupDriver::GenerateOptions options) {
  options.keep_logits = true;
  GroupDriver driver(group);
  auto generated = driver.Generate(prompt, options);
  EXPECT_TRUE(generated.ok()) << generated.status();
  return generated.ok() ? *std::move(generated) : GroupDriver::Generated();
}

SamplingParams Greedy(int max_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = max_tokens;
  return params;
}

// A model and the number of ranks, each on a GPU.
class CudaModel : public ::testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  void SetUp() override {
    if (NumCudaDevices() < world_size()) GTEST_SKIP() << "fewer GPUs than ranks";
  }
  static int world_size() { return std::get<1>(GetParam()); }
  static std::string Path() {
    if (std::get<0>(GetParam()) == "draft") return kDraftModel;
    TinyModelOptions options;
    options.rope = TinyModelOptions::Rope::kFactors;
    return WriteTinyModel(options);
  }
};

TEST_P(CudaModel, LogitsAreNearTheOracles) {
  const auto cpu = Load(Path(), Device::kCpu, Numerics::kReference);
  const auto gpu = Load(Path(), Device::kCuda, Numerics::kInvariant, world_size());
  ASSERT_NE(cpu, nullptr);
  ASSERT_NE(gpu, nullptr);
  EXPECT_NE(cpu->model().numerics_id(), gpu->model().numerics_id());
  const int num_layers = gpu->model().config().num_layers;
  const auto prompt = RandomPrompt(90, gpu->model().config().vocab_size, 5);
  const auto expected = Generate(*cpu, prompt, {.params = Greedy(1)}).logits;
  const auto actual = Generate(*gpu, prompt, {.params = Greedy(1)}).logits;
  ASSERT_EQ(expected.size(), 1);
  ASSERT_EQ(actual.size(), 1);
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected[0].size(); ++i) {
    difference += std::pow(double{actual[0][i]} - expected[0][i], 2);
    size += std::pow(double{expected[0][i]}, 2);
  }
  const double error = std::sqrt(difference / size);
  std::printf("%s over %d ranks: relative error of logits %.2e\n", std::get<0>(GetParam()).c_str(), world_size(),
              error);
  // Weights and what passes between kernels are rounded to bf16, 2^-8 at most: some ten times a layer, independently,
  // each at most doubled on its way.
  EXPECT_LT(error, 2 * 0x1.0p-8 * std::sqrt(10.0 * num_layers + 2));
}

TEST_P(CudaModel, BitsOfLogitsDependOnTheSequenceAlone) {
  const auto group = Load(Path(), Device::kCuda, Numerics::kInvariant, world_size());
  ASSERT_NE(group, nullptr);
  const int vocab_size = group->model().config().vocab_size;
  const int room = group->model().max_model_len();
  const int num_outputs = 24;
  for (const int prompt_size : {1, 40, std::min(600, room - 64)}) {
    const auto prompt = RandomPrompt(prompt_size, vocab_size, 7 + prompt_size);
    const auto plain = Generate(*group, prompt, {.params = Greedy(num_outputs)});
    ASSERT_FALSE(plain.logits.empty());
    const auto same = [&](const char* what, const GroupDriver::GenerateOptions& options) {
      const auto other = Generate(*group, prompt, options);
      EXPECT_EQ(other.output, plain.output) << what << ", prompt of " << prompt_size;
      ASSERT_EQ(other.logits.size(), plain.logits.size()) << what;
      for (size_t i = 0; i < plain.logits.size(); ++i) {
        EXPECT_EQ(std::memcmp(other.logits[i].data(), plain.logits[i].data(), plain.logits[i].size() * sizeof(float)),
                  0)
            << what << ", prompt of " << prompt_size << ", output token " << i;
      }
    };
    const SamplingParams params = Greedy(num_outputs);
    for (const int chunk_size : {1, 7, 65}) same("chunks", {.params = params, .chunk_size = chunk_size});
    for (const int lookahead : {1, 4, 8}) {
      same("right drafts", {.params = params, .lookahead = lookahead, .draft_source = plain.output});
      same("wrong drafts", {.params = params,
                            .lookahead = lookahead,
                            .draft_source = std::vector<TokenId>(plain.output.size(), TokenId{5})});
    }
    for (const int num_neighbours : {3, 63, 64, 255}) {
      GroupDriver::GenerateOptions options{.params = params};
      for (int i = 0; i < num_neighbours; ++i)
        options.neighbours.push_back(RandomPrompt(1 + i % 9, vocab_size, 100 + i));
      for (const bool first : {false, true}) {
        options.neighbours_first = first;
        same(first ? "neighbours before" : "neighbours after", options);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaModel,
                         ::testing::Combine(::testing::Values("tiny", "draft"), ::testing::Values(1, 2)));

// What GPUs exchange by NCCL where they can not map each other's memory is added in the same order.
TEST(CudaModelOverNccl, GivesTheBitsOfPeerMemory) {
  if (NumCudaDevices() < 2) GTEST_SKIP() << "needs two GPUs";
  const auto peer = Load(kDraftModel, Device::kCuda, Numerics::kInvariant, 2, DeviceTransport::kPeer);
  ASSERT_NE(peer, nullptr);
  auto made = ModelGroup::Create(kDraftModel, {.device = Device::kCuda,
                                               .world_size = 2,
                                               .num_kv_blocks = 4096,
                                               .max_step_tokens = 2304,
                                               .transport = DeviceTransport::kNccl});
  if (!made.ok()) GTEST_SKIP() << made.status();
  for (const int prompt_size : {1, 300}) {
    const auto prompt = RandomPrompt(prompt_size, peer->model().config().vocab_size, 3);
    const auto by_peer = Generate(*peer, prompt, {.params = Greedy(16)});
    const auto by_nccl = Generate(**made, prompt, {.params = Greedy(16)});
    EXPECT_EQ(by_peer.output, by_nccl.output);
    EXPECT_EQ(by_peer.logits, by_nccl.logits);
  }
}

}  // namespace
}  // namespace outrider
