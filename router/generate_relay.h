// GenerateRelay joins the lanes of a request on a target group to one client's stream: ids in, ids and text out, in
// order, once, each choice with exactly one end.
//
// It journals every id it took, so that a request whose group was lost goes on elsewhere: the decoder and the stop
// matcher simply continue, since they follow the ids and not the group.
//
// Rules:
//   - ids are taken in order of their output index; repeated ones are dropped if they are the same, and an error if
//   not;
//     a gap is an error;
//   - a stop string ends a choice at the token that completes it: the client gets ids up to and including that token
//   and
//     the text before the stop string, with include_stop_in_text up to its end; what the group sends beyond is dropped,
//     and its end gives the usage;
//   - end and stop tokens are among the ids, never in the text;
//   - what waits for the client is bounded by `max_buffer_bytes`: beyond, RESOURCE_EXHAUSTED. Writes that completed are
//     no sign that a client reads (the transport takes megabytes), so nothing here depends on them.
//
// Thread safety: none. Pure: no clock, no I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/ids.h"
#include "router/request.h"
#include "text/incremental_decoder.h"
#include "text/stop_matcher.h"
#include "text/tokenizer.h"

namespace outrider::router {

enum class EndReason : uint8_t { kEndToken, kStopToken, kStopString, kLength, kCancelled };

// As common.proto's Usage.
struct LaneUsage {
  uint32_t prompt_tokens = 0;
  uint32_t output_tokens = 0;
  uint32_t cached_tokens = 0;
  uint32_t rounds = 0;
  uint32_t plain_steps = 0;
  uint32_t draft_tokens = 0;
  uint32_t accepted_tokens = 0;
  uint32_t prediction_tokens = 0;
  uint32_t accepted_prediction_tokens = 0;
  std::vector<uint32_t> rounds_by_accepted = {};  // empty, or it adds up to rounds and accepted_tokens
};

// As common.proto's TokenLogprobs.
struct RelayedLogprobs {
  float logprob = 0;
  std::vector<std::pair<TokenId, float>> top;
  uint32_t rank = 0;
};

// As inference.proto's TokenOrigin.
struct TokenOrigin {
  bool draft = false;
  uint32_t text_bytes = 0;
  friend bool operator==(const TokenOrigin&, const TokenOrigin&) = default;
};

// In ms. `queue` is from arrival to the first step, `first_token` from arrival, `decode` from the first token to the
// last, `total` from arrival to the end.
struct RelayTiming {
  double queue = 0;
  double first_token = 0;
  double decode = 0;
  double total = 0;
};

// The next thing to tell the client.
struct ClientEvent {
  struct End {
    EndReason reason = EndReason::kLength;
    std::string stop_string;
    LaneUsage usage;
    RelayTiming timing;
  };
  uint32_t choice_index = 0;
  // Of the prompt, if not empty; then there is nothing else.
  std::vector<RelayedLogprobs> prompt_logprobs;
  uint32_t first_prompt_position = 0;
  // A delta if any of these is not empty; the end otherwise.
  std::vector<TokenId> token_ids;
  std::string text;
  std::vector<RelayedLogprobs> logprobs;
  std::vector<TokenOrigin> origins;  // one an id, if asked for
  std::optional<End> end;
};

class GenerateRelay {
 public:
  // `tokenizer` may be null (a model without one): then there is no text. `request` and `tokenizer` outlive this.
  // REQUIRES: the request's stop strings are valid (CheckInput).
  GenerateRelay(const ResolvedRequest* request, const text::Tokenizer* tokenizer, TimePoint arrival,
                size_t max_buffer_bytes);

