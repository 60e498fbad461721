#include "worker/engine/drafter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

// Spans of so many tokens go with the drafts: a commit's few tokens, not a prompt.
constexpr int kShortSpan = 16;
// How often a load goes out, and an idle loop looks for expired leases.
constexpr Duration kLoadInterval = std::chrono::milliseconds(500);
// Weight of the newest step in the measured draft speed.
constexpr double kSpeedGain = 0.05;

DrafterDropReason ReasonOf(DraftSequence::CommitOutcome outcome) {
  switch (outcome) {
    case DraftSequence::CommitOutcome::kGap:
      return DrafterDropReason::kGap;
    case DraftSequence::CommitOutcome::kTooLong:
      return DrafterDropReason::kTooLong;
    default:
      return DrafterDropReason::kContradiction;
  }
}

}  // namespace

struct Drafter::Entry {
  explicit Entry(DraftSequence::Start start) : sequence(std::move(start)) {}
  DraftSequence sequence;
  TimePoint heard{};
  TimePoint asked{};            // when the wanted draft was asked for
  uint64_t order = 0;           // its place in wanting_; 0: not in it
  std::vector<BlockId> blocks;  // hold positions [0, blocks.size() * block_size)
  int num_blocks_told = 0;      // of them the mirror knows
  uint64_t step = 0;            // that planned it last
  std::optional<TraceContext> trace;
  uint32_t lane = 0;
  int num_rounds = 0;  // answered, with a trace
  int num_computed_when_asked = 0;
};

Drafter::Drafter(const Options& options, StepBackend& backend, const Clock& clock, DrafterMetrics& metrics)
    : options_(options), backend_(backend), clock_(clock), metrics_(metrics) {
  CHECK(options.block_size > 0 && options.num_blocks > 0 && options.max_step_tokens > 0);
  // Low numbers first.
  for (BlockId block = options.num_blocks - 1; block >= 0; --block) free_blocks_.push_back(block);
}

Drafter::~Drafter() = default;

absl::StatusOr<DraftClientId> Drafter::Attach(std::shared_ptr<DraftClient> client) {
  MutexLock lock(mu_);
  if (drain_until_) return absl::UnavailableError("draining: this draft worker takes no new streams");
  if (static_cast<int>(waiting_batches_.size()) >= kMaxClients) {
    return absl::ResourceExhaustedError(absl::StrCat("this draft worker serves ", kMaxClients, " streams already"));
  }
  const DraftClientId id = ++last_client_;
  waiting_batches_[id] = 0;
  posted_.push_back({.client = id, .attached = std::move(client)});
  posted_changed_.NotifyAll();
  return id;
}

void Drafter::Detach(DraftClientId client) {
  MutexLock lock(mu_);
  if (waiting_batches_.erase(client) == 0) return;
  posted_.push_back({.client = client, .detached = true});
  posted_changed_.NotifyAll();
}

absl::Status Drafter::Post(DraftClientId client, std::vector<DraftCommand> commands) {
  MutexLock lock(mu_);
  const auto waiting = waiting_batches_.find(client);
  if (waiting == waiting_batches_.end()) return absl::FailedPreconditionError("the client is not attached");
  if (waiting->second >= kMaxWaitingBatches) {
    return absl::ResourceExhaustedError(absl::StrCat(kMaxWaitingBatches, " batches wait already"));
  }
  ++waiting->second;
  posted_.push_back({.client = client, .commands = std::move(commands)});
  posted_changed_.NotifyAll();
  return absl::OkStatus();
}

void Drafter::Stop() {
  MutexLock lock(mu_);
  stopped_ = true;
  posted_changed_.NotifyAll();
}

void Drafter::Drain(TimePoint deadline) {
  MutexLock lock(mu_);
  if (!drain_until_) drain_until_ = deadline;
  posted_changed_.NotifyAll();
}

bool Drafter::IsDraining() const {
  MutexLock lock(mu_);
  return drain_until_.has_value();
}

DrafterLoad Drafter::load() const {
  MutexLock lock(mu_);
  return load_;
}

bool Drafter::IsHealthy(Duration patience) const {
  MutexLock lock(mu_);
  return !step_began_ || clock_.Now() - *step_began_ < patience;
}

