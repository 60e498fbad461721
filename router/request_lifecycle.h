// RequestLifecycle is one Generate call from arrival to end, over all its attempts: what is decided, without the wires.
//
// Events go in with their time, commands come out in order; whoever owns it carries them out and reports back. In
// production that is GenerateCall, in a simulation an event queue.
//
//   arrived -> queued -> running -> ending -> finished
//               ^----------'  the group was lost or drains: routed again with what was delivered
//
// What waits for the client is joined into one delta a choice, so a slow client gets fewer and larger messages. Beyond
// the relay's bound the stream is cut: the group is told at once, the client gets RESOURCE_EXHAUSTED once it reads, and
// if it does not within kLingerMax, the call is cancelled.
//
// Invariants:
//   - one attempt is open at most; events of any other are refused and counted;
//   - what a group was charged is released exactly once;
//   - FinishCall or WriteEvent{last} is commanded once, nothing is written after it, and one write is open at a time.
//
// Thread safety: none. Pure: no clock, no I/O.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "router/cluster_snapshot.h"
#include "router/generate_relay.h"
#include "router/request.h"
#include "router/route_request.h"
#include "text/tokenizer.h"

namespace outrider::router {

// A client that reads nothing keeps a call that has ended for so long at most.
inline constexpr Duration kLingerMax = std::chrono::seconds(30);
// A call is handed over by draining groups so often at most; then it stays to the end.
inline constexpr int kMaxHandOvers = 32;

// --- Commands. Those about a group mean the one of the last OnStart.

// Ask for a group: DispatchQueue::Route.
struct RouteCall {
  RouteRequest request;
};
// Send the attempt: the request with the lanes that run, as of now. Report OnSubmitRefused if the group is not reached.
struct SubmitAttempt {
  uint64_t attempt_id = 0;
  uint32_t attempt = 0;  // from 1
};
// Nothing more is wanted of the attempt; the group is to stop.
struct CancelAttempt {
  uint64_t attempt_id = 0;
};
// As CancelAttempt, where the group has ended the attempt by itself.
struct ForgetAttempt {
  uint64_t attempt_id = 0;
};
struct StopLane {
  uint64_t attempt_id = 0;
  uint32_t lane = 0;
  uint32_t num_output_tokens = 0;
};
// DispatchQueue::Release and Hold.
struct ReleaseLoad {
  GroupLoad load;
  std::optional<Duration> served_in;  // it was served, in so long from its start
};
struct HoldGroup {};
// DispatchQueue::Withdraw: the call wants no group any more.
struct WithdrawCall {};
// Write to the client; report OnWriteDone unless it is the last.
struct WriteStarted {};
struct WriteEvent {  // event(); `last`: the call is finished as OK with it
  bool last = false;
};
// The call ends so for the client.
struct FinishCall {
  absl::Status status;
};
// Call OnTimer after that. One timer at most is set in a call's life.
struct SetTimer {
  Duration after{};
};
// The client reads nothing: cut its connection to this call.
struct CutClient {};
// To be counted or logged.
struct Report {
  enum class Kind : uint8_t {
    kDispatched,   // the first attempt was started; `duration` in the queue, `count` prompt tokens
    kReplayed,     // a later one was
    kAttemptLost,  // `status` says how
    kHandedOver,
    kOutputTokens,  // `count`
    kFirstToken,    // `duration` since arrival
    kMoreTokens,    // `count` after `duration`
    kStreamCut,
    kStaleEvent,      // of an attempt that is not open
    kProtocolBroken,  // `status` says how
  };
  Kind kind;
  int64_t count = 0;
  Duration duration{};
  absl::Status status = absl::OkStatus();
};
using Command = std::variant<RouteCall, SubmitAttempt, CancelAttempt, ForgetAttempt, StopLane, ReleaseLoad, HoldGroup,
                             WithdrawCall, WriteStarted, WriteEvent, FinishCall, SetTimer, CutClient, Report>;
using Commands = std::vector<Command>;

class RequestLifecycle {
 public:
  struct Options {
    std::string request_name;  // what the client knows it by
    TimePoint arrival;
    std::optional<TimePoint> deadline;  // the client's
    int priority = 0;
    size_t max_stream_buffer_bytes = 262144;
  };
  explicit RequestLifecycle(Options options) : options_(std::move(options)), waits_since_(options_.arrival) {}
  RequestLifecycle(const RequestLifecycle&) = delete;
  RequestLifecycle& operator=(const RequestLifecycle&) = delete;

  // --- Until a group is found.
  // What the prompt's ids belong to. `tokenizer` may be null (then there is no text); outlives this.
  struct Model {
    ModelKey key;
    std::string name;
    const text::Tokenizer* tokenizer = nullptr;
  };
  // The request is resolved against a model. Before OnArrived, or while the call waits for a model.
  // REQUIRES: not prepared yet, not ending; the stop strings are valid.
  RoutingNeeds Prepare(ResolvedRequest request, Model model);
  // The call wants a group. `num_tokens_estimate` stands for its load if it is not prepared.
  void OnArrived(int64_t num_tokens_estimate, Commands& commands);
  // It will not be served (bad input, bounds of the queue, nobody could take it in time).
  void OnRefused(const absl::Status& status, Commands& commands);
  // A group was chosen and charged for Needs(). `attempt_id` is new on the wire to that group.
  void OnStart(GroupRef group, uint64_t attempt_id, TimePoint now, Commands& commands);
  // SubmitAttempt was not done: the stream to the group is down.
  void OnSubmitRefused(TimePoint now, Commands& commands);

