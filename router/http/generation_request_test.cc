#include "router/http/generation_request.h"

#include <gtest/gtest.h>

#include <random>

#include "router/http/api_error.h"
#include "router/proto_conversions.h"
#include "router/request_validation.h"
#include "router/testing/test_random.h"

namespace outrider::router {
namespace {

constexpr char kHi[] = R"("messages": [{"role": "user", "content": "hi"}])";

absl::StatusOr<GenerationRequest> ParseChat(const Json& body) {
  FieldReader fields(body);
  return ParseChatRequest(fields);
}
absl::StatusOr<GenerationRequest> ParseCompletion(const Json& body) {
  FieldReader fields(body);
  return ParseCompletionRequest(fields);
}
absl::StatusOr<GenerationRequest> Chat(const std::string& fields) {
  const auto body = ParseObject("{" + std::string(kHi) + (fields.empty() ? "" : ", ") + fields + "}");
  return body.ok() ? ParseChat(*body) : body.status();
}
absl::StatusOr<GenerationRequest> Completion(const std::string& fields) {
  const auto body = ParseObject("{" + fields + "}");
  return body.ok() ? ParseCompletion(*body) : body.status();
}

TEST(GenerationRequest, ReadsEveryFieldOfAChat) {
  const auto parsed = Chat(R"("model": "m", "stream": true,
      "stream_options": {"include_usage": true, "continuous_usage_stats": true}, "max_completion_tokens": 7,
      "temperature": 0.5, "top_p": 0.25, "top_k": 3, "min_p": 0.125, "repetition_penalty": 1.5, "presence_penalty": -1,
      "frequency_penalty": 2, "min_tokens": 2, "n": 3, "seed": -1, "stop": ["a", "b"], "stop_token_ids": [4, 5],
      "logit_bias": {"6": -100, "7": 1.5}, "ignore_eos": true, "skip_special_tokens": false,
      "include_stop_str_in_output": true, "draft": false, "priority": -3, "cache_salt": "s", "lookahead": 4,
      "acceptance": "rejection", "logprobs": true, "top_logprobs": 2, "add_generation_prompt": false,
      "continue_final_message": true, "chat_template_kwargs": {"z": 1, "a": [true]}, "return_token_ids": true,
      "request_id": "r", "user": "u", "unheard_of": 1)");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->chat && parsed->stream && parsed->include_usage && parsed->continuous_usage);
  EXPECT_EQ(parsed->model, "m");
  EXPECT_EQ(parsed->num_logprobs, 2);
  EXPECT_EQ(parsed->request_id, "r");
  EXPECT_EQ(parsed->unknown_fields, (std::vector<std::string>{"unheard_of"}));
  ASSERT_EQ(parsed->calls.size(), 1);
  v1::GenerateRequest expected;
  v1::ChatMessage& message = *expected.add_messages();
  message.set_role("user");
  message.set_content("hi");
  expected.set_max_tokens(7);
  expected.set_min_tokens(2);
  expected.set_temperature(0.5);
  expected.set_top_p(0.25);
  expected.set_top_k(3);
  expected.set_min_p(0.125);
  expected.set_repetition_penalty(1.5);
  expected.set_presence_penalty(-1);
  expected.set_frequency_penalty(2);
  for (const auto& [id, bias] : {std::pair(6, -100.0f), std::pair(7, 1.5f)}) {
    v1::LogitBias& entry = *expected.add_logit_bias();
    entry.set_token_id(id);
    entry.set_bias(bias);
  }
  expected.set_seed(~uint64_t{0});
  expected.add_stop("a");
  expected.add_stop("b");
  expected.add_stop_token_ids(4);
  expected.add_stop_token_ids(5);
  expected.set_ignore_eos(true);
  expected.set_n(3);
  expected.set_num_logprobs(2);
  expected.set_draft(false);
  expected.set_lookahead(4);
  expected.set_acceptance(v1::ACCEPTANCE_REJECTION);
  expected.set_skip_special_tokens(false);
  expected.set_priority(3);  // vLLM: lower goes first; the router: higher
  expected.set_include_stop_in_text(true);
  expected.set_add_generation_prompt(false);
  expected.set_continue_final_message(true);
  expected.set_chat_template_kwargs(R"({"z":1,"a":[true]})");
  expected.set_cache_salt("s");
  EXPECT_EQ(parsed->calls[0].SerializeAsString(), expected.SerializeAsString()) << parsed->calls[0].DebugString();
}

TEST(GenerationRequest, LeavesOpenWhatAChatLeavesOpen) {
  const auto parsed = Chat("");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  v1::GenerateRequest expected;
  expected.add_messages()->set_role("user");
  expected.mutable_messages(0)->set_content("hi");
  EXPECT_EQ(parsed->calls[0].SerializeAsString(), expected.SerializeAsString());
  EXPECT_EQ(parsed->num_logprobs, -1);
  EXPECT_FALSE(parsed->stream);
}

TEST(GenerationRequest, TakesNullsAndNeutralValuesAsTheyAreSentByTools) {
  EXPECT_TRUE(Chat(R"("stop": null, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"},
                      "modalities": ["text"], "max_tokens": 5, "max_completion_tokens": 5, "top_k": -1,
                      "length_penalty": 1.0, "best_of": 1, "lookahead": "auto", "stream_options": null)")
                  .ok());
  const auto top_k = Chat(R"("top_k": -1)");
  EXPECT_EQ(top_k->calls[0].top_k(), 0);
  EXPECT_TRUE(
      Completion(R"("prompt": "a", "suffix": null, "echo": false, "logprobs": null, "best_of": 2, "n": 2)").ok());
}

TEST(GenerationRequest, JoinsTextPartsAndTakesTheDeveloperForTheSystem) {
  const auto body = ParseObject(R"({"messages": [
      {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
      {"role": "assistant", "content": null}]})");
  const auto parsed = ParseChat(*body);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->calls[0].messages(0).role(), "system");
  EXPECT_EQ(parsed->calls[0].messages(0).content(), "a\nb");
  EXPECT_EQ(parsed->calls[0].messages(1).content(), "");
}

