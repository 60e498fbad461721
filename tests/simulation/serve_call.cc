#include "tests/simulation/serve_call.h"

#include <algorithm>
#include <deque>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "proto/target.pb.h"
#include "tests/simulation/simulated_target.h"
#include "worker/rpc/proto_conversions.h"

namespace outrider::simulation {
namespace {

// Messages under way to a router: where its process stands still, tokens soon wait in the token stream's buffer.
constexpr int kWindow = 16;

}  // namespace

class ServeCalls::Call : public std::enable_shared_from_this<Call> {
 public:
  Call(ServeCalls& calls, World& world, Process& process, const Options& options, StreamPtr stream)
      : calls_(calls), world_(world), process_(process), options_(options), stream_(std::move(stream)) {}

  void Begin() {
    tokens_ = std::make_shared<TokenStream>(options_.max_buffered_tokens, [weak = weak_from_this()] {
      const std::shared_ptr<Call> call = weak.lock();
      if (call == nullptr) return;
      // It leaves when the turn is over.
      call->world_.queue.At(call->options_.clock->Now(), &call->process_, [call] { call->Write(); });
    });
    const std::shared_ptr<Call> self = shared_from_this();
    stream_->on_message = [self](const Message& message) {
      self->OnCommands(static_cast<const v1::TargetCommands&>(*message));
    };
    stream_->on_written = [self](bool ok) {
      self->writing_ = false;
      if (ok) self->Write();
    };
    stream_->on_closed = [self](const absl::Status&) { self->OnEnd(); };
  }

  int num_wanted_lanes() const {
    int count = 0;
    for (const auto& [id, live] : live_) count += live.cancelled ? 0 : live.num_lanes;
    return count;
  }

 private:
  struct LiveRequest {
    int num_lanes = 0;
    bool cancelled = false;
    std::set<uint32_t> stopped_lanes;
  };

  void OnCommands(const v1::TargetCommands& commands) {
    if (commands.incarnation() != 0 && commands.incarnation() != options_.incarnation) {
      stream_->Close(absl::FailedPreconditionError("another incarnation"));
      return OnEnd();
    }
    for (const v1::TargetCommand& command : commands.commands()) {
      if (command.has_submit()) {
        OnSubmit(command.submit());
      } else if (command.has_cancel()) {
        OnCancel(RequestId(command.cancel().request_id()));
      } else if (command.has_stop_at()) {
        OnStopAt(command.stop_at());
      }
    }
    Write();
    options_.posted();
  }

  void OnSubmit(const v1::Submit& submit) {
    const RequestId id(submit.request_id());
    const TimePoint now = world_.queue.now();
    if (live_.contains(id)) return world_.Fail(process_.name, ": attempt ", id.value, " was sent twice");
    absl::StatusOr<Request> request = RequestFromProto(submit, now);
    absl::Status status = request.status();
    const int num_lanes = submit.lanes_size();
    if (status.ok()) {
      world_.Say(process_, "submit",
                 {{"attempt", static_cast<int64_t>(id.value)},
                  {"number", submit.attempt()},
                  {"lanes", num_lanes},
                  {"delivered", submit.lanes(0).output_token_ids_size()}});
      status = options_.inbox->Post(
          SubmitEvent{.stream = tokens_, .id = id, .request = *std::move(request), .received = now});
    }
    if (status.ok()) {
      live_[id].num_lanes = num_lanes;
      return;
    }
    for (int i = 0; i < std::max(1, num_lanes); ++i) {
      waiting_.push_back(
          {{id, num_lanes == 0 ? 0 : submit.lanes(i).lane()}, FailedEvent{.status = status, .usage = {}}});
    }
  }

  void OnCancel(RequestId id) {
    const auto request = live_.find(id);
    if (request == live_.end() || std::exchange(request->second.cancelled, true)) return;
    ++calls_.num_cancels_;
    world_.Say(process_, "cancel", {{"attempt", static_cast<int64_t>(id.value)}});
    if (world_.sabotage == Sabotage::kCancelledKeepsRunning) return;
    (void)options_.inbox->Post(CancelEvent{tokens_, id});
  }

  void OnStopAt(const v1::StopAt& stop) {
    const auto request = live_.find(RequestId(stop.request_id()));
    if (request == live_.end() || !request->second.stopped_lanes.insert(stop.lane()).second) return;
    (void)options_.inbox->Post(
        StopAtEvent{tokens_, {RequestId(stop.request_id()), stop.lane()}, static_cast<int>(stop.num_output_tokens())});
  }

  void Write() {
    if (writing_ || stream_ == nullptr || !stream_->is_open()) return;
    std::vector<LaneEvent> taken = tokens_->Take();
    std::move(taken.begin(), taken.end(), std::back_inserter(waiting_));
    if (waiting_.empty()) return;
    const auto events = std::make_shared<v1::TargetEvents>();
    events->set_incarnation(options_.incarnation);
    for (const LaneEvent& event : waiting_) {
      LaneEventToProto(event, events->add_events());
      if (!std::holds_alternative<TokensEvent>(event.event)) LaneEnded(event.id);
    }
    waiting_.clear();
    writing_ = true;
    stream_->Send(events);
  }

  void LaneEnded(const LaneId& id) {
    const auto request = live_.find(id.request);
    if (request != live_.end() && --request->second.num_lanes <= 0) live_.erase(request);
  }

  void OnEnd() {
    stream_.reset();
    tokens_->Close();
    if (world_.sabotage != Sabotage::kCancelledKeepsRunning) (void)options_.inbox->Post(StreamLostEvent{tokens_});
    options_.posted();
    std::erase(calls_.calls_, shared_from_this());
  }

  ServeCalls& calls_;
  World& world_;
  Process& process_;
  const Options& options_;
  StreamPtr stream_;
  StreamPointer tokens_;
  bool writing_ = false;
  std::deque<LaneEvent> waiting_;
  std::map<RequestId, LiveRequest> live_;
};

ServeCalls::ServeCalls() = default;
ServeCalls::~ServeCalls() = default;

void ServeCalls::Listen(World& world, Process& process, Options options) {
  const auto shared = std::make_shared<Options>(std::move(options));
  world.network.Listen(process, kTargetService, {.window = kWindow},
                       [this, &world, &process, shared](StreamPtr stream) {
                         calls_.push_back(std::make_shared<Call>(*this, world, process, *shared, std::move(stream)));
                         calls_.back()->Begin();
                       });
}

int ServeCalls::num_wanted_lanes() const {
  int count = 0;
  for (const std::shared_ptr<Call>& call : calls_) count += call->num_wanted_lanes();
  return count;
}

}  // namespace outrider::simulation
