// Many streams at once against a router, with what each client saw, and the ledger that joins it with what the router
// wrote of it.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "proto/inference.grpc.pb.h"

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
  bool left = false;  // the client went away by itself before the end
};

// When a client goes away by itself.
struct Leave {
  // Once it has so many output tokens; 0: once the call has started; -1: without waiting for anything.
  int after_tokens = 0;
};

// One stream, in the calling thread. `on_delta(num_tokens)` is called for each message with tokens.
StreamOutcome RunStream(v1::Inference::StubInterface& stub, const v1::GenerateRequest& request,
                        const std::optional<Leave>& leave = {}, const std::function<void(int)>& on_delta = {},
                        int deadline_s = 60);

// Runs all at once, each with a thread. `on_tokens(total)` is called by one thread at a time with the tokens of all
// streams so far.
std::vector<StreamOutcome> RunStreams(const std::string& address, const std::vector<v1::GenerateRequest>& requests,
                                      const std::function<void(int64_t total)>& on_tokens = {}, int deadline_s = 60);

// The ids of each; a stream that did not end OK fails the test.
std::vector<std::vector<int32_t>> Ids(const std::vector<StreamOutcome>& outcomes);

// The router's ledger against its clients': each line that does not fit is an entry of the answer, so an empty answer
// means that accepted = complete + retriable + permanent + cancelled + deadline with no remainder, that each accepted
// request has one end, and that both sides tell the same of it. A client that left knows less: the router has it as
// cancelled, or as complete if it had given all; one that left before it had an id stands for one cancelled request of
// the router's at most. One that found no router (UNAVAILABLE, no id) stands for none.
std::vector<std::string> CheckLedger(const std::string& router_log, const std::vector<StreamOutcome>& clients);

}  // namespace outrider