absl::Status Drafter::Run() {
  while (true) {
    ASSIGN_OR_RETURN(const bool busy, RunTurn());
    MutexLock lock(mu_);
    const auto is_over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return stopped_ || (drain_until_ && (waiting_batches_.empty() || clock_.Now() >= *drain_until_));
    };
    if (!busy && posted_.empty() && !is_over()) {
      const TimePoint look_again = std::chrono::steady_clock::now() + kLoadInterval;
      posted_changed_.WaitUntil(mu_, drain_until_ ? std::min(look_again, *drain_until_) : look_again);
    }
    if (is_over()) return absl::OkStatus();
  }
}

absl::StatusOr<bool> Drafter::RunTurn() {
  const TimePoint now = clock_.Now();
  TakePosted(now);
  ForgetExpired(now);
  CollectReady(now);
  std::vector<Planned> planned;
  const StepPlan plan = PlanStep(planned);
  if (!planned.empty()) {
    SetStepBegan(now);
    RETURN_IF_ERROR(backend_.Submit(plan));
    ASSIGN_OR_RETURN(const StepResult result, backend_.Collect());
    ApplyResult(result, planned, clock_.Now() - now);
    CollectReady(clock_.Now());
    SetStepBegan(std::nullopt);
  }
  PublishLoad();
  SendAll(now);
  return !planned.empty();
}

void Drafter::SetStepBegan(std::optional<TimePoint> when) {
  MutexLock lock(mu_);
  step_began_ = when;
}

void Drafter::TakePosted(TimePoint now) {
  std::vector<Posted> posted;
  {
    MutexLock lock(mu_);
    posted.swap(posted_);
    for (const Posted& item : posted) {
      const auto waiting = waiting_batches_.find(item.client);
      if (waiting != waiting_batches_.end() && item.attached == nullptr) --waiting->second;
    }
  }
  for (Posted& item : posted) {
    if (item.attached != nullptr) {
      clients_[item.client] = std::move(item.attached);
      next_load_ = now;  // a new client is told at once
      continue;
    }
    const auto client = clients_.find(item.client);
    if (client == clients_.end()) continue;
    if (item.detached) {
      clients_.erase(client);
      outgoing_.erase(item.client);
      std::vector<Key> gone;
      for (const auto& [key, entry] : sequences_) {
        if (key.client == item.client) gone.push_back(key);
      }
      for (const Key& key : gone) Forget(key);
      continue;
    }
    metrics_.CommandsTaken(static_cast<int>(item.commands.size()));
    for (DraftCommand& command : item.commands) Take({item.client, command.sequence}, std::move(command), now);
    client->second->BatchesTaken(1);
  }
}

void Drafter::Take(const Key& key, DraftCommand command, TimePoint now) {
  if (auto* open = std::get_if<DraftOpen>(&command.command)) return Open(key, command.epoch, std::move(*open), now);
  const auto found = sequences_.find(key);
  if (found == sequences_.end()) return metrics_.Dropped(DrafterDropReason::kUnknownSequence);
  Entry& entry = *found->second;
  if (command.epoch != entry.sequence.epoch()) return metrics_.Dropped(DrafterDropReason::kStaleEpoch);
  entry.heard = now;
  if (const auto* commit = std::get_if<DraftCommit>(&command.command)) {
    return Commit(key, entry, *commit, now);
  }
  Forget(key);
}

bool Drafter::TokensAreValid(const std::vector<TokenId>& tokens) const {
  return std::all_of(tokens.begin(), tokens.end(),
                     [this](TokenId token) { return token >= 0 && token < options_.vocab_size; });
}

void Drafter::Open(const Key& key, uint32_t epoch, DraftOpen open, TimePoint now) {
  const auto known = sequences_.find(key);
  if (known != sequences_.end()) {
    if (epoch <= known->second->sequence.epoch()) return metrics_.Dropped(DrafterDropReason::kStaleEpoch);
    Forget(key);
  }
  if (IsDraining()) return metrics_.Dropped(DrafterDropReason::kDraining);
  if (static_cast<int>(sequences_.size()) >= options_.max_sequences) {
    return metrics_.Dropped(DrafterDropReason::kTooManySequences);
  }
  if (open.prompt.empty() || open.prompt.size() + open.output.size() > static_cast<size_t>(options_.max_model_len)) {
    return metrics_.Dropped(DrafterDropReason::kTooLong);
  }
  if (!TokensAreValid(open.prompt) || !TokensAreValid(open.output)) {
    return metrics_.Dropped(DrafterDropReason::kTokenOutOfRange);
  }
  if (!Validate(open.params, options_.vocab_size).ok()) return metrics_.Dropped(DrafterDropReason::kBadParams);
  // A draft is chosen with the noise that the target uses, whatever the target's rule of acceptance.
  open.params.acceptance = Acceptance::kCoupled;
  open.params.num_logprobs = -1;
  open.params.num_prompt_logprobs = -1;
  const uint32_t lane = open.params.lane;
  auto entry = std::make_unique<Entry>(DraftSequence::Start{.epoch = epoch,
                                                            .prompt = std::move(open.prompt),
                                                            .output = std::move(open.output),
                                                            .params = std::move(open.params),
                                                            .max_model_len = options_.max_model_len});
  entry->heard = now;
  entry->trace = open.trace;
  entry->lane = lane;
  Want(key, *entry, open.lookahead, now);
  sequences_[key] = std::move(entry);
}

