#include "router/vllm_engine_messages.h"

#include <gtest/gtest.h>

#include <functional>

namespace outrider::router {
namespace {

vllm::GenerateRequest Request() {
  vllm::GenerateRequest request;
  request.mutable_tokenized()->set_original_text("ignored");
  request.mutable_tokenized()->add_input_ids(5);
  request.mutable_tokenized()->add_input_ids(7);
  return request;
}

v1::GenerateResponse Started(int num_prompt_tokens) {
  v1::GenerateResponse response;
  for (int i = 0; i < num_prompt_tokens; ++i) response.mutable_started()->add_prompt_token_ids(i);
  return response;
}

v1::GenerateResponse Delta(uint32_t choice, const std::vector<int32_t>& ids, bool logprobs = false) {
  v1::GenerateResponse response;
  response.mutable_delta()->set_choice_index(choice);
  for (const int32_t id : ids) {
    response.mutable_delta()->add_token_ids(id);
    if (!logprobs) continue;
    v1::TokenLogprobs* const one = response.mutable_delta()->add_logprobs();
    one->set_logprob(-0.5f * static_cast<float>(id));
    v1::TokenLogprob* const top = one->add_top();
    top->set_token_id(id + 1);
    top->set_logprob(-0.25f);
  }
  return response;
}

v1::GenerateResponse Finished(uint32_t choice, v1::FinishReason reason, const std::string& stop_string = "") {
  v1::GenerateResponse response;
  response.mutable_finished()->set_choice_index(choice);
  response.mutable_finished()->set_finish_reason(reason);
  response.mutable_finished()->set_stop_string(stop_string);
  response.mutable_finished()->mutable_usage()->set_cached_tokens(1);
  return response;
}

TEST(FromVllm, TakesTheDefaultsOfVllm) {
  const auto ours = FromVllm(Request());
  ASSERT_TRUE(ours.ok()) << ours.status();
  EXPECT_EQ(ours->prompt_token_ids_size(), 2);
  EXPECT_EQ(ours->prompt_token_ids(1), 7);
  EXPECT_FALSE(ours->has_prompt());
  EXPECT_EQ(ours->temperature(), 1);
  EXPECT_TRUE(ours->has_temperature()) << "not what the model recommends";
  EXPECT_EQ(ours->top_p(), 1);
  EXPECT_EQ(ours->repetition_penalty(), 1);
  EXPECT_EQ(ours->n(), 1u);
  EXPECT_FALSE(ours->has_max_tokens());
  EXPECT_FALSE(ours->has_seed());
  EXPECT_FALSE(ours->has_num_logprobs());
}

TEST(FromVllm, TakesEverySamplingField) {
  vllm::GenerateRequest request;
  request.set_text("Hello");
  vllm::SamplingParams& sampling = *request.mutable_sampling_params();
  sampling.set_temperature(0);
  sampling.set_top_p(0.5f);
  sampling.set_top_k(4);
  sampling.set_min_p(0.25f);
  sampling.set_frequency_penalty(0.5f);
  sampling.set_presence_penalty(-0.5f);
  sampling.set_repetition_penalty(1.5f);
  sampling.set_max_tokens(9);
  sampling.set_min_tokens(2);
  sampling.add_stop("a");
  sampling.add_stop_token_ids(3);
  sampling.set_ignore_eos(true);
  sampling.set_n(2);
  sampling.set_logprobs(5);
  sampling.set_seed(42);
  (*sampling.mutable_logit_bias())[9] = 1;
  (*sampling.mutable_logit_bias())[2] = -1;
  const auto ours = FromVllm(request);
  ASSERT_TRUE(ours.ok()) << ours.status();
  EXPECT_EQ(ours->ShortDebugString(),
            "prompt: \"Hello\" max_tokens: 9 min_tokens: 2 temperature: 0 top_p: 0.5 top_k: 4 min_p: 0.25 "
            "repetition_penalty: 1.5 presence_penalty: -0.5 frequency_penalty: 0.5 logit_bias { token_id: 2 bias: -1 } "
            "logit_bias { token_id: 9 bias: 1 } seed: 42 stop: \"a\" stop_token_ids: 3 ignore_eos: true n: 2 "
            "num_logprobs: 5");
}

TEST(FromVllm, RefusesWhatIsNotOffered) {
  const std::vector<std::pair<std::string, std::function<void(vllm::GenerateRequest&)>>> cases = {
      {"kv_transfer_params", [](auto& r) { r.mutable_kv_transfer_params(); }},
      {"mm_inputs", [](auto& r) { r.mutable_mm_inputs(); }},
      {"constraint", [](auto& r) { r.mutable_sampling_params()->set_regex("a*"); }},
      {"constraint", [](auto& r) { r.mutable_sampling_params()->set_json_object(false); }},
      {"prompt_logprobs", [](auto& r) { r.mutable_sampling_params()->set_prompt_logprobs(0); }},
      {"truncate_prompt_tokens", [](auto& r) { r.mutable_sampling_params()->set_truncate_prompt_tokens(-1); }},
      {"logprobs = -1", [](auto& r) { r.mutable_sampling_params()->set_logprobs(-1); }},
      {"tokenized or text", [](auto& r) { r.clear_input(); }},
  };
  for (const auto& [named, change] : cases) {
    vllm::GenerateRequest request = Request();
    change(request);
    const absl::Status status = FromVllm(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << named;
    EXPECT_NE(status.message().find(named), absl::string_view::npos) << status;
  }
}

TEST(VllmAnswers, StreamsChunksAndEndsEachChoiceWhole) {
  VllmAnswers answers(/*stream=*/true);
  EXPECT_TRUE(answers.Take(Started(3)).empty());
  auto sent = answers.Take(Delta(0, {4, 5}, true));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].chunk().token_ids_size(), 2);
  EXPECT_EQ(sent[0].chunk().prompt_tokens(), 3u);
  EXPECT_EQ(sent[0].chunk().completion_tokens(), 2u);
  EXPECT_EQ(sent[0].chunk().output_logprobs().token_ids(1), 5u);
  EXPECT_EQ(sent[0].chunk().output_logprobs().token_logprobs(1), -2.5f);
  EXPECT_EQ(sent[0].chunk().output_logprobs().top_logprobs(0).token_ids(0), 5u);
  sent = answers.Take(Delta(1, {8}));
  EXPECT_EQ(sent[0].chunk().index(), 1u);
  EXPECT_FALSE(sent[0].chunk().has_output_logprobs());
  EXPECT_TRUE(answers.Take(Delta(1, {})).empty()) << "text alone, of which there is none here";
  sent = answers.Take(Delta(0, {6}, true));
  EXPECT_EQ(sent[0].chunk().completion_tokens(), 3u);
  sent = answers.Take(Finished(0, v1::FINISH_REASON_STOP_TOKEN));
  ASSERT_EQ(sent.size(), 1u);
  const vllm::GenerateComplete& complete = sent[0].complete();
  EXPECT_EQ(complete.output_ids_size(), 3);
  EXPECT_EQ(complete.finish_reason(), "stop");
  EXPECT_EQ(complete.matched_token_id(), 6u);
  EXPECT_EQ(complete.cached_tokens(), 1u);
  EXPECT_EQ(complete.output_logprobs().token_ids_size(), 3);
}

TEST(VllmAnswers, WithoutStreamAreTheEndsAlone) {
  VllmAnswers answers(/*stream=*/false);
  EXPECT_TRUE(answers.Take(Started(1)).empty());
  EXPECT_TRUE(answers.Take(Delta(0, {4})).empty());
  EXPECT_TRUE(answers.Take(Delta(0, {5})).empty());
  const auto sent = answers.Take(Finished(0, v1::FINISH_REASON_LENGTH));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].complete().output_ids_size(), 2);
  EXPECT_EQ(sent[0].complete().finish_reason(), "length");
  EXPECT_EQ(sent[0].complete().matched_stop_case(), vllm::GenerateComplete::MATCHED_STOP_NOT_SET);
}

