#include "worker/scheduler/scheduler.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/scheduler/scheduler_entry.h"

namespace outrider {

static_assert(kMaxRoundDraft == kMaxLookahead);

bool Scheduler::ByRank::operator()(const Entry* a, const Entry* b) const {
  return a->rank != b->rank ? a->rank < b->rank : a->id() < b->id();
}

absl::Status Scheduler::Validate(const SchedulerOptions& options) {
  const auto positive = [](const char* name, double value) {
    if (value > 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(name, " = ", value, " must be positive"));
  };
  RETURN_IF_ERROR(positive("vocab_size", options.vocab_size));
  RETURN_IF_ERROR(positive("max_model_len", options.max_model_len));
  RETURN_IF_ERROR(positive("num_blocks", options.num_blocks));
  RETURN_IF_ERROR(positive("block_size", options.block_size));
  RETURN_IF_ERROR(positive("max_sequences", options.max_sequences));
  RETURN_IF_ERROR(positive("max_waiting_sequences", options.max_waiting_sequences));
  RETURN_IF_ERROR(positive("max_step_tokens", options.max_step_tokens));
  return positive("step_time_ms_max", options.step_time_ms_max);
}

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options),
      max_running_(std::min(options.max_sequences, options.max_step_tokens)),
      kv_({.num_blocks = options.num_blocks, .block_size = options.block_size, .prefix_cache = options.prefix_cache}) {
  CHECK(Validate(options).ok());
  for (std::unique_ptr<Outstanding>& step : steps_) step = std::make_unique<Outstanding>();
}

Scheduler::~Scheduler() = default;

// ---- Events

