// The real target model against goldens made by another implementation (fp32 arithmetic on the dequantised weights).
//
// The model is no part of the project: test.sh fetches it to .cache/models; OUTRIDER_MODEL_DIR names another folder.
// Without it these tests are skipped.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/model/testing/model_group.h"
#include "worker/model/testing/test_device.h"

namespace outrider {
namespace {

constexpr char kGoldens[] = "worker/model/testdata/smollm2-135m-instruct-q4_1.json";
constexpr char kDraftModel[] = "deploy/models/smollm2-135m-draft-16m-q8_0.gguf";
constexpr char kTargetModel[] = "SmolLM2-135M-Instruct.Q4_1.gguf";

// Margins below this may be decided by rounding (the goldens' README).
constexpr double kNearTie = 0.02;

// Steps whose golden token is argmax in llama.cpp on the same file, forced along the goldens: 97.04 %. Measured with
// xllamacpp 2026.10.11549 on the CPU (AVX-512), F16 KV, one sequence.
constexpr int kLlamaCppAgreed = 1213;
constexpr int kNumSteps = 1250;

struct Golden {
  std::string prompt;
  std::vector<TokenId> prompt_ids;
  std::vector<TokenId> output_ids;
  std::vector<double> margins;
};

// Sanitizers make the passes ten times as slow; a few goldens run all the code there is.
#ifdef OUTRIDER_SANITIZED
constexpr size_t kReferenceGoldens = 1;
constexpr bool kSanitized = true;
#else
constexpr size_t kReferenceGoldens = 20;
constexpr bool kSanitized = false;
#endif

std::vector<Golden> ReadGoldens() {
  std::ifstream file(kGoldens);
  EXPECT_TRUE(file.good()) << kGoldens;
  const nlohmann::json json = nlohmann::json::parse(file);
  std::vector<Golden> goldens;
  for (const nlohmann::json& entry : json) {
    goldens.push_back({entry["prompt"], entry["prompt_token_ids"], entry["output_token_ids"], entry["margins"]});
  }
  return goldens;
}

// Empty if the model is not on this machine.
std::string TargetModelPath() {
  std::filesystem::path folder;
  if (const char* given = std::getenv("OUTRIDER_MODEL_DIR"); given != nullptr && given[0] != '\0') {
    folder = given;
  } else {
    // The test's data are links into the workspace.
    const std::filesystem::path data = std::filesystem::canonical(kGoldens);
    folder = data.parent_path().parent_path().parent_path().parent_path() / ".cache" / "models";
  }
  const std::filesystem::path path = folder / kTargetModel;
  return std::filesystem::exists(path) ? path.string() : "";
}

#define SKIP_WITHOUT_MODEL(path) \
  if ((path).empty()) GTEST_SKIP() << "no " << kTargetModel << "; run 'deploy/setup.sh model'"

std::unique_ptr<ModelGroup> Load(const std::string& path, Numerics numerics, int world_size = 1) {
  auto group = ModelGroup::Create(path, {.device = TestDevice(),
                                         .numerics = numerics,
                                         .world_size = world_size,
                                         .num_threads = world_size == 1 ? 2 : 1,
                                         .num_kv_blocks = 32});
  EXPECT_TRUE(group.ok()) << group.status();
  return group.ok() ? *std::move(group) : nullptr;
}

// Logits that choose each output token when the sequence is forced along the golden's path: prompt and output in one
// span, the output as draft. A row's bits are the same however it is computed (model_runner_test).
std::vector<std::vector<float>> ForcedLogits(ModelGroup& group, const Golden& golden, uint64_t id) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = static_cast<int>(golden.output_ids.size());
  StepPlan plan;
  plan.step = StepId(id);
  plan.starts.push_back({SequenceId(id), golden.prompt_ids, {}, params});
  if (id > 1) plan.ends.push_back(SequenceId(id - 1));
  Span span{.sequence = SequenceId(id),
            .num_committed_tokens = static_cast<int>(golden.prompt_ids.size()),
            .samples = true,
            .lookahead = static_cast<int>(golden.output_ids.size()) - 1};
  span.paths.push_back({.base_position = static_cast<int>(golden.prompt_ids.size()), .tokens = golden.output_ids});
  for (int block = 0; block < 32; ++block) span.blocks.push_back(block);
  plan.spans.push_back(span);
  const auto result = group.Step(plan);
  EXPECT_TRUE(result.ok()) << result.status();
  std::vector<std::vector<float>> logits = group.Logits();
  EXPECT_EQ(logits.size(), golden.output_ids.size());
  return logits;
}

TokenId ArgMax(const std::vector<float>& row) {
  return static_cast<TokenId>(std::max_element(row.begin(), row.end()) - row.begin());
}

struct Agreement {
  int steps = 0;
  int agreed = 0;
  double percent() const { return 100.0 * agreed / steps; }
};

Agreement ForcedAgreement(ModelGroup& group, const std::vector<Golden>& goldens) {
  Agreement agreement;
  for (size_t i = 0; i < goldens.size(); ++i) {
    const auto logits = ForcedLogits(group, goldens[i], i + 1);
    for (size_t j = 0; j < logits.size(); ++j) {
      ++agreement.steps;
      const bool agrees = ArgMax(logits[j]) == goldens[i].output_ids[j];
      agreement.agreed += agrees;
      if (!agrees && TestDevice() == Device::kCuda) {
        std::printf("prompt %zu, output token %zu: not the golden's, whose margin is %.4f\n", i, j,
                    goldens[i].margins[j]);
      }
    }
  }
  return agreement;
}

TEST(Goldens, ReferenceGivesTheGoldenIdsUpToNearTies) {
  const std::string path = TargetModelPath();
  SKIP_WITHOUT_MODEL(path);
  if (TestDevice() != Device::kCpu) GTEST_SKIP() << "the oracle computes on CPUs";
  const auto group = Load(path, Numerics::kReference);
  ASSERT_NE(group, nullptr);
  std::vector<Golden> goldens = ReadGoldens();
  ASSERT_EQ(goldens.size(), 20);
  goldens.resize(kReferenceGoldens);
  int num_whole = 0;
  double margin_error_max = 0;
  for (size_t i = 0; i < goldens.size(); ++i) {
    const Golden& golden = goldens[i];
    const auto logits = ForcedLogits(*group, golden, i + 1);
    bool whole = true;
    for (size_t j = 0; j < logits.size() && whole; ++j) {
      if (ArgMax(logits[j]) != golden.output_ids[j]) {
        EXPECT_LT(golden.margins[j], kNearTie) << "prompt '" << golden.prompt << "', output token " << j;
        whole = false;
        continue;
      }
      std::vector<float> row = logits[j];
      std::nth_element(row.begin(), row.begin() + 1, row.end(), std::greater<float>());
      margin_error_max = std::max(margin_error_max, std::abs(row[0] - row[1] - golden.margins[j]));
    }
    num_whole += whole;
  }
  std::printf("reference: %d of %zu goldens whole; margins differ by %.2g at most\n", num_whole, goldens.size(),
              margin_error_max);
  // Margins are stored to four digits after the point; two fp32 forward passes differ by some 1e-3 on logits near 25.
  EXPECT_LT(margin_error_max, 0.01);
}

TEST(Goldens, InvariantFollowsTheGoldenPaths) {
  const std::string path = TargetModelPath();
  SKIP_WITHOUT_MODEL(path);
  if (kSanitized) GTEST_SKIP() << "a matter of arithmetic, not of memory";
  const std::vector<Golden> goldens = ReadGoldens();
  for (const int world_size : {1, 2, 3}) {
    if (!TestDeviceHas(world_size)) continue;
    const auto group = Load(path, Numerics::kInvariant, world_size);
    ASSERT_NE(group, nullptr);
    const Agreement agreement = ForcedAgreement(*group, goldens);
    std::printf("invariant over %d ranks: golden token is argmax on %d of %d steps, %.2f %%; llama.cpp: %d, %.2f %%\n",
                world_size, agreement.agreed, agreement.steps, agreement.percent(), kLlamaCppAgreed,
                100.0 * kLlamaCppAgreed / kNumSteps);
    EXPECT_EQ(agreement.steps, kNumSteps);
    // BF16 weights of a GPU are nearer to the goldens' fp32 than 8-bit activations are.
    EXPECT_GE(agreement.percent(), TestDevice() == Device::kCuda ? 98.0 : 100.0 * kLlamaCppAgreed / kNumSteps - 1.0);
  }
}

TEST(Goldens, ShippedDraftAgreesAsItWasMeasured) {
  const auto group = Load(kDraftModel, Numerics::kInvariant);
  ASSERT_NE(group, nullptr);
  const Agreement agreement = ForcedAgreement(*group, ReadGoldens());
  std::printf("draft: golden token is argmax on %d of %d steps, %.2f %%\n", agreement.agreed, agreement.steps,
              agreement.percent());
  // 55.7 % when it was made, in fp32 and by its own way of counting; 1250 steps have a standard error of 1.4 points.
  EXPECT_NEAR(agreement.percent(), 55.7, 3 * 1.4);
}

}  // namespace
}  // namespace outrider