TEST(VllmAnswers, SayWhyAChoiceEnded) {
  const std::vector<std::pair<v1::FinishReason, std::string>> reasons = {{v1::FINISH_REASON_END_TOKEN, "stop"},
                                                                         {v1::FINISH_REASON_STOP_STRING, "stop"},
                                                                         {v1::FINISH_REASON_CANCELLED, "abort"}};
  for (const auto& [reason, name] : reasons) {
    VllmAnswers answers(false);
    answers.Take(Started(1));
    answers.Take(Delta(0, {4}));
    const auto sent = answers.Take(Finished(0, reason, reason == v1::FINISH_REASON_STOP_STRING ? "END" : ""));
    EXPECT_EQ(sent[0].complete().finish_reason(), name);
    EXPECT_EQ(sent[0].complete().matched_stop_str(), reason == v1::FINISH_REASON_STOP_STRING ? "END" : "");
  }
}

TEST(VllmAnswers, EndWhatWasAborted) {
  VllmAnswers answers(true);
  answers.Take(Started(1));
  answers.Take(Delta(0, {4}));
  answers.Take(Delta(1, {5}));
  answers.Take(Finished(0, v1::FINISH_REASON_LENGTH));
  const auto sent = answers.Abort();
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].complete().index(), 1u);
  EXPECT_EQ(sent[0].complete().finish_reason(), "abort");
  EXPECT_EQ(sent[0].complete().output_ids(0), 5u);
  EXPECT_TRUE(answers.Abort().empty());
  EXPECT_EQ(VllmAnswers(false).Abort().size(), 1u) << "one that had not begun";
}

}  // namespace
}  // namespace outrider::router
