#include "cli/generate_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "cli/client_access.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "proto/inference.grpc.pb.h"

namespace outrider {
namespace {

using Json = nlohmann::ordered_json;

constexpr auto kSoon = std::chrono::seconds(1);

// google.rpc.RetryInfo of a status' details.
std::optional<int64_t> RetryAfterMs(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::RetryInfo info;
    if (!detail.UnpackTo(&info)) continue;
    return info.retry_delay().seconds() * 1000 + info.retry_delay().nanos() / 1'000'000;
  }
  return std::nullopt;
}

RequestOutcome RunOne(v1::Inference::Stub& stub, const v1::GenerateRequest& request,
                      const std::function<void(int)>& on_tokens,
                      const std::function<void(int, const std::string&)>& on_text) {
  RequestOutcome outcome;
  outcome.choices.resize(std::max(1u, request.n()));
  grpc::ClientContext context;
  auto reader = stub.Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    switch (response.event_case()) {
      case v1::GenerateResponse::kStarted:
        outcome.started = response.started();
        break;
      case v1::GenerateResponse::kDelta: {
        const v1::Delta& delta = response.delta();
        on_tokens(delta.token_ids_size());
        if (delta.choice_index() >= outcome.choices.size()) break;
        ChoiceOutcome& choice = outcome.choices[delta.choice_index()];
        choice.output_token_ids.insert(choice.output_token_ids.end(), delta.token_ids().begin(),
                                       delta.token_ids().end());
        choice.logprobs.insert(choice.logprobs.end(), delta.logprobs().begin(), delta.logprobs().end());
        choice.text += delta.text();
        if (!delta.text().empty()) on_text(static_cast<int>(delta.choice_index()), delta.text());
        break;
      }
      case v1::GenerateResponse::kFinished: {
        const v1::Finished& finished = response.finished();
        if (finished.choice_index() >= outcome.choices.size()) break;
        outcome.choices[finished.choice_index()].finished = finished;
        outcome.choices[finished.choice_index()].has_finished = true;
        break;
      }
      case v1::GenerateResponse::kPromptLogprobs: {
        const auto& logprobs = response.prompt_logprobs().logprobs();
        outcome.prompt_logprobs.insert(outcome.prompt_logprobs.end(), logprobs.begin(), logprobs.end());
        break;
      }
      case v1::GenerateResponse::EVENT_NOT_SET:
        break;
    }
  }
  const grpc::Status status = reader->Finish();
  outcome.retry_after_ms = RetryAfterMs(status);
  outcome.status = absl::Status(
      static_cast<absl::StatusCode>(status.error_code()),
      outcome.retry_after_ms.has_value()
          ? absl::StrCat(status.error_message(), " (worth trying again in ", *outcome.retry_after_ms, " ms)")
          : status.error_message());
  for (size_t i = 0; outcome.status.ok() && i < outcome.choices.size(); ++i) {
    if (!outcome.choices[i].has_finished) {
      outcome.status = absl::InternalError(absl::StrCat("the stream ended before choice ", i, " finished"));
    }
  }
  return outcome;
}

Json LogprobsJson(const std::vector<v1::TokenLogprobs>& logprobs) {
  Json list = Json::array();
  for (const v1::TokenLogprobs& token : logprobs) {
    Json top = Json::array();
    for (const v1::TokenLogprob& entry : token.top()) {
      top.push_back({{"token_id", entry.token_id()}, {"logprob", entry.logprob()}});
    }
    list.push_back({{"logprob", token.logprob()}, {"top", top}});
  }
  return list;
}

}  // namespace

absl::Status RunRequests(const ClientOptions& options, const std::vector<v1::GenerateRequest>& requests,
                         const std::function<void(int, int, const std::string&)>& on_text,
                         const std::function<void(int, const RequestOutcome&)>& on_done) {
  std::shared_ptr<grpc::Channel> channel = options.channel;
  if (channel == nullptr) {
    ASSIGN_OR_RETURN(channel, OpenChannel(options.address, {}));
  }
  const auto deadline = std::chrono::system_clock::now() +
                        std::chrono::milliseconds(static_cast<int64_t>(options.connect_timeout_s * 1000));
  // Who waits without a word is thought dead.
  const auto soon = std::chrono::system_clock::now() + kSoon;
  if (soon < deadline && !channel->WaitForConnected(soon)) {
    std::fprintf(stderr, "nobody answers at %s yet; trying for %.0f s\n", options.address.c_str(),
                 options.connect_timeout_s);
  }
  if (!channel->WaitForConnected(deadline)) {
    return absl::UnavailableError(absl::StrCat("no router answers at ", options.address, " within ",
                                               options.connect_timeout_s,
                                               " s; is `outrider serve` running there, with TLS (--tls) or without as "
                                               "it was called?"));
  }
  const auto stub = v1::Inference::NewStub(channel);

  Mutex mu;
  std::vector<RequestOutcome> outcomes(requests.size());
  std::vector<bool> done(requests.size());
  size_t num_reported = 0;
  absl::Status first_error;
  std::atomic<size_t> next{0};
  const auto worker = [&] {
    for (size_t i = next++; i < requests.size(); i = next++) {
      const auto on_tokens = [&](int num_tokens) {
        if (options.on_tokens != nullptr) options.on_tokens(static_cast<int>(i), num_tokens);
      };
      RequestOutcome outcome = RunOne(*stub, requests[i], on_tokens, [&](int choice, const std::string& text) {
        MutexLock lock(mu);
        on_text(static_cast<int>(i), choice, text);
      });
      MutexLock lock(mu);
      outcomes[i] = std::move(outcome);
      done[i] = true;
      while (num_reported < requests.size() && done[num_reported]) {
        RequestOutcome& finished = outcomes[num_reported];
        if (first_error.ok()) first_error = finished.status;
        on_done(static_cast<int>(num_reported), finished);
        finished = RequestOutcome();
        ++num_reported;
      }
    }
  };
  std::vector<std::thread> threads;
  const int num_threads = std::min<int>(options.concurrency, static_cast<int>(requests.size()));
  for (int t = 1; t < num_threads; ++t) threads.emplace_back(worker);
  worker();
  for (std::thread& thread : threads) thread.join();
  return first_error;
}