  // --- What a group said.
  // `logprobs` is empty or has one entry an id. The first `num_accepted` ids were draft tokens.
  void OnTokens(uint64_t attempt_id, uint32_t lane, uint32_t first_output_index, absl::Span<const TokenId> token_ids,
                std::vector<RelayedLogprobs> logprobs, TimePoint now, Commands& commands, uint32_t num_accepted = 0);
  void OnPromptLogprobs(uint64_t attempt_id, uint32_t lane, uint32_t first_position,
                        std::vector<RelayedLogprobs> logprobs, Commands& commands);
  void OnLaneFinished(uint64_t attempt_id, uint32_t lane, EndReason reason, const LaneUsage& usage, double queue_ms,
                      TimePoint now, Commands& commands);
  void OnLaneFailed(uint64_t attempt_id, const absl::Status& status, TimePoint now, Commands& commands);
  // It said what the protocol does not know.
  void OnProtocolBroken(uint64_t attempt_id, const absl::Status& status, Commands& commands);
  // The stream to the group ended; nothing more comes of the attempt.
  void OnTargetLost(uint64_t attempt_id, const absl::Status& status, TimePoint now, Commands& commands);

  // The group drains and another one has room: the attempt is to go on there.
  void OnHandOver(uint64_t attempt_id, TimePoint now, Commands& commands);

  // --- The client.
  void OnWriteDone(bool ok, Commands& commands);
  // It cancelled, its connection broke, or its deadline passed.
  void OnClientGone(TimePoint now, Commands& commands);
  void OnTimer(Commands& commands);
  // The router ends: the client gets what there is for it, then `status`.
  void OnShutdown(const absl::Status& status, Commands& commands);

  // --- What there is.
  const std::string& request_name() const { return options_.request_name; }
  std::optional<TimePoint> deadline() const { return options_.deadline; }
  bool prepared() const { return relay_.has_value(); }
  // REQUIRES: prepared().
  const ResolvedRequest& request() const { return request_; }
  const GenerateRelay& relay() const { return *relay_; }
  const Model& model() const { return model_; }
  // What an attempt asks of a group now.
  RoutingNeeds Needs() const;
  // Of the last OnStart.
  const GroupRef& group() const { return group_; }
  // Whose ids the client has: of the last attempt that was sent.
  const std::string& numerics_id() const { return numerics_id_; }
  // What WriteEvent is about; the owner may take its parts.
  ClientEvent& event() { return event_; }
  uint32_t num_attempts() const { return attempt_; }
  // Nothing more comes from groups.
  bool ending() const { return ending_; }
  bool finished() const { return finish_commanded_; }
  // How it ended, once finished.
  const absl::Status& end_status() const { return end_status_; }

 private:
  // False, and counted, if the event is not of the open attempt.
  bool Takes(uint64_t attempt_id, Commands& commands);
  // A lane's end came: its share of the load is let go.
  void EndLane(TimePoint now, Commands& commands);
  // Lets go of the group, telling it to stop if it has not ended the attempt itself.
  void ReleaseAttempt(bool cancel, std::optional<Duration> served_in, Commands& commands);
  void NoteLostOn();
  // Routes again, or ends the call.
  void LoseAttempt(const absl::Status& status, TimePoint now, Commands& commands);
  void RouteAgain(RouteKind kind, Commands& commands);
  RouteRequest Request(RouteKind kind) const;
  // The call ends as `status` once what waits for the client is written, or at once.
  void Fail(const absl::Status& status, bool drop_pending, Commands& commands);
  void FailBroken(const absl::Status& status, Commands& commands);
  // Starts the next write, or the finish, if none is under way.
  void Flush(Commands& commands);

  const Options options_;

  // --- The request, once prepared.
  ResolvedRequest request_;
  Model model_;
  std::optional<GenerateRelay> relay_;
  uint64_t fingerprint_ = 0;
  std::vector<uint64_t> prefix_chain_;

  // --- The attempt.
  uint32_t attempt_ = 0;     // from 1
  uint64_t attempt_id_ = 0;  // its request_id on the wire; 0: none is open
  bool charged_group_ = false;
  GroupRef group_;
  GroupLoad charged_;  // what the group is still charged for it
  std::string numerics_id_;
  std::string lost_because_;  // how the attempt before ended; empty: none did
  TimePoint started_at_{};
  TimePoint waits_since_;  // for a group, as long as there is none
  uint32_t num_replays_ = 0;
  int num_hand_overs_ = 0;
  std::vector<GroupRef> lost_on_;  // each life of a group once

  // --- The client.
  ClientEvent event_;
  bool started_sent_ = false;
  bool write_in_flight_ = false;
  bool timer_set_ = false;
  bool ending_ = false;
  bool finish_commanded_ = false;
  absl::Status end_status_;
};

}  // namespace outrider::router
