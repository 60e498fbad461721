// What clients see of a router beside Generate: API keys on every method and path, Abort, reflection, vLLM's engine
// service. Real gRPC and HTTP, fake target groups.
#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/grpc/reflection/v1/reflection.grpc.pb.h"
#include "proto/inference.grpc.pb.h"
#include "proto/vllm/grpc/engine/vllm_engine.grpc.pb.h"
#include "router/http/testing/http_client.h"
#include "router/router_server.h"
#include "router/testing/fake_target.h"
#include "router/testing/router_harness.h"
#include "security/api_keys.h"

namespace outrider::router {
namespace {

namespace vllm = ::vllm::grpc::engine;

constexpr auto kCallBound = std::chrono::seconds(30);

// A message of any kind with nothing in it.
grpc::ByteBuffer EmptyMessage() {
  const grpc::Slice slice;
  return grpc::ByteBuffer(&slice, 1);
}

// Calls `method` so and says how it ended.
grpc::Status CallEmpty(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                       const std::string& key) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCallBound);
  if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareUnaryCall(&context, method, EmptyMessage(), &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  return status;
}

// A router with keys and vLLM's service.
class PublicApi : public testing::Test {
 protected:
  ~PublicApi() override { std::filesystem::remove(path_); }

  // The key of a name that AddKey was called with.
  std::string AddKey(const std::string& name, const KeyLimits& limits = {}) {
    std::array<uint8_t, 32> bytes{};
    bytes[0] = ++num_keys_;
    const NewApiKey made = *MakeApiKey(name, limits, bytes);
    std::ofstream(path_, std::ios::app) << made.line << "\n";
    return made.key;
  }
  void Start() {
    v1::RouterConfig config = TestConfig();
    if (num_keys_ > 0) config.set_api_keys(path_);
    config.set_cluster_host("127.0.0.1");
    config.set_cluster_port(0);
    config.set_vllm_engine(true);
    router_ = StartRouter(config);
    ASSERT_NE(router_, nullptr);
    channel_ = grpc::CreateChannel(router_->grpc_address(), grpc::InsecureChannelCredentials());
    inference_ = v1::Inference::NewStub(channel_);
    engine_ = vllm::VllmEngine::NewStub(channel_);
  }
  // With a group that has told its model.
  void StartWithGroup(bool hold = false) {
    Start();
    FakeTarget::Options options = hold ? Holding(*router_) : Hashing(*router_);
    options.router_address = router_->cluster_address();
    group_ = std::make_unique<FakeTarget>(options);
    while (router_->MetricsText().find("outrider_groups_serving 1\n") == std::string::npos) std::this_thread::yield();
    while (Get(router_->http_address(), "/health").status != 200) std::this_thread::yield();
  }
  static void Prepare(const std::string& key, grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() + kCallBound);
    if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
  }
  grpc::Status CallEmpty(const std::string& method, const std::string& key) {
    return router::CallEmpty(channel_, method, key);
  }
  struct Outcome {
    grpc::Status status;
    std::vector<TokenId> ids;
    std::string pushback_ms;
  };
  Outcome Generate(const std::string& key, const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    Prepare(key, context);
    const auto reader = inference_->Generate(&context, request);
    Outcome outcome;
    for (v1::GenerateResponse response; reader->Read(&response);) {
      outcome.ids.insert(outcome.ids.end(), response.delta().token_ids().begin(), response.delta().token_ids().end());
    }
    outcome.status = reader->Finish();
    const auto& trailing = context.GetServerTrailingMetadata();
    if (const auto found = trailing.find("grpc-retry-pushback-ms"); found != trailing.end()) {
      outcome.pushback_ms = std::string(found->second.data(), found->second.size());
    }
    return outcome;
  }
  std::string HttpAuthorization(const std::string& key) {
    return key.empty() ? "" : absl::StrCat("Authorization: Bearer ", key, "\r\n");
  }
  HttpReply AskHttp(const std::string& method, const std::string& path, const std::string& key) {
    HttpClient client(router_->http_address());
    client.Send(absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: x\r\n", HttpAuthorization(key),
                             method == "POST" ? "Content-Length: 2\r\n\r\n{}" : "\r\n"));
    return client.ReadReply();
  }
  std::set<std::string> Services() {
    const auto stub = reflection::ServerReflection::NewStub(channel_);
    grpc::ClientContext context;
    Prepare("", context);
    const auto stream = stub->ServerReflectionInfo(&context);
    reflection::ServerReflectionRequest request;
    request.set_list_services("");
    stream->Write(request);
    reflection::ServerReflectionResponse response;
    EXPECT_TRUE(stream->Read(&response));
    stream->WritesDone();
    EXPECT_TRUE(stream->Finish().ok());
    std::set<std::string> names;
    for (const auto& service : response.list_services_response().service()) names.insert(service.name());
    return names;
  }

  const std::string path_ = absl::StrCat(testing::TempDir(), "/public_api_keys_", ::getpid());
  uint8_t num_keys_ = 0;
  std::unique_ptr<RouterServer> router_;
  std::unique_ptr<FakeTarget> group_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<vllm::VllmEngine::Stub> engine_;
};

