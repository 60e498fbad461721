#include "tests/simulation/simulated_target.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "base/metrics.h"
#include "base/status_macros.h"
#include "tests/simulation/serve_call.h"
#include "worker/group/group_membership.h"

namespace outrider::simulation {
namespace {

constexpr char kGroupService[] = "group";
// As worker/rpc/group_client.h and group_service.cc.
constexpr Duration kProgressInterval = std::chrono::milliseconds(100);
constexpr Duration kTickInterval = std::chrono::milliseconds(100);
// Steps in which the oldest sequence must have got on: its prompt comes in chunks of kPromptTokensMin at least.
constexpr int64_t kStarvationSteps = 100;
constexpr Duration kRankPoll = std::chrono::milliseconds(20);
// Beyond the bound on a rank's silence.
constexpr Duration kRankSlack = std::chrono::seconds(1);

}  // namespace

struct SimulatedTarget::Life {
  Life(const Options& options, uint64_t epoch, const EventQueue& queue)
      : clock(queue),
        model(options.model, clock),
        inbox(options.engine.scheduler.max_sequences + options.engine.scheduler.max_waiting_sequences),
        metrics(registry),
        engine(options.engine, inbox, model, clock, metrics),
        membership({.epoch = epoch,
                    .world_size = options.num_ranks,
                    .numerics_id = options.numerics_id,
                    .num_kv_blocks_max = options.model.num_blocks,
                    .silence_max = options.silence_max,
                    .step_max = options.step_timeout}) {}
  MetricsRegistry registry;
  ProcessClock clock;
  FakeModel model;
  Inbox inbox;
  EngineMetrics metrics;
  TargetEngine engine;
  GroupMembership membership;
  bool serving = false;
  bool draining = false;
  bool waits_for_ranks = false;  // a step is under way that a rank does not finish
  TimePoint next_turn = TimePoint::max();
  std::unique_ptr<Heartbeats> heartbeats;
  std::map<std::string, std::shared_ptr<DraftStream>> links;  // by source name
  ServeCalls calls;
  // The oldest live sequence, and when it last got on.
  SequenceId oldest;
  SequenceId oldest_seen;
  int oldest_tokens = 0;
  int64_t oldest_steps = 0;
  std::vector<BlockTable> leaked;
};

SimulatedTarget::SimulatedTarget(World& world, Process*& router, Options options)
    : world_(world),
      router_(router),
      options_(std::move(options)),
      random_(world.random.Fork(22)),
      ranks_([this] {
        std::vector<Process*> ranks;
        for (int rank = 0; rank < options_.num_ranks; ++rank) {
          ranks.push_back(&world_.AddProcess(absl::StrCat(options_.id, "/", rank), [this, rank] {
            if (rank == 0) {
              TakeTotals();
              life_.reset();
            }
            if (!ranks_[rank]->silent) supervision_.OnEnded();
          }));
        }
        return ranks;
      }()),
      owned_supervision_(std::make_unique<Supervision>(world, ranks_, [this] { Start(); })),
      supervision_(*owned_supervision_) {}

SimulatedTarget::~SimulatedTarget() = default;

const TargetEngine* SimulatedTarget::engine() const {
  return life_ == nullptr || !life_->serving ? nullptr : &life_->engine;
}

void SimulatedTarget::TakeTotals() {
  if (life_ != nullptr) past_ = totals();
}

SimulatedTarget::Totals SimulatedTarget::totals() const {
  Totals totals = past_;
  if (life_ == nullptr) return totals;
  const SchedulerStats& stats = life_->engine.scheduler().stats();
  totals.num_preemptions += stats.num_preemptions;
  totals.num_rounds += stats.num_rounds;
  totals.num_steps += stats.num_steps;
  return totals;
}

void SimulatedTarget::set_slowness(double factor) {
  slowness_ = factor;
  if (life_ != nullptr) life_->model.set_slowness(factor);
}

void SimulatedTarget::Start() {
  for (int rank = 0; rank < options_.num_ranks; ++rank) {
    world_.Start(*ranks_[rank]);
    world_.queue.After(random_.Within(options_.start_ms, 3 * options_.start_ms), ranks_[rank],
                       [this, rank] { rank == 0 ? StartLeader() : StartFollower(rank); });
  }
}

void SimulatedTarget::StartLeader() {
  Process& leader = *ranks_[0];
  life_ = std::make_unique<Life>(options_, leader.life, world_.queue);
  life_->model.set_slowness(slowness_);
  world_.network.Listen(leader, kGroupService, {}, [this](StreamPtr stream) {
    // The follower's words; its stream's end is the epoch's.
    const auto rank = std::make_shared<int>(0);
    stream->on_message = [this, rank, stream](const Message& message) {
      const auto& said = static_cast<const v1::FollowerMessage&>(*message);
      if (said.has_hello()) {
        const absl::Status joined = life_->membership.Join({.rank = static_cast<int>(said.hello().rank()),
                                                            .world_size = static_cast<int>(said.hello().world_size()),
                                                            .incarnation = said.hello().incarnation(),
                                                            .numerics_id = said.hello().numerics_id(),
                                                            .num_kv_blocks_max = options_.model.num_blocks},
                                                           world_.queue.now());
        if (!joined.ok()) return stream->Close(joined);
        *rank = static_cast<int>(said.hello().rank());
        if (life_->membership.complete() && !life_->serving) Serve();
        return;
      }
      life_->membership.Progress(
          *rank, {.last_step = said.progress().last_step(), .step_under_way = said.progress().step_under_way()},
          world_.queue.now());
    };
    stream->on_closed = [this, rank](const absl::Status&) {
      life_->membership.Leave(*rank, "its stream ended");
      BreakIfLost();
    };
  });
  if (life_->membership.complete()) Serve();
  const auto tick = std::make_shared<std::function<void()>>();
  *tick = [this, weak = std::weak_ptr(tick)] {
    if (world_.sabotage != Sabotage::kSilentRankUnnoticed) life_->membership.Tick(world_.queue.now());
    BreakIfLost();
    if (const auto again = weak.lock()) world_.queue.After(kTickInterval, ranks_[0], [again] { (*again)(); });
  };
  if (options_.num_ranks > 1) (*tick)();
}

void SimulatedTarget::StartFollower(int rank) {
  Process& process = *ranks_[rank];
  // Before the leader listens it is refused, and comes again.
  const StreamPtr stream = world_.network.Connect(process, *ranks_[0], ranks_[0]->life, kGroupService, {});
  const auto joined = std::make_shared<bool>(false);
  stream->on_open = [this, rank, stream, joined, &process] {
    *joined = true;
    const auto hello = std::make_shared<v1::FollowerMessage>();
    hello->mutable_hello()->set_rank(static_cast<uint32_t>(rank));
    hello->mutable_hello()->set_world_size(static_cast<uint32_t>(options_.num_ranks));
    hello->mutable_hello()->set_incarnation(process.life);
    hello->mutable_hello()->set_numerics_id(options_.numerics_id);
    stream->Send(hello);
    const auto progress = std::make_shared<std::function<void()>>();
    *progress = [this, stream, &process, weak = std::weak_ptr(progress)] {
      if (!stream->is_open()) return;
      const auto said = std::make_shared<v1::FollowerMessage>();
      said->mutable_progress();
      stream->Send(said);
      if (const auto again = weak.lock()) world_.queue.After(kProgressInterval, &process, [again] { (*again)(); });
    };
    (*progress)();
  };
  stream->on_closed = [this, rank, joined, &process](const absl::Status&) {
    if (!*joined) {
      world_.queue.After(FromMillis(50), &process, [this, rank] { StartFollower(rank); });
      return;
    }
    world_.queue.At(world_.queue.now(), nullptr, [this, &process, life = process.life] {
      if (process.life == life) world_.End(process);
    });
  };
}

// The end of the epoch is the end of the process.
void SimulatedTarget::BreakIfLost() {
  if (life_->membership.broken()) Exit();
}

void SimulatedTarget::Exit() {
  world_.queue.At(world_.queue.now(), nullptr, [this, life = ranks_[0]->life] {
    if (ranks_[0]->life == life) world_.End(*ranks_[0]);
  });
}

void SimulatedTarget::Serve() {
  life_->serving = true;
  Process& leader = *ranks_[0];
  world_.Say(leader, "serve");
  life_->calls.Listen(world_, leader,
                      {.inbox = &life_->inbox,
                       .clock = &life_->clock,
                       .max_buffered_tokens = options_.max_buffered_tokens,
                       .incarnation = leader.life,
                       .posted = [this] { Kick(world_.queue.now()); }});
  life_->heartbeats = std::make_unique<Heartbeats>(
      world_, leader, *router_, [this] { return Status(); },
      [this](const v1::HeartbeatResponse& response) { Assign(response); });
  Kick(world_.queue.now());
}

void SimulatedTarget::Terminate() {
  if (life_ == nullptr || !life_->serving) return world_.End(*ranks_[0]);
  if (std::exchange(life_->draining, true)) return;
  world_.Say(*ranks_[0], "drain");
  life_->heartbeats->Hurry();
  life_->engine.Drain();
  Kick(world_.queue.now());
  world_.queue.After(options_.drain_max, ranks_[0], [this] {
    life_->engine.Stop();
    Kick(world_.queue.now());
  });
}

v1::HeartbeatRequest SimulatedTarget::Status() const {
  const EngineLoad load = life_->engine.load();
  v1::HeartbeatRequest request;
  request.set_worker_id(options_.id);
  request.set_incarnation(ranks_[0]->life);
  request.set_address(world_.AddressOf(*ranks_[0]));
  request.set_draining(life_->draining);
  v1::TargetGroupStatus& status = *request.mutable_target_group();
  status.set_epoch(life_->membership.epoch());
  status.set_model(kModelName);
  status.set_numerics_id(options_.numerics_id);
  status.set_tokenizer_fingerprint(kTokenizerFingerprint);
  status.set_max_model_len(static_cast<uint32_t>(options_.engine.scheduler.max_model_len));
  status.set_max_sequences(static_cast<uint32_t>(options_.engine.scheduler.max_sequences));
  status.set_serving(!life_->draining && !life_->waits_for_ranks && life_->engine.IsHealthy(options_.step_timeout));
  status.set_sequences_running(static_cast<uint32_t>(load.num_running));
  status.set_sequences_waiting(static_cast<uint32_t>(load.num_waiting));
  status.set_outstanding_tokens(static_cast<uint64_t>(load.num_outstanding_tokens));
  status.set_kv_cache_used_ratio(load.kv_used_ratio);
  return request;
}

// As worker/rpc/draft_connections.cc.
void SimulatedTarget::Assign(const v1::HeartbeatResponse& response) {
  std::map<std::string, std::string> wanted;
  for (const v1::DraftAssignment& assignment : response.draft_workers()) {
    wanted[absl::StrCat("assigned/", assignment.worker_id(), "/", assignment.incarnation(), "@",
                        assignment.address())] = assignment.address();
  }
  for (auto link = life_->links.begin(); link != life_->links.end();) {
    if (wanted.contains(link->first)) {
      ++link;
      continue;
    }
    (void)life_->inbox.Post(DetachSourceEvent{link->first});
    link->second->Stop();
    link = life_->links.erase(link);
  }
  for (const auto& [name, address] : wanted) {
    if (life_->links.contains(name)) continue;
    std::shared_ptr<DraftStream> link = DraftStream::Start(world_, *ranks_[0],
                                                           {.address = address,
                                                            .target_id = options_.id,
                                                            .incarnation = ranks_[0]->life,
                                                            .vocab_size = kVocabSize,
                                                            .wake = [this] { Kick(world_.queue.now()); }});
    life_->links[name] = link;
    (void)life_->inbox.Post(AttachSourceEvent{name, std::make_unique<DraftStreamSource>(std::move(link))});
  }
  Kick(world_.queue.now());
}

void SimulatedTarget::Kick(TimePoint when) {
  if (!life_->serving || life_->waits_for_ranks) return;
  when = std::max({when, world_.queue.now(), life_->clock.busy_until()});
  if (when >= life_->next_turn) return;
  life_->next_turn = when;
  world_.queue.At(when, ranks_[0], [this, when] {
    if (life_->next_turn == when) Turn();
  });
}

void SimulatedTarget::Turn() {
  life_->next_turn = TimePoint::max();
  life_->waits_for_ranks =
      std::any_of(ranks_.begin(), ranks_.end(), [](const Process* rank) { return rank->stopped || !rank->alive; });
  if (life_->waits_for_ranks) {
    // The collectives of a step hang until the rank is back, or somebody notices.
    for (const Process* rank : ranks_) {
      if (!rank->unresponsive_since.has_value()) continue;
      const Duration silent = world_.queue.now() - std::max(*rank->unresponsive_since, ranks_[0]->responsive_since);
      if (silent <= options_.silence_max + kRankSlack) continue;
      world_.Fail(options_.id, " waits for ", rank->name, ", which has been silent for ", ToMillis(silent), " ms");
    }
    world_.queue.After(kRankPoll, ranks_[0], [this] {
      if (!std::exchange(life_->waits_for_ranks, false)) return;
      Kick(world_.queue.now());
    });
    return;
  }
  const absl::StatusOr<TargetEngine::Next> next = life_->engine.Step();
  CheckTurn();
  if (!next.ok()) {
    if (!life_->model.fault().ok()) {
      world_.Fail(options_.id, " planned what can not be run: ", life_->model.fault().message());
    } else {
      world_.Fail(options_.id, " ended its epoch: ", next.status().message());
    }
    return Exit();
  }
  const EngineLoad load = life_->engine.load();
  world_.Say(*ranks_[0], "turn",
             {{"next", static_cast<int64_t>(*next)}, {"running", load.num_running}, {"waiting", load.num_waiting}});
  switch (*next) {
    case TargetEngine::Next::kTurn:
      return Kick(life_->clock.Now());
    case TargetEngine::Next::kSleep:
      return Kick(life_->engine.NextDeadline());
    case TargetEngine::Next::kEnd:
      // What was said last goes out before the end (RpcServer::Shutdown's grace).
      world_.queue.After(FromMillis(50), ranks_[0], [this] { Exit(); });
  }
}

void SimulatedTarget::CheckTurn() {
  const Scheduler& scheduler = life_->engine.scheduler();
  if (absl::Status status = scheduler.CheckInvariants(); !status.ok()) {
    world_.Fail(options_.id, ": ", status.message());
  }
  if (scheduler.num_waiting() > options_.engine.scheduler.max_waiting_sequences) {
    world_.Fail(options_.id, ": ", scheduler.num_waiting(), " sequences wait; at most ",
                options_.engine.scheduler.max_waiting_sequences, " may");
  }
  if (world_.sabotage == Sabotage::kLeaksBlock && life_->calls.num_cancels() > 0 && life_->leaked.empty()) {
    auto& kv = const_cast<KvAllocator&>(scheduler.kv());
    if (!kv.Reserve(life_->leaked.emplace_back(), 1)) life_->leaked.clear();
  }
  const int num_live = scheduler.num_running() + scheduler.num_waiting();
  if (num_live > life_->calls.num_wanted_lanes()) {
    world_.Fail(options_.id, " keeps ", num_live, " sequences alive, but only ", life_->calls.num_wanted_lanes(),
                " lanes are wanted of it");
  }
  // Lanes are taken in order, so the least number is the oldest.
  SequenceId oldest;
  if (num_live > 0) {
    oldest = std::max(SequenceId(1), life_->oldest_seen);
    while (scheduler.Find(oldest) == nullptr) ++oldest.value;
    life_->oldest_seen = oldest;
  }
  const Sequence* const sequence = scheduler.Find(oldest);
  const int num_tokens = sequence == nullptr ? 0 : sequence->num_tokens() + sequence->num_computed_tokens();
  if (oldest != life_->oldest || num_tokens != life_->oldest_tokens) {
    life_->oldest = oldest;
    life_->oldest_tokens = num_tokens;
    life_->oldest_steps = scheduler.stats().num_steps;
  } else if (oldest != SequenceId() && scheduler.stats().num_steps - life_->oldest_steps > kStarvationSteps) {
    world_.Fail(options_.id, ": sequence ", oldest.value, " starves: it is the oldest and has had nothing for ",
                kStarvationSteps, " steps");
  }
}

}  // namespace outrider::simulation
