#include "cli/openai_stream.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace outrider {
namespace {

using Json = nlohmann::json;

TEST(OpenAiBody, HasTheFieldsThatTheRequestHasAndNoOthers) {
  v1::GenerateRequest request;
  request.add_prompt_token_ids(5);
  request.add_prompt_token_ids(6);
  request.set_max_tokens(7);
  request.set_temperature(0);
  request.set_ignore_eos(true);
  request.set_priority(3);
  request.set_draft(false);
  const auto body = OpenAiBody(request, "m", OpenAiApi::kCompletions);
  ASSERT_TRUE(body.ok()) << body.status();
  EXPECT_EQ(Json::parse(*body), Json::parse(R"({"model": "m", "prompt": [5, 6], "max_tokens": 7, "stream": true,
      "stream_options": {"include_usage": true, "continuous_usage_stats": true}, "temperature": 0.0,
      "ignore_eos": true, "priority": -3, "draft": false})"));
}

TEST(OpenAiBody, ChatTakesMessagesOrAPromptAsOne) {
  v1::GenerateRequest request;
  request.set_prompt("hi");
  request.set_max_tokens(7);
  const Json one = Json::parse(*OpenAiBody(request, "m", OpenAiApi::kChat));
  EXPECT_EQ(one["messages"], Json::parse(R"([{"role": "user", "content": "hi"}])"));
  EXPECT_EQ(one["max_completion_tokens"], 7);
  v1::ChatMessage* const message = request.add_messages();
  message->set_role("system");
  message->set_content("be brief");
  EXPECT_EQ(Json::parse(*OpenAiBody(request, "m", OpenAiApi::kChat))["messages"][0]["role"], "system");
  EXPECT_EQ(OpenAiBody(request, "m", OpenAiApi::kCompletions).status().code(), absl::StatusCode::kInvalidArgument);
  request.Clear();
  request.add_prompt_token_ids(1);
  EXPECT_EQ(OpenAiBody(request, "m", OpenAiApi::kChat).status().code(), absl::StatusCode::kInvalidArgument);
}

constexpr char kChat[] =
    ": ping\n\n"
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":{\"prompt_tokens\":3,"
    "\"completion_tokens\":0}}\n\n"
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n"
    "data: {\"choices\":[{\"delta\":{\"content\":\"bc\"}}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":3}}\n\n"
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,"
    "\"completion_tokens\":3}}\r\n\r\n"
    "data: "
    "{\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4},\"metrics\":{\"speculative_decoding\":"
    "{\"num_spec_steps\":2,\"num_draft_tokens\":5,\"num_accepted_draft_tokens\":1}}}\n\n"
    "data: [DONE]\n\n";

// A byte at a time: where packets end does not matter.
TEST(OpenAiStream, TokensOfAMessageAreToldByItsUsage) {
  BenchRecord record;
  OpenAiStream stream(record);
  double now = 0;
  for (const char c : std::string(kChat)) {
    if (c == '\n') now += 1;
    stream.Take(std::string(1, c), now);
  }
  stream.End();
  EXPECT_TRUE(record.success) << record.error;
  EXPECT_EQ(record.text, "abc");
  EXPECT_EQ(record.prompt_tokens, 3);
  EXPECT_EQ(record.output_tokens, 4);
  EXPECT_EQ(record.message_tokens, (std::vector<int>{1, 2}));
  EXPECT_EQ(record.ttft_s, 5);  // the fifth line's end
  EXPECT_EQ(record.itl_s, (std::vector<double>{2}));
  EXPECT_EQ(record.latency_s, 7);
  EXPECT_EQ(record.num_drafts, 2);
  EXPECT_EQ(record.draft_tokens, 5);
  EXPECT_EQ(record.accepted_tokens, 1);
}

TEST(OpenAiStream, WithoutUsageInChunksAChunkIsATokenUntilTheEndTells) {
  BenchRecord record;
  OpenAiStream stream(record);
  stream.Take("data: {\"choices\":[{\"text\":\"x\"}]}\n\ndata: {\"choices\":[{\"text\":\"\"}]}\n\n", 1);
  stream.Take("data: {\"choices\":[{\"text\":\"y\"}],\"usage\":null}\n\n", 2);
  stream.Take("data: {\"choices\":[],\"usage\":{\"completion_tokens\":5}}\n\ndata: [DONE]\n\n", 3);
  stream.End();
  EXPECT_TRUE(record.success);
  EXPECT_EQ(record.output_tokens, 5);
  EXPECT_EQ(record.message_tokens.size(), 2u);
  EXPECT_EQ(record.latency_s, 2);
}

TEST(OpenAiStream, AnswersThatAreNoneFailTheRequest) {
  const auto error = [](const std::string& bytes) {
    BenchRecord record;
    OpenAiStream stream(record);
    stream.Take(bytes, 1);
    stream.End();
    EXPECT_FALSE(record.success);
    return record.error;
  };
  EXPECT_EQ(error(""), "the stream ended without [DONE]");
  EXPECT_EQ(error("data: {\"choices\":[{\"text\":\"x\"}]}\n\n"), "the stream ended without [DONE]");
  EXPECT_EQ(error("data: {\"error\":{\"message\":\"gone\"}}\n\ndata: [DONE]\n\n"), "gone");
  EXPECT_EQ(error("data: {\"error\":7}\n\n"), "7");
  EXPECT_EQ(error("data: nonsense\n\n"), "an event that is no JSON object");
  EXPECT_EQ(error("data: []\n\n"), "an event that is no JSON object");
  EXPECT_EQ(error("data: {\"choices\":[7],\"usage\":7,\"metrics\":7}\n\n"), "the stream ended without [DONE]");
  EXPECT_EQ(error("data: {\"choices\":[{\"delta\":7,\"text\":7}]}\n\n"), "the stream ended without [DONE]");
  EXPECT_EQ(error(std::string((16 << 20) + 1, 'x')), "an event of more than 16 MiB");
}

}  // namespace
}  // namespace outrider
