#include "router/request_validation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "text/stop_matcher.h"

namespace outrider::router {
namespace {

const std::vector<TokenId> kEndIds = {2};
const ModelBounds kModel{.vocab_size = 100, .max_model_len = 50, .end_token_ids = kEndIds};

RequestInput Text(absl::string_view prompt) {
  RequestInput input;
  input.prompt = prompt;
  return input;
}

// INVALID_ARGUMENT whose message holds every one of `parts`.
void ExpectInvalid(const absl::Status& status, const std::vector<std::string>& parts) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  for (const std::string& part : parts) {
    EXPECT_NE(std::string(status.message()).find(part), std::string::npos) << status.message() << " lacks " << part;
  }
}

TEST(RequestValidation, TakesAPlainPrompt) { EXPECT_TRUE(CheckInput(Text("hi")).ok()); }

TEST(RequestValidation, BoundsLogprobsOfThePromptAltogether) {
  RequestInput input = Text("hi");
  input.num_prompt_logprobs = 20;
  ModelBounds model = kModel;
  model.max_model_len = 100000;
  EXPECT_EQ(ResolveRequest(input, std::vector<TokenId>(6241, 1), model, 0)->sampling.num_prompt_logprobs, 20);
  ExpectInvalid(ResolveRequest(input, std::vector<TokenId>(6242, 1), model, 0).status(),
                {"prompt_logprobs = 20", "6242 tokens", "131082", "131072"});
  input.num_prompt_logprobs = 21;
  ExpectInvalid(CheckInput(input), {"prompt_logprobs = 21", "0 to 20"});
  input.num_prompt_logprobs.reset();
  EXPECT_EQ(ResolveRequest(input, {1}, model, 0)->sampling.num_prompt_logprobs, -1);
}

TEST(RequestValidation, BoundsThePrediction) {
  RequestInput input = Text("hi");
  const std::string longest(kMaxPredictionBytes, 'a');
  input.prediction = longest;
  EXPECT_TRUE(CheckInput(input).ok());
  const std::string longer = longest + "a";
  input.prediction = longer;
  ExpectInvalid(CheckInput(input), {"prediction is 1048577 bytes"});
  input.prediction = "\xff";
  ExpectInvalid(CheckInput(input), {"prediction is not UTF-8 at byte 0"});
}

TEST(RequestValidation, WantsExactlyOneKindOfPrompt) {
  ExpectInvalid(CheckInput(RequestInput()), {"prompt", "messages", "prompt_token_ids"});
  RequestInput both = Text("hi");
  const std::vector<TokenId> ids = {1};
  both.prompt_token_ids = ids;
  ExpectInvalid(CheckInput(both), {"exactly one"});
  ExpectInvalid(CheckInput(Text("")), {"prompt is empty"});
}

TEST(RequestValidation, NamesTheByteThatIsNotUtf8) {
  ExpectInvalid(CheckInput(Text("ab\xff"
                                "c")),
                {"prompt", "byte 2", "0xff"});
  RequestInput input;
  input.messages = {{"user", "fine"}, {"user", "x\xc3"}};
  ExpectInvalid(CheckInput(input), {"messages[1].content", "byte 1"});
  input = Text("hi");
  input.stop = {"a", "\x80"};
  ExpectInvalid(CheckInput(input), {"stop[1]", "byte 0"});
}

TEST(RequestValidation, KnowsTheRoles) {
  RequestInput input;
  input.messages = {{"system", ""}, {"user", "a"}, {"assistant", "b"}};
  EXPECT_TRUE(CheckInput(input).ok());
  input.messages = {{"robot", "a"}};
  ExpectInvalid(CheckInput(input), {"messages[0].role", "'robot'", "system, user or assistant"});
}

TEST(RequestValidation, WritesWholeBoundsWithoutAnExponent) {
  RequestInput input = Text("hi");
  input.max_tokens = 0;
  ExpectInvalid(CheckInput(input), {"it takes 1 to 4294967295"});
}

TEST(RequestValidation, NamesEveryParameterOutOfRange) {
  static constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  struct Case {
    const char* field;
    std::function<void(RequestInput&)> set;
  };
  std::vector<Case> cases = {
      {"max_tokens = 0", [](RequestInput& r) { r.max_tokens = 0; }},
      {"n = 0", [](RequestInput& r) { r.num_choices = 0; }},
      {"n = 17", [](RequestInput& r) { r.num_choices = 17; }},
      {"num_logprobs = -2", [](RequestInput& r) { r.num_logprobs = -2; }},
      {"num_logprobs = 21", [](RequestInput& r) { r.num_logprobs = 21; }},
      {"lookahead = 33", [](RequestInput& r) { r.lookahead = 33; }},
      {"lookahead = -2", [](RequestInput& r) { r.lookahead = -2; }},
      {"acceptance = 2", [](RequestInput& r) { r.acceptance = 2; }},
      {"top_k = 4294967295", [](RequestInput& r) { r.top_k = 4294967295u; }},
      {"temperature = -0.5", [](RequestInput& r) { r.temperature = -0.5f; }},
      {"top_p = 0", [](RequestInput& r) { r.top_p = 0.0f; }},
      {"top_p = 1.5", [](RequestInput& r) { r.top_p = 1.5f; }},
      {"min_p = -1", [](RequestInput& r) { r.min_p = -1.0f; }},
      {"repetition_penalty = 0", [](RequestInput& r) { r.repetition_penalty = 0.0f; }},
      {"presence_penalty = 101", [](RequestInput& r) { r.presence_penalty = 101.0f; }},
      {"min_tokens = 5", [](RequestInput& r) { r.min_tokens = 5, r.max_tokens = 4; }},
      {"logit_bias[0].bias",
       [](RequestInput& r) {
         r.logit_bias = {{1, 101.0f}};
       }},
      {"logit_bias[0].bias",
       [](RequestInput& r) {
         r.logit_bias = {{1, kNan}};
       }},
      {"logit_bias[1].token_id = 1",
       [](RequestInput& r) {
         r.logit_bias = {{1, 0.0f}, {1, 1.0f}};
       }},
      {"stop[0] is empty", [](RequestInput& r) { r.stop = {""}; }},
  };
  for (const float value : {kNan, kInfinity, -kInfinity}) {
    cases.push_back({"temperature = ", [=](RequestInput& r) { r.temperature = value; }});
    cases.push_back({"top_p = ", [=](RequestInput& r) { r.top_p = value; }});
    cases.push_back({"min_p = ", [=](RequestInput& r) { r.min_p = value; }});
    cases.push_back({"repetition_penalty = ", [=](RequestInput& r) { r.repetition_penalty = value; }});
    cases.push_back({"presence_penalty = ", [=](RequestInput& r) { r.presence_penalty = value; }});
    cases.push_back({"frequency_penalty = ", [=](RequestInput& r) { r.frequency_penalty = value; }});
  }
  for (const Case& c : cases) {
    RequestInput input = Text("hi");
    c.set(input);
    ExpectInvalid(CheckInput(input), {c.field});
  }
}

TEST(RequestValidation, TakesItsBoundsAsFloatsHaveThem) {
  RequestInput input = Text("hi");
  input.top_p = 1e-6f;
  input.repetition_penalty = 0.01f;
  EXPECT_TRUE(CheckInput(input).ok()) << CheckInput(input);
}

TEST(RequestValidation, BoundsStopStringsWithoutQuotingThem) {
  const std::string megabyte(1 << 20, 'x');
  RequestInput input = Text("hi");
  input.stop = {megabyte};
  const absl::Status status = CheckInput(input);
  ExpectInvalid(status, {"stop[0]", "1048576", "4096"});
  EXPECT_LT(status.message().size(), 200);
  input.stop.assign(text::kMaxStopStrings + 1, "a");
  ExpectInvalid(CheckInput(input), {"stop has 17", "16"});
  const std::string longest(text::kMaxStopStringBytes, 'x');
  input.stop.assign(text::kMaxStopStrings, longest);
  EXPECT_TRUE(CheckInput(input).ok());
}

TEST(RequestValidation, BoundsListsOfIds) {
  RequestInput input = Text("hi");
  const std::vector<TokenId> many(kMaxStopTokenIds + 1, 1);
  input.stop_token_ids = many;
  ExpectInvalid(CheckInput(input), {"stop_token_ids has 129"});
  input = Text("hi");
  for (int i = 0; i <= static_cast<int>(kMaxLogitBias); ++i) input.logit_bias.emplace_back(i, 0.0f);
  ExpectInvalid(CheckInput(input), {"logit_bias has 1025"});
}

TEST(ResolveRequest, FillsInDefaults) {
  const auto request = ResolveRequest(Text("hi"), {1, 2, 3}, kModel, 77);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->sampling.max_tokens, 47);
  EXPECT_EQ(request->sampling.min_tokens, 0);
  EXPECT_EQ(request->sampling.temperature, 1.0f);
  EXPECT_EQ(request->sampling.top_p, 1.0f);
  EXPECT_EQ(request->sampling.top_k, 0);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.0f);
  EXPECT_EQ(request->sampling.seed, 77);
  EXPECT_EQ(request->sampling.num_logprobs, -1);
  EXPECT_EQ(request->sampling.end_token_ids, kEndIds);
  EXPECT_EQ(request->num_choices, 1);
  EXPECT_TRUE(request->draft);
  EXPECT_EQ(request->lookahead, -1);
  EXPECT_TRUE(request->skip_special_tokens);
}

