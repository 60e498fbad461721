#include "worker/group/plan_codec.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <iostream>
#include <random>

namespace outrider {
namespace {

constexpr PlanLimits kLimits{.vocab_size = 100, .num_kv_blocks = 50, .max_model_len = 1000};

// A plan that uses every field.
StepPlan FullPlan() {
  SamplingParams params;
  params.temperature = 0.8f;
  params.top_p = 0.9f;
  params.top_k = 40;
  params.min_p = 0.05f;
  params.repetition_penalty = 1.1f;
  params.presence_penalty = -0.5f;
  params.frequency_penalty = 0.25f;
  params.logit_bias = {{3, -100.0f}, {4, 1.5f}};
  params.max_tokens = 77;
  params.min_tokens = 5;
  params.end_token_ids = {2};
  params.stop_token_ids = {7, 8};
  params.seed = 0xfedcba9876543210;
  params.lane = 3;
  params.num_logprobs = 5;
  params.num_prompt_logprobs = 7;
  params.acceptance = Acceptance::kRejection;
  StepPlan plan;
  plan.step = StepId(12);
  plan.starts = {{.sequence = SequenceId(5), .prompt = {1, 2, 3}, .output = {4, 99}, .params = params},
                 {.sequence = SequenceId(6), .prompt = {0}, .output = {}, .params = {}}};
  plan.ends = {SequenceId(1), SequenceId(2)};
  plan.spans = {{.sequence = SequenceId(5),
                 .predecessor = StepId(),
                 .first_position = 0,
                 .num_committed_tokens = 5,
                 .samples = true,
                 .lookahead = 4,
                 .paths = {{.base_position = 5, .tokens = {9, 10}}, {.base_position = 4, .tokens = {}}},
                 .first_block_index = 0,
                 .blocks = {11, 49, 0}},
                {.sequence = SequenceId(4),
                 .predecessor = StepId(11),
                 .first_position = 30,
                 .num_committed_tokens = 1,
                 .samples = false,
                 .lookahead = 0,
                 .paths = {},
                 .first_block_index = 2,
                 .blocks = {}}};
  return plan;
}

void ExpectEqual(const SamplingParams& a, const SamplingParams& b) {
  EXPECT_EQ(a.temperature, b.temperature);
  EXPECT_EQ(a.top_p, b.top_p);
  EXPECT_EQ(a.top_k, b.top_k);
  EXPECT_EQ(a.min_p, b.min_p);
  EXPECT_EQ(a.repetition_penalty, b.repetition_penalty);
  EXPECT_EQ(a.presence_penalty, b.presence_penalty);
  EXPECT_EQ(a.frequency_penalty, b.frequency_penalty);
  EXPECT_EQ(a.logit_bias, b.logit_bias);
  EXPECT_EQ(a.num_prompt_logprobs, b.num_prompt_logprobs);
  EXPECT_EQ(a.max_tokens, b.max_tokens);
  EXPECT_EQ(a.min_tokens, b.min_tokens);
  EXPECT_EQ(a.end_token_ids, b.end_token_ids);
  EXPECT_EQ(a.stop_token_ids, b.stop_token_ids);
  EXPECT_EQ(a.seed, b.seed);
  EXPECT_EQ(a.lane, b.lane);
  EXPECT_EQ(a.num_logprobs, b.num_logprobs);
  EXPECT_EQ(a.acceptance, b.acceptance);
}

void ExpectEqual(const StepPlan& a, const StepPlan& b) {
  EXPECT_EQ(a.step, b.step);
  ASSERT_EQ(a.starts.size(), b.starts.size());
  for (size_t i = 0; i < a.starts.size(); ++i) {
    EXPECT_EQ(a.starts[i].sequence, b.starts[i].sequence);
    EXPECT_EQ(a.starts[i].prompt, b.starts[i].prompt);
    EXPECT_EQ(a.starts[i].output, b.starts[i].output);
    ExpectEqual(a.starts[i].params, b.starts[i].params);
  }
  EXPECT_EQ(a.ends, b.ends);
  ASSERT_EQ(a.spans.size(), b.spans.size());
  for (size_t i = 0; i < a.spans.size(); ++i) {
    EXPECT_EQ(a.spans[i].sequence, b.spans[i].sequence);
    EXPECT_EQ(a.spans[i].predecessor, b.spans[i].predecessor);
    EXPECT_EQ(a.spans[i].first_position, b.spans[i].first_position);
    EXPECT_EQ(a.spans[i].num_committed_tokens, b.spans[i].num_committed_tokens);
    EXPECT_EQ(a.spans[i].samples, b.spans[i].samples);
    EXPECT_EQ(a.spans[i].lookahead, b.spans[i].lookahead);
    ASSERT_EQ(a.spans[i].paths.size(), b.spans[i].paths.size());
    for (size_t p = 0; p < a.spans[i].paths.size(); ++p) {
      EXPECT_EQ(a.spans[i].paths[p].base_position, b.spans[i].paths[p].base_position);
      EXPECT_EQ(a.spans[i].paths[p].tokens, b.spans[i].paths[p].tokens);
    }
    EXPECT_EQ(a.spans[i].first_block_index, b.spans[i].first_block_index);
    EXPECT_EQ(a.spans[i].blocks, b.spans[i].blocks);
  }
}

std::string Encoded(const StepPlan& plan) {
  std::string bytes;
  PlanCodec().Encode(plan, &bytes);
  return bytes;
}

// What Decode says to FullPlan with one change.
absl::Status DecodeChanged(const std::function<void(StepPlan&)>& change) {
  StepPlan plan = FullPlan();
  change(plan);
  StepPlan decoded;
  return PlanCodec(kLimits).Decode(Encoded(plan), &decoded);
}

TEST(PlanCodec, GivesBackEveryField) {
  const StepPlan plan = FullPlan();
  StepPlan decoded;
  const absl::Status status = PlanCodec(kLimits).Decode(Encoded(plan), &decoded);
  ASSERT_TRUE(status.ok()) << status;
  ExpectEqual(plan, decoded);
}

TEST(PlanCodec, LeavesNothingOfAnEarlierPlanBehind) {
  StepPlan small;
  small.step = StepId(13);
  small.spans = {{.sequence = SequenceId(9), .num_committed_tokens = 1, .samples = true}};
  PlanCodec encoder;
  PlanCodec decoder(kLimits);
  StepPlan decoded;
  for (const StepPlan& plan : {FullPlan(), small, FullPlan(), small}) {
    std::string bytes = "header";
    encoder.Encode(plan, &bytes);
    ASSERT_TRUE(decoder.Decode(absl::string_view(bytes).substr(6), &decoded).ok());
    ExpectEqual(plan, decoded);
  }
}

TEST(PlanCodec, NamesWhatIsOutOfBounds) {
  const auto message = [](const std::function<void(StepPlan&)>& change) {
    const absl::Status status = DecodeChanged(change);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(message([](StepPlan& p) { p.step = StepId(); }), "step plan: step = 0 names no step");
  EXPECT_EQ(message([](StepPlan& p) { p.starts[0].prompt[1] = 100; }),
            "step plan: prompt_token_ids holds 100, no token of a vocabulary of 100");
  EXPECT_EQ(message([](StepPlan& p) { p.starts[0].output[1] = -1; }),
            "step plan: output_token_ids holds -1, no token of a vocabulary of 100");
  EXPECT_EQ(message([](StepPlan& p) { p.starts[0].prompt.clear(); }),
            "step plan: starts.sequence = 5 has an empty prompt");
  EXPECT_EQ(message([](StepPlan& p) { p.starts[0].prompt.resize(999, 1); }),
            "step plan: starts.sequence = 5 has 1001 tokens, the context 1000");
  EXPECT_EQ(message([](StepPlan& p) { p.spans[0].blocks[1] = 50; }),
            "step plan: spans.blocks holds 50, no block of 50");
  EXPECT_EQ(message([](StepPlan& p) { p.spans[0].blocks[1] = -7; }),
            "step plan: spans.blocks holds -7, no block of 50");
  EXPECT_EQ(message([](StepPlan& p) { p.spans[0].first_position = -1; }),
            "step plan: spans.first_position = 4294967295 is beyond 1000");
  EXPECT_EQ(message([](StepPlan& p) { p.spans[0].num_committed_tokens = 0; }),
            "step plan: spans.num_committed_tokens = 0 computes nothing");
  EXPECT_EQ(message([](StepPlan& p) { p.spans[1].num_committed_tokens = 2; }),
            "step plan: spans.num_committed_tokens = 2 with a predecessor; it must be 1");
  EXPECT_EQ(message([](StepPlan& p) { p.spans[1].lookahead = 1; }), "step plan: spans.lookahead = 1 without sampling");
  EXPECT_EQ(message([](StepPlan& p) { p.spans[0].lookahead = -1; }),
            "step plan: spans.lookahead = 4294967295 is beyond 1024");
  EXPECT_EQ(message([](StepPlan& p) { p.spans[0].paths[0].tokens[0] = 100; }),
            "step plan: spans.paths.token_ids holds 100, no token of a vocabulary of 100");
  EXPECT_EQ(message([](StepPlan& p) { p.spans[0].paths[0].tokens.resize(1025); }),
            "step plan: spans.paths.token_ids = 1025 are beyond 1024");
  EXPECT_EQ(message([](StepPlan& p) { p.spans[0].paths.resize(65); }), "step plan: spans.paths = 65 are beyond 64");
  EXPECT_EQ(message([](StepPlan& p) { p.spans[1].sequence = SequenceId(5); }),
            "step plan: spans.sequence = 5 has two spans");
  EXPECT_EQ(message([](StepPlan& p) { p.ends[0] = SequenceId(); }), "step plan: ends = 0 names no sequence");
  EXPECT_EQ(message([](StepPlan& p) { p.starts[1].params.max_tokens = 0; }).substr(0, 14), "max_tokens = 0");
  EXPECT_EQ(message([](StepPlan& p) { p.starts[0].params.top_k = -1; }),
            "step plan: top_k = 4294967295 is beyond 2147483647");
  EXPECT_EQ(message([](StepPlan& p) { p.starts[0].params.stop_token_ids[0] = 100; }).substr(0, 14), "stop_token_ids");
}

TEST(PlanCodec, ChecksOnlySignsWithoutLimits) {
  StepPlan plan = FullPlan();
  plan.starts[0].prompt[0] = 1 << 30;
  plan.spans[0].blocks[0] = 1 << 30;
  plan.spans[0].first_position = 1 << 30;
  StepPlan decoded;
  EXPECT_TRUE(PlanCodec().Decode(Encoded(plan), &decoded).ok());
  plan.spans[0].blocks[0] = -1;
  EXPECT_FALSE(PlanCodec().Decode(Encoded(plan), &decoded).ok());
}

// Bytes that were changed in flight give an error or a plan within the limits, and nothing else.
TEST(PlanCodec, SurvivesAnyBytes) {
  const char* set = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = set != nullptr ? std::strtoull(set, nullptr, 10) : std::random_device()();
  std::cout << "OUTRIDER_TEST_SEED=" << seed << std::endl;
  std::mt19937_64 random(seed);
  const std::string good = Encoded(FullPlan());
  PlanCodec codec(kLimits);
  StepPlan plan;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = good;
    for (uint64_t n = 1 + random() % 4; n > 0; --n) bytes[random() % bytes.size()] = static_cast<char>(random());
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    if (!codec.Decode(bytes, &plan).ok()) continue;
    for (const Span& span : plan.spans) {
      ASSERT_GE(span.num_committed_tokens, 1);
      for (const BlockId block : span.blocks) ASSERT_TRUE(block >= 0 && block < kLimits.num_kv_blocks);
      for (const DraftPath& path : span.paths) {
        for (const TokenId token : path.tokens) ASSERT_TRUE(token >= 0 && token < kLimits.vocab_size);
      }
    }
    for (const SequenceStart& start : plan.starts) {
      for (const TokenId token : start.prompt) ASSERT_TRUE(token >= 0 && token < kLimits.vocab_size);
    }
  }
}

}  // namespace
}  // namespace outrider
