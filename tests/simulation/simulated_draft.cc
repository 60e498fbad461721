#include "tests/simulation/simulated_draft.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <utility>

#include "base/metrics.h"
#include "base/status_macros.h"
#include "worker/rpc/proto_conversions.h"

namespace outrider::simulation {
namespace {

// As worker/rpc/draft_service.cc.
constexpr size_t kMaxWaitingProposals = 4096;
constexpr int kStreamWindow = 16;
// As worker/engine/drafter.cc: an idle loop looks so often.
constexpr Duration kIdleInterval = std::chrono::milliseconds(500);

}  // namespace

struct SimulatedDraft::Life {
  Life(const Options& options, const EventQueue& queue)
      : clock(queue), model(options.model, clock), metrics(registry), drafter(options.drafter, model, clock, metrics) {}
  MetricsRegistry registry;
  ProcessClock clock;
  FakeModel model;
  DrafterMetrics metrics;
  Drafter drafter;
  std::unique_ptr<Heartbeats> heartbeats;
  bool draining = false;
  TimePoint drain_until{};
  int num_clients = 0;
  TimePoint next_turn = TimePoint::max();
};

// One open stream (worker/rpc/draft_service.cc, Call and Client).
struct SimulatedDraft::Client final : public DraftClient, public std::enable_shared_from_this<Client> {
  Client(SimulatedDraft& d, StreamPtr s) : draft(d), stream(std::move(s)) {}

  void Send(std::vector<DraftProposal> from_turn, const DrafterLoad* load) override {
    for (DraftProposal& proposal : from_turn) proposals.push_back(std::move(proposal));
    while (proposals.size() > kMaxWaitingProposals) proposals.pop_front();
    has_load |= load != nullptr;
    // It leaves when the turn is over.
    draft.world_.queue.At(draft.life_->clock.Now(), &draft.process_, [self = shared_from_this()] { self->Write(); });
  }
  void BatchesTaken(int count) override {
    num_waiting_batches -= count;
    // Its reader goes on, outside of the turn.
    draft.world_.queue.At(draft.world_.queue.now(), &draft.process_, [self = shared_from_this()] {
      if (self->stream != nullptr && self->num_waiting_batches < Drafter::kMaxWaitingBatches) self->stream->Resume();
    });
  }

  void Write() {
    if (stream == nullptr || writing || (!says_hello && proposals.empty() && !has_load)) return;
    const auto events = std::make_shared<v1::DraftEvents>();
    if (std::exchange(says_hello, false)) {
      events->mutable_hello()->set_protocol_version(1);
      events->mutable_hello()->set_draft_id(draft.options_.id);
      events->mutable_hello()->set_tokenizer_fingerprint(kTokenizerFingerprint);
      events->mutable_hello()->set_vocab_size(kVocabSize);
      events->mutable_hello()->set_incarnation(draft.process_.life);
      events->mutable_hello()->set_runs_ahead(draft.options_.drafter.run_ahead);
    } else {
      for (const DraftProposal& proposal : proposals) {
        ProposalToProto(proposal, events->mutable_batch()->add_proposals());
      }
      proposals.clear();
      has_load = false;
      events->mutable_batch()->mutable_load();
      draft.Spoil(*events->mutable_batch());
    }
    writing = true;
    stream->Send(events);
  }

