#include "cli/bench_endpoint.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "cli/http_client.h"
#include "proto/inference.grpc.pb.h"

namespace outrider {
namespace {

using Json = nlohmann::json;

constexpr auto kAskInterval = std::chrono::milliseconds(50);
constexpr double kAskBoundS = 2;  // of one question until something serves
constexpr double kTokenizeBoundS = 60;
constexpr size_t kErrorBytesMax = 1 << 16;

// Asks until there is an answer, or `timeout_s` is over.
absl::StatusOr<v1::ModelInfo> Await(const std::string& address, double timeout_s,
                                    const std::function<absl::StatusOr<v1::ModelInfo>()>& ask) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
  while (true) {
    absl::StatusOr<v1::ModelInfo> info = ask();
    if (info.ok()) return info;
    if (std::chrono::steady_clock::now() >= end) {
      return absl::UnavailableError(absl::StrCat(address, " serves nothing within ", timeout_s,
                                                 " s of --ready-check-timeout-sec: ", info.status().message()));
    }
    std::this_thread::sleep_for(kAskInterval);
  }
}

class GrpcEndpoint final : public BenchEndpoint {
 public:
  GrpcEndpoint(std::string address, std::unique_ptr<v1::Inference::Stub> stub)
      : address_(std::move(address)), stub_(std::move(stub)) {}

  absl::StatusOr<v1::ModelInfo> AwaitModel(double timeout_s) override {
    return Await(address_, timeout_s, [&]() -> absl::StatusOr<v1::ModelInfo> {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + FromMillis(1000 * kAskBoundS));
      v1::ModelInfo info;
      const grpc::Status status = stub_->GetModelInfo(&context, {}, &info);
      if (!status.ok()) return absl::UnavailableError(status.error_message());
      if (info.num_groups() == 0) return absl::UnavailableError("no group is registered");
      return info;
    });
  }

  absl::StatusOr<int> CountTokens(const std::string& text) override {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    v1::TokenizeResponse response;
    request.set_text(text);
    const grpc::Status status = stub_->Tokenize(&context, request, &response);
    if (status.ok()) return response.token_ids_size();
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        absl::StrCat("Tokenize: ", status.error_message()));
  }

  absl::StatusOr<OpenLoopResult> RunOpenLoop(const OpenLoopOptions& options,
                                             const std::vector<v1::GenerateRequest>& requests,
                                             const std::vector<double>& arrivals_s,
                                             const std::function<void(int, int)>& on_progress) override {
    return outrider::RunOpenLoop(*stub_, options, requests, arrivals_s, on_progress);
  }

 private:
  const std::string address_;
  const std::unique_ptr<v1::Inference::Stub> stub_;
};

// {"error": {"message"}} of an answer, or its beginning.
std::string ErrorText(int status, const std::string& body) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  std::string text = body.substr(0, 200);
  if (json.is_object() && json.contains("error") && json["error"].is_object() && json["error"].contains("message") &&
      json["error"]["message"].is_string()) {
    text = json["error"]["message"].get<std::string>();
  }
  return absl::StrCat("HTTP ", status, ": ", text);
}

// Lives until its exchange has ended, of which the loop is told by that.
class HttpCall final : public OpenCall {
 public:
  HttpCall(HttpClient& client, const std::string& path, std::string body, double timeout_s, BenchRecord& record,
           std::function<void()> on_end)
      : record_(record), stream_(record), on_end_(std::move(on_end)) {
    client.Start(path, std::move(body), timeout_s,
                 {.on_sent = [this] { sent_ = std::chrono::steady_clock::now(); },
                  .on_body = [this](int status, const std::string& bytes) { Take(status, bytes); },
                  .on_end = [this](const absl::StatusOr<int>& status) { End(status); }});
  }

