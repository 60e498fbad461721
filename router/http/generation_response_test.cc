#include "router/http/generation_response.h"

#include <gtest/gtest.h>

#include <limits>

#include "router/http/json_reader.h"
#include "router/testing/byte_tokenizer.h"

namespace outrider::router {
namespace {

AnswerIdentity Identity(bool chat) { return {.chat = chat, .id = "id-1", .created = 12, .model = "m \"x\""}; }

v1::TokenLogprobs Logprobs(float chosen, const std::vector<std::pair<int32_t, float>>& top) {
  v1::TokenLogprobs out;
  out.set_logprob(chosen);
  for (const auto& [id, logprob] : top) {
    v1::TokenLogprob& entry = *out.add_top();
    entry.set_token_id(id);
    entry.set_logprob(logprob);
  }
  return out;
}

TEST(GenerationResponse, RendersAChatAsOpenAiDoes) {
  ChoicePart choice{.text = "a\n\"", .token_ids = {97}, .finish_reason = v1::FINISH_REASON_END_TOKEN};
  const Json answer = Json::parse(RenderAnswer(Identity(true), nullptr, {choice},
                                               {.prompt_tokens = 3, .completion_tokens = 4, .cached_tokens = 2}));
  EXPECT_EQ(answer, Json::parse(R"({"id": "id-1", "object": "chat.completion", "created": 12, "model": "m \"x\"",
      "choices": [{"index": 0, "message": {"role": "assistant", "content": "a\n\"", "refusal": null}, "logprobs": null,
                   "finish_reason": "stop", "stop_reason": null}],
      "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0,
                                              "rejected_prediction_tokens": 0}}})"));
}

TEST(GenerationResponse, RendersCompletionsWithEveryChoice) {
  AnswerIdentity identity = Identity(false);
  identity.show_token_ids = true;
  ChoicePart first{
      .index = 0, .text = "a", .token_ids = {97}, .finish_reason = v1::FINISH_REASON_LENGTH, .prompt_token_ids = {1}};
  ChoicePart second{.index = 1,
                    .text = "b",
                    .token_ids = {98},
                    .finish_reason = v1::FINISH_REASON_STOP_STRING,
                    .stop_string = "c",
                    .prompt_token_ids = {1}};
  ChoicePart third{
      .index = 2, .text = "", .token_ids = {5}, .finish_reason = v1::FINISH_REASON_STOP_TOKEN, .last_token_id = 5};
  const Json answer = Json::parse(RenderAnswer(identity, nullptr, {first, second, third}, {}));
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["choices"][0], Json::parse(R"({"index": 0, "text": "a", "logprobs": null, "finish_reason": "length",
      "stop_reason": null, "token_ids": [97], "prompt_token_ids": [1]})"));
  EXPECT_EQ(answer["choices"][1]["finish_reason"], "stop");
  EXPECT_EQ(answer["choices"][1]["stop_reason"], "c");
  EXPECT_EQ(answer["choices"][2]["stop_reason"], 5);
  EXPECT_FALSE(answer.contains("metrics"));
}

TEST(GenerationResponse, RendersChatLogprobsWithBytes) {
  const auto tokenizer = MakeByteTokenizer();
  AnswerIdentity identity = Identity(true);
  identity.show_logprobs = true;
  const ChoicePart choice{
      .token_ids = {0xc3, 97},
      .logprobs = {Logprobs(-0.5, {{0xc3, -0.5}, {98, -1.25}}), Logprobs(-std::numeric_limits<float>::infinity(), {})},
      .finish_reason = v1::FINISH_REASON_LENGTH};
  const Json answer = Json::parse(RenderAnswer(identity, tokenizer.get(), {choice}, {}));
  EXPECT_EQ(answer["choices"][0]["logprobs"], Json::parse(R"({"content": [
      {"token": "\ufffd", "logprob": -0.5, "bytes": [195], "top_logprobs": [
         {"token": "\ufffd", "logprob": -0.5, "bytes": [195]}, {"token": "b", "logprob": -1.25, "bytes": [98]}]},
      {"token": "a", "logprob": -9999, "bytes": [97], "top_logprobs": []}], "refusal": null})"));
}

