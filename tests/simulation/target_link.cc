#include "tests/simulation/target_link.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "tests/simulation/simulated_target.h"

namespace outrider::simulation {
namespace {

// As router/target_client.cc.
constexpr Duration kBackoffMin = std::chrono::milliseconds(50);
constexpr Duration kBackoffMax = std::chrono::seconds(1);

}  // namespace

void TargetLink::KeepOpen() {
  if (closed_ || stream_ != nullptr || world_.queue.now() < open_after_) return;
  const auto [target, life] = world_.Find(options_.address);
  stream_ = world_.network.Connect(process_, *target, life, kTargetService, {});
  const std::shared_ptr<TargetLink> self = shared_from_this();
  stream_->on_open = [self] {
    if (self->closed_) return;
    self->connected_ = true;
    self->queued_ = std::make_shared<v1::TargetCommands>();
    self->queued_->set_incarnation(self->options_.incarnation);
    self->backoff_ = kBackoffMin;
    self->options_.on_connected(true);
    self->WriteNext();
  };
  stream_->on_written = [self](bool) {
    self->write_in_flight_ = false;
    if (self->connected_) self->WriteNext();
  };
  stream_->on_message = [self](const Message& message) {
    v1::TargetEvents events = static_cast<const v1::TargetEvents&>(*message);
    self->OnEvents(events);
  };
  stream_->on_closed = [self](const absl::Status& why) { self->OnDone(why); };
}

bool TargetLink::Submit(v1::Submit submit, uint64_t call_id) {
  if (!connected_) return false;
  attempts_[submit.request_id()] = {.call_id = call_id, .num_lanes = submit.lanes_size()};
  v1::TargetCommand command;
  *command.mutable_submit() = std::move(submit);
  Enqueue(std::move(command));
  return true;
}

void TargetLink::Cancel(uint64_t attempt_id) {
  if (attempts_.erase(attempt_id) == 0) return;
  v1::TargetCommand command;
  command.mutable_cancel()->set_request_id(attempt_id);
  Enqueue(std::move(command));
}

void TargetLink::StopAt(uint64_t attempt_id, uint32_t lane, uint32_t num_output_tokens) {
  if (!attempts_.contains(attempt_id)) return;
  v1::TargetCommand command;
  command.mutable_stop_at()->set_request_id(attempt_id);
  command.mutable_stop_at()->set_lane(lane);
  command.mutable_stop_at()->set_num_output_tokens(num_output_tokens);
  Enqueue(std::move(command));
}

void TargetLink::Enqueue(v1::TargetCommand command) {
  if (stream_ == nullptr || !connected_) return;
  if (queued_ == nullptr) queued_ = std::make_shared<v1::TargetCommands>();
  *queued_->add_commands() = std::move(command);
  WriteNext();
}

void TargetLink::WriteNext() {
  if (stream_ == nullptr || write_in_flight_ || queued_ == nullptr) return;
  write_in_flight_ = true;
  stream_->Send(std::exchange(queued_, nullptr));
}

void TargetLink::OnEvents(v1::TargetEvents& events) {
  const bool foreign = events.incarnation() != 0 && events.incarnation() != options_.incarnation;
  if ((fenced_ || foreign) && stream_ != nullptr) {
    for (v1::TargetEvent& event : *events.mutable_events()) options_.on_stale(event);
    // It is told by the stream's end, which frees what it still runs; taken on purpose, it goes on.
    if (world_.sabotage == Sabotage::kTakesStaleFrames || stream_ == nullptr) return;
    stream_->Close();
    world_.queue.At(world_.queue.now(), &process_, [self = shared_from_this()] {
      if (self->stream_ != nullptr) self->OnDone(absl::CancelledError("it was given up"));
    });
    return;
  }
  for (v1::TargetEvent& event : *events.mutable_events()) {
    const auto attempt = attempts_.find(event.request_id());
    if (attempt == attempts_.end()) {
      options_.on_stale(event);
    } else {
      options_.on_event(attempt->second.call_id, event);
    }
  }
}

void TargetLink::OnDone(const absl::Status& why) {
  if (!connected_ && !closed_ && absl::StrContains(why.message(), "reset by peer")) options_.on_gone();
  stream_.reset();
  connected_ = write_in_flight_ = false;
  queued_.reset();
  open_after_ = world_.queue.now() + backoff_;
  backoff_ = std::min(2 * backoff_, kBackoffMax);
  options_.on_connected(false);
  LoseAttempts(absl::UnavailableError(
      absl::StrCat("group ", options_.group_id, " was lost", why.ok() ? "" : absl::StrCat(" (", why.message(), ")"))));
}

void TargetLink::LoseAttempts(const absl::Status& why) {
  for (const auto& [id, attempt] : std::exchange(attempts_, {})) options_.on_lost(attempt.call_id, id, why);
}

void TargetLink::HandOver(int64_t num_lanes) {
  std::vector<std::pair<uint64_t, uint64_t>> asked;
  for (const auto& [id, attempt] : attempts_) {
    if (num_lanes <= 0) break;
    num_lanes -= attempt.num_lanes;
    asked.emplace_back(id, attempt.call_id);
  }
  for (const auto& [id, call_id] : asked) options_.on_hand_over(call_id, id);
}

void TargetLink::Fence() {
  if (fenced_ || closed_) return;
  fenced_ = closed_ = true;
  connected_ = false;
  queued_.reset();
  LoseAttempts(
      absl::UnavailableError(absl::StrCat("group ", options_.group_id, " was lost (it is not heard of any more)")));
}

void TargetLink::Close() {
  closed_ = true;
  if (stream_ == nullptr) return;
  stream_->Close();
  // gRPC tells of the end as it does of any.
  world_.queue.At(world_.queue.now(), &process_, [self = shared_from_this()] {
    if (self->stream_ != nullptr) self->OnDone(absl::CancelledError("closed"));
  });
}

}  // namespace outrider::simulation