TEST(GenerationRequest, TakesPromptsInEveryForm) {
  const auto one = Completion(R"("prompt": "abc", "add_special_tokens": false)");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->calls[0].prompt(), "abc");
  EXPECT_FALSE(one->calls[0].add_special_tokens());
  EXPECT_EQ(one->calls[0].max_tokens(), 16);
  const auto ids = Completion(R"("prompt": [1, 2, 3], "add_special_tokens": false, "max_tokens": 4)");
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(ids->calls[0].prompt_token_ids_size(), 3);
  EXPECT_FALSE(ids->calls[0].has_add_special_tokens());
  EXPECT_EQ(ids->calls[0].max_tokens(), 4);
  const auto several = Completion(R"("prompt": ["a", "b"], "n": 2, "logprobs": 0, "max_completion_tokens": 3)");
  ASSERT_TRUE(several.ok()) << several.status();
  ASSERT_EQ(several->calls.size(), 2);
  EXPECT_EQ(several->calls[1].prompt(), "b");
  EXPECT_EQ(several->calls[1].n(), 2);
  EXPECT_EQ(several->calls[1].max_tokens(), 3);
  EXPECT_EQ(several->num_logprobs, 0);
  const auto lists = Completion(R"("prompt": [[1], [2, 3]])");
  ASSERT_TRUE(lists.ok()) << lists.status();
  EXPECT_EQ(lists->calls[1].prompt_token_ids(1), 3);
}

struct Refusal {
  const char* fields;
  const char* param;
  const char* code;
};