absl::Status Scheduler::ValidateRequest(const Request& request) const {
  const auto check_ids = [this](const char* what, const std::vector<TokenId>& ids) {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= 0 && ids[i] < options_.vocab_size) continue;
      return absl::InvalidArgumentError(absl::StrCat(what, " token ", i, " has id ", ids[i],
                                                     "; the vocabulary has ids 0 to ", options_.vocab_size - 1));
    }
    return absl::OkStatus();
  };
  if (request.prompt.empty()) return absl::InvalidArgumentError("the prompt has no tokens");
  const int64_t num_prompt_tokens = static_cast<int64_t>(request.prompt.size());
  if (num_prompt_tokens >= options_.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", num_prompt_tokens, " tokens; prompt and output ",
                                                   "together have at most ", options_.max_model_len));
  }
  RETURN_IF_ERROR(outrider::Validate(request.params, options_.vocab_size));
  const int64_t num_tokens_max = num_prompt_tokens + request.params.max_tokens;
  if (num_tokens_max > options_.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat("prompt tokens (", num_prompt_tokens, ") and max_tokens (",
                                                   request.params.max_tokens, ") together are more than the ",
                                                   options_.max_model_len, " tokens of the context"));
  }
  if (kv_.BlocksFor(static_cast<int>(num_tokens_max)) > kv_.num_blocks()) {
    return absl::InvalidArgumentError(absl::StrCat("prompt tokens (", num_prompt_tokens, ") and max_tokens (",
                                                   request.params.max_tokens, ") together need more than the ",
                                                   kv_.num_blocks() * options_.block_size,
                                                   " positions of the KV cache (kv_cache_bytes)"));
  }
  RETURN_IF_ERROR(check_ids("prompt", request.prompt));
  RETURN_IF_ERROR(check_ids("prediction", request.prediction));
  if (static_cast<int64_t>(request.prediction.size()) > options_.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat("the prediction has ", request.prediction.size(),
                                                   " tokens; at most the ", options_.max_model_len,
                                                   " of the context are of use"));
  }
  const int64_t num_prompt_logprobs = num_prompt_tokens * (1 + request.params.num_prompt_logprobs);
  if (num_prompt_logprobs > kMaxPromptLogprobs) {
    return absl::InvalidArgumentError(absl::StrCat("num_prompt_logprobs = ", request.params.num_prompt_logprobs,
                                                   " for ", num_prompt_tokens, " prompt tokens makes ",
                                                   num_prompt_logprobs, " logprobs; at most ", kMaxPromptLogprobs));
  }
  if (request.lookahead < Request::kAutoLookahead || request.lookahead > kMaxLookahead) {
    return absl::InvalidArgumentError(
        absl::StrCat("lookahead = ", request.lookahead, " is out of range; it takes -1 (auto) to ", kMaxLookahead));
  }
  if (request.lanes.empty() || request.lanes.size() > kMaxLanes) {
    return absl::InvalidArgumentError(
        absl::StrCat("n = ", request.lanes.size(), " choices; a request has 1 to ", kMaxLanes));
  }
  std::set<uint32_t> lanes;
  for (const RequestLane& lane : request.lanes) {
    if (!lanes.insert(lane.lane).second) {
      return absl::InvalidArgumentError(absl::StrCat("lane ", lane.lane, " is named twice"));
    }
    if (static_cast<int64_t>(lane.output.size()) > request.params.max_tokens) {
      return absl::InvalidArgumentError(absl::StrCat("lane ", lane.lane, " comes with ", lane.output.size(),
                                                     " output tokens; max_tokens is ", request.params.max_tokens));
    }
    RETURN_IF_ERROR(check_ids("output", lane.output));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SequenceId>> Scheduler::Submit(const Request& request, TimePoint now) {
  RETURN_IF_ERROR(ValidateRequest(request));
  if (waiting_.size() + request.lanes.size() > static_cast<size_t>(options_.max_waiting_sequences)) {
    return absl::ResourceExhaustedError(absl::StrCat(waiting_.size(), " sequences wait and the request has ",
                                                     request.lanes.size(), "; max_waiting_sequences is ",
                                                     options_.max_waiting_sequences));
  }
  std::vector<SequenceId> ids;
  const SequenceId first_lane(last_sequence_ + 1);
  for (const RequestLane& lane : request.lanes) {
    const SequenceId id(++last_sequence_);
    ids.push_back(id);
    std::unique_ptr<Entry>& entry = entries_[id];
    entry = std::make_unique<Entry>(id, request, lane, now);
    entry->first_lane = first_lane;
    waiting_.insert(entry.get());
    if (entry->deadline != TimePoint::max()) deadlines_.emplace(entry->deadline, id);
    if (const std::optional<FinishReason> ended = entry->sequence.EndedFromStart()) {
      Finish(*entry, {.sequence = id, .finish = ended});
    }
  }
  return ids;
}

void Scheduler::Cancel(SequenceId sequence) {
  const auto entry = entries_.find(sequence);
  if (entry != entries_.end()) Finish(*entry->second, {.sequence = sequence, .finish = FinishReason::kCancelled});
}

absl::Status Scheduler::StopAt(SequenceId sequence, int num_output_tokens) {
  const auto found = entries_.find(sequence);
  if (found == entries_.end()) return absl::OkStatus();
  Entry& entry = *found->second;
  if (num_output_tokens < 1 || num_output_tokens > entry.sequence.num_output_tokens()) {
    return absl::InvalidArgumentError(absl::StrCat("a stop at output token ", num_output_tokens,
                                                   " of a sequence that has ", entry.sequence.num_output_tokens()));
  }
  entry.sequence.CutOutput(num_output_tokens);
  Finish(entry, {.sequence = sequence, .finish = FinishReason::kStopString});
  return absl::OkStatus();
}

void Scheduler::Fail(SequenceId sequence, absl::Status error) {
  CHECK(!error.ok());
  const auto entry = entries_.find(sequence);
  if (entry != entries_.end()) Finish(*entry->second, {.sequence = sequence, .error = std::move(error)});
}

// The last update of a sequence: what it held is free, and ranks will be told.
void Scheduler::Finish(Entry& entry, SequenceUpdate update) {
  CHECK(update.terminal());
  entry.usage.output_tokens = entry.sequence.num_output_tokens();
  update.usage = entry.usage;
  update.queue_time = entry.queue_time.value_or(Duration::zero());
  updates_.push_back(std::move(update));

  kv_.Release(entry.table);
  if (entry.mirrored) ends_.push_back(entry.id());
  if (entry.deadline != TimePoint::max()) deadlines_.erase({entry.deadline, entry.id()});
  if (entry.running) {
    running_.erase(std::find(running_.begin(), running_.end(), &entry));
  } else {
    waiting_.erase(&entry);
  }
  entries_.erase(entry.id());
}

void Scheduler::GrantDraft(const DraftGrant& grant) {
  const auto entry = entries_.find(grant.sequence);
  if (entry == entries_.end()) return;
  entry->second->grant = grant;
  entry->second->grant_used = false;
  entry->second->grant.lookahead = std::clamp(grant.lookahead, 0, kMaxLookahead);
}

void Scheduler::OfferDraft(DraftOffer offer) {
  const auto found = entries_.find(offer.sequence);
  if (found == entries_.end()) return;
  Entry& entry = *found->second;
  if (offer.path.tokens.empty()) {
    entry.grant.wait_until = TimePoint{};
    return;
  }
  if (entry.offers.size() == kMaxPaths) entry.offers.erase(entry.offers.begin());
  entry.offers.push_back(std::move(offer));
}

// ---- Planning

// Whether a committed token of the sequence waits in vain: the step before gives it its last one.
bool Scheduler::EndsWithPredecessor(const Entry& entry) const {
  return entry.PredecessorSamples() && entry.sequence.num_output_tokens() + 1 >= entry.sequence.params().max_tokens;
}

// Draft tokens that the sequence's next span may verify, if it reaches the end of what is committed.
int Scheduler::UsableLookahead(const Entry& entry) const {
  const int num_tokens = entry.sequence.num_tokens();
  // With a predecessor: its outcome is at least one token, which the path must hold too, and perhaps more.
  const int num_open_min = entry.PredecessorSamples() ? 1 : 0;
  const int num_open_max = entry.PredecessorSamples() ? entry.last_lookahead + 1 : 0;
  int longest = 0;
  for (const DraftOffer& offer : entry.offers) {
    const int num_draft_tokens = static_cast<int>(UsableDraft(offer.path, entry.sequence.tokens()).size());
    longest = std::max(longest, num_draft_tokens - num_open_min);
  }
  // A round gives one token more than it accepts: never beyond the last one allowed.
  const int num_tokens_left = entry.sequence.num_tokens_max() - num_tokens - num_open_max;
  return std::clamp(std::min({entry.grant.lookahead, longest, num_tokens_left - 1}), 0, kMaxLookahead);
}

// Only a sequence that lacks just its next token waits, and only for the round that was granted.
bool Scheduler::WaitsForDraft(const Entry& entry) const {
  return entry.grant.lookahead > 0 && entry.grant.wait_until != TimePoint{} && !entry.grant_used &&
         entry.NumTokensToPlan() == 1 && !entry.PredecessorSamples() && UsableLookahead(entry) == 0 &&
         entry.sequence.num_tokens_max() - entry.sequence.num_tokens() > 1;
}

// Drafts of this sequence come after results: planned before, it would go without.
bool Scheduler::WaitsForResult(const Entry& entry) const {
  return entry.PredecessorSamples() && entry.grant.lookahead > 0 && entry.grant.wait_until != TimePoint{} &&
         UsableLookahead(entry) == 0;
}

// A lane of a request waits for the first live one before it to compute the blocks that they will share.
bool Scheduler::WaitsForLane(const Entry& entry) const {
  const Entry* leader = Leader(entry);
  return leader != nullptr && leader->sequence.num_computed_tokens() < SharedTokens(entry);
}

const Scheduler::Entry* Scheduler::Leader(const Entry& entry) const {
  for (SequenceId id = entry.first_lane; id < entry.id(); ++id.value) {
    const auto found = entries_.find(id);
    if (found != entries_.end()) return found->second.get();
  }
  return nullptr;
}

// Tokens in full blocks of the prompt, but for one token at least that each sequence computes itself.
int Scheduler::SharedTokens(const Entry& entry) const {
  return (entry.sequence.num_prompt_tokens() - 1) / options_.block_size * options_.block_size;
}

const StepPlan& Scheduler::PlanStep(TimePoint now) {
  CHECK(num_outstanding_ < static_cast<int>(steps_.size()));
  ExpireDeadlines(now);
  Outstanding& step = *steps_[num_outstanding_];
  step.Clear(StepId(last_step_ + 1), now);
  step.plan.ends.swap(ends_);

  PreemptForPriority();
  ShareTokens(now);
  bool preempted = false;
  // In order of rank: whoever is preempted comes later and has no span yet.
  for (size_t i = 0; i < running_.size(); ++i) {
    Entry& entry = *running_[i];
    if (entry.step_tokens == 0) continue;
    const int64_t num_preemptions = stats_.num_preemptions;
    if (ReserveOrPreempt(entry)) EmitSpan(entry, step, now);
    preempted |= stats_.num_preemptions != num_preemptions;
  }
  if (!preempted) Admit(step, now);

  if (step.plan.empty()) return empty_plan_;
  ++last_step_;
  stats_.num_steps_ahead += num_outstanding_ > 0;
  ++num_outstanding_;
  ++stats_.num_steps;
  return step.plan;
}

bool Scheduler::MayPlanAhead() const {
  return std::none_of(running_.begin(), running_.end(), [](const Entry* entry) {
    return entry->grant.lookahead > 0 && (entry->grant.by_worker || !entry->offers.empty());
  });
}

void Scheduler::ExpireDeadlines(TimePoint now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    Fail(deadlines_.begin()->second, absl::DeadlineExceededError("the request's deadline has passed"));
  }
}

