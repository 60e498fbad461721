// The HTTP API of a router with a fake group behind it.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "router/http/api_paths.h"
#include "router/http/json_reader.h"
#include "router/http/openapi.h"
#include "router/http/testing/http_client.h"
#include "router/testing/byte_tokenizer.h"
#include "router/testing/fake_target.h"
#include "router/testing/router_harness.h"
#include "router/testing/test_random.h"

namespace outrider::router {
namespace {

constexpr char kChat[] = "/v1/chat/completions";
constexpr char kCompletions[] = "/v1/completions";
constexpr char kHi[] = R"("messages": [{"role": "user", "content": "hi"}])";

// A router that knows its model.
struct Cluster {
  explicit Cluster(const std::string& script = "hello world", bool hold = false, v1::RouterConfig config = TestConfig(),
                   int tokens_per_event = 1)
      : router(StartRouter(config)) {
    FakeTarget::Options options = Scripted(*router, script);
    options.hold = hold;
    options.tokens_per_event = tokens_per_event;
    group = std::make_unique<FakeTarget>(options);
    for (int i = 0; i < 4000 && Get(address(), "/health").status != 200; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  std::string address() const { return router->http_address(); }
  Json Ask(const std::string& path, const std::string& fields) {
    last = Post(address(), path, "{" + fields + "}");
    const Json answer = Json::parse(last.body, nullptr, /*allow_exceptions=*/false);
    EXPECT_FALSE(answer.is_discarded()) << last.body;
    return answer;
  }
  // An error's `param` and `code`, joined; and its status is in `last`.
  std::string Error(const std::string& path, const std::string& fields) {
    const Json answer = Ask(path, fields);
    if (!answer.contains("error")) return "no error: " + answer.dump();
    const Json& error = answer["error"];
    EXPECT_EQ(error.size(), 4) << error;
    return absl::StrCat(last.status, " ", error["type"].get<std::string>(), " ", error["param"].dump(), " ",
                        error["code"].dump());
  }

  std::unique_ptr<RouterServer> router;
  std::unique_ptr<FakeTarget> group;
  HttpReply last;
};

std::vector<Json> Events(HttpClient& client) {
  std::vector<Json> events;
  for (const std::string& event : client.ReadEvents()) {
    events.push_back(event == "[DONE]" ? Json(event) : Json::parse(event));
  }
  return events;
}

TEST(HttpApi, AnswersAChat) {
  Cluster cluster;
  const Json answer = cluster.Ask(kChat, std::string(kHi) + R"(, "model": "tiny", "max_tokens": 11)");
  ASSERT_EQ(cluster.last.status, 200) << answer;
  EXPECT_EQ(answer["object"], "chat.completion");
  EXPECT_EQ(answer["model"], "tiny");
  const std::string id = cluster.last.headers["x-request-id"];
  EXPECT_EQ(answer["id"], "chatcmpl-" + id);
  EXPECT_TRUE(absl::StartsWith(id, "req-"));
  EXPECT_EQ(answer["choices"][0]["message"]["content"], "hello world");
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(answer["usage"]["completion_tokens"], 11);
  EXPECT_GT(answer["usage"]["prompt_tokens"], 4);
}

TEST(HttpApi, TakesTheClientsNameForTheRequest) {
  Cluster cluster;
  const HttpReply reply =
      Post(cluster.address(), kChat, absl::StrCat("{", kHi, ", \"max_tokens\": 1}"), "X-Request-Id: mine-7\r\n");
  EXPECT_EQ(reply.headers.at("x-request-id"), "mine-7");
  EXPECT_EQ(Json::parse(reply.body)["id"], "chatcmpl-mine-7");
}

TEST(HttpApi, StreamsAChatAsOpenAiDoes) {
  Cluster cluster;
  HttpClient client(cluster.address());
  client.Send(PostText(kChat, absl::StrCat("{", kHi, R"(, "max_tokens": 11, "n": 2, "stream": true,
      "stream_options": {"include_usage": true}})")));
  const HttpReply head = client.ReadHead();
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.headers.at("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(head.headers.at("cache-control"), "no-cache");
  EXPECT_EQ(head.headers.at("x-accel-buffering"), "no");
  const std::vector<Json> events = Events(client);
  EXPECT_TRUE(client.stream_complete);
  ASSERT_GE(events.size(), 8);
  EXPECT_EQ(events.back(), "[DONE]");
  const Json& usage = events[events.size() - 2];
  EXPECT_EQ(usage["choices"], Json::array());
  EXPECT_EQ(usage["usage"]["completion_tokens"], 22);
  std::map<int, std::string> text, ends;
  std::map<int, int> num_roles;
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const Json& event = events[i];
    EXPECT_EQ(event["id"], events[0]["id"]);
    EXPECT_EQ(event["object"], "chat.completion.chunk");
    EXPECT_TRUE(event["usage"].is_null());
    const Json& choice = event["choices"][0];
    const int index = choice["index"].get<int>();
    EXPECT_TRUE(ends[index].empty()) << "something after the end";
    if (choice["delta"].contains("role")) {
      EXPECT_EQ(num_roles[index]++, 0);
      EXPECT_TRUE(text[index].empty()) << "the role comes first";
    }
    if (choice["delta"].contains("content")) text[index] += choice["delta"]["content"].get<std::string>();
    if (!choice["finish_reason"].is_null()) {
      EXPECT_EQ(choice["delta"], Json::object());
      ends[index] = choice["finish_reason"].get<std::string>();
    }
  }
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(num_roles[i], 1);
    EXPECT_EQ(text[i], "hello world");
    EXPECT_EQ(ends[i], "length");
  }
}

TEST(HttpApi, TellsUsageWithEveryChunkIfAsked) {
  Cluster cluster;
  HttpClient client(cluster.address());
  client.Send(PostText(kChat, absl::StrCat("{", kHi, R"(, "max_tokens": 5, "stream": true,
      "stream_options": {"include_usage": true, "continuous_usage_stats": true}})")));
  client.ReadHead();
  int64_t last = 0;
  const std::vector<Json> events = Events(client);
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const int64_t tokens = events[i]["usage"]["completion_tokens"].get<int64_t>();
    EXPECT_GE(tokens, last);
    last = tokens;
  }
  EXPECT_EQ(last, 5);
}

TEST(HttpApi, TellsWhoProposedEachTokenIfAsked) {
  Cluster cluster("hello world", /*hold=*/false, TestConfig(), /*tokens_per_event=*/4);
  HttpClient client(cluster.address());
  client.Send(PostText(kChat, absl::StrCat("{", kHi, R"(, "max_tokens": 6, "stream": true,
      "return_token_origins": true})")));
  EXPECT_EQ(client.ReadHead().status, 200);
  std::string text;
  std::vector<bool> drafted;
  for (const Json& event : Events(client)) {
    if (event == "[DONE]") continue;
    const Json& choice = event["choices"][0];
    if (!choice.contains("token_origins")) continue;
    text += choice["delta"]["content"].get<std::string>();
    for (const Json& origin : choice["token_origins"]) {
      EXPECT_EQ(origin["text_bytes"], 1);
      drafted.push_back(origin["draft"].get<bool>());
    }
  }
  EXPECT_EQ(text, "hello ");
  // A commit of four tokens, the last of them the target's; then two that were cut off before it.
  EXPECT_EQ(drafted, (std::vector<bool>{true, true, true, false, true, true}));
  EXPECT_EQ(cluster.Error(kChat, std::string(kHi) + R"(, "return_token_origins": true)"),
            R"(400 invalid_request_error "return_token_origins" "invalid_value")");
}

TEST(HttpApi, CompletesPromptsOfEveryKindAsChoices) {
  Cluster cluster;
  const Json answer = cluster.Ask(kCompletions, R"("prompt": ["ab", "c"], "n": 2, "max_tokens": 5, "echo": true,
                                                   "return_token_ids": true)");
  ASSERT_EQ(cluster.last.status, 200) << answer;
  EXPECT_TRUE(absl::StartsWith(answer["id"].get<std::string>(), "cmpl-"));
  ASSERT_EQ(answer["choices"].size(), 4);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(answer["choices"][i]["index"], i);
    EXPECT_EQ(answer["choices"][i]["text"], i < 2 ? "abhello" : "chello");
    EXPECT_EQ(answer["choices"][i]["token_ids"], Json(IdsOf("hello")));
  }
  EXPECT_EQ(answer["choices"][0]["prompt_token_ids"], Json(std::vector<TokenId>{kAbId}));
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 2);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 20);
  const Json ids = cluster.Ask(kCompletions, R"("prompt": [[97, 98], [99]], "max_tokens": 2, "echo": true)");
  EXPECT_EQ(ids["choices"][0]["text"], "abhe");
  EXPECT_EQ(ids["choices"][1]["text"], "che");
}

// The fake group says that the token at position p has a logprob of -p / 4, and which the best are.
TEST(HttpApi, GivesLogprobsOfThePromptAsVllmDoes) {
  Cluster cluster;
  const Json expected = Json::array({nullptr,
                                     {{"98", {{"logprob", -0.25}, {"rank", 2}, {"decoded_token", "b"}}},
                                      {"65", {{"logprob", -0.125}, {"rank", 1}, {"decoded_token", "A"}}}},
                                     {{"99", {{"logprob", -0.5}, {"rank", 2}, {"decoded_token", "c"}}},
                                      {"65", {{"logprob", -0.125}, {"rank", 1}, {"decoded_token", "A"}}}}});
  const Json answer = cluster.Ask(kCompletions, R"("prompt": [97, 98, 99], "max_tokens": 5, "prompt_logprobs": 2,
                                                   "n": 2)");
  ASSERT_EQ(cluster.last.status, 200) << answer;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(answer["choices"][i]["prompt_logprobs"], expected);
  EXPECT_TRUE(answer["choices"][0]["logprobs"].is_null());
  const Json chat = cluster.Ask(kChat, absl::StrCat(kHi, R"(, "max_tokens": 5, "prompt_logprobs": 0)"));
  ASSERT_EQ(cluster.last.status, 200) << chat;
  ASSERT_TRUE(chat.contains("prompt_logprobs"));
  EXPECT_EQ(chat["prompt_logprobs"].size(), chat["usage"]["prompt_tokens"].get<size_t>());
  EXPECT_TRUE(chat["prompt_logprobs"][0].is_null());
  EXPECT_EQ(chat["prompt_logprobs"][1].size(), 1u);
  for (const char* const path : {kCompletions, kChat}) {
    HttpClient client(cluster.address());
    client.Send(PostText(path, path == kChat ? absl::StrCat("{", kHi, R"(, "max_tokens": 5, "prompt_logprobs": 0,
                                                                        "stream": true})")
                                             : R"({"prompt": [97, 98, 99], "max_tokens": 5, "prompt_logprobs": 2,
                                                   "stream": true, "echo": true})"));
    client.ReadHead();
    std::vector<Json> told;
    for (const Json& event : Events(client)) {
      if (event == "[DONE]") continue;
      const Json& at = path == kChat ? event : event["choices"][0];
      if (at.contains("prompt_logprobs")) told.push_back(at["prompt_logprobs"]);
    }
    ASSERT_EQ(told.size(), 1u) << path;
    EXPECT_EQ(told[0], path == kChat ? chat["prompt_logprobs"] : expected);
  }
  const Json without = cluster.Ask(kCompletions, R"("prompt": [97, 98, 99], "max_tokens": 5)");
  EXPECT_FALSE(without["choices"][0].contains("prompt_logprobs"));
  EXPECT_FALSE(cluster.group->received().submits.back().params().has_num_prompt_logprobs());
}

TEST(HttpApi, EchoesThePromptWithItsLogprobs) {
  Cluster cluster;
  const Json answer = cluster.Ask(kCompletions, R"("prompt": [97, 98, 99], "max_tokens": 2, "echo": true,
                                                   "logprobs": 0)");
  ASSERT_EQ(cluster.last.status, 200) << answer;
  const Json& choice = answer["choices"][0];
  EXPECT_EQ(choice["text"], "abche");
  const Json& logprobs = choice["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json({"a", "b", "c", "h", "e"}));
  EXPECT_EQ(logprobs["token_logprobs"], Json({nullptr, -0.25, -0.5, -0.5, -0.5}));
  EXPECT_EQ(logprobs["text_offset"], Json({0, 1, 2, 3, 4}));
  EXPECT_EQ(logprobs["top_logprobs"], Json({nullptr, {{"b", -0.25}}, {{"c", -0.5}}, {{"h", -0.5}}, {{"e", -0.5}}}));
  EXPECT_FALSE(choice.contains("prompt_logprobs")) << "that field is not asked for";

  HttpClient client(cluster.address());
  client.Send(PostText(kCompletions, R"({"prompt": [97, 98, 99], "max_tokens": 2, "echo": true, "logprobs": 0,
                                         "stream": true})"));
  client.ReadHead();
  Json streamed = {{"tokens", Json::array()},
                   {"token_logprobs", Json::array()},
                   {"text_offset", Json::array()},
                   {"top_logprobs", Json::array()}};
  std::string text;
  for (const Json& event : Events(client)) {
    if (event == "[DONE]") continue;
    const Json& part = event["choices"][0];
    text += part["text"].get<std::string>();
    if (part["logprobs"].is_null()) continue;
    for (auto& [name, values] : streamed.items()) {
      for (const Json& value : part["logprobs"][name]) values.push_back(value);
    }
  }
  EXPECT_EQ(text, "abche");
  for (auto& [name, values] : streamed.items()) EXPECT_EQ(values, logprobs[name]) << name;
}

TEST(HttpApi, TakesAPredictionAndTellsWhatBecameOfIt) {
  Cluster cluster;
  const Json answer = cluster.Ask(
      kChat, absl::StrCat(kHi, R"(, "max_tokens": 5, "prediction": {"type": "content", "content": "hello w"})"));
  ASSERT_EQ(cluster.last.status, 200) << answer;
  const v1::Submit submit = cluster.group->received().submits.back();
  EXPECT_EQ(std::vector<TokenId>(submit.prediction_token_ids().begin(), submit.prediction_token_ids().end()),
            IdsOf("hello w"));
  const Json& details = answer["usage"]["completion_tokens_details"];
  EXPECT_EQ(details["accepted_prediction_tokens"], 3);
  EXPECT_EQ(details["rejected_prediction_tokens"], 4);
}

TEST(HttpApi, StreamsCompletionsWithTheirPrompts) {
  Cluster cluster;
  HttpClient client(cluster.address());
  client.Send(PostText(kCompletions, R"({"prompt": ["ab", "c"], "max_tokens": 11, "echo": true, "stream": true})"));
  client.ReadHead();
  std::map<int, std::string> text;
  const std::vector<Json> events = Events(client);
  for (const Json& event : events) {
    if (event == "[DONE]") continue;
    EXPECT_EQ(event["object"], "text_completion");
    text[event["choices"][0]["index"].get<int>()] += event["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(text[0], "abhello world");
  EXPECT_EQ(text[1], "chello world");
  EXPECT_EQ(events.back(), "[DONE]");
}

TEST(HttpApi, GivesTheSameIdsAsGrpc) {
  const auto router = StartRouter();
  FakeTarget group(Hashing(*router));
  v1::GenerateRequest request = Prompt("some prompt", 40);
  request.set_seed(7);
  request.set_n(2);
  Call call(router->grpc_address(), request);
  ASSERT_TRUE(call.Finish().ok());
  const HttpReply reply = Post(router->http_address(), kCompletions,
                               R"({"prompt": "some prompt", "max_tokens": 40, "seed": 7, "n": 2,
                                   "return_token_ids": true})");
  const Json answer = Json::parse(reply.body);
  for (uint32_t i = 0; i < 2; ++i) EXPECT_EQ(answer["choices"][i]["token_ids"], Json(call.ids[i]));
}

TEST(HttpApi, PassesOnWhatTheRequestAsksOfTheGroup) {
  Cluster cluster;
  cluster.Ask(kCompletions, R"("prompt": "a", "max_tokens": 3, "min_tokens": 2, "seed": 5, "temperature": 0.5,
      "top_k": 4, "logit_bias": {"97": 1}, "stop_token_ids": [98], "ignore_eos": true, "draft": false, "lookahead": 2,
      "priority": -2, "cache_salt": "tenant", "n": 3)");
  ASSERT_EQ(cluster.last.status, 200) << cluster.last.body;
  const v1::Submit submit = cluster.group->received().submits.back();
  EXPECT_EQ(submit.lanes_size(), 3);
  EXPECT_EQ(submit.params().seed(), 5);
  EXPECT_EQ(submit.params().top_k(), 4);
  EXPECT_EQ(submit.params().min_tokens(), 2);
  EXPECT_EQ(submit.params().logit_bias_size(), 1);
  EXPECT_EQ(submit.params().stop_token_ids(0), 98);
  EXPECT_TRUE(submit.params().end_token_ids().empty());
  EXPECT_FALSE(submit.draft());
  EXPECT_EQ(submit.lookahead(), 2);
  EXPECT_EQ(submit.priority(), 2);
  EXPECT_NE(submit.prefix_salt(), 0);
  cluster.Ask(kCompletions, R"("prompt": "a", "cache_salt": "other")");
  EXPECT_NE(cluster.group->received().submits.back().prefix_salt(), submit.prefix_salt());
  cluster.Ask(kCompletions, R"("prompt": "a")");
  EXPECT_EQ(cluster.group->received().submits.back().prefix_salt(), 0);
}

TEST(HttpApi, EndsAtAStopStringWithOrWithoutIt) {
  Cluster cluster;
  Json choice = cluster.Ask(kCompletions, R"("prompt": "a", "max_tokens": 50, "stop": "o w")")["choices"][0];
  EXPECT_EQ(choice["text"], "hell");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["stop_reason"], "o w");
  choice = cluster.Ask(kCompletions, R"("prompt": "a", "max_tokens": 50, "stop": ["zz", "o w"],
                                        "include_stop_str_in_output": true)")["choices"][0];
  EXPECT_EQ(choice["text"], "hello w");
}

TEST(HttpApi, ShowsLogprobsInBothShapes) {
  Cluster cluster;
  const Json chat = cluster.Ask(kChat, absl::StrCat(kHi, R"(, "max_tokens": 3, "logprobs": true)"));
  ASSERT_EQ(chat["choices"][0]["logprobs"]["content"].size(), 3) << chat;
  EXPECT_EQ(chat["choices"][0]["logprobs"]["content"][0]["token"], "h");
  const Json text = cluster.Ask(kCompletions, R"("prompt": "a", "max_tokens": 3, "logprobs": 0)");
  EXPECT_EQ(text["choices"][0]["logprobs"]["tokens"], Json({"h", "e", "l"}));
  EXPECT_EQ(text["choices"][0]["logprobs"]["text_offset"], Json({0, 1, 2}));
}

TEST(HttpApi, RendersChatsAsAskedFor) {
  Cluster cluster;
  const auto prompt = [&](const std::string& fields) { return cluster.Ask("/apply-template", fields)["prompt"]; };
  EXPECT_EQ(prompt(kHi), "<|start|>user\nhi<|end|><|start|>assistant\n");
  EXPECT_EQ(prompt(absl::StrCat(kHi, R"(, "add_generation_prompt": false)")), "<|start|>user\nhi<|end|>");
  EXPECT_EQ(prompt(R"("messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc "}],
                      "continue_final_message": true)"),
            "<|start|>user\na<|end|><|start|>assistant\nbc");
  EXPECT_EQ(cluster.Error("/apply-template", R"("messages": [])"),
            R"(400 invalid_request_error "messages" "invalid_value")");
}

TEST(HttpApi, TokenizesAndBack) {
  Cluster cluster;
  Json answer = cluster.Ask("/tokenize", R"("prompt": "abcd", "return_token_strs": true)");
  EXPECT_EQ(answer["tokens"], Json({kAbcId, 100}));
  EXPECT_EQ(answer["count"], 2);
  EXPECT_EQ(answer["max_model_len"], 4096);
  EXPECT_EQ(answer["token_strs"], Json({"abc", "d"}));
  answer = cluster.Ask("/tokenize", kHi);
  EXPECT_EQ(answer["tokens"][0], kStartId);
  EXPECT_TRUE(answer["token_strs"].is_null());
  EXPECT_EQ(cluster.Ask("/detokenize", R"("tokens": [259, 100])")["prompt"], "abcd");
  EXPECT_EQ(cluster.Error("/detokenize", R"("tokens": [260])"),
            R"(400 invalid_request_error "tokens" "invalid_value")");
  EXPECT_EQ(cluster.Error("/detokenize", ""), R"(400 invalid_request_error "tokens" "missing_required_parameter")");
  EXPECT_EQ(cluster.Error("/tokenize", ""), R"(400 invalid_request_error "prompt" "missing_required_parameter")");
}

TEST(HttpApi, ListsTheModelUnderItsNames) {
  Cluster plain;
  Json models = Json::parse(Get(plain.address(), "/v1/models").body);
  EXPECT_EQ(models["object"], "list");
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  EXPECT_EQ(models["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(Json::parse(Get(plain.address(), "/v1/models/tiny").body)["object"], "model");
  EXPECT_EQ(plain.Error(kChat, absl::StrCat(kHi, R"(, "model": "gpt")")),
            R"(404 invalid_request_error "model" "model_not_found")");

  v1::RouterConfig config = TestConfig();
  config.set_served_model_name("org/name,other");
  Cluster named("x", false, config);
  models = Json::parse(Get(named.address(), "/v1/models").body);
  EXPECT_EQ(models["data"][0]["id"], "org/name");
  EXPECT_EQ(models["data"][1]["id"], "other");
  EXPECT_EQ(models["data"][1]["root"], "tiny");
  EXPECT_EQ(Json::parse(Get(named.address(), "/v1/models/org%2Fname").body)["id"], "org/name");
  EXPECT_EQ(Json::parse(Get(named.address(), "/v1/models/org/name").body)["id"], "org/name");
  EXPECT_EQ(Get(named.address(), "/v1/models/tiny").status, 404);
  EXPECT_EQ(named.Ask(kChat, absl::StrCat(kHi, R"(, "max_tokens": 1)"))["model"], "org/name");
  EXPECT_EQ(named.Ask(kChat, absl::StrCat(kHi, R"(, "max_tokens": 1, "model": "other")"))["model"], "other");
}

TEST(HttpApi, SaysHowItIs) {
  Cluster cluster;
  EXPECT_EQ(Get(cluster.address(), "/health").body, R"({"status":"ok"})");
  EXPECT_EQ(Get(cluster.address(), "/ping").status, 200);
  EXPECT_EQ(Get(cluster.address(), "/load").body, R"({"server_load":0})");
  EXPECT_TRUE(absl::StrContains(Get(cluster.address(), "/version").body, "version"));
  const HttpReply metrics = Get(cluster.address(), "/metrics");
  EXPECT_TRUE(absl::StartsWith(metrics.headers.at("content-type"), "text/plain; version=0.0.4"));
  EXPECT_TRUE(absl::StrContains(metrics.body, "outrider_requests_total"));
  EXPECT_EQ(Get(cluster.address(), "/nothing").status, 404);
  const HttpReply wrong = Get(cluster.address(), kChat);
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("allow"), "POST");
  EXPECT_EQ(Post(cluster.address(), "/health", "").status, 405);
}

TEST(HttpApi, DescribesItself) {
  const auto router = StartRouter();
  const HttpReply reply = Get(router->http_address(), "/openapi.json");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("content-type"), "application/json");
  EXPECT_EQ(Json::parse(reply.body), Json::parse(std::string(OpenApiDocument())));
}

TEST(HttpApi, KnowsEachOfItsPathsAndSaysWhatItTakes) {
  Cluster cluster;
  for (const ApiPath& path : ApiPaths()) {
    std::string url(path.path);
    if (path.endpoint == Endpoint::kModel) url = "/v1/models/tiny";
    if (url == "/page/{file}") url = "/page/app.js";
    const HttpReply right = path.is_post ? Post(cluster.address(), url, "{}") : Get(cluster.address(), url);
    EXPECT_EQ(right.status, path.is_post ? 400 : 200) << url << " " << right.body;
    const HttpReply wrong = path.is_post ? Get(cluster.address(), url) : Post(cluster.address(), url, "{}");
    EXPECT_EQ(wrong.status, 405) << url;
    EXPECT_EQ(wrong.headers.at("allow"), path.is_post ? "POST" : "GET, HEAD");
  }
}

TEST(HttpApi, TellsWhatEachWorkerCarries) {
  Cluster cluster;
  const HttpReply reply = Get(cluster.address(), "/cluster");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("cache-control"), "no-store");
  const Json load = Json::parse(reply.body);
  EXPECT_EQ(load["model"], "tiny");
  EXPECT_EQ(load["serving"], true);
  EXPECT_EQ(load["router"]["requests_open"], 0);
  ASSERT_EQ(load["groups"].size(), 1);
  EXPECT_EQ(load["groups"][0]["id"], "group-0");
  EXPECT_EQ(load["groups"][0]["state"], "WORKER_STATE_SERVING");
  EXPECT_EQ(load["draft_workers"], Json::array());
  // Over gRPC it is the same message.
  const auto stub =
      v1::Inference::NewStub(grpc::CreateChannel(cluster.router->grpc_address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::ClusterLoad message;
  ASSERT_TRUE(stub->GetLoad(&context, {}, &message).ok());
  EXPECT_EQ(message.model(), "tiny");
  ASSERT_EQ(message.groups_size(), 1);
  EXPECT_EQ(message.groups(0).id(), "group-0");
  EXPECT_EQ(message.groups(0).state(), v1::WORKER_STATE_SERVING);
}

TEST(HttpApi, SaysWhyAClusterWithoutGroupsDoesNotServe) {
  const auto router = StartRouter();
  const Json load = Json::parse(Get(router->http_address(), "/cluster").body);
  EXPECT_EQ(load["serving"], false);
  EXPECT_NE(load["status"], "");
  EXPECT_EQ(load["groups"], Json::array());
}

TEST(HttpApi, ServesThePageAndKnowsWhatTheClientHasOfIt) {
  const auto router = StartRouter();
  const HttpReply page = Get(router->http_address(), "/");
  EXPECT_EQ(page.status, 200);
  EXPECT_EQ(page.headers.at("content-type"), "text/html; charset=utf-8");
  EXPECT_NE(page.headers.at("content-security-policy").find("default-src 'none'"), std::string::npos);
  EXPECT_NE(page.body.find("<title>Outrider</title>"), std::string::npos);
  EXPECT_EQ(Get(router->http_address(), "/page/app.js").headers.at("content-type"), "text/javascript; charset=utf-8");
  EXPECT_EQ(Get(router->http_address(), "/page/no.js").status, 404);
  EXPECT_EQ(Post(router->http_address(), "/", "{}").status, 405);
  HttpClient client(router->http_address());
  client.Send("GET / HTTP/1.1\r\nHost: x\r\nIf-None-Match: " + page.headers.at("etag") + "\r\n\r\n");
  const HttpReply same = client.ReadReply(/*head_only=*/true);
  EXPECT_EQ(same.status, 304);
  EXPECT_EQ(same.headers.count("content-length"), 0);
  // The connection goes on.
  client.Send("GET /version HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.ReadReply().status, 200);
}

TEST(HttpApi, IsNotReadyWithoutAGroup) {
  const auto router = StartRouter();
  const HttpReply health = Get(router->http_address(), "/health");
  EXPECT_EQ(health.status, 503);
  EXPECT_EQ(Json::parse(health.body)["error"]["type"], "unavailable_error");
  const HttpReply reply = Post(router->http_address(), kChat, absl::StrCat("{", kHi, "}"));
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(reply.headers.at("retry-after"), "1");
  EXPECT_EQ(Get(router->http_address(), "/v1/models").status, 503);
}

TEST(HttpApi, RefusesBadInputAsOpenAisClientsExpect) {
  Cluster cluster;
  const auto chat = [&](const std::string& fields) { return cluster.Error(kChat, absl::StrCat(kHi, ", ", fields)); };
  EXPECT_EQ(chat(R"("temperature": "hot")"), R"(400 invalid_request_error "temperature" "invalid_type")");
  EXPECT_EQ(chat(R"("temperature": -1)"), R"(400 invalid_request_error "temperature" "invalid_value")");
  EXPECT_EQ(chat(R"("n": 0)"), R"(400 invalid_request_error "n" "invalid_value")");
  EXPECT_EQ(chat(R"("tools": [{}])"), R"(400 invalid_request_error "tools" "unsupported_parameter")");
  EXPECT_EQ(chat(R"("stream": true, "min_tokens": 5, "max_tokens": 2)"),
            R"(400 invalid_request_error "min_tokens" null)");
  EXPECT_EQ(chat(R"("stop_token_ids": [260])"), R"(400 invalid_request_error "stop_token_ids" null)");
  EXPECT_EQ(cluster.Error(
                kChat, absl::StrCat(R"("messages": [{"role": "user", "content": ")", std::string(5000, 'x'), "\"}]")),
            R"(400 invalid_request_error "messages" "context_length_exceeded")");
  EXPECT_EQ(cluster.Error(kCompletions, R"("prompt": [260])"), R"(400 invalid_request_error "prompt" null)");
  EXPECT_EQ(cluster.Error(kChat, R"("messages": [{"role": "king", "content": "a"}])"),
            R"(400 invalid_request_error "messages" null)");
  for (const char* body : {"", "{", "[]", "\"\"", "{\"messages\": [}", "\xff"}) {
    const HttpReply reply = Post(cluster.address(), kChat, body);
    EXPECT_EQ(reply.status, 400) << body;
    EXPECT_EQ(Json::parse(reply.body)["error"]["type"], "invalid_request_error");
  }
  EXPECT_EQ(Post(cluster.address(), kChat, std::string(100000, '[')).status, 400);
}

TEST(HttpApi, AClientThatLeavesCancelsAtOnce) {
  for (const bool stream : {false, true}) {
    Cluster cluster("hello world", /*hold=*/true);
    HttpClient client(cluster.address());
    client.Send(PostText(kChat, absl::StrCat("{", kHi, ", \"stream\": ", stream ? "true}" : "false}")));
    ASSERT_TRUE(cluster.group->Await([](const auto& received) { return !received.submits.empty(); }));
    cluster.group->Permit(1);
    client.Close();
    EXPECT_TRUE(cluster.group->Await([](const auto& received) { return !received.cancels.empty(); })) << stream;
    for (int i = 0; i < 4000 && cluster.router->num_open_calls() > 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_EQ(cluster.router->num_open_calls(), 0);
  }
}

TEST(HttpApi, AStreamThatFailsEndsWithAnErrorAndNotWithDone) {
  const auto router = StartRouter();
  FakeTarget::Options options = Hashing(*router);
  options.fail_code = 13;
  options.fail_at_token = 3;
  FakeTarget group(options);
  while (Get(router->http_address(), "/health").status != 200) {
  }
  HttpClient client(router->http_address());
  client.Send(PostText(kCompletions, R"({"prompt": "a", "max_tokens": 9, "stream": true})"));
  EXPECT_EQ(client.ReadHead().status, 200);
  const std::vector<std::string> events = client.ReadEvents();
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(Json::parse(events.back())["error"]["type"], "server_error") << events.back();
  EXPECT_TRUE(client.stream_complete);
  // Without a stream it is a status.
  EXPECT_EQ(Post(router->http_address(), kCompletions, R"({"prompt": "a", "max_tokens": 9})").status, 500);
}

TEST(HttpApi, OnePromptThatFailsFailsTheAnswer) {
  Cluster cluster;
  EXPECT_EQ(cluster.Error(kCompletions, R"("prompt": ["a", ""])"), R"(400 invalid_request_error "prompt" null)");
  EXPECT_EQ(cluster.Error(kCompletions, R"("prompt": ["a", ""], "stream": true)"),
            R"(400 invalid_request_error "prompt" null)");
  // The calls of the other prompts end a moment later.
  for (int i = 0; i < 4000 && cluster.router->num_open_calls() > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(cluster.router->num_open_calls(), 0);
}

TEST(HttpApi, KeepsAStreamThatWaitsAlive) {
  v1::RouterConfig config = TestConfig();
  config.set_sse_ping_interval_ms(20);
  Cluster cluster("hello world", /*hold=*/true, config);
  HttpClient client(cluster.address());
  client.Send(PostText(kCompletions, R"({"prompt": "a", "max_tokens": 1, "stream": true})"));
  client.ReadHead();
  EXPECT_TRUE(client.ReadComment());
  EXPECT_TRUE(client.ReadComment());
  cluster.group->Permit(5);
  const std::vector<std::string> events = client.ReadEvents();
  EXPECT_EQ(events.back(), "[DONE]");
}

TEST(HttpApi, ManyStreamsAtOnceEachGetTheirOwn) {
  Cluster cluster;
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 100; ++i) {
    clients.push_back(std::make_unique<HttpClient>(cluster.address()));
    clients.back()->Send(PostText(
        kCompletions, absl::StrCat(R"({"prompt": ")", i, R"(", "max_tokens": 11, "echo": true, "stream": true})")));
  }
  for (int i = 0; i < 100; ++i) {
    clients[i]->ReadHead();
    std::string text;
    for (const Json& event : Events(*clients[i])) {
      if (event != "[DONE]") text += event["choices"][0]["text"].get<std::string>();
    }
    EXPECT_EQ(text, absl::StrCat(i, "hello world"));
  }
}

TEST(HttpApi, DrainingFinishesWhatRunsAndRefusesWhatIsNew) {
  Cluster cluster("hello world", /*hold=*/true);
  HttpClient running(cluster.address());
  running.Send(PostText(kCompletions, R"({"prompt": "a", "max_tokens": 2})"));
  ASSERT_TRUE(cluster.group->Await([](const auto& received) { return !received.submits.empty(); }));
  cluster.router->StartDrain();
  const HttpReply refused = Post(cluster.address(), kChat, absl::StrCat("{", kHi, "}"));
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("connection"), "close");
  EXPECT_EQ(Get(cluster.address(), "/health").status, 503);
  cluster.group->Permit(5);
  const HttpReply reply = running.ReadReply();
  EXPECT_EQ(Json::parse(reply.body)["choices"][0]["text"], "he");
  EXPECT_EQ(reply.headers.at("connection"), "close");
}

TEST(HttpApi, EndsOpenRequestsWithTheRouter) {
  Cluster cluster("hello world", /*hold=*/true);
  HttpClient stream(cluster.address()), whole(cluster.address());
  stream.Send(PostText(kCompletions, R"({"prompt": "a", "stream": true})"));
  whole.Send(PostText(kCompletions, R"({"prompt": "a"})"));
  ASSERT_TRUE(cluster.group->Await([](const auto& received) { return received.submits.size() == 2; }));
  stream.ReadHead();
  cluster.router->StartDrain();
  cluster.router->EndOpenCalls();
  EXPECT_EQ(whole.ReadReply().status, 503);
  const std::vector<std::string> events = stream.ReadEvents();
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(Json::parse(events.back())["error"]["type"], "unavailable_error");
  HttpClient open(cluster.address());
  cluster.router.reset();
  EXPECT_TRUE(open.AtEnd());
}

TEST(HttpApi, OutlivesBodiesOfAnyKind) {
  Cluster cluster;
  std::mt19937_64 random(TestSeed());
  const std::string seeds[] = {absl::StrCat("{", kHi, R"(, "max_tokens": 3, "n": 2, "stop": ["x"]})"),
                               R"({"prompt": ["a", "b"], "max_tokens": 2, "stream": true, "logprobs": 1})",
                               R"({"tokens": [1, 2, 3]})"};
  const char* const paths[] = {kChat, kCompletions, "/tokenize", "/detokenize", "/apply-template"};
  HttpClient client(cluster.address());
  for (int round = 0; round < 600; ++round) {
    std::string body = seeds[random() % std::size(seeds)];
    for (uint64_t edits = random() % 4; edits > 0; --edits) {
      const size_t at = random() % body.size();
      if (random() % 2 == 0) {
        body[at] = "{}[]\",:0129-ae\\\xff"[random() % 16];
      } else {
        body.insert(at, body.substr(random() % body.size(), random() % 20));
      }
    }
    ASSERT_TRUE(client.Send(PostText(paths[random() % std::size(paths)], body)));
    const HttpReply reply = client.ReadReply();
    ASSERT_TRUE(reply.complete) << reply.status << " " << reply.body << " of " << body;
    EXPECT_TRUE(reply.status == 200 || reply.status == 400 || reply.status == 404) << reply.status << " " << reply.body;
    EXPECT_EQ(reply.status == 200, !absl::StartsWith(reply.body, "{\"error\":")) << reply.body;
  }
}

}  // namespace
}  // namespace outrider::router
