// Many streams at once against a router, with what each client saw, and the ledger that joins it with what the router
// wrote of it.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "proto/inference.pb.h"

namespace outrider {

struct StreamOutcome {
  int code = 0;  // google.rpc.Code
  std::string message;
  std::string request_id;
  std::string retry_pushback_ms;  // empty: none
  std::vector<int32_t> token_ids;
  std::string text;
  std::vector<double> logprobs;
  int num_ends = 0;
  std::optional<v1::Finished> finished;
};

// Runs all at once, each with a thread. `on_tokens(total)` is called by one thread at a time with the tokens of all
// streams so far.
std::vector<StreamOutcome> RunStreams(const std::string& address, const std::vector<v1::GenerateRequest>& requests,
                                      const std::function<void(int64_t total)>& on_tokens = {}, int deadline_s = 60);

// The router's ledger against its clients': each line that does not fit is an entry of the answer, so an empty answer
// means that accepted = complete + retriable + permanent + cancelled + deadline with no remainder, that each accepted
// request has one end, and that both sides tell the same of it.
std::vector<std::string> CheckLedger(const std::string& router_log, const std::vector<StreamOutcome>& clients);

}  // namespace outrider
