// A router for a test with real gRPC on both sides: started, called by a client that reads step by step, and looked
// into.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "proto/inference.grpc.pb.h"
#include "router/router_server.h"
#include "router/testing/fake_target.h"

namespace outrider::router {

inline v1::RouterConfig TestConfig() {
  v1::RouterConfig config;
  config.set_grpc_port(0);
  config.set_metrics_port(0);
  config.set_http_port(0);
  config.set_queue_timeout_ms(20000);
  config.set_heartbeat_interval_ms(30);
  // Generous: two busy cores must not look like a loss.
  config.set_worker_timeout_ms(5000);
  return config;
}

inline std::unique_ptr<RouterServer> StartRouter(const v1::RouterConfig& config = TestConfig()) {
  auto router = RouterServer::Start(config);
  EXPECT_TRUE(router.ok()) << router.status();
  return router.ok() ? *std::move(router) : nullptr;
}

// One Generate call, read step by step.
class Call {
 public:
  Call(const std::string& address, const v1::GenerateRequest& request, const grpc::ChannelArguments& arguments = {},
       int deadline_s = 60)
      : stub_(
            v1::Inference::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments))) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(deadline_s));
    reader_ = stub_->Generate(&context_, request);
  }
  ~Call() {
    if (!finished_) {
      context_.TryCancel();
      Finish();
    }
  }

  // Reads one message; false at the end.
  bool Read() {
    v1::GenerateResponse response;
    if (!reader_->Read(&response)) return false;
    if (response.has_started()) {
      EXPECT_FALSE(started.has_value());
      EXPECT_TRUE(text.empty()) << "Started comes first";
      started = response.started();
    } else if (response.has_delta()) {
      EXPECT_TRUE(started.has_value());
      const v1::Delta& delta = response.delta();
      EXPECT_EQ(ends.count(delta.choice_index()), 0) << "something after the end";
      std::vector<TokenId>& choice = ids[delta.choice_index()];
      choice.insert(choice.end(), delta.token_ids().begin(), delta.token_ids().end());
      text[delta.choice_index()] += delta.text();
      num_logprobs += delta.logprobs_size();
    } else if (response.has_prompt_logprobs()) {
      EXPECT_TRUE(ids.empty() || ids.begin()->second.empty()) << "logprobs of the prompt come before tokens";
      EXPECT_EQ(response.prompt_logprobs().first_position(), 1 + prompt_logprobs.size());
      for (const v1::TokenLogprobs& token : response.prompt_logprobs().logprobs()) prompt_logprobs.push_back(token);
    } else {
      EXPECT_TRUE(ends.emplace(response.finished().choice_index(), response.finished()).second) << "a second end";
    }
    return true;
  }
  // Reads until choice 0 has so many ids.
  void ReadIds(size_t count) {
    while (ids[0].size() < count && Read()) {
    }
  }
  grpc::Status Finish() {
    while (Read()) {
    }
    finished_ = true;
    return status = reader_->Finish();
  }
  void Cancel() { context_.TryCancel(); }
  // Of the server's metadata; empty if there is none. REQUIRES: Finish was called.
  std::string RequestId() const { return Find(context_.GetServerInitialMetadata(), "outrider-request-id"); }
  std::string RetryPushback() const { return Find(context_.GetServerTrailingMetadata(), "grpc-retry-pushback-ms"); }

  std::optional<v1::Started> started;
  std::map<uint32_t, std::vector<TokenId>> ids;
  std::map<uint32_t, std::string> text;
  std::map<uint32_t, v1::Finished> ends;
  int num_logprobs = 0;
  std::vector<v1::TokenLogprobs> prompt_logprobs;  // of positions 1, 2, ...
  grpc::Status status;

 private:
  static std::string Find(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata, const char* key) {
    const auto it = metadata.find(key);
    return it == metadata.end() ? "" : std::string(it->second.data(), it->second.size());
  }

  std::unique_ptr<v1::Inference::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  bool finished_ = false;
};

inline v1::GenerateRequest Prompt(const std::string& prompt, uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.set_prompt(prompt);
  request.set_max_tokens(max_tokens);
  return request;
}

// A group that writes `script`, and dots after its end.
inline FakeTarget::Options Scripted(const RouterServer& router, const std::string& script) {
  FakeTarget::Options options;
  options.router_address = router.grpc_address();
  options.next_token = [script](const std::vector<TokenId>&, const std::vector<TokenId>& output, uint32_t) {
    return output.size() < script.size() ? static_cast<uint8_t>(script[output.size()]) : static_cast<TokenId>('.');
  };
  return options;
}

inline FakeTarget::Options Hashing(const RouterServer& router, const std::string& id = "group-0") {
  FakeTarget::Options options;
  options.router_address = router.grpc_address();
  options.id = id;
  return options;
}

// A Hashing group that writes only what it is permitted.
inline FakeTarget::Options Holding(const RouterServer& router, const std::string& id = "group-0") {
  FakeTarget::Options options = Hashing(router, id);
  options.hold = true;
  return options;
}

inline v1::ModelInfo ModelInfoOf(const RouterServer& router) {
  const auto stub =
      v1::Inference::NewStub(grpc::CreateChannel(router.grpc_address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::ModelInfo info;
  EXPECT_TRUE(stub->GetModelInfo(&context, {}, &info).ok());
  return info;
}

inline int HealthyGroups(const RouterServer& router) { return static_cast<int>(ModelInfoOf(router).num_groups()); }

// The value of a series of the metrics page, by its beginning; -1 if there is none.
inline double Metric(const RouterServer& router, const std::string& series) {
  const std::string page = router.MetricsText();
  for (const absl::string_view line : absl::StrSplit(page, '\n')) {
    double value;
    if (absl::StartsWith(line, series) && absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) return value;
  }
  return -1;
}

// What a group without a fault gives.
inline std::vector<TokenId> UndisturbedIds(const v1::GenerateRequest& request) {
  const auto router = StartRouter();
  FakeTarget group(Hashing(*router));
  Call call(router->grpc_address(), request);
  EXPECT_TRUE(call.Finish().ok());
  return call.ids[0];
}

inline void ExpectStatus(const grpc::Status& status, grpc::StatusCode code, const std::vector<std::string>& parts) {
  EXPECT_EQ(status.error_code(), code) << status.error_message();
  for (const std::string& part : parts) {
    EXPECT_TRUE(absl::StrContains(status.error_message(), part)) << status.error_message() << " lacks " << part;
  }
}

}  // namespace outrider::router
