// Runs requests against a router over gRPC and gathers what came of each choice.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/inference.pb.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace outrider {

struct ChoiceOutcome {
  std::vector<int32_t> output_token_ids;
  std::vector<v1::TokenLogprobs> logprobs;
  std::string text;
  v1::Finished finished;
  bool has_finished = false;
};

struct RequestOutcome {
  absl::Status status;                    // its message tells the retry time too
  std::optional<int64_t> retry_after_ms;  // of a refusal: when to come again
  v1::Started started;
  std::vector<v1::TokenLogprobs> prompt_logprobs;  // of the prompt's positions from 1 on, if they were asked for
  std::vector<ChoiceOutcome> choices;
};

struct ClientOptions {
  std::string address;            // HOST:PORT
  int concurrency = 1;            // requests at once
  double connect_timeout_s = 10;  // until the router answers
  // Called as tokens of a request come, from any threads; those of one request in order. Null: not called.
  std::function<void(int request_index, int num_tokens)> on_tokens = nullptr;
  std::shared_ptr<grpc::Channel> channel = nullptr;  // to `address`; null: an open connection
};

// Calls `on_text(request_index, choice_index, text)` as text arrives, from any thread but one at a time, and
// `on_done(request_index, outcome)` once a request, in request order. Returns the first request's error, or OK.
absl::Status RunRequests(const ClientOptions& options, const std::vector<v1::GenerateRequest>& requests,
                         const std::function<void(int, int, const std::string&)>& on_text,
                         const std::function<void(int, const RequestOutcome&)>& on_done);

// One choice as a line of JSON; the fields are listed in README.md.
std::string ChoiceJson(int request_index, int choice_index, const RequestOutcome& outcome);
// A request that failed, as a line of JSON: request_index, error{code, message, retry_after_ms if it is known}.
std::string ErrorJson(int request_index, const RequestOutcome& outcome);

// What gRPC says of a connection without what it repeats: "Connection refused".
std::string ConnectionError(const std::string& message);

// What a choice took, as a sentence for people.
std::string DescribeFinished(const v1::Finished& finished);

// "END_TOKEN" as "end_token".
std::string FinishReasonName(v1::FinishReason reason);

}  // namespace outrider