TEST(GenerationRequest, RefusesAChatNamingFieldAndReason) {
  const Refusal refusals[] = {
      {R"("temperature": "hot")", "temperature", "invalid_type"},
      {R"("temperature": 1e300)", "temperature", "invalid_value"},
      {R"("presence_penalty": 100.00000000000001)", "presence_penalty", "invalid_value"},
      {R"("top_p": 0.00000099999999999)", "top_p", "invalid_value"},
      {R"("logit_bias": {"7": -100.00000000000001})", "logit_bias", "invalid_value"},
      {R"("n": 0)", "n", "invalid_value"},
      {R"("n": 17)", "n", "invalid_value"},
      {R"("max_tokens": 0)", "max_tokens", "invalid_value"},
      {R"("max_tokens": 1, "max_completion_tokens": 2)", "max_tokens", "invalid_parameter_combination"},
      {R"("stream": 1)", "stream", "invalid_type"},
      {R"("stream_options": {"include_usage": true})", "stream_options", "invalid_value"},
      {R"("stream": true, "stream_options": {"include_usage": 1})", "stream_options.include_usage", "invalid_type"},
      {R"("top_logprobs": 3)", "top_logprobs", "invalid_value"},
      {R"("logprobs": true, "top_logprobs": 21)", "top_logprobs", "invalid_value"},
      {R"("logprobs": 5)", "logprobs", "invalid_type"},
      {R"("stop": 5)", "stop", "invalid_type"},
      {R"("stop_token_ids": ["a"])", "stop_token_ids", "invalid_value"},
      {R"("logit_bias": {"a": 1})", "logit_bias", "invalid_type"},
      {R"("logit_bias": [1])", "logit_bias", "invalid_type"},
      {R"("seed": 1.5)", "seed", "invalid_value"},
      {R"("priority": 17)", "priority", "invalid_value"},
      {R"("lookahead": 33)", "lookahead", "invalid_value"},
      {R"("acceptance": "sometimes")", "acceptance", "invalid_value"},
      {R"("best_of": 2)", "best_of", "unsupported_parameter"},
      {R"("response_format": {"type": "json_object"})", "response_format", "unsupported_parameter"},
      {R"("tools": [{"type": "function"}])", "tools", "unsupported_parameter"},
      {R"("tool_choice": "required")", "tool_choice", "unsupported_parameter"},
      {R"("guided_json": {"type": "object"})", "guided_json", "unsupported_parameter"},
      {R"("structured_outputs": {"regex": "a"})", "structured_outputs", "unsupported_parameter"},
      {R"("prompt_logprobs": 21)", "prompt_logprobs", "invalid_value"},
      {R"("prompt_logprobs": -1)", "prompt_logprobs", "invalid_value"},
      {R"("prompt_logprobs": true)", "prompt_logprobs", "invalid_type"},
      {R"("prediction": "x")", "prediction", "invalid_type"},
      {R"("prediction": {"type": "guess", "content": "x"})", "prediction", "invalid_value"},
      {R"("prediction": {"type": "content"})", "prediction", "invalid_value"},
      {R"("prediction": {"type": "content", "content": 1})", "prediction", "invalid_type"},
      {R"("prediction": {"type": "content", "content": [{"type": "image_url"}]})", "prediction", "invalid_type"},
      {R"("use_beam_search": true)", "use_beam_search", "unsupported_parameter"},
      {R"("modalities": ["audio"])", "modalities", "unsupported_parameter"},
      {R"("chat_template": "{{ x }}")", "chat_template", "unsupported_parameter"},
      {R"("chat_template_kwargs": [])", "chat_template_kwargs", "invalid_type"},
      {R"("echo": true)", "echo", "unsupported_parameter"},
  };
  for (const Refusal& refusal : refusals) {
    const auto parsed = Chat(refusal.fields);
    ASSERT_FALSE(parsed.ok()) << refusal.fields;
    const ApiError error = ToApiError(parsed.status(), "messages");
    EXPECT_EQ(error.status, 400);
    EXPECT_EQ(error.type, "invalid_request_error");
    EXPECT_EQ(error.param, refusal.param) << refusal.fields;
    EXPECT_EQ(error.code, refusal.code) << refusal.fields;
  }
}