TEST(ResolveRequest, TakesTheModelsDefaultsBeforeOurs) {
  ModelBounds model = kModel;
  model.defaults = {.temperature = 0.6f, .top_p = 0.9f, .top_k = 20, .min_p = 0.1f, .repetition_penalty = 1.1f};
  RequestInput input = Text("hi");
  input.top_p = 0.5f;
  const auto request = ResolveRequest(input, {1, 2}, model, 7);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->sampling.temperature, 0.6f);
  EXPECT_EQ(request->sampling.top_p, 0.5f);
  EXPECT_EQ(request->sampling.top_k, 20u);
  EXPECT_EQ(request->sampling.min_p, 0.1f);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.1f);
}

TEST(ResolveRequest, KeepsWhatIsGiven) {
  RequestInput input = Text("hi");
  input.seed = 0;
  input.ignore_eos = true;
  input.max_tokens = 5;
  input.temperature = 0.0f;
  const auto request = ResolveRequest(input, {1}, kModel, 77);
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->sampling.seed, 0);
  EXPECT_TRUE(request->sampling.end_token_ids.empty());
  EXPECT_EQ(request->sampling.max_tokens, 5);
  EXPECT_EQ(request->sampling.temperature, 0.0f);
}

TEST(ResolveRequest, GivesNoMoreTokensThanTheContextLeaves) {
  RequestInput input = Text("hi");
  input.max_tokens = 4000000000u;
  EXPECT_EQ(ResolveRequest(input, std::vector<TokenId>(49, 1), kModel, 0)->sampling.max_tokens, 1);
}

