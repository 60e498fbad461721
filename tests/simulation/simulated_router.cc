#include "tests/simulation/simulated_router.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "proto/target.pb.h"
#include "router/proto_conversions.h"
#include "tests/simulation/router_state.h"

namespace outrider::simulation {
namespace {

// As router/dispatcher.cc.
constexpr Duration kTurnInterval = std::chrono::milliseconds(100);
constexpr Duration kFencedMax = std::chrono::seconds(60);
// A router whose drain is over waits so long for clients that do not read.
constexpr Duration kLastWords = std::chrono::seconds(1);
// Responses under way to a client that reads; one that does not soon holds the next write up.
constexpr int kClientWindow = 4;
// Between a group's first heartbeat and its model.
constexpr Duration kModelDelay = std::chrono::milliseconds(5);
// One event beyond the relay's bound: a step's tokens with their logprobs.
constexpr size_t kEventBytesMax = 2048;

}  // namespace

SimulatedRouter::SimulatedRouter(World& world, Options options)
    : world_(world),
      options_(std::move(options)),
      random_(world.random.Fork(23)),
      process_(world.AddProcess("router",
                                [this] {
                                  life_.reset();
                                  if (!process_.silent) supervision_.OnEnded();
                                })),
      supervision_(world, {&process_}, [this] { Start(); }) {}

SimulatedRouter::~SimulatedRouter() = default;

const r::DispatchQueue* SimulatedRouter::queue() const { return life_ == nullptr ? nullptr : &life_->queue; }
int SimulatedRouter::num_open_calls() const { return life_ == nullptr ? 0 : static_cast<int>(life_->calls.size()); }

void SimulatedRouter::Start() {
  world_.Start(process_);
  world_.queue.After(FromMillis(20), &process_, [this] { Serve(); });
}

void SimulatedRouter::Serve() {
  r::DispatchQueue::Options options = options_.queue;
  if (world_.sabotage == Sabotage::kQueueBoundIgnored) options.admission.max_queued_requests = 1 << 30;
  life_ = std::make_unique<Life>(options);
  world_.network.Listen(process_, kInferenceService, {.window = kClientWindow},
                        [this](StreamPtr stream) { Accept(std::move(stream)); });
  world_.network.ListenCalls(process_, "cluster",
                             [this](const google::protobuf::Message& message) { return OnHeartbeat(message); });
  TurnLater();
}

void SimulatedRouter::TurnLater() {
  world_.queue.After(kTurnInterval, &process_, [this] {
    TakeTurn();
    TurnLater();
  });
}

void SimulatedRouter::Terminate() {
  if (life_ == nullptr) return world_.End(process_);
  if (std::exchange(life_->draining, true)) return;
  world_.Say(process_, "drain", {{"open", num_open_calls()}});
  if (world_.sabotage == Sabotage::kDrainDropsStreams) return Exit();
  ExitIfDrained();
  world_.queue.After(options_.drain_max, &process_, [this] { EndCalls(); });
}

// What the drain's time was too short for ends, and its client is told.
void SimulatedRouter::EndCalls() {
  std::vector<std::shared_ptr<Call>> open;
  for (const auto& [id, call] : life_->calls) open.push_back(call);
  for (const std::shared_ptr<Call>& call : open) {
    if (!life_->calls.contains(call->id)) continue;
    r::Commands commands;
    call->lifecycle.OnShutdown(absl::UnavailableError("this router is shutting down"), commands);
    Do(*call, std::move(commands));
  }
  world_.queue.After(kLastWords, &process_, [this] { Exit(); });
}

void SimulatedRouter::Exit() {
  world_.queue.At(world_.queue.now(), nullptr, [this, life = process_.life] {
    if (process_.life == life) world_.End(process_);
  });
}
absl::StatusOr<Message> SimulatedRouter::OnHeartbeat(const google::protobuf::Message& message) {
  const auto& request = static_cast<const v1::HeartbeatRequest&>(message);
  const TimePoint now = world_.queue.now();
  auto response = std::make_shared<v1::HeartbeatResponse>();
  response->set_interval_ms(options_.heartbeat_interval_ms);
  if (request.has_draft_worker()) {
    RETURN_IF_ERROR(life_->queue.Heartbeat(r::ToDraftWorkerReport(request), now).status());
    return response;
  }
  const r::GroupReport report = r::ToGroupReport(request);
  const absl::StatusOr<r::HeartbeatNews> news = life_->queue.Heartbeat(report, now);
  RETURN_IF_ERROR(news.status());
  world_.Say(process_, "heartbeat",
             {{"incarnation", static_cast<int64_t>(report.who.incarnation)},
              {"serving", report.serving},
              {"draining", report.who.draining},
              {"news", static_cast<int64_t>(*news)}});
  Life::Client& known = life_->clients[report.who.id];
  if (known.link == nullptr || *news != r::HeartbeatNews::kNone) {
    const std::shared_ptr<TargetLink> old = std::move(known.link);
    known.incarnation = report.who.incarnation;
    known.link = TargetLink::Create(
        world_, process_,
        {.group_id = report.who.id,
         .incarnation = report.who.incarnation,
         .address = report.who.address,
         .on_connected =
             [this, id = report.who.id, incarnation = report.who.incarnation](bool connected) {
               life_->queue.SetConnected(id, incarnation, connected);
               Kick();
             },
         .on_gone = [this, id = report.who.id,
                     incarnation = report.who.incarnation] { life_->queue.NoteGone(id, incarnation); },
         .on_event = [this](uint64_t call_id, google::protobuf::Message& event) { OnTargetEvent(call_id, event); },
         .on_hand_over = [this](uint64_t call_id, uint64_t attempt_id) { OnHandOver(call_id, attempt_id); },
         .on_lost = [this](uint64_t call_id, uint64_t attempt_id,
                           const absl::Status& status) { OnTargetLost(call_id, attempt_id, status); },
         .on_stale =
             [this](google::protobuf::Message& event) {
               // Only where it is taken on purpose.
               if (world_.sabotage != Sabotage::kTakesStaleFrames) return;
               auto& target_event = static_cast<v1::TargetEvent&>(event);
               for (const auto& [id, call] : life_->calls) {
                 if (call->attempt_id == 0 || call->past_attempt_id != target_event.request_id()) continue;
                 target_event.set_request_id(call->attempt_id);
                 return OnTargetEvent(id, target_event);
               }
             }});
    if (old != nullptr) Fence(old);
  }
  for (const r::DraftWorkerView* worker : life_->queue.DraftWorkersOf(report.who.id)) {
    v1::DraftAssignment& assignment = *response->add_draft_workers();
    assignment.set_worker_id(worker->id);
    assignment.set_incarnation(worker->incarnation);
    assignment.set_address(worker->address);
  }
  known.link->KeepOpen();
  if (!life_->model_ready) {
    world_.queue.After(kModelDelay, &process_, [this] {
      life_->model_ready = true;
      life_->queue.WantTurn();
      Kick();
    });
  }
  Kick();
  return response;
}
void SimulatedRouter::Route(Call& call, r::RouteCall route) {
  call.waits = true;
  call.again = route.request.kind != r::RouteKind::kNew;
  call.num_hand_overs += route.request.kind == r::RouteKind::kHandOver;
  r::DispatchQueue::Decisions decisions;
  life_->queue.Route(call.id, std::move(route.request), world_.queue.now(), decisions);
  Resolve(decisions);
}

void SimulatedRouter::Resolve(r::DispatchQueue::Decisions& decisions) {
  for (const r::LostWorker& lost : decisions.lost) {
    world_.Say(process_, "lost", {{"group", lost.is_group}, {"incarnation", static_cast<int64_t>(lost.incarnation)}});
    if (lost.is_group && world_.sabotage == Sabotage::kSilenceIsDeath) life_->queue.NoteGone(lost.id, lost.incarnation);
    const auto it = life_->clients.find(lost.id);
    if (!lost.is_group || it == life_->clients.end()) continue;
    if (world_.sabotage == Sabotage::kIgnoresLostGroups) continue;
    const std::shared_ptr<TargetLink> link = std::move(it->second.link);
    life_->clients.erase(it);
    Fence(link);
  }
  for (const r::DispatchQueue::HandOver& hand_over : decisions.hand_overs) {
    const auto it = life_->clients.find(hand_over.group.group_id);
    if (it != life_->clients.end()) it->second.link->HandOver(hand_over.num_lanes);
  }
  for (const r::DispatchQueue::Refusal& refusal : decisions.refusals) {
    const auto call = life_->calls.find(refusal.call_id);
    if (call == life_->calls.end()) continue;
    ++totals_.num_refusals;
    totals_.num_queue_timeouts += absl::IsUnavailable(refusal.status);
    call->second->waits = false;
    r::Commands commands;
    call->second->lifecycle.OnRefused(refusal.status, commands);
    Do(*call->second, std::move(commands));
  }
  for (r::DispatchQueue::Start& start : decisions.starts) {
    const std::shared_ptr<Call> call = life_->calls.at(start.call_id);
    call->waits = false;
    call->link = life_->clients.at(start.group.group_id).link;
    r::Commands commands;
    call->lifecycle.OnStart(std::move(start.group), ++life_->last_id, world_.queue.now(), commands);
    Do(*call, std::move(commands));
  }
  for (const r::CallId id : decisions.to_prepare) {
    const auto call = life_->calls.find(id);
    if (call == life_->calls.end()) continue;
    absl::StatusOr<r::RoutingNeeds> needs = absl::CancelledError("the call has ended");
    if (!call->second->lifecycle.ending()) {
      if (absl::Status prepared = Prepare(*call->second); prepared.ok()) {
        needs = call->second->lifecycle.Needs();
      } else {
        needs = std::move(prepared);
      }
    }
    r::DispatchQueue::Decisions more;
    life_->queue.OnPrepared(id, std::move(needs), more);
    Resolve(more);
  }
}

// As Dispatcher::Fence: nothing more is taken from it, and what it still says is counted.
void SimulatedRouter::Fence(std::shared_ptr<TargetLink> link) {
  link->Fence();
  life_->fenced.emplace_back(world_.queue.now(), std::move(link));
}

void SimulatedRouter::Kick() {
  if (life_ == nullptr || life_->turn_set) return;
  if (!life_->queue.turn_wanted()) return;
  life_->turn_set = true;
  world_.queue.At(world_.queue.now(), &process_, [this] { TakeTurn(); });
}

void SimulatedRouter::TakeTurn() {
  life_->turn_set = false;
  r::DispatchQueue::Decisions decisions;
  life_->queue.TakeTurn(world_.queue.now(), life_->model_ready, decisions);
  Resolve(decisions);
  for (auto& [id, client] : life_->clients) client.link->KeepOpen();
  std::erase_if(life_->fenced, [this](const auto& entry) {
    if (!entry.second->ended() && world_.queue.now() - entry.first < kFencedMax) return false;
    entry.second->Close();
    return true;
  });
  if (const auto next = life_->queue.next_turn(); next.has_value() && *next < world_.queue.now() + kTurnInterval) {
    // Not twice at one instant: what is due then was done.
    world_.queue.At(std::max(*next, world_.queue.now() + FromMillis(1)), &process_, [this] {
      life_->queue.WantTurn();
      Kick();
    });
  }
  CheckBounds();
}
void SimulatedRouter::ExitIfDrained() {
  if (!life_->draining || !life_->calls.empty()) return;
  std::erase_if(life_->closing, [](const StreamPtr& stream) { return !stream->is_open(); });
  if (life_->closing.empty()) return Exit();
  world_.queue.After(FromMillis(5), &process_, [this] { ExitIfDrained(); });
}

void SimulatedRouter::CheckBounds() {
  const r::AdmissionController::Options& bounds = options_.queue.admission;
  int num_waiting = 0;
  for (const auto& [id, call] : life_->calls) {
    num_waiting += call->waits && !call->again;
    if (call->lifecycle.prepared() &&
        call->lifecycle.relay().pending_bytes() > options_.max_stream_buffer_bytes + kEventBytesMax) {
      world_.Fail("call ", id, " holds ", call->lifecycle.relay().pending_bytes(), " bytes for its client");
    }
  }
  CheckLeases();
  if (num_waiting > bounds.max_queued_requests) {
    world_.Fail("the router's queue holds ", num_waiting, " requests; at most ", bounds.max_queued_requests, " may");
  }
}

// Nobody waits on a group that has said nothing for longer than its lease.
void SimulatedRouter::CheckLeases() {
  for (const auto& [id, call] : life_->calls) {
    if (call->attempt_id == 0) continue;
    const Process& leader = *world_.Find(call->link->address()).first;
    if (!leader.unresponsive_since.has_value()) continue;
    const TimePoint since =
        std::max({*leader.unresponsive_since, process_.responsive_since, world_.network.last_change()});
    if (world_.queue.now() - since > options_.queue.registry.worker_timeout + options_.lease_slack) {
      world_.Fail("call ", id, " still waits on ", leader.name, ", which has said nothing since ",
                  ToMillis(since - TimePoint{}), " ms");
    }
  }
}

void SimulatedRouter::CheckIdle() {
  if (life_ == nullptr) return;
  if (!life_->calls.empty()) return world_.Fail("the router has ", life_->calls.size(), " calls open, of no client");
  if (life_->queue.num_requests() > 0) world_.Fail("the router's queue holds requests that nobody waits for");
  for (const r::GroupView& group : life_->queue.snapshot().groups) {
    if (group.own.num_lanes != 0 || group.own.num_tokens != 0) {
      world_.Fail("group ", group.id, " is still charged for ", group.own.num_lanes, " lanes and ",
                  group.own.num_tokens, " tokens though nothing runs");
    }
  }
}

}  // namespace outrider::simulation
