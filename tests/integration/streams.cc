#include "tests/integration/streams.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/inference.grpc.pb.h"

namespace outrider {
namespace {

std::string Find(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata, const char* key) {
  const auto it = metadata.find(key);
  return it == metadata.end() ? "" : std::string(it->second.data(), it->second.size());
}

// What the client's status counts as, as reliability is counted: not the router's own function, so that the two are
// compared.
std::string OutcomeOfCode(int code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return "complete";
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "retriable";
    case grpc::StatusCode::CANCELLED:
      return "cancelled";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "deadline";
    default:
      return "permanent";
  }
}

// The string value of `key` in one line of JSON without escapes.
std::string Field(const std::string& line, const std::string& key) {
  const std::string begin = absl::StrCat("\"", key, "\":\"");
  const size_t at = line.find(begin);
  if (at == std::string::npos) return "";
  const size_t from = at + begin.size();
  return line.substr(from, line.find('"', from) - from);
}

}  // namespace

StreamOutcome RunStream(v1::Inference::StubInterface& stub, const v1::GenerateRequest& request,
                        const std::optional<Leave>& leave, const std::function<void(int)>& on_delta, int deadline_s) {
  StreamOutcome outcome;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(deadline_s));
  const auto reader = stub.Generate(&context, request);
  const auto leave_if_due = [&](int num_tokens) {
    if (!leave.has_value() || outcome.left || num_tokens < leave->after_tokens) return;
    outcome.left = true;
    context.TryCancel();
  };
  leave_if_due(-1);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    const v1::Delta& delta = response.delta();
    outcome.token_ids.insert(outcome.token_ids.end(), delta.token_ids().begin(), delta.token_ids().end());
    outcome.text += delta.text();
    for (const v1::TokenLogprobs& logprob : delta.logprobs()) outcome.logprobs.push_back(logprob.logprob());
    if (response.has_finished()) {
      ++outcome.num_ends;
      outcome.finished = response.finished();
    }
    if (delta.token_ids_size() > 0 && on_delta) on_delta(delta.token_ids_size());
    leave_if_due(static_cast<int>(outcome.token_ids.size()));
  }
  const grpc::Status status = reader->Finish();
  outcome.code = status.error_code();
  outcome.message = status.error_message();
  outcome.request_id = Find(context.GetServerInitialMetadata(), "outrider-request-id");
  outcome.retry_pushback_ms = Find(context.GetServerTrailingMetadata(), "grpc-retry-pushback-ms");
  return outcome;
}

std::vector<StreamOutcome> RunStreams(const std::string& address, const std::vector<v1::GenerateRequest>& requests,
                                      const std::function<void(int64_t total)>& on_tokens, int deadline_s) {
  std::vector<StreamOutcome> outcomes(requests.size());
  const auto stub = v1::Inference::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  std::mutex mu;
  int64_t total = 0;
  const auto on_delta = [&](int num_tokens) {
    if (!on_tokens) return;
    const std::lock_guard<std::mutex> lock(mu);
    total += num_tokens;
    on_tokens(total);
  };
  std::vector<std::thread> threads;
  for (size_t i = 0; i < requests.size(); ++i) {
    threads.emplace_back([&, i] { outcomes[i] = RunStream(*stub, requests[i], {}, on_delta, deadline_s); });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

std::vector<std::vector<int32_t>> Ids(const std::vector<StreamOutcome>& outcomes) {
  std::vector<std::vector<int32_t>> ids;
  for (const StreamOutcome& outcome : outcomes) {
    EXPECT_EQ(outcome.code, 0) << outcome.message;
    ids.push_back(outcome.token_ids);
  }
  return ids;
}

std::vector<std::string> CheckLedger(const std::string& router_log, const std::vector<StreamOutcome>& clients) {
  std::vector<std::string> wrong;
  std::set<std::string> accepted;
  std::map<std::string, std::string> ended;
  const std::vector<std::string> lines = absl::StrSplit(router_log, '\n', absl::SkipEmpty());
  for (const std::string& line : lines) {
    const std::string id = Field(line, "request_id");
    const std::string event = Field(line, "event");
    if (event == "accepted") {
      if (!accepted.insert(id).second) wrong.push_back(absl::StrCat("accepted twice: ", line));
    } else if (event == "ended") {
      if (!ended.emplace(id, Field(line, "outcome")).second) wrong.push_back(absl::StrCat("ended twice: ", line));
    } else {
      wrong.push_back(absl::StrCat("no event: ", line));
    }
  }
  static const std::set<std::string> kOutcomes = {"complete", "retriable", "permanent", "cancelled", "deadline"};
  for (const std::string& id : accepted) {
    const auto end = ended.find(id);
    if (end == ended.end()) {
      wrong.push_back(absl::StrCat(id, " was accepted and never ended"));
    } else if (kOutcomes.count(end->second) == 0) {
      wrong.push_back(absl::StrCat(id, " ended as '", end->second, "', which is no outcome"));
    }
  }
  for (const auto& [id, outcome] : ended) {
    if (accepted.count(id) == 0) wrong.push_back(absl::StrCat(id, " ended and was never accepted"));
  }
  std::set<std::string> seen;
  int num_left_without_id = 0;
  for (const StreamOutcome& client : clients) {
    const std::string outcome = OutcomeOfCode(client.code);
    if (client.request_id.empty() && client.left && client.token_ids.empty()) {
      ++num_left_without_id;
      continue;
    }
    // It reached no router: then nothing was promised, and nothing came.
    // gRPC ends a call CANCELLED, itself, that arrives while a server closes.
    const bool unreached = client.code == grpc::StatusCode::UNAVAILABLE || client.code == grpc::StatusCode::CANCELLED;
    if (client.request_id.empty() && unreached && client.token_ids.empty() && client.num_ends == 0) {
      continue;
    }
    if (client.request_id.empty()) {
      wrong.push_back(absl::StrCat("a client has no request id; it saw ", outcome, ": ", client.message));
      continue;
    }
    if (!seen.insert(client.request_id).second) wrong.push_back(absl::StrCat(client.request_id, " has two clients"));
    const auto end = ended.find(client.request_id);
    if (end == ended.end()) {
      // Refused before it was accepted: then nothing was promised, and nothing came.
      if (outcome == "complete" || !client.token_ids.empty()) {
        wrong.push_back(absl::StrCat(client.request_id, " was served and is not in the router's ledger"));
      }
      continue;
    }
    if (client.left) {
      if (end->second != "cancelled" && end->second != "complete") {
        wrong.push_back(absl::StrCat(client.request_id, " is ", end->second, " for the router, and its client left"));
      }
      continue;
    }
    if (end->second != outcome) {
      wrong.push_back(
          absl::StrCat(client.request_id, " is ", end->second, " for the router and ", outcome, " for its client"));
    }
    if (client.num_ends != (outcome == "complete" ? 1 : 0)) {
      wrong.push_back(absl::StrCat(client.request_id, " has ", client.num_ends, " ends and is ", outcome));
    }
  }
  for (const std::string& id : accepted) {
    if (seen.count(id) > 0) continue;
    const auto end = ended.find(id);
    if (end != ended.end() && end->second == "cancelled" && --num_left_without_id >= 0) continue;
    wrong.push_back(absl::StrCat(id, " is in the router's ledger and has no client"));
  }
  return wrong;
}

}  // namespace outrider