// Makes room for the first that waits, at the price of running sequences of lower priority that come after it. Before
// any span is planned, so what they give back is read by no span of this step.
void Scheduler::PreemptForPriority() {
  if (waiting_.empty()) return;
  const Entry& first = **waiting_.begin();
  if (first.num_stale_in_flight > 0 || WaitsForLane(first)) return;
  // As Enter asks for it, but for what the prefix cache may spare.
  const auto lacks_room = [&] {
    return num_running() >= max_running_ ||
           kv_.BlocksFor(first.sequence.num_tokens()) + num_running() > kv_.num_free_blocks();
  };
  while (!running_.empty() && first.priority > running_.back()->priority && ByRank()(&first, running_.back()) &&
         lacks_room()) {
    Preempt(*running_.back());
    ++stats_.num_priority_preemptions;
  }
}

// Divides the step's tokens among running sequences: one for each that lacks only its next token, then drafts, then
// prompts. What is left is for Admit.
void Scheduler::ShareTokens(TimePoint now) {
  num_tokens_left_ = options_.max_step_tokens;
  num_prompt_logprobs_left_ = kPromptLogprobRowsMax;
  int num_waiting = 0;
  bool has_prompt = !waiting_.empty() && num_running() < max_running_;
  for (Entry* entry : running_) {
    entry->step_tokens = entry->step_lookahead = 0;
    const int num_tokens = entry->NumTokensToPlan();
    has_prompt |= num_tokens > 1;
    if (num_tokens != 1 || EndsWithPredecessor(*entry)) continue;
    if (WaitsForResult(*entry)) continue;
    if (WaitsForDraft(*entry) && now < entry->grant.wait_until) {
      if (!entry->waiting_since.has_value()) entry->waiting_since = now;
      ++num_waiting;
      continue;
    }
    entry->step_tokens = 1;
    --num_tokens_left_;
  }
  // Of the tokens left, prompts have some for certain; everything else is also bounded by time.
  const int num_rows = options_.max_step_tokens - num_tokens_left_;
  const int num_rows_soft = step_cost_.RowsWithin(options_.step_time_ms_max, options_.max_step_tokens);
  const int num_prompt_tokens_min = std::min(kPromptTokensMin, num_tokens_left_);
  num_tokens_left_ = std::clamp(num_rows_soft - num_rows, has_prompt ? num_prompt_tokens_min : 0, num_tokens_left_);
  int num_draft_tokens_left = num_tokens_left_ - (has_prompt ? num_prompt_tokens_min : 0);
  for (Entry* entry : running_) {
    if (entry->step_tokens != 1 || entry->grant.lookahead == 0) continue;
    entry->step_lookahead = std::min(UsableLookahead(*entry), num_draft_tokens_left);
    num_draft_tokens_left -= entry->step_lookahead;
    num_tokens_left_ -= entry->step_lookahead;
  }
  if (!has_prompt && Holds(num_waiting, now)) {
    for (Entry* entry : running_) entry->step_tokens = 0;
    return;
  }
  hold_until_.reset();
  for (Entry* entry : running_) {
    if (entry->NumTokensToPlan() > 1) TakeTokens(*entry);
  }
}