 private:
  double Now() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - sent_).count(); }

  void Take(int status, const std::string& bytes) {
    if (status == 200) {
      stream_.Take(bytes, Now());
    } else if (error_.size() < kErrorBytesMax) {
      error_ += bytes;
    }
  }

  void End(const absl::StatusOr<int>& status) {
    if (!status.ok()) {
      record_.error = status.status().ToString();
    } else if (*status != 200) {
      record_.error = ErrorText(*status, error_);
    }
    stream_.End();
    if (record_.message_tokens.empty()) record_.latency_s = Now();
    on_end_();
  }

  BenchRecord& record_;
  OpenAiStream stream_;
  const std::function<void()> on_end_;
  TimePoint sent_;
  std::string error_;
};

class OpenAiEndpoint final : public BenchEndpoint {
 public:
  OpenAiEndpoint(OpenAiEndpointOptions options, std::unique_ptr<HttpClient> client)
      : options_(std::move(options)), client_(std::move(client)) {}

  absl::StatusOr<v1::ModelInfo> AwaitModel(double timeout_s) override {
    return Await(client_->address(), timeout_s, [&]() -> absl::StatusOr<v1::ModelInfo> {
      ASSIGN_OR_RETURN(const HttpReply reply, client_->Call("/v1/models", "", kAskBoundS));
      if (reply.status != 200) return absl::UnavailableError(ErrorText(reply.status, reply.body));
      const Json json = Json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
      if (options_.model.empty()) {
        if (!json.is_object() || !json.contains("data") || !json["data"].is_array() || json["data"].empty() ||
            !json["data"][0].is_object() || !json["data"][0].contains("id") || !json["data"][0]["id"].is_string()) {
          return absl::UnavailableError("/v1/models names no model; say which with --model");
        }
        options_.model = json["data"][0]["id"].get<std::string>();
      }
      v1::ModelInfo info;
      info.set_model(options_.model);
      return info;
    });
  }

  absl::StatusOr<int> CountTokens(const std::string& text) override {
    const Json question = {{"model", options_.model}, {"prompt", text}};
    ASSIGN_OR_RETURN(
        const HttpReply reply,
        client_->Call("/tokenize", question.dump(-1, ' ', false, Json::error_handler_t::replace), kTokenizeBoundS));
    const Json json = Json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
    if (reply.status == 200 && json.is_object() && json.contains("tokens") && json["tokens"].is_array()) {
      return static_cast<int>(json["tokens"].size());
    }
    return absl::UnavailableError(absl::StrCat("/tokenize: ", ErrorText(reply.status, reply.body)));
  }

  absl::StatusOr<OpenLoopResult> RunOpenLoop(const OpenLoopOptions& options,
                                             const std::vector<v1::GenerateRequest>& requests,
                                             const std::vector<double>& arrivals_s,
                                             const std::function<void(int, int)>& on_progress) override {
    std::vector<std::string> bodies;
    for (const v1::GenerateRequest& request : requests) {
      ASSIGN_OR_RETURN(std::string body, OpenAiBody(request, options_.model, options_.api));
      bodies.push_back(std::move(body));
    }
    return outrider::RunOpenLoop(
        [&](size_t index, BenchRecord& record, std::function<void()> on_end) -> std::unique_ptr<OpenCall> {
          return std::make_unique<HttpCall>(*client_, options_.path, std::move(bodies[index]), options.timeout_s,
                                            record, std::move(on_end));
        },
        options, arrivals_s, on_progress);
  }

 private:
  OpenAiEndpointOptions options_;
  const std::unique_ptr<HttpClient> client_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BenchEndpoint>> MakeGrpcEndpoint(const std::string& address,
                                                                const ClientAccess& access) {
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel, OpenChannel(address, access));
  return std::make_unique<GrpcEndpoint>(address, v1::Inference::NewStub(channel));
}

absl::StatusOr<std::unique_ptr<BenchEndpoint>> MakeOpenAiEndpoint(const OpenAiEndpointOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<HttpClient> client,
                   HttpClient::Make(options.base_url, options.api_key, options.tls));
  return std::make_unique<OpenAiEndpoint>(options, std::move(client));
}

}  // namespace outrider
