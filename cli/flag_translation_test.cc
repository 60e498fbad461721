#include "cli/flag_translation.h"

#include <gtest/gtest.h>

#include "absl/strings/str_join.h"
#include "cli/cluster_flags.h"

namespace outrider {
namespace {

class FlagTranslation : public testing::Test {
 protected:
  FlagTranslation() {
    CLI::App* const serve = app_.add_subcommand("serve");
    serve->add_option("MODEL", options_.model);
    AddClusterFlags(*serve, options_);
    serve->add_option("--lookahead", options_.lookahead);
    CLI::App* const generate = app_.add_subcommand("generate");
    generate->add_option("--model", model_);
    generate->add_option("--seed", seed_);
    app_.add_subcommand("inspect");
  }
  std::string Translate(const std::vector<std::string>& arguments) {
    const auto result = TranslateVllmFlags(app_, arguments);
    if (!result.ok()) return std::string(result.status().message());
    notes_ = absl::StrJoin(result->notes, "\n");
    return absl::StrJoin(result->arguments, " ");
  }
  CLI::App app_{"", "outrider"};
  ClusterOptions options_;
  std::string model_, notes_;
  int seed_ = 0;
};

TEST_F(FlagTranslation, SaysVllmsFlagsInOurs) {
  EXPECT_EQ(Translate({"serve", "m", "-tp", "2"}), "serve m --tensor-parallel-size=2");
  EXPECT_EQ(Translate({"serve", "m", "-tp=2", "-dp", "3"}), "serve m --tensor-parallel-size=2 --groups=3");
  EXPECT_EQ(Translate({"serve", "--model", "m", "--max-num-seqs=8"}), "serve m --max-sequences=8");
  EXPECT_EQ(Translate({"serve", "m", "--max-num-batched-tokens", "2048"}), "serve m --max-step-tokens=2048");
  EXPECT_EQ(Translate({"serve", "m", "--no-enable-prefix-caching"}), "serve m --prefix-cache=false");
  EXPECT_EQ(Translate({"serve", "m", "--gpu-memory-utilization", "0.9"}), "serve m --gpu-memory-utilization 0.9");
}

TEST_F(FlagTranslation, TakesNumbersOfTokensAsPeopleWriteThem) {
  EXPECT_EQ(Translate({"serve", "m", "--max-model-len", "16k"}), "serve m --max-model-len=16000");
  EXPECT_EQ(Translate({"serve", "m", "--max-model-len", "16K"}), "serve m --max-model-len=16384");
  EXPECT_EQ(Translate({"serve", "m", "--max-model-len=25.6k"}), "serve m --max-model-len=25600");
  EXPECT_EQ(Translate({"serve", "m", "--max-model-len", "auto"}), "serve m --max-model-len=0");
  EXPECT_EQ(Translate({"serve", "m", "--max-model-len", "4096"}), "serve m --max-model-len=4096");
  EXPECT_EQ(Translate({"serve", "m", "--max-model-len", "few"}), "serve m --max-model-len=few");
}

TEST_F(FlagTranslation, TakesTheSpeculativeConfig) {
  EXPECT_EQ(Translate({"serve", "m", "--speculative-config",
                       R"({"method": "draft_model", "model": "d.gguf", "num_speculative_tokens": 5})"}),
            "serve m --draft-model=d.gguf --lookahead=5");
  EXPECT_EQ(Translate({"serve", "m", "--speculative-config",
                       R"({"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3})"}),
            "serve m --lookahead=4");
  EXPECT_NE(notes_.find("prompt_lookup_max"), std::string::npos);
  EXPECT_NE(Translate({"serve", "m", "--speculative-config", R"({"method": "eagle3", "model": "e"})"})
                .find("method 'eagle3' is not offered; drafts come from a model (--draft-model)"),
            std::string::npos);
  EXPECT_NE(Translate({"serve", "m", "--speculative-config", R"({"model": "d", "draft_tensor_parallel_size": 2})"})
                .find("'draft_tensor_parallel_size' = 2 has no counterpart"),
            std::string::npos);
  EXPECT_NE(Translate({"serve", "m", "--speculative-config", "d.gguf"}).find("is no JSON object"), std::string::npos);
  EXPECT_NE(Translate({"serve", "m", "--speculative-config", R"({"method": 7})"}).find("not offered"),
            std::string::npos);
  EXPECT_EQ(Translate({"serve", "m", "--speculative-config"}), "--speculative-config takes a value");
}

TEST_F(FlagTranslation, AcceptsWhatIsSoAnywayAndSaysSo) {
  EXPECT_EQ(Translate({"serve", "m", "--trust-remote-code", "--dtype", "auto", "-pp", "1"}), "serve m");
  EXPECT_EQ(notes_, "--trust-remote-code: no code that comes with a model is ever run; ignored");
}

TEST_F(FlagTranslation, RefusesWhatHasNoCounterpartAndNamesOurs) {
  EXPECT_EQ(Translate({"serve", "m", "--pipeline-parallel-size", "2"}),
            "--pipeline-parallel-size 2: layers are not divided over stages; use --tensor-parallel-size");
  EXPECT_NE(Translate({"serve", "m", "--quantization", "fp8"}).find("--quantization: the model's file says"),
            std::string::npos);
  EXPECT_NE(Translate({"serve", "m", "--dtype=float16"}).find("--dtype float16: "), std::string::npos);
}

TEST_F(FlagTranslation, LeavesACommandsOwnFlagsAndAllAfterTwoDashesAlone) {
  EXPECT_EQ(Translate({"generate", "--model", "m", "--seed", "7"}), "generate --model m --seed 7");
  EXPECT_EQ(Translate({"serve", "m", "--", "-tp", "2"}), "serve m -- -tp 2");
  EXPECT_EQ(Translate({"serve", "m", "-t", "2"}), "serve m -t 2");
  EXPECT_EQ(Translate({"inspect", "--quantization"}), "inspect --quantization");
  EXPECT_EQ(Translate({}), "");
  EXPECT_EQ(Translate({"generate", "--max-num-seqs", "2"}), "generate --max-num-seqs 2");
}

}  // namespace
}  // namespace outrider