// Whether the step is put off so that drafted sequences go together with those whose drafts are still awaited.
bool Scheduler::Holds(int num_waiting, TimePoint now) {
  int num_rows = 0, num_rows_awaited = 0;
  bool all_expected = true;
  TimePoint last_expected = now;
  for (const Entry* entry : running_) {
    if (entry->step_tokens > 0) {
      if (entry->step_lookahead == 0) return false;
      num_rows += 1 + entry->step_lookahead;
    } else if (WaitsForDraft(*entry)) {
      num_rows_awaited += 1 + entry->grant.lookahead;
      all_expected = all_expected && entry->grant.expected != TimePoint{};
      last_expected = std::max(last_expected, entry->grant.expected);
    }
  }
  if (num_waiting == 0 || num_rows == 0) return false;
  if (!hold_until_.has_value()) {
    const double cost_ms = decode_cost_.EstimateMs(num_rows);
    const double apart_ms =
        cost_ms + decode_cost_.EstimateMs(num_rows_awaited) - decode_cost_.EstimateMs(num_rows + num_rows_awaited);
    hold_until_ = now + FromMillis(kHoldShare * cost_ms);
    // An estimate: somewhat later is as good.
    const Duration until_expected = last_expected - now + (last_expected - now) / 4;
    if (all_expected && until_expected <= FromMillis(kHoldRounds * apart_ms)) {
      hold_until_ = std::max(*hold_until_, now + until_expected);
    }
  }
  return now < *hold_until_;
}