  SimulatedDraft& draft;
  StreamPtr stream;
  std::optional<DraftClientId> id;
  std::deque<DraftProposal> proposals;
  int num_waiting_batches = 0;
  bool has_load = false;
  bool says_hello = false;
  bool writing = false;
};

SimulatedDraft::SimulatedDraft(World& world, Process*& router, Options options)
    : world_(world),
      router_(router),
      options_(std::move(options)),
      random_(world.random.Fork(21)),
      process_(world.AddProcess(options_.id,
                                [this] {
                                  life_.reset();
                                  if (!process_.silent) supervision_.OnEnded();
                                })),
      supervision_(world, {&process_}, [this] { Start(); }) {}

SimulatedDraft::~SimulatedDraft() = default;

const Drafter* SimulatedDraft::drafter() const { return life_ == nullptr ? nullptr : &life_->drafter; }

void SimulatedDraft::Start() {
  world_.Start(process_);
  world_.queue.After(random_.Within(options_.start_ms, 2 * options_.start_ms), &process_, [this] { Serve(); });
}

void SimulatedDraft::Serve() {
  life_ = std::make_unique<Life>(options_, world_.queue);
  life_->model.set_slowness(slowness_);
  world_.network.Listen(process_, kDraftService, {.window = kStreamWindow},
                        [this](StreamPtr stream) { Accept(std::move(stream)); });
  life_->heartbeats = std::make_unique<Heartbeats>(
      world_, process_, *router_, [this] { return Status(); }, [](const v1::HeartbeatResponse&) {});
  Kick(world_.queue.now());
}

void SimulatedDraft::set_slowness(double factor) {
  slowness_ = factor;
  if (life_ != nullptr) life_->model.set_slowness(factor);
}

void SimulatedDraft::Terminate() {
  if (life_ == nullptr) return world_.End(process_);
  if (std::exchange(life_->draining, true)) return;
  world_.Say(process_, "drain");
  const TimePoint deadline = world_.queue.now() + options_.drain_max;
  life_->drafter.Drain(deadline);
  life_->drain_until = deadline;
  life_->heartbeats->Hurry();
  ExitIfDrained();
}

// As Drafter::Run.
void SimulatedDraft::ExitIfDrained() {
  if (life_->num_clients > 0 && world_.queue.now() < life_->drain_until) {
    world_.queue.After(FromMillis(20), &process_, [this] { ExitIfDrained(); });
    return;
  }
  world_.queue.At(world_.queue.now(), nullptr, [this, life = process_.life] {
    if (process_.life == life) world_.End(process_);
  });
}

v1::HeartbeatRequest SimulatedDraft::Status() const {
  v1::HeartbeatRequest request;
  request.set_worker_id(options_.id);
  request.set_incarnation(process_.life);
  request.set_address(world_.AddressOf(process_));
  request.set_draining(life_->draining);
  const DrafterLoad load = life_->drafter.load();
  v1::DraftWorkerStatus& status = *request.mutable_draft_worker();
  status.set_model("draft");
  status.set_tokenizer_fingerprint(kTokenizerFingerprint);
  status.set_vocab_size(kVocabSize);
  status.set_max_sequences(static_cast<uint32_t>(options_.drafter.max_sequences));
  status.set_sequences(static_cast<uint32_t>(load.num_sequences));
  status.set_queued_tokens(static_cast<uint32_t>(load.num_queued_tokens));
  status.set_tokens_per_second(load.tokens_per_second);
  return request;
}

void SimulatedDraft::Accept(StreamPtr stream) {
  const auto client = std::make_shared<Client>(*this, stream);
  stream->on_message = [this, client](const Message& message) {
    const auto& commands = static_cast<const v1::DraftCommands&>(*message);
    if (commands.has_hello()) {
      const absl::StatusOr<DraftClientId> id = life_->drafter.Attach(client);
      if (!id.ok()) return client->stream->Close(id.status());
      client->id = *id;
      ++life_->num_clients;
      client->says_hello = true;
      client->Write();
      Kick(world_.queue.now());
      return;
    }
    if (!client->id.has_value()) return client->stream->Close(absl::InvalidArgumentError("commands before the hello"));
    std::vector<DraftCommand> batch;
    for (const v1::DraftCommand& command : commands.batch().commands()) {
      if (std::optional<DraftCommand> converted = DraftCommandFromProto(command))
        batch.push_back(*std::move(converted));
    }
    if (++client->num_waiting_batches >= Drafter::kMaxWaitingBatches) client->stream->Pause();
    if (absl::Status status = life_->drafter.Post(*client->id, std::move(batch)); !status.ok()) {
      world_.Fail(process_.name, " refuses a batch that its reader let in: ", status.message());
    }
    Kick(world_.queue.now());
  };
  stream->on_written = [client](bool ok) {
    client->writing = false;
    if (ok) client->Write();
  };
  stream->on_closed = [this, client](const absl::Status&) {
    if (client->id.has_value()) {
      life_->drafter.Detach(*client->id);
      --life_->num_clients;
    }
    client->stream.reset();
    Kick(world_.queue.now());
  };
}

void SimulatedDraft::Kick(TimePoint when) {
  when = std::max({when, world_.queue.now(), life_->clock.busy_until()});
  if (when >= life_->next_turn) return;
  life_->next_turn = when;
  world_.queue.At(when, &process_, [this, when] {
    if (life_->next_turn == when) Turn();
  });
}

void SimulatedDraft::Turn() {
  life_->next_turn = TimePoint::max();
  const absl::StatusOr<bool> busy = life_->drafter.RunTurn();
  if (!busy.ok()) {
    world_.Fail(process_.name, " ended its drafter: ", busy.status().message());
    return;
  }
  const DrafterLoad load = life_->drafter.load();
  world_.Say(process_, "draft_turn", {{"busy", *busy}, {"sequences", load.num_sequences}});
  if (load.num_sequences > options_.drafter.max_sequences) world_.Fail(process_.name, " holds too many sequences");
  Kick(*busy ? life_->clock.Now() : world_.queue.now() + kIdleInterval);
}

void SimulatedDraft::Spoil(v1::DraftEventBatch& batch) {
  if (lies_ <= 0) return;
  const int num_proposals = batch.proposals_size();
  for (int i = 0; i < num_proposals; ++i) {
    if (!random_.Chance(lies_)) continue;
    ++num_lies_;
    v1::Proposal& proposal = *batch.mutable_proposals(i);
    auto* const ids = proposal.paths_size() > 0 ? proposal.mutable_paths(0)->mutable_token_ids() : nullptr;
    const int which = random_.Below(14);
    if (which < 6 && (ids == nullptr || ids->empty())) continue;
    switch (which) {
      case 0:
        ids->Set(random_.Below(ids->size()), -1);
        break;
      case 1:
        ids->Set(random_.Below(ids->size()), kVocabSize + random_.Below(1000));
        break;
      case 2:
        ids->Set(0, std::numeric_limits<int32_t>::max());
        break;
      case 3:  // plausible, and wrong
        ids->Set(random_.Below(ids->size()), 'a' + random_.Below(26));
        break;
      case 4:
        for (int n = 20000; n > 0; --n) ids->Add('a');
        break;
      case 5:
        for (int32_t& id : *ids) id = 'a' + random_.Below(6);
        break;
      case 6:
        proposal.set_epoch(proposal.epoch() + 1 + random_.Below(3));
        break;
      case 7:
        proposal.set_base_position(static_cast<uint32_t>(random_.Below(200)));
        break;
      case 8:
        proposal.set_base_position(std::numeric_limits<uint32_t>::max());
        break;
      case 9:  // another's
        proposal.set_sequence(1 + random_.Below(64));
        break;
      case 10:
        proposal.clear_paths();
        break;
      case 11: {  // twice, the second time late within the batch: out of order
        *batch.add_proposals() = proposal;
        break;
      }
      case 12:
        for (int copies = 50; copies > 0; --copies) *batch.add_proposals() = batch.proposals(i);
        break;
      default:  // silence
        proposal.set_sequence(0);
        break;
    }
  }
}

}  // namespace outrider::simulation