std::string ConnectionError(const std::string& message) {
  constexpr char kAll[] = "failed to connect to all addresses; last error: ",
                 kRemote[] = "Failed to connect to remote host: ";
  if (!absl::StartsWith(message, kAll)) return message;
  const size_t remote = message.find(kRemote);
  return remote == std::string::npos ? message.substr(sizeof(kAll) - 1) : message.substr(remote + sizeof(kRemote) - 1);
}

std::string DescribeFinished(const v1::Finished& finished) {
  const v1::Usage& usage = finished.usage();
  const double decode_s = finished.timing_ms().decode() / 1000;
  const double rate = usage.output_tokens() > 1 && decode_s > 0 ? (usage.output_tokens() - 1) / decode_s : 0;
  std::string text = absl::StrFormat(
      "%d prompt tokens (%d cached), %d output tokens, %s; first token %.0f ms, %.1f tokens/s; %d rounds, "
      "%d plain steps, %d draft tokens, %d accepted",
      usage.prompt_tokens(), usage.cached_tokens(), usage.output_tokens(), FinishReasonName(finished.finish_reason()),
      finished.timing_ms().first_token(), rate, usage.rounds(), usage.plain_steps(), usage.draft_tokens(),
      usage.accepted_tokens());
  if (usage.rounds() > 0) {
    absl::StrAppendFormat(&text, ", %.2f tokens a round",
                          1 + static_cast<double>(usage.accepted_tokens()) / usage.rounds());
  }
  return text;
}

std::string FinishReasonName(v1::FinishReason reason) {
  std::string name = v1::FinishReason_Name(reason);
  return absl::AsciiStrToLower(absl::StripPrefix(name, "FINISH_REASON_"));
}

std::string ChoiceJson(int request_index, int choice_index, const RequestOutcome& outcome) {
  const ChoiceOutcome& choice = outcome.choices[choice_index];
  const v1::Usage& usage = choice.finished.usage();
  const v1::Timing& timing = choice.finished.timing_ms();
  Json json;
  json["request_index"] = request_index;
  json["choice_index"] = choice_index;
  json["prompt_token_ids"] =
      std::vector<int32_t>(outcome.started.prompt_token_ids().begin(), outcome.started.prompt_token_ids().end());
  json["output_token_ids"] = choice.output_token_ids;
  json["text"] = choice.text;
  json["finish_reason"] = FinishReasonName(choice.finished.finish_reason());
  if (!choice.finished.stop_string().empty()) json["stop_string"] = choice.finished.stop_string();
  if (!choice.logprobs.empty()) json["logprobs"] = LogprobsJson(choice.logprobs);
  if (!outcome.prompt_logprobs.empty()) {
    // A place for each token of the prompt; nothing comes before the first.
    Json list = LogprobsJson(outcome.prompt_logprobs);
    list.insert(list.begin(), nullptr);
    json["prompt_logprobs"] = std::move(list);
  }
  json["usage"] = {{"prompt_tokens", usage.prompt_tokens()},    {"output_tokens", usage.output_tokens()},
                   {"cached_tokens", usage.cached_tokens()},    {"rounds", usage.rounds()},
                   {"plain_steps", usage.plain_steps()},        {"draft_tokens", usage.draft_tokens()},
                   {"accepted_tokens", usage.accepted_tokens()}};
  if (usage.prediction_tokens() > 0) {
    json["usage"]["prediction_tokens"] = usage.prediction_tokens();
    json["usage"]["accepted_prediction_tokens"] = usage.accepted_prediction_tokens();
  }
  json["timing_ms"] = {{"queue", timing.queue()},
                       {"first_token", timing.first_token()},
                       {"decode", timing.decode()},
                       {"total", timing.total()}};
  json["seed"] = outcome.started.seed();
  json["numerics_id"] = outcome.started.numerics_id();
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ErrorJson(int request_index, const RequestOutcome& outcome) {
  Json json;
  json["request_index"] = request_index;
  json["error"] = {{"code", absl::StatusCodeToString(outcome.status.code())},
                   {"message", std::string(outcome.status.message())}};
  if (outcome.retry_after_ms.has_value()) json["error"]["retry_after_ms"] = *outcome.retry_after_ms;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace outrider