// Rows among the next num_tokens whose next token is the prompt's.
int Scheduler::PromptLogprobsWanted(const Entry& entry, int num_tokens) const {
  return std::clamp(entry.sequence.num_prompt_tokens() - 1 - entry.num_planned_tokens, 0, num_tokens);
}

// As many of the tokens left as the sequence lacks; a draft after its last one if there is room.
void Scheduler::TakeTokens(Entry& entry) {
  const int num_tokens = entry.NumTokensToPlan();
  entry.step_tokens = std::min(num_tokens, num_tokens_left_);
  if (entry.WantsPromptLogprobs()) {
    if (PromptLogprobsWanted(entry, entry.step_tokens) > num_prompt_logprobs_left_) {
      entry.step_tokens = num_prompt_logprobs_left_;
    }
    num_prompt_logprobs_left_ -= PromptLogprobsWanted(entry, entry.step_tokens);
  }
  entry.step_lookahead = 0;
  num_tokens_left_ -= entry.step_tokens;
  if (entry.step_tokens < num_tokens || entry.grant.lookahead == 0) return;
  entry.step_lookahead = std::min(UsableLookahead(entry), num_tokens_left_);
  num_tokens_left_ -= entry.step_lookahead;
}

// Positions that the sequence's span of this step reaches at most, whatever its predecessor's outcome.
int Scheduler::EndPosition(const Entry& entry) const {
  if (!entry.PredecessorSamples()) return entry.num_planned_tokens + entry.step_tokens + entry.step_lookahead;
  const int end = entry.sequence.num_tokens() + entry.last_lookahead + 1 + entry.step_lookahead;
  return std::min(end, entry.sequence.num_tokens_max());
}

// Blocks for the sequence's span: without its draft if they lack, then at the price of those after it. False if the
// sequence itself had to go.
bool Scheduler::ReserveOrPreempt(Entry& entry) {
  if (kv_.Reserve(entry.table, EndPosition(entry))) return true;
  entry.step_lookahead = 0;
  while (!kv_.Reserve(entry.table, EndPosition(entry))) {
    Entry& latest = *running_.back();
    Preempt(latest);
    if (&latest == &entry) return false;
  }
  return true;
}