  // --- What a group said. Errors end the request: INTERNAL (the group broke the protocol), RESOURCE_EXHAUSTED (the
  // client does not read).
  struct TokensOutcome {
    absl::Status status;
    int num_taken = 0;
    // Send StopAt(lane, this many output tokens) to the group.
    std::optional<uint32_t> stop_at;
    // Since the lane's tokens before; nothing for its first.
    std::optional<Duration> gap;
  };
  // `logprobs` is empty or has one entry an id. The first `num_accepted` ids were draft tokens.
  TokensOutcome OnTokens(uint32_t lane, uint32_t first_output_index, absl::Span<const TokenId> token_ids,
                         std::vector<RelayedLogprobs> logprobs, TimePoint now, uint32_t num_accepted = 0);
  // Of the prompt's tokens at first_position, ...; those that are known already are dropped. A gap is an error, and so
  // are tokens before all are there. They wait for the client beside its buffer: kMaxPromptLogprobs bounds them.
  absl::Status OnPromptLogprobs(uint32_t lane, uint32_t first_position, std::vector<RelayedLogprobs> logprobs);
  absl::Status OnFinished(uint32_t lane, EndReason reason, const LaneUsage& usage, double queue_ms, TimePoint now);

  // --- The group is gone. Choices that lacked only the group's confirmation of their end are finished; LanesToRun()
  // are those to go on with elsewhere.
  void OnAttemptLost(TimePoint now);

  // An attempt was handed to a group: queueing in the router ends with the first.
  void OnAttemptSent(TimePoint now);

  // --- The client's side.
  // Takes the next event, if there is one: all that waits of one choice, then its end.
  bool TakeNext(ClientEvent* event);
  bool has_pending() const { return num_pending_lanes_ > 0 || !prompt_logprobs_.empty(); }
  size_t pending_bytes() const { return pending_bytes_; }
  // Forgets what waits for the client.
  void DropPending();
  // Every choice has its end (which may still wait to be taken).
  bool done() const { return num_ended_ == lanes_.size(); }

  // --- The journal.
  std::vector<uint32_t> LanesToRun() const;
  const std::vector<TokenId>& output_token_ids(uint32_t lane) const { return lanes_[lane].output_token_ids; }
  bool ended(uint32_t lane) const { return lanes_[lane].state == LaneState::kEnded; }
  int64_t num_output_tokens() const { return num_output_tokens_; }
  // All logprobs of the prompt that are asked for, if any are, have come.
  bool prompt_logprobs_done() const {
    return request_->sampling.num_prompt_logprobs < 0 || next_prompt_position_ >= request_->prompt_token_ids.size();
  }
  // Something came that another group may not have said with the same bits.
  bool has_taken() const { return num_output_tokens_ > 0 || next_prompt_position_ > 1; }

 private:
  enum class LaneState : uint8_t {
    kRunning,
    kStopping,  // met a stop string; the group's end is awaited for its usage
    kEnded,
  };
  struct Lane {
    LaneState state = LaneState::kRunning;
    std::vector<TokenId> output_token_ids;
    text::IncrementalDecoder decoder;
    text::StopMatcher stop_matcher;
    std::string stop_string;
    TimePoint first_token_at{};
    TimePoint last_token_at{};
    // What waits for the client.
    ClientEvent pending;
    bool has_pending = false;
  };

  bool IsEnding(TokenId id) const;
  void TakeToken(Lane& lane, TokenId id, bool draft);
  void AppendText(Lane& lane, absl::string_view text);
  void StopString(Lane& lane, size_t stop_index);
  void NotePending(Lane& lane);
  void End(Lane& lane, EndReason reason, LaneUsage usage, double queue_ms, TimePoint now);

  const ResolvedRequest* const request_;
  const text::Tokenizer* const tokenizer_;
  const TimePoint arrival_;
  const size_t max_buffer_bytes_;
  std::optional<TimePoint> sent_at_;
  std::vector<Lane> lanes_;
  size_t num_ended_ = 0;
  size_t num_pending_lanes_ = 0;
  size_t pending_bytes_ = 0;
  size_t next_lane_ = 0;
  size_t next_prompt_position_ = 1;               // the first whose logprobs did not come yet
  std::vector<RelayedLogprobs> prompt_logprobs_;  // wait for the client: of the positions before that
  int64_t num_output_tokens_ = 0;
};

}  // namespace outrider::router