// Whoever adds a method meets this test: all services are asked for their methods, and what is open is listed here.
TEST_F(PublicApi, EveryMethodWantsAKeyButHealthAndReflection) {
  const std::set<std::string> open_services = {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                                               "grpc.reflection.v1alpha.ServerReflection"};
  const std::set<std::string> open_methods = {"/vllm.grpc.engine.VllmEngine/HealthCheck"};
  const std::string key = AddKey("alice");
  Start();
  int num_methods = 0;
  for (const std::string& name : Services()) {
    if (open_services.count(name) > 0) continue;
    const auto* const service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    ASSERT_NE(service, nullptr) << name;
    for (int i = 0; i < service->method_count(); ++i) {
      const std::string method = absl::StrCat("/", name, "/", service->method(i)->name());
      const bool is_open = open_methods.count(method) > 0;
      for (const std::string& wrong : {std::string(), key + "0", std::string("or-")}) {
        EXPECT_EQ(CallEmpty(method, wrong).error_code() == grpc::StatusCode::UNAUTHENTICATED, !is_open) << method;
      }
      EXPECT_NE(CallEmpty(method, key).error_code(), grpc::StatusCode::UNAUTHENTICATED) << method;
      ++num_methods;
    }
  }
  EXPECT_GE(num_methods, 12);
  // Registration is a link, not part of the API.
  EXPECT_EQ(CallEmpty("/outrider.v1.Cluster/Heartbeat", key).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(PublicApi, EveryPathWantsAKeyButHealth) {
  const std::string key = AddKey("alice");
  StartWithGroup();
  for (const char* path :
       {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/tiny", "/tokenize", "/detokenize",
        "/apply-template", "/metrics", "/version", "/load", "/cluster", "/v1/embeddings", "/nothing", "//v1/models"}) {
    for (const char* method : {"GET", "POST", "HEAD", "DELETE", "OPTIONS"}) {
      if (std::string(method) == "HEAD") continue;  // its answer has no body to look at
      const HttpReply reply = AskHttp(method, path, "");
      EXPECT_EQ(reply.status, 401) << method << " " << path;
      EXPECT_TRUE(absl::StrContains(reply.body, "\"code\":\"invalid_api_key\"")) << reply.body;
      EXPECT_TRUE(absl::StrContains(reply.body, "\"type\":\"invalid_request_error\"")) << reply.body;
      EXPECT_EQ(reply.headers.count("www-authenticate"), 1u);
      EXPECT_EQ(AskHttp(method, path, key + "1").status, 401) << method << " " << path;
      EXPECT_NE(AskHttp(method, path, key).status, 401) << method << " " << path;
    }
  }
  for (const char* path : {"/health", "/ping", "/", "/openapi.json"})
    EXPECT_EQ(AskHttp("GET", path, "").status, 200) << path;
  EXPECT_EQ(AskHttp("POST", "/", "").status, 401);
}

TEST_F(PublicApi, WithoutAFileOfKeysNobodyIsAsked) {
  StartWithGroup();
  EXPECT_TRUE(Generate("", Prompt("x", 2)).status.ok());
  EXPECT_TRUE(Generate("anything", Prompt("x", 2)).status.ok());
  EXPECT_EQ(AskHttp("GET", "/v1/models", "anything").status, 200);
}

TEST_F(PublicApi, KeepsAKeyToItsOpenRequestsOverBothWires) {
  const std::string alice = AddKey("alice", {.max_concurrent_requests = 1}), bob = AddKey("bob");
  StartWithGroup(/*hold=*/true);
  grpc::ClientContext context;
  Prepare(alice, context);
  const auto reader = inference_->Generate(&context, Prompt("x", 4));
  ASSERT_TRUE(group_->Await([](const auto& r) { return r.submits.size() == 1; }));
  const Outcome second = Generate(alice, Prompt("x", 1));
  ExpectStatus(second.status, grpc::StatusCode::RESOURCE_EXHAUSTED, {"'alice'", "max_concurrent_requests = 1"});
  EXPECT_EQ(second.pushback_ms, "1000");
  const HttpReply over_http =
      Post(router_->http_address(), "/v1/completions", R"({"prompt": "x", "max_tokens": 1})", HttpAuthorization(alice));
  EXPECT_EQ(over_http.status, 429) << over_http.body;
  EXPECT_EQ(over_http.headers.count("retry-after"), 1u);
  EXPECT_EQ(AskHttp("GET", "/v1/models", alice).status, 200) << "looking is free";
  group_->Permit(1000);
  EXPECT_TRUE(Generate(bob, Prompt("x", 1)).status.ok());
  for (v1::GenerateResponse response; reader->Read(&response);) {
  }
  ASSERT_TRUE(reader->Finish().ok());
  // The router hears of the end a moment after its client.
  while (router_->num_open_calls() > 0) std::this_thread::yield();
  EXPECT_TRUE(Generate(alice, Prompt("x", 1)).status.ok());
}

TEST_F(PublicApi, ChargesPromptsAndOutputs) {
  const std::string key = AddKey("alice", {.tokens_per_minute = 60});
  StartWithGroup();
  // "abcd" is two tokens: 2 + 58 are allowed and leave nothing, 1 + 30 more are owed for half a minute.
  EXPECT_TRUE(Generate(key, Prompt("abcd", 58)).status.ok());
  while (router_->num_open_calls() > 0) std::this_thread::yield();
  EXPECT_TRUE(Generate(key, Prompt("a", 30)).status.ok());
  while (router_->num_open_calls() > 0) std::this_thread::yield();
  const Outcome refused = Generate(key, Prompt("a", 1));
  ExpectStatus(refused.status, grpc::StatusCode::RESOURCE_EXHAUSTED, {"tokens_per_minute = 60"});
  // Some moments have passed.
  EXPECT_GT(std::stoi(refused.pushback_ms), 25'000);
  EXPECT_LE(std::stoi(refused.pushback_ms), 31'010);
  const HttpReply tokenize = Post(router_->http_address(), "/tokenize", R"({"prompt": "x"})", HttpAuthorization(key));
  EXPECT_EQ(tokenize.status, 429) << tokenize.body;
}

TEST_F(PublicApi, AbortEndsARequestOfTheSameKey) {
  const std::string alice = AddKey("alice"), mallory = AddKey("mallory");
  StartWithGroup(/*hold=*/true);
  grpc::ClientContext context;
  Prepare(alice, context);
  const auto reader = inference_->Generate(&context, Prompt("x", 40));
  ASSERT_TRUE(group_->Await([](const auto& r) { return r.submits.size() == 1; }));
  group_->Permit(2);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  const std::string id = response.started().request_id();

  const auto abort = [&](const std::string& key, const std::string& request_id) {
    grpc::ClientContext abort_context;
    Prepare(key, abort_context);
    v1::AbortRequest request;
    request.add_request_ids(request_id);
    v1::AbortResponse answer;
    EXPECT_TRUE(inference_->Abort(&abort_context, request, &answer).ok());
    return answer.aborted_request_ids_size();
  };
  EXPECT_EQ(abort(mallory, id), 0);
  for (const char* wrong : {"", "req-", "x", "req-0000000000000000-1"}) EXPECT_EQ(abort(alice, wrong), 0) << wrong;
  EXPECT_EQ(abort(alice, id + "0"), 0);
  EXPECT_EQ(abort(alice, id), 1);
  while (reader->Read(&response)) {
  }
  ExpectStatus(reader->Finish(), grpc::StatusCode::CANCELLED, {"aborted"});
  EXPECT_TRUE(group_->Await([](const auto& r) { return r.cancels.size() == 1; })) << "the group is free of it";
  while (router_->num_open_calls() > 0) std::this_thread::yield();
  EXPECT_EQ(abort(alice, id), 0);
}

TEST_F(PublicApi, NamesItsServicesToReflection) {
  Start();
  EXPECT_EQ(Services(), (std::set<std::string>{
                            "outrider.v1.Inference", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                            "grpc.reflection.v1alpha.ServerReflection", "vllm.grpc.engine.VllmEngine"}));
}

// --- vLLM's engine service.

vllm::GenerateRequest EngineRequest(const std::string& text, uint32_t max_tokens, bool stream) {
  vllm::GenerateRequest request;
  request.set_text(text);
  request.mutable_sampling_params()->set_max_tokens(max_tokens);
  request.mutable_sampling_params()->set_temperature(0);
  request.set_stream(stream);
  return request;
}

TEST_F(PublicApi, EngineServiceGivesTheIdsOfGenerate) {
  StartWithGroup();
  v1::GenerateRequest ours = Prompt("abcx", 7);
  ours.set_temperature(0);
  const std::vector<TokenId> expected = Generate("", ours).ids;
  ASSERT_EQ(expected.size(), 7u);
  for (const bool stream : {false, true}) {
    grpc::ClientContext context;
    Prepare("", context);
    const auto reader = engine_->Generate(&context, EngineRequest("abcx", 7, stream));
    std::vector<TokenId> chunks;
    vllm::GenerateComplete complete;
    int num_completes = 0;
    for (vllm::GenerateResponse response; reader->Read(&response);) {
      EXPECT_EQ(num_completes, 0) << "something after the end";
      chunks.insert(chunks.end(), response.chunk().token_ids().begin(), response.chunk().token_ids().end());
      if (response.has_complete()) {
        complete = response.complete();
        ++num_completes;
      }
    }
    ASSERT_TRUE(reader->Finish().ok());
    EXPECT_EQ(chunks, stream ? expected : std::vector<TokenId>());
    EXPECT_EQ(std::vector<TokenId>(complete.output_ids().begin(), complete.output_ids().end()), expected);
    EXPECT_EQ(complete.finish_reason(), "length");
    EXPECT_EQ(complete.prompt_tokens(), 2u);
  }
}

TEST_F(PublicApi, EngineServiceAbortsByTheClientsOwnId) {
  StartWithGroup(/*hold=*/true);
  vllm::GenerateRequest request = EngineRequest("x", 40, true);
  request.set_request_id("mine");
  grpc::ClientContext context;
  Prepare("", context);
  const auto reader = engine_->Generate(&context, request);
  ASSERT_TRUE(group_->Await([](const auto& r) { return r.submits.size() == 1; }));
  group_->Permit(3);
  vllm::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));

  grpc::ClientContext twice_context;
  Prepare("", twice_context);
  const auto twice = engine_->Generate(&twice_context, request);
  while (twice->Read(&response)) {
  }
  ExpectStatus(twice->Finish(), grpc::StatusCode::INVALID_ARGUMENT, {"'mine'", "open"});

  grpc::ClientContext abort_context;
  Prepare("", abort_context);
  vllm::AbortRequest abort;
  abort.add_request_ids("nobody's");
  abort.add_request_ids("mine");
  vllm::AbortResponse nothing;
  ASSERT_TRUE(engine_->Abort(&abort_context, abort, &nothing).ok());
  std::string reason;
  while (reader->Read(&response)) {
    if (response.has_complete()) reason = response.complete().finish_reason();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(reason, "abort");
  EXPECT_TRUE(group_->Await([](const auto& r) { return r.cancels.size() == 1; }));
}

TEST_F(PublicApi, EngineServiceFreesWhatItsClientLeaves) {
  StartWithGroup(/*hold=*/true);
  for (const bool stream : {false, true}) {
    grpc::ClientContext context;
    Prepare("", context);
    vllm::GenerateRequest request = EngineRequest("x", 40, stream);
    request.set_request_id("mine");
    const auto reader = engine_->Generate(&context, request);
    const size_t number = stream ? 2 : 1;
    ASSERT_TRUE(group_->Await([&](const auto& r) { return r.submits.size() == number; }));
    group_->Permit(3);
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(group_->Await([&](const auto& r) { return r.cancels.size() == number; }));
    while (router_->num_open_calls() > 0) std::this_thread::yield();
  }
}

TEST_F(PublicApi, EngineServiceTellsOfModelAndServer) {
  Start();
  const auto call = [&](auto method, auto request, auto* response) {
    grpc::ClientContext context;
    Prepare("", context);
    return (engine_.get()->*method)(&context, request, response);
  };
  using Stub = vllm::VllmEngine::Stub;
  vllm::HealthCheckResponse health;
  ASSERT_TRUE(call(&Stub::HealthCheck, vllm::HealthCheckRequest(), &health).ok());
  EXPECT_FALSE(health.healthy());
  EXPECT_FALSE(health.message().empty());
  vllm::GetModelInfoResponse model;
  EXPECT_EQ(call(&Stub::GetModelInfo, vllm::GetModelInfoRequest(), &model).error_code(), grpc::StatusCode::UNAVAILABLE);

  StartWithGroup();
  ASSERT_TRUE(call(&Stub::HealthCheck, vllm::HealthCheckRequest(), &health).ok());
  EXPECT_TRUE(health.healthy());
  ASSERT_TRUE(call(&Stub::GetModelInfo, vllm::GetModelInfoRequest(), &model).ok());
  EXPECT_EQ(model.served_model_name(), "tiny");
  EXPECT_TRUE(model.is_generation());
  EXPECT_EQ(model.max_context_length(), 4096u);
  EXPECT_EQ(model.vocab_size(), 260u);
  vllm::GetServerInfoResponse server;
  ASSERT_TRUE(call(&Stub::GetServerInfo, vllm::GetServerInfoRequest(), &server).ok());
  EXPECT_EQ(server.active_requests(), 0u);
  vllm::EmbedResponse embedding;
  EXPECT_EQ(call(&Stub::Embed, vllm::EmbedRequest(), &embedding).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST(PublicApiOff, TheEngineServiceIsNotThereUnlessItIsAskedFor) {
  const auto router = StartRouter();
  const auto stub =
      vllm::VllmEngine::NewStub(grpc::CreateChannel(router->grpc_address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  vllm::HealthCheckResponse response;
  EXPECT_EQ(stub->HealthCheck(&context, {}, &response).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST(PublicApiOff, KeysNeedAServerOfTheirOwnForWorkersAndAFileThatCanBeRead) {
  v1::RouterConfig config = TestConfig();
  config.set_api_keys("/nowhere");
  absl::Status status = RouterServer::Start(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "cluster_host")) << status;
  config.set_cluster_host("127.0.0.1");
  status = RouterServer::Start(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "api_keys '/nowhere'")) << status;
}

// Last of those that start a router without it: gRPC gives channelz to every server of the process that is built later.
TEST(ZPublicApiAdmin, ChannelzIsOnThePortForItAlone) {
  v1::RouterConfig config = TestConfig();
  config.set_admin_port(0);
  const auto router = StartRouter(config);
  ASSERT_NE(router, nullptr);
  EXPECT_TRUE(absl::StartsWith(router->admin_address(), "127.0.0.1:")) << router->admin_address();
  const auto call = [](const std::string& address, const std::string& method) {
    return CallEmpty(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()), method, "").error_code();
  };
  constexpr char kServers[] = "/grpc.channelz.v1.Channelz/GetServers";
  EXPECT_EQ(call(router->admin_address(), kServers), grpc::StatusCode::OK);
  EXPECT_EQ(call(router->grpc_address(), kServers), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(call(router->cluster_address(), kServers), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(call(router->admin_address(), "/outrider.v1.Inference/GetModelInfo"), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace outrider::router
