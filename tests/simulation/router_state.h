// What a simulated router knows in one life; shared by the files that implement it.
//
// Thread safety: none.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "proto/inference.pb.h"
#include "router/request.h"
#include "tests/simulation/simulated_router.h"

namespace outrider::simulation {

namespace r = ::outrider::router;

// One open Generate call (router/generate_call.h).
struct SimulatedRouter::Call {
  Call(r::CallId call_id, r::RequestLifecycle::Options options, StreamPtr s)
      : id(call_id), lifecycle(std::move(options)), stream(std::move(s)) {}
  const r::CallId id;
  r::RequestLifecycle lifecycle;
  StreamPtr stream;
  v1::GenerateRequest message;
  r::RequestInput input;  // views into message
  std::shared_ptr<TargetLink> link;
  int num_submits = 0;
  uint64_t attempt_id = 0;                           // the present one
  uint64_t past_attempt_id = 0;                      // the one before
  std::map<uint32_t, std::vector<TokenId>> shifted;  // kPenaltyCountsLost: by lane, what was said to be prompt
  int num_hand_overs = 0;
  bool waits = false;
  bool again = false;
};

// Of the process (router/dispatcher.h).
struct SimulatedRouter::Life {
  explicit Life(const r::DispatchQueue::Options& options) : queue(options) {}
  r::DispatchQueue queue;
  bool model_ready = false;
  bool draining = false;
  bool turn_set = false;
  uint64_t last_id = 0;
  std::map<r::CallId, std::shared_ptr<Call>> calls;
  std::vector<StreamPtr> closing;  // of calls that ended: their last words wait for the client's window
  struct Client {
    uint64_t incarnation = 0;
    std::shared_ptr<TargetLink> link;
  };
  std::map<std::string, Client> clients;
  std::vector<std::pair<TimePoint, std::shared_ptr<TargetLink>>> fenced;
};

}  // namespace outrider::simulation