TEST(GenerationResponse, RendersCompletionLogprobsWithOffsets) {
  const auto tokenizer = MakeByteTokenizer();
  AnswerIdentity identity = Identity(false);
  identity.show_logprobs = true;
  const ChoicePart part{.token_ids = {kAbcId, 97},
                        .logprobs = {Logprobs(-0.5, {{98, -0.25}}), Logprobs(-1, {{97, -1}})},
                        .first_text_offset = 4};
  const Json chunk = Json::parse(RenderChunkOf(identity, tokenizer.get(), part, nullptr));
  EXPECT_EQ(chunk["choices"][0]["logprobs"], Json::parse(R"({"tokens": ["abc", "a"], "token_logprobs": [-0.5, -1.0],
      "top_logprobs": [{"b": -0.25, "abc": -0.5}, {"a": -1.0}], "text_offset": [4, 7]})"));
  EXPECT_TRUE(chunk["choices"][0]["finish_reason"].is_null());
}

TEST(GenerationResponse, RendersChunksInOpenAisOrderAndShapes) {
  AnswerIdentity identity = Identity(true);
  EXPECT_EQ(Json::parse(RenderRoleChunk(identity, 1, {}, nullptr)),
            Json::parse(R"({"id": "id-1", "object": "chat.completion.chunk", "created": 12, "model": "m \"x\"",
      "choices": [{"index": 1, "delta": {"role": "assistant", "content": ""}, "logprobs": null,
                   "finish_reason": null}]})"));
  identity.usage_in_chunks = true;
  const Json delta = Json::parse(RenderChunkOf(identity, nullptr, {.text = "t"}, nullptr));
  EXPECT_EQ(delta["choices"][0]["delta"], Json::parse(R"({"content": "t"})"));
  EXPECT_TRUE(delta.contains("usage") && delta["usage"].is_null());
  const AnswerUsage usage{.prompt_tokens = 1, .completion_tokens = 2};
  const Json end = Json::parse(RenderChunkOf(identity, nullptr, {.finish_reason = v1::FINISH_REASON_LENGTH}, &usage));
  EXPECT_EQ(end["choices"][0]["delta"], Json::object());
  EXPECT_EQ(end["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(end["usage"]["total_tokens"], 3);
  const Json last = Json::parse(RenderUsageChunk(identity, usage));
  EXPECT_EQ(last["choices"], Json::array());
  EXPECT_EQ(last["usage"]["prompt_tokens"], 1);
  EXPECT_EQ(SseEvent("x"), "data: x\n\n");
}

TEST(GenerationResponse, ShowsTheSpeculationOfOneChoice) {
  AnswerUsage usage{.show_speculation = true};
  usage.speculation.set_rounds(4);
  usage.speculation.set_draft_tokens(16);
  usage.speculation.set_accepted_tokens(10);
  for (const uint32_t rounds : {1, 0, 1, 0, 2}) usage.speculation.add_rounds_by_accepted(rounds);
  const Json answer = Json::parse(RenderAnswer(Identity(true), nullptr, {{}}, usage));
  EXPECT_EQ(answer["metrics"]["speculative_decoding"], Json::parse(R"({"mean_acceptance_length": 3.5,
      "draft_acceptance_rate": 0.625, "num_spec_steps": 4, "num_accepted_draft_tokens": 10, "num_draft_tokens": 16,
      "num_spec_tokens": 4, "acceptance_histogram": [1, 0, 1, 0, 2]})"));
  usage.speculation.Clear();
  const Json none = Json::parse(RenderAnswer(Identity(true), nullptr, {{}}, usage));
  EXPECT_EQ(none["metrics"]["speculative_decoding"]["mean_acceptance_length"], 1.0);
  EXPECT_EQ(none["metrics"]["speculative_decoding"]["acceptance_histogram"], Json({0}));
  EXPECT_EQ(none["metrics"]["speculative_decoding"]["num_spec_tokens"], 0);
}

}  // namespace
}  // namespace outrider::router