void Drafter::Commit(const Key& key, Entry& entry, const DraftCommit& commit, TimePoint now) {
  if (!TokensAreValid(commit.tokens)) return metrics_.Dropped(DrafterDropReason::kTokenOutOfRange);
  if (commit.first_position > options_.max_model_len) return metrics_.Dropped(DrafterDropReason::kTooLong);
  const auto outcome = entry.sequence.Commit(static_cast<int>(commit.first_position), commit.tokens);
  if (outcome != DraftSequence::CommitOutcome::kTaken) return metrics_.Dropped(ReasonOf(outcome));
  Want(key, entry, commit.lookahead, now);
}

void Drafter::Want(const Key& key, Entry& entry, int64_t lookahead, TimePoint now) {
  entry.sequence.WantDraft(static_cast<int>(std::clamp<int64_t>(lookahead, 0, kMaxLookahead)));
  if (!entry.sequence.wants_draft()) return;
  entry.asked = now;
  entry.num_computed_when_asked = entry.sequence.num_computed();
  if (entry.order != 0) return;  // keeps its place
  Enqueue(key, entry, wanting_);
}

void Drafter::Enqueue(const Key& key, Entry& entry, std::vector<Wanting>& wanting) {
  entry.order = ++last_order_;
  wanting.push_back({key, entry.order});
}

void Drafter::Forget(const Key& key) {
  const auto found = sequences_.find(key);
  if (found == sequences_.end()) return;
  DropKv(*found->second);
  sequences_.erase(found);
}

void Drafter::ForgetExpired(TimePoint now) {
  if (now < next_expiry_) return;
  next_expiry_ = now + kLoadInterval;
  std::vector<Key> expired;
  for (const auto& [key, entry] : sequences_) {
    if (now - entry->heard > options_.lease) expired.push_back(key);
  }
  for (const Key& key : expired) Forget(key);
}

void Drafter::DropKv(Entry& entry) {
  if (entry.sequence.mirror() != SequenceId()) ended_mirrors_.push_back(entry.sequence.mirror());
  free_blocks_.insert(free_blocks_.end(), entry.blocks.rbegin(), entry.blocks.rend());
  entry.blocks.clear();
  entry.num_blocks_told = 0;
  entry.sequence.DropKv();
}

Drafter::Entry* Drafter::FindWanting(const Wanting& item) {
  const auto found = sequences_.find(item.key);
  if (found == sequences_.end() || found->second->order != item.order) return nullptr;
  return found->second.get();
}

StepPlan Drafter::PlanStep(std::vector<Planned>& planned) {
  StepPlan plan;
  ++last_step_;
  int budget = options_.max_step_tokens;
  const auto is_short = [](const Entry& entry) { return entry.sequence.num_tokens_to_compute() <= kShortSpan; };

  // Drafts first; a share is kept for those that catch up, so that they are not held back for good.
  const bool any_long = std::any_of(wanting_.begin(), wanting_.end(), [&](const Wanting& item) {
    const Entry* entry = FindWanting(item);
    return entry != nullptr && !is_short(*entry) && !entry->sequence.drafts_ahead();
  });
  const int kept = any_long ? std::min(kCatchUpTokensBesideDrafts, options_.max_step_tokens / 4) : 0;
  for (const Wanting& item : wanting_) {
    Entry* const entry = FindWanting(item);
    if (entry == nullptr || !is_short(*entry) || entry->sequence.num_tokens_to_compute() == 0) continue;
    if (entry->sequence.drafts_ahead()) continue;
    const int num_tokens = std::min(entry->sequence.num_tokens_to_compute(), budget - kept);
    if (num_tokens <= 0) break;
    if (PlanSpan(item.key, *entry, num_tokens, plan, planned)) budget -= num_tokens;
  }
  if (!planned.empty()) budget = std::min(budget, kCatchUpTokensBesideDrafts);
  for (const Wanting& item : wanting_) {
    Entry* const entry = FindWanting(item);
    if (entry == nullptr || is_short(*entry) || entry->sequence.drafts_ahead()) continue;
    const int num_tokens = std::min(entry->sequence.num_tokens_to_compute(), budget);
    if (num_tokens <= 0) break;
    if (PlanSpan(item.key, *entry, num_tokens, plan, planned)) budget -= num_tokens;
  }
  // What nobody asked for goes last, and only with what is in the cache already.
  for (const Wanting& item : wanting_) {
    Entry* const entry = FindWanting(item);
    if (entry == nullptr || !entry->sequence.drafts_ahead() || !is_short(*entry)) continue;
    const int num_tokens = entry->sequence.num_tokens_to_compute();
    if (num_tokens == 0 || num_tokens > budget) continue;
    if (PlanSpan(item.key, *entry, num_tokens, plan, planned)) budget -= num_tokens;
  }
  if (planned.empty()) return {};
  plan.step = StepId(last_step_);
  plan.ends = std::exchange(ended_mirrors_, {});
  return plan;
}