void Scheduler::Preempt(Entry& entry) {
  kv_.Release(entry.table);
  entry.sequence.SetComputed(0);
  ++entry.incarnation;
  entry.num_stale_in_flight += std::exchange(entry.num_in_flight, 0);
  entry.num_planned_tokens = 0;
  entry.num_told_blocks = 0;
  entry.waiting_since.reset();
  entry.running = false;
  running_.erase(std::find(running_.begin(), running_.end(), &entry));
  waiting_.insert(&entry);
  ++stats_.num_preemptions;
}

// Takes in waiting sequences in order of rank while there are tokens and blocks: for all committed tokens of each,
// and one for every running sequence that may need its next block soon.
void Scheduler::Admit(Outstanding& step, TimePoint now) {
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    Entry& entry = **next;
    if (num_running() >= max_running_ || num_tokens_left_ == 0) return;
    if (entry.WantsPromptLogprobs() && num_prompt_logprobs_left_ == 0) return;
    if (entry.num_stale_in_flight > 0) return;  // its tokens are known one step later
    if (WaitsForLane(entry)) {
      ++next;
      continue;
    }
    if (!Enter(entry)) return;
    next = waiting_.erase(next);
    running_.insert(std::upper_bound(running_.begin(), running_.end(), &entry, ByRank()), &entry);
    entry.running = true;
    TakeTokens(entry);
    if (!kv_.Reserve(entry.table, EndPosition(entry))) entry.step_lookahead = 0;
    EmitSpan(entry, step, now);
  }
}

// Finds or reserves blocks for all committed tokens. False, and nothing held, if they lack.
bool Scheduler::Enter(Entry& entry) {
  absl::Span<const TokenId> tokens = entry.sequence.tokens();
  // The row before each position that was not told yet is computed.
  if (entry.WantsPromptLogprobs()) tokens = tokens.first(entry.next_prompt_logprob - 1);
  int num_found = tokens.empty() ? 0 : kv_.FindPrefix(tokens, entry.salt, entry.table);
  const Entry* leader = Leader(entry);
  if (leader != nullptr && num_found < SharedTokens(entry)) {
    kv_.Release(entry.table);
    num_found = SharedTokens(entry);
    kv_.Fork(leader->table, num_found / options_.block_size, entry.table);
  }
  const int num_spare_blocks = num_running();
  const int num_new_blocks = kv_.BlocksFor(entry.sequence.num_tokens()) - entry.table.num_blocks();
  if (num_new_blocks + num_spare_blocks > kv_.num_free_blocks() ||
      !kv_.Reserve(entry.table, entry.sequence.num_tokens())) {
    kv_.Release(entry.table);
    return false;
  }
  entry.sequence.SetComputed(num_found);
  entry.num_planned_tokens = num_found;
  if (!entry.mirrored) {
    entry.usage.cached_tokens = std::min(num_found, entry.sequence.num_prompt_tokens());
    stats_.num_cached_tokens += entry.usage.cached_tokens;
  }
  return true;
}

