#include "worker/rpc/target_service.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/trace_context.h"
#include "worker/rpc/proto_conversions.h"
#include "worker/rpc/server_stream.h"

namespace outrider {
namespace {

// Bytes of one message of events, about; what does not fit goes with the next.
constexpr size_t kMessageBytes = 1 << 20;
// Events beyond what one Take gives, that is refusals, at most.
constexpr size_t kMaxWaitingEvents = 1 << 20;
// Of an event without its tokens, on the wire, about.
constexpr size_t kEventBytes = 64;

size_t WireBytes(const LaneEvent& event) {
  if (const auto* prompt = std::get_if<PromptLogprobsEvent>(&event.event)) {
    size_t num_logprobs = 0;
    for (const TokenLogprobs& logprobs : prompt->logprobs) num_logprobs += 1 + logprobs.top.size();
    return kEventBytes + 14 * num_logprobs;
  }
  const auto* tokens = std::get_if<TokensEvent>(&event.event);
  if (tokens == nullptr) return kEventBytes;
  size_t num_logprobs = 0;
  for (const TokenLogprobs& logprobs : tokens->logprobs) num_logprobs += 1 + logprobs.top.size();
  return kEventBytes + 5 * tokens->tokens.size() + 14 * num_logprobs;
}

}  // namespace

class TargetService::Call final : public ServerStream<v1::TargetCommands, v1::TargetEvents> {
 public:
  explicit Call(TargetService& service) : service_(service) {}

  // Second half of construction: the token stream calls back.
  void Connect() {
    const auto self = std::static_pointer_cast<Call>(shared_from_this());
    tokens_ = std::make_shared<TokenStream>(service_.options_.max_buffered_tokens, [weak = std::weak_ptr<Call>(self)] {
      if (const auto call = weak.lock()) call->Write();
    });
  }