TEST(GenerationRequest, TakesPredictionsAndLogprobsOfThePrompt) {
  const auto parsed = Chat(R"("prompt_logprobs": 3, "prediction": {"type": "content", "content":
                              [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]})");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->calls[0].prompt_logprobs(), 3u);
  EXPECT_TRUE(parsed->show_prompt_logprobs);
  EXPECT_EQ(parsed->calls[0].prediction(), "abc");
  EXPECT_TRUE(parsed->show_prediction);
  const auto echoed = Completion(R"("prompt": "a", "echo": true, "logprobs": 2)");
  ASSERT_TRUE(echoed.ok()) << echoed.status();
  EXPECT_EQ(echoed->calls[0].prompt_logprobs(), 2u) << "they stand before the answer's";
  EXPECT_FALSE(echoed->show_prompt_logprobs);
  EXPECT_FALSE(Completion(R"("prompt": "a", "echo": true)")->calls[0].has_prompt_logprobs());
  EXPECT_FALSE(Chat(R"("prediction": null, "prompt_logprobs": null)")->show_prediction);
}

TEST(GenerationRequest, RefusesMessagesThatCanNotBeServed) {
  for (const char* body :
       {R"({})", R"({"messages": null})", R"({"messages": []})", R"({"messages": "hi"})", R"({"messages": [1]})",
        R"({"messages": [{}]})", R"({"messages": [{"role": 1, "content": "a"}]})",
        R"({"messages": [{"role": "user"}]})", R"({"messages": [{"role": "user", "content": 1}]})",
        R"({"messages": [{"role": "user", "content": [1]}]})",
        R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})",
        R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]})",
        R"({"messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}]})",
        R"({"messages": [{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}]})"}) {
    const auto parsed = ParseChat(*ParseObject(body));
    ASSERT_FALSE(parsed.ok()) << body;
    EXPECT_EQ(ToApiError(parsed.status(), "messages").param, "messages") << body;
  }
}

TEST(GenerationRequest, RefusesCompletionsNamingField) {
  const Refusal refusals[] = {
      {R"("n": 1)", "prompt", "missing_required_parameter"},
      {R"("prompt": {})", "prompt", "invalid_type"},
      {R"("prompt": [])", "prompt", "invalid_value"},
      {R"("prompt": [[]])", "prompt", "invalid_value"},
      {R"("prompt": [1, "a"])", "prompt", "invalid_value"},
      {R"("prompt": ["a", 1])", "prompt", "invalid_type"},
      {R"("prompt": [[1, -5]])", "prompt", "invalid_value"},
      {R"("prompt": "a", "logprobs": true)", "logprobs", "invalid_type"},
      {R"("prompt": "a", "suffix": "b")", "suffix", "unsupported_parameter"},
      {R"("prompt": "a", "max_tokens": 0)", "max_tokens", "invalid_value"},
  };
  for (const Refusal& refusal : refusals) {
    const auto parsed = Completion(refusal.fields);
    ASSERT_FALSE(parsed.ok()) << refusal.fields;
    const ApiError error = ToApiError(parsed.status());
    EXPECT_EQ(error.param, refusal.param) << refusal.fields << parsed.status();
    EXPECT_EQ(error.code, refusal.code) << refusal.fields;
  }
  std::string many = R"("prompt": [)";
  for (size_t i = 0; i <= kMaxPrompts; ++i) many += i == 0 ? "\"a\"" : ",\"a\"";
  EXPECT_EQ(ToApiError(Completion(many + "]").status()).param, "prompt");
}

TEST(ApiError, FindsTheFieldInTheRoutersOwnMessages) {
  const auto error = [](const std::string& fields) {
    const auto parsed = Chat(fields);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    const absl::Status status = CheckInput(ViewOf(parsed->calls[0]));
    EXPECT_FALSE(status.ok()) << fields;
    return ToApiError(status, "messages");
  };
  v1::GenerateRequest hot;
  hot.set_prompt("a");
  hot.set_temperature(101);
  EXPECT_EQ(ToApiError(CheckInput(ViewOf(hot))).param, "temperature");
  EXPECT_EQ(error(R"("min_tokens": 5, "max_tokens": 4)").param, "min_tokens");
  EXPECT_EQ(error(R"("stop": [""])").param, "stop");
  EXPECT_EQ(error(R"("cache_salt": "")").param, "cache_salt");
  EXPECT_EQ(error(R"("add_generation_prompt": true, "continue_final_message": true)").param, "continue_final_message");
}