void Scheduler::EmitSpan(Entry& entry, Outstanding& step, TimePoint now) {
  const Sequence& sequence = entry.sequence;
  if (!entry.mirrored) {
    entry.mirrored = true;
    entry.queue_time = now - entry.submitted;
    step.plan.starts.push_back({sequence.id(),
                                {sequence.prompt().begin(), sequence.prompt().end()},
                                {sequence.output().begin(), sequence.output().end()},
                                sequence.params()});
    updates_.push_back(
        {.sequence = sequence.id(), .started = true, .usage = entry.usage, .queue_time = *entry.queue_time});
  }
  Span& span = step.plan.spans.emplace_back();
  Outstanding::SpanNote& note = step.notes.emplace_back();
  span.sequence = sequence.id();
  span.num_committed_tokens = entry.step_tokens;
  if (entry.PredecessorSamples()) {
    span.predecessor = entry.last_step;
    span.first_position = sequence.num_tokens();
    span.samples = true;
  } else {
    span.first_position = entry.num_planned_tokens;
    entry.num_planned_tokens += entry.step_tokens;
    span.samples = entry.num_planned_tokens == sequence.num_tokens();
  }
  entry.grant_used |= span.samples;
  span.lookahead = entry.step_lookahead;
  if (span.lookahead > 0) {
    for (const DraftOffer& offer : entry.offers) {
      if (UsableDraft(offer.path, sequence.tokens()).empty()) continue;
      span.paths.push_back(offer.path);
      note.paths.push_back({.source = offer.source, .predicted = offer.predicted});
    }
  }
  span.first_block_index = entry.num_told_blocks;
  for (; entry.num_told_blocks < entry.table.num_blocks(); ++entry.num_told_blocks) {
    span.blocks.push_back(entry.table.id(entry.num_told_blocks));
  }
  if (entry.waiting_since.has_value()) {
    ++stats_.num_draft_waits;
    stats_.num_draft_misses += span.lookahead == 0;
    note.draft_wait = now - *entry.waiting_since;
    stats_.draft_wait_total += note.draft_wait;
  }
  if (span.lookahead > 0 && !entry.waiting_since.has_value()) ++stats_.num_hidden_rounds;
  entry.waiting_since.reset();

  note.incarnation = entry.incarnation;
  step.decode_only &= span.samples && span.num_committed_tokens == 1;
  ++entry.num_in_flight;
  entry.last_step = step.plan.step;
  entry.last_samples = span.samples;
  entry.last_lookahead = span.lookahead;
}

// ---- What others see

std::vector<SequenceUpdate> Scheduler::TakeUpdates() { return std::exchange(updates_, {}); }

TimePoint Scheduler::NextDeadline() const {
  TimePoint next = deadlines_.empty() ? TimePoint::max() : deadlines_.begin()->first;
  if (hold_until_.has_value()) next = std::min(next, *hold_until_);
  for (const Entry* entry : running_) {
    if (WaitsForDraft(*entry)) next = std::min(next, entry->grant.wait_until);
  }
  return next;
}

const Sequence* Scheduler::Find(SequenceId sequence) const {
  const auto entry = entries_.find(sequence);
  return entry == entries_.end() ? nullptr : &entry->second->sequence;
}

int64_t Scheduler::num_queued_tokens() const {
  int64_t num_tokens = 0;
  for (const auto& [id, entry] : entries_) {
    num_tokens += entry->sequence.num_tokens_max() - entry->sequence.num_computed_tokens();
  }
  return num_tokens;
}

absl::Status Scheduler::CheckInvariants() const {
  std::vector<const BlockTable*> tables;
  for (const auto& [id, entry] : entries_) {
    tables.push_back(&entry->table);
    const auto wrong = [&](const char* what) {
      return absl::InternalError(absl::StrCat("sequence ", entry->id().value, " ", what));
    };
    const bool is_running = std::find(running_.begin(), running_.end(), entry.get()) != running_.end();
    if (is_running != entry->running || is_running == (waiting_.count(entry.get()) > 0)) {
      return wrong("is not on exactly one list");
    }
    if (!entry->running && (entry->table.num_blocks() > 0 || entry->sequence.num_computed_tokens() > 0)) {
      return wrong("waits and holds blocks");
    }
    if (entry->table.num_blocks() < kv_.BlocksFor(entry->sequence.num_computed_tokens())) {
      return wrong("has computed more than it has blocks for");
    }
    if (entry->num_told_blocks > entry->table.num_blocks()) return wrong("told ranks of blocks it does not have");
  }
  if (entries_.size() != running_.size() + waiting_.size()) return absl::InternalError("a sequence is on no list");
  if (!std::is_sorted(running_.begin(), running_.end(), ByRank())) return absl::InternalError("running is not sorted");
  if (num_running() > max_running_) return absl::InternalError("more sequences run than may");
  return kv_.CheckInvariants(tables);
}

}  // namespace outrider