bool Drafter::PlanSpan(const Key& key, Entry& entry, int num_tokens, StepPlan& plan, std::vector<Planned>& planned) {
  if (!ReserveBlocks(entry, entry.sequence.num_computed() + num_tokens)) return false;
  DraftSequence& sequence = entry.sequence;
  if (sequence.needs_start()) {
    if (sequence.mirror() != SequenceId()) ended_mirrors_.push_back(sequence.mirror());
    plan.starts.push_back(sequence.StartMirror(SequenceId(++last_mirror_)));
    entry.num_blocks_told = 0;
  }
  const bool samples = num_tokens == sequence.num_tokens_to_compute();
  plan.spans.push_back(
      {.sequence = sequence.mirror(),
       .first_position = sequence.num_computed(),
       .num_committed_tokens = num_tokens,
       .samples = samples,
       .first_block_index = entry.num_blocks_told,
       .blocks = std::vector<BlockId>(entry.blocks.begin() + entry.num_blocks_told, entry.blocks.end())});
  entry.num_blocks_told = static_cast<int>(entry.blocks.size());
  entry.step = last_step_;
  planned.push_back({key, num_tokens, samples});
  return true;
}

bool Drafter::ReserveBlocks(Entry& entry, int num_positions) {
  const size_t num_blocks = (num_positions + options_.block_size - 1) / options_.block_size;
  if (num_blocks > static_cast<size_t>(options_.num_blocks)) {
    // More than all there is: no draft for it, ever.
    metrics_.Dropped(DrafterDropReason::kNoKvBlocks);
    DropKv(entry);
    return false;
  }
  while (free_blocks_.size() + entry.blocks.size() < num_blocks) {
    Entry* const victim = FindVictim(entry);
    if (victim == nullptr) return false;
    if (victim->sequence.wants_draft() && !victim->sequence.drafts_ahead())
      metrics_.Dropped(DrafterDropReason::kNoKvBlocks);
    metrics_.KvDropped();
    DropKv(*victim);
  }
  while (entry.blocks.size() < num_blocks) {
    entry.blocks.push_back(free_blocks_.back());
    free_blocks_.pop_back();
  }
  return true;
}

// Who gives its blocks up for `entry`: of those not in this step, who wants nothing and is longest unheard of; else who
// asked after `entry` did, the last first, so that the first in line always comes through.
Drafter::Entry* Drafter::FindVictim(const Entry& entry) {
  Entry* idle = nullptr;
  Entry* later = nullptr;
  for (const auto& [key, other] : sequences_) {
    if (other->blocks.empty() || other->step == last_step_ || other.get() == &entry) continue;
    if (!other->sequence.wants_draft() || other->sequence.drafts_ahead()) {
      if (idle == nullptr || other->heard < idle->heard) idle = other.get();
    } else if (other->order > entry.order) {
      if (later == nullptr || other->order > later->order) later = other.get();
    }
  }
  return idle != nullptr ? idle : later;
}