TEST(ApiError, HasAStatusATypeAndATimeToComeAgain) {
  const ApiError busy = ToApiError(absl::ResourceExhaustedError("full"));
  EXPECT_EQ(busy.status, 429);
  EXPECT_EQ(busy.type, "rate_limit_error");
  const HttpResponse response = ErrorResponse(busy);
  EXPECT_EQ(response.headers[0].first, "Retry-After");
  EXPECT_EQ(ToApiError(absl::UnavailableError("x")).status, 503);
  EXPECT_EQ(ToApiError(absl::DeadlineExceededError("x")).status, 504);
  EXPECT_EQ(ToApiError(absl::InternalError("x")).status, 500);
  EXPECT_EQ(ToApiError(absl::NotFoundError("x")).status, 404);
  EXPECT_EQ(RenderError({.message = "a\"", .type = "t"}),
            R"({"error":{"message":"a\"","type":"t","param":null,"code":null}})");
}

// Whatever is asked for: an answer, or a refusal that says why.
TEST(GenerationRequest, TakesOrRefusesAnyValueOfAnyField) {
  std::mt19937_64 random(TestSeed());
  const char* const names[] = {"model",
                               "messages",
                               "prompt",
                               "stream",
                               "stream_options",
                               "max_tokens",
                               "max_completion_tokens",
                               "temperature",
                               "top_p",
                               "top_k",
                               "min_p",
                               "n",
                               "best_of",
                               "seed",
                               "stop",
                               "stop_token_ids",
                               "logit_bias",
                               "ignore_eos",
                               "logprobs",
                               "top_logprobs",
                               "echo",
                               "priority",
                               "cache_salt",
                               "lookahead",
                               "acceptance",
                               "draft",
                               "response_format",
                               "tools",
                               "tool_choice",
                               "chat_template_kwargs",
                               "continue_final_message",
                               "suffix",
                               "modalities",
                               "request_id",
                               "other"};
  const auto value = [&](const auto& self, int depth) -> Json {
    switch (random() % (depth > 2 ? 8 : 10)) {
      case 0:
        return nullptr;
      case 1:
        return random() % 2 == 0;
      case 2:
        return static_cast<int64_t>(random());
      case 3:
        return random();
      case 4:
        return static_cast<int64_t>(random() % 30) - 10;
      case 5:
        return std::ldexp(1.5, static_cast<int>(random() % 2000) - 1000);
      case 6:
        return "text";
      case 7:
        return "";
      case 8: {
        Json list = Json::array();
        for (uint64_t i = random() % 3; i > 0; --i) list.push_back(self(self, depth + 1));
        return list;
      }
      default: {
        Json object = Json::object();
        for (uint64_t i = random() % 3; i > 0; --i) {
          const char* const keys[] = {"type", "role", "content", "text", "include_usage", "7"};
          object[keys[random() % 6]] = self(self, depth + 1);
        }
        return object;
      }
    }
  };
  int num_taken = 0;
  for (int round = 0; round < 20000; ++round) {
    Json body = {{"prompt", "a"}, {"messages", Json::array({{{"role", "user"}, {"content", "a"}}})}};
    for (uint64_t i = random() % 4; i > 0; --i) body[names[random() % std::size(names)]] = value(value, 0);
    for (const auto& parsed : {ParseChat(body), ParseCompletion(body)}) {
      if (!parsed.ok()) {
        EXPECT_FALSE(ToApiError(parsed.status()).param.empty()) << parsed.status() << " " << body.dump();
        continue;
      }
      ++num_taken;
      for (const v1::GenerateRequest& call : parsed->calls) (void)CheckInput(ViewOf(call));
    }
  }
  EXPECT_GT(num_taken, 1000);
}

}  // namespace
}  // namespace outrider::router