 protected:
  void OnMessage(v1::TargetCommands& request) override {
    const uint64_t incarnation = service_.options_.incarnation;
    if (request.incarnation() != 0 && incarnation != 0 && request.incarnation() != incarnation) {
      return Finish(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                                 absl::StrCat("incarnation ", request.incarnation(),
                                              " of the group is gone; this is incarnation ", incarnation)));
    }
    if (!std::exchange(met_, true)) {
      MutexLock lock(mu_);
      greeting_due_ = true;
    }
    for (const v1::TargetCommand& command : request.commands()) {
      switch (command.command_case()) {
        case v1::TargetCommand::kSubmit:
          if (!OnSubmit(command.submit())) return;
          break;
        case v1::TargetCommand::kCancel:
          OnCancelRequest(RequestId(command.cancel().request_id()));
          break;
        case v1::TargetCommand::kStopAt:
          OnStopAt(command.stop_at());
          break;
        case v1::TargetCommand::COMMAND_NOT_SET:
          return Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "a command without content"));
      }
    }
    Write();  // the greeting, refusals
    Read();
  }

  bool NextMessage(v1::TargetEvents* response) override {
    MutexLock lock(mu_);
    if (waiting_.empty()) {  // what is taken does not count as buffered any more
      for (LaneEvent& event : tokens_->Take()) waiting_.push_back({.event = std::move(event)});
    }
    size_t bytes = 0;
    while (!waiting_.empty() && bytes < kMessageBytes) {
      const LaneEvent& event = waiting_.front().event;
      bytes += WireBytes(event);
      LaneEventToProto(event, response->add_events());
      if (!std::holds_alternative<TokensEvent>(event.event) &&
          !std::holds_alternative<PromptLogprobsEvent>(event.event)) {
        TellIfItWentWrong(event, waiting_.front().trace);
        LaneEnded(event.id);
      }
      waiting_.pop_front();
    }
    response->set_incarnation(service_.options_.incarnation);
    return std::exchange(greeting_due_, false) || response->events_size() > 0;
  }

  void OnEnd() override {
    // Close first: the engine may append until it hears of the loss.
    tokens_->Close();
    (void)service_.inbox_.Post(StreamLostEvent{tokens_});  // never refused
  }

 private:
  struct Waiting {
    LaneEvent event;
    TraceId trace = {};  // of a request that is not live; all zero: none, or it is
  };
  struct LiveRequest {
    int num_lanes = 0;
    TraceId trace;  // all zero: none
    bool cancelled = false;
    absl::flat_hash_set<uint32_t> stopped_lanes;
  };

  // False if it ended the call.
  bool OnSubmit(const v1::Submit& submit) {
    const RequestId id(submit.request_id());
    const TimePoint now = service_.clock_.Now();
    auto request = RequestFromProto(submit, now);
    const std::optional<TraceContext> trace = TraceFromProto(submit);
    bool is_new;
    {
      MutexLock lock(mu_);
      is_new = !live_.contains(id);
      if (is_new && request.ok()) {
        LiveRequest& live = live_[id];
        live.num_lanes = static_cast<int>(request->lanes.size());
        if (trace.has_value()) live.trace = trace->trace;
      }
    }
    if (!is_new) {
      Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, absl::StrCat("request ", id.value, " lives already")));
      return false;
    }
    if (!request.ok()) return Refuse(submit, request.status());
    const absl::Status posted = service_.inbox_.Post(
        SubmitEvent{.stream = tokens_, .id = id, .request = *std::move(request), .received = now, .trace = trace});
    if (!posted.ok()) {
      {
        MutexLock lock(mu_);
        live_.erase(id);
      }
      return Refuse(submit, posted);
    }
    return true;
  }

  void OnCancelRequest(RequestId id) {
    {
      MutexLock lock(mu_);
      const auto request = live_.find(id);
      // It may have ended while the cancel was under way. Once is enough: this bounds the inbox.
      if (request == live_.end() || std::exchange(request->second.cancelled, true)) return;
    }
    (void)service_.inbox_.Post(CancelEvent{tokens_, id});
  }

  void OnStopAt(const v1::StopAt& stop) {
    const RequestId id(stop.request_id());
    {
      MutexLock lock(mu_);
      const auto request = live_.find(id);
      if (request == live_.end()) return;
      LiveRequest& live = request->second;
      if (static_cast<int>(live.stopped_lanes.size()) >= live.num_lanes) return;
      if (!live.stopped_lanes.insert(stop.lane()).second) return;
    }
    const int num_output_tokens =
        stop.num_output_tokens() > 0x7fffffffu ? -1 : static_cast<int>(stop.num_output_tokens());
    (void)service_.inbox_.Post(StopAtEvent{tokens_, {id, stop.lane()}, num_output_tokens});
  }

  // Ends every lane of what was submitted. False if it ended the call: nobody reads refusals.
  bool Refuse(const v1::Submit& submit, const absl::Status& why) {
    const RequestId id(submit.request_id());
    const TraceId trace = TraceFromProto(submit).value_or(TraceContext()).trace;
    size_t num_waiting;
    {
      MutexLock lock(mu_);
      // A request without lanes is told so in lane 0.
      for (int i = 0; i < std::max(1, submit.lanes_size()); ++i) {
        waiting_.push_back(
            {{{id, submit.lanes().empty() ? 0 : submit.lanes(i).lane()}, FailedEvent{.status = why}}, trace});
      }
      num_waiting = waiting_.size();
    }
    if (num_waiting <= kMaxWaitingEvents) return true;
    Finish(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the router does not read its events"));
    return false;
  }

  // Ends that are neither the client's doing nor the router's to handle.
  void TellIfItWentWrong(const LaneEvent& event, TraceId trace) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const auto* const failed = std::get_if<FailedEvent>(&event.event);
    if (failed == nullptr || (!absl::IsInternal(failed->status) && !absl::IsResourceExhausted(failed->status))) return;
    const auto request = live_.find(event.id.request);
    if (request != live_.end() && request->second.trace) trace = request->second.trace;
    Log(LogLevel::kWarning, failed->status.message(),
        {{"request_id", event.id.request.value},
         {"trace_id", trace ? ToHex(trace) : ""},
         {"lane", event.id.lane},
         {"code", absl::StatusCodeToString(failed->status.code())}});
  }

  void LaneEnded(const LaneId& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const auto request = live_.find(id.request);
    if (request != live_.end() && --request->second.num_lanes <= 0) live_.erase(request);
  }

  TargetService& service_;
  StreamPointer tokens_;
  bool met_ = false;  // a first message came; OnMessage's alone

  Mutex mu_;
  bool greeting_due_ ABSL_GUARDED_BY(mu_) = false;
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mu_);  // to be written
  absl::flat_hash_map<RequestId, LiveRequest> live_ ABSL_GUARDED_BY(mu_);
};

TargetService::TargetService(Options options, Inbox& inbox, const Clock& clock)
    : options_(std::move(options)), inbox_(inbox), clock_(clock) {}

grpc::ServerBidiReactor<v1::TargetCommands, v1::TargetEvents>* TargetService::Serve(grpc::CallbackServerContext*) {
  const auto call = std::make_shared<Call>(*this);
  call->Connect();
  return Call::Open(call);
}

grpc::ServerUnaryReactor* TargetService::GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest*,
                                                  v1::ModelDescription* response) {
  *response = options_.model;
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace outrider