void Drafter::ApplyResult(const StepResult& result, const std::vector<Planned>& planned, Duration elapsed) {
  CHECK(result.spans.size() == planned.size());
  int num_tokens = 0;
  int num_drafted = 0;
  for (size_t i = 0; i < planned.size(); ++i) {
    const SpanResult& span = result.spans[i];
    Entry& entry = *sequences_.at(planned[i].key);
    num_tokens += planned[i].num_tokens;
    if (!planned[i].samples) {
      entry.sequence.Computed(planned[i].num_tokens, -1, false);
    } else if (span.not_finite || span.tokens.empty()) {
      metrics_.Dropped(DrafterDropReason::kNotFinite);
      DropKv(entry);
    } else {
      entry.sequence.Computed(planned[i].num_tokens, span.tokens.front(), span.finish.has_value());
      ++num_drafted;
    }
  }
  metrics_.StepTook(elapsed, num_tokens, num_drafted);
  const double seconds = std::chrono::duration<double>(elapsed).count();
  if (num_drafted > 0 && seconds > 0) tokens_per_second_ += kSpeedGain * (num_drafted / seconds - tokens_per_second_);
}

void Drafter::CollectReady(TimePoint now) {
  std::vector<Wanting> still_wanting;
  for (const Wanting& item : wanting_) {
    Entry* const entry = FindWanting(item);
    if (entry == nullptr) continue;
    if (entry->sequence.wants_draft() && !entry->sequence.draft_is_ready()) {
      still_wanting.push_back(item);
      continue;
    }
    entry->order = 0;
    if (!entry->sequence.wants_draft()) continue;
    const bool was_ahead = entry->sequence.drafts_ahead();
    if (was_ahead) {
      metrics_.ProposedAhead();
    } else {
      metrics_.Proposed(now - entry->asked);
    }
    DraftPath path = entry->sequence.TakeDraft();
    if (!was_ahead) RecordRound(*entry, now, static_cast<int>(path.tokens.size()));
    const bool goes_on = options_.run_ahead && !was_ahead && !path.tokens.empty();
    outgoing_[item.key.client].push_back(
        {.sequence = item.key.sequence, .epoch = entry->sequence.epoch(), .path = std::move(path)});
    if (!goes_on) continue;
    entry->sequence.DraftAhead();
    Enqueue(item.key, *entry, still_wanting);
  }
  wanting_ = std::move(still_wanting);
}

// A draft that was asked for is ready: the round, as a span.
void Drafter::RecordRound(Entry& entry, TimePoint now, int num_draft_tokens) {
  if (options_.tracer == nullptr || !entry.trace.has_value() || entry.num_rounds++ >= kMaxTracedRounds) return;
  const WallClock wall_clock(clock_.Now(), std::chrono::system_clock::now());
  std::vector<TraceSpan> spans(1);
  TraceSpan& span = spans.front();
  span.trace = entry.trace->trace;
  span.id = options_.tracer->NewSpanId();
  span.parent = entry.trace->span;
  span.parent_is_remote = true;
  span.name = "draft.round";
  span.start_unix_ns = wall_clock.UnixNanos(entry.asked);
  span.end_unix_ns = wall_clock.UnixNanos(std::max(entry.asked, now));
  span.attributes.reserve(4);
  span.attributes.emplace_back("outrider.choice", int64_t{entry.lane});
  span.attributes.emplace_back("outrider.round", int64_t{entry.num_rounds});
  span.attributes.emplace_back("outrider.draft_tokens", int64_t{num_draft_tokens});
  span.attributes.emplace_back("outrider.computed_tokens",
                               int64_t{std::max(0, entry.sequence.num_computed() - entry.num_computed_when_asked)});
  options_.tracer->Record(std::move(spans));
}

void Drafter::PublishLoad() {
  DrafterLoad load;
  load.num_sequences = static_cast<int>(sequences_.size());
  for (const Wanting& item : wanting_) {
    const Entry* const entry = FindWanting(item);
    if (entry == nullptr || entry->sequence.drafts_ahead()) continue;
    load.num_queued_tokens += entry->sequence.num_tokens_to_compute();
  }
  load.tokens_per_second = static_cast<float>(tokens_per_second_);
  load.kv_used_ratio = 1.0f - static_cast<float>(free_blocks_.size()) / static_cast<float>(options_.num_blocks);
  metrics_.LoadIs(load.num_sequences, load.kv_used_ratio);
  MutexLock lock(mu_);
  load_ = load;
}

void Drafter::SendAll(TimePoint now) {
  const bool tells_load = now >= next_load_;
  if (tells_load) next_load_ = now + kLoadInterval;
  const DrafterLoad load = this->load();
  for (const auto& [id, client] : clients_) {
    const auto proposals = outgoing_.find(id);
    if (proposals == outgoing_.end() && !tells_load) continue;
    client->Send(proposals == outgoing_.end() ? std::vector<DraftProposal>() : std::move(proposals->second),
                 tells_load ? &load : nullptr);
  }
  outgoing_.clear();
}

}  // namespace outrider
