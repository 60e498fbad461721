// Inbox holds what other threads ask of the engine until its next turn, and wakes it.
//
// Bounded: submissions beyond a capacity are refused; everything else is bounded by those who post it (one cancel a
// request, one stop a lane, one loss a stream), so it is never refused and a request can always be ended.
//
// Thread safety: Post, Wake from any thread; Drain and WaitUntil from the engine's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/mutex.h"
#include "base/trace_context.h"
#include "worker/engine/token_stream.h"
#include "worker/sequence/request.h"
#include "worker/speculation/draft_source.h"

namespace outrider {

using StreamPointer = std::shared_ptr<TokenStream>;

struct SubmitEvent {
  StreamPointer stream;
  RequestId id;  // unique on the stream while it lives
  Request request;
  TimePoint received{};
  std::optional<TraceContext> trace = std::nullopt;  // that the request belongs to
};
struct CancelEvent {
  StreamPointer stream;
  RequestId id;
};
struct StopAtEvent {
  StreamPointer stream;
  LaneId id;
  int num_output_tokens = 0;
};
// Nobody reads the stream any more: all its requests end.
struct StreamLostEvent {
  StreamPointer stream;
};
// A draft source comes, or goes. The name is the engine's only handle on it.
struct AttachSourceEvent {
  std::string name;
  std::unique_ptr<DraftSource> source;
};
struct DetachSourceEvent {
  std::string name;
};
using InboxEvent =
    std::variant<SubmitEvent, CancelEvent, StopAtEvent, StreamLostEvent, AttachSourceEvent, DetachSourceEvent>;

class Inbox {
 public:
  // Lanes of submissions that wait to be taken, at most.
  explicit Inbox(int max_waiting_lanes) : max_waiting_lanes_(max_waiting_lanes) {}

  // RESOURCE_EXHAUSTED if it is a submission beyond the capacity; UNAVAILABLE once closed to submissions.
  absl::Status Post(InboxEvent event);
  // Ends the engine's sleep, as when a draft source has something to say.
  void Wake();
  // Submissions are refused from now on with `reason`.
  void CloseToSubmissions(const std::string& reason);

  std::vector<InboxEvent> Drain();
  // Sleeps until something is posted or Wake was called since the last Drain, or until `deadline`; max() is for ever.
  void WaitUntil(TimePoint deadline);

 private:
  const int max_waiting_lanes_;
  Mutex mu_;
  CondVar changed_;
  std::vector<InboxEvent> events_ ABSL_GUARDED_BY(mu_);
  int num_waiting_lanes_ ABSL_GUARDED_BY(mu_) = 0;
  bool awake_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::string closed_reason_ ABSL_GUARDED_BY(mu_);
};

}  // namespace outrider
