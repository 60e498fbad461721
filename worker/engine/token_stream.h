// TokenStream carries what one router's stream is told: tokens, and one end a lane. The engine appends during a turn
// and flushes once, so that events are batched a step; a reader takes everything at once, when it can.
//
// The engine never waits for a reader. What waits for one is bounded: a lane at max_buffered_tokens, a stream at
// kLanesWorth times as many. At either bound Append refuses; the engine then cuts that lane with an error. Ends are
// always taken: there is one a lane, and lanes are bounded by the scheduler; and logprobs of prompts, each once, which
// are bounded by kMaxPromptLogprobs a request.
//
// Thread safety: Append and Flush from the engine's thread, Take and Close from any.
#pragma once

#include <cstdint>
#include <functional>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/ids.h"
#include "base/mutex.h"
#include "worker/sequence/usage.h"
#include "worker/step/step_result.h"

namespace outrider {

// One choice of one request, as the router names it.
struct LaneId {
  RequestId request;
  uint32_t lane = 0;
  friend bool operator==(const LaneId&, const LaneId&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const LaneId& id) {
    return H::combine(std::move(h), id.request, id.lane);
  }
};

struct TokensEvent {
  int first_output_index = 0;  // of tokens[0]; 0 is the request's first output token
  std::vector<TokenId> tokens;
  std::vector<TokenLogprobs> logprobs;  // one a token, if asked for
  int num_accepted = 0;                 // the first so many of tokens were draft tokens; the rest is the target's own
};
// Of the prompt's tokens at first_position, ...
struct PromptLogprobsEvent {
  int first_position = 0;
  std::vector<TokenLogprobs> logprobs;
};
struct FinishedEvent {
  FinishReason reason = FinishReason::kCancelled;
  Usage usage;
  double queue_ms = 0;  // from receipt to the first step
};
struct FailedEvent {
  absl::Status status;
  Usage usage;
};
struct LaneEvent {
  LaneId id;
  std::variant<TokensEvent, PromptLogprobsEvent, FinishedEvent, FailedEvent> event;
};

class TokenStream {
 public:
  // A stream holds so many lanes' worth of tokens before lanes are cut whose own bound is not reached.
  static constexpr int64_t kLanesWorth = 64;

  // `on_ready` is called by Flush, without a lock, when there is something to take and nothing was before. It may not
  // block, and owns what it touches: a call may still be under way when Close returns.
  TokenStream(int max_buffered_tokens, std::function<void()> on_ready);

  // False if a bound is reached: the event was not taken. Tokens of a closed stream vanish.
  [[nodiscard]] bool Append(const LaneId& id, TokensEvent event);
  void Append(const LaneId& id, PromptLogprobsEvent event);
  void Append(const LaneId& id, FinishedEvent event);
  void Append(const LaneId& id, FailedEvent event);
  void Flush();

  // All events flushed so far, in order.
  std::vector<LaneEvent> Take();

  // Nobody reads any more: what waits is dropped, and what comes.
  void Close();

 private:
  const int max_buffered_tokens_;
  const std::function<void()> on_ready_;

  // The engine's own, until flushed.
  std::vector<LaneEvent> appended_;

  Mutex mu_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<LaneEvent> ready_ ABSL_GUARDED_BY(mu_);
  // Tokens that wait, by lane, appended ones included; lanes with none are absent.
  absl::flat_hash_map<LaneId, int> buffered_ ABSL_GUARDED_BY(mu_);
  int64_t num_buffered_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace outrider