TEST(ResolveRequest, NamesBothNumbersOfAPromptLongerThanTheContext) {
  ExpectInvalid(ResolveRequest(Text("hi"), std::vector<TokenId>(50, 1), kModel, 0).status(), {"50 tokens", "has 50"});
  ExpectInvalid(ResolveRequest(Text("hi"), std::vector<TokenId>(51, 1), kModel, 0).status(), {"51 tokens", "has 50"});
}

TEST(ResolveRequest, NamesIdsThatAreNone) {
  ExpectInvalid(ResolveRequest(Text("hi"), {1, 100}, kModel, 0).status(), {"prompt_token_ids[1] = 100", "0 to 99"});
  ExpectInvalid(ResolveRequest(Text("hi"), {-1}, kModel, 0).status(), {"prompt_token_ids[0] = -1"});
  RequestInput input = Text("hi");
  const std::vector<TokenId> stops = {3, 2147483647};
  input.stop_token_ids = stops;
  ExpectInvalid(ResolveRequest(input, {1}, kModel, 0).status(), {"stop_token_ids[1] = 2147483647"});
  input = Text("hi");
  input.logit_bias = {{-5, 1.0f}};
  ExpectInvalid(ResolveRequest(input, {1}, kModel, 0).status(), {"logit_bias[0].token_id = -5"});
  ExpectInvalid(ResolveRequest(Text("hi"), {}, kModel, 0).status(), {"no tokens"});
}

TEST(ResolveRequest, WantsMinTokensToFit) {
  RequestInput input = Text("hi");
  input.min_tokens = 48;
  ExpectInvalid(ResolveRequest(input, {1, 2, 3}, kModel, 0).status(), {"min_tokens = 48", "47"});
}

TEST(CheckPromptBytes, RefusesOnlyWhatCanNotFit) {
  EXPECT_TRUE(CheckPromptBytes(49 * 10, 10, kModel).ok());
  ExpectInvalid(CheckPromptBytes(49 * 10 + 1, 10, kModel), {"491 bytes", "50 tokens", "has 50"});
}

}  // namespace
}  // namespace outrider::router
