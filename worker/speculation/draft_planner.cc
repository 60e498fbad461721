#include "worker/speculation/draft_planner.h"

#include <algorithm>
#include <utility>

#include "absl/container/btree_map.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

// A source that lacks more committed tokens than this is not caught up: reading them takes it longer than a draft.
constexpr int kCaughtUpTokens = 32;
// A source has proved itself after so many rounds: then sequences catch up with it all at once, before that an eighth.
constexpr int kProvingRounds = 16;
// Output still to come is counted on up to here when it is weighed whether catching up pays: batches change.
constexpr int kHorizonTokens = 256;
// Weight of a new measurement of how long a source takes to read.
constexpr double kReadWeight = 0.2;
// Weight of a new measurement of the time from asking to planning.
constexpr double kGapWeight = 0.1;
// Tokens asked from the in-process source; more are rarely accepted.
constexpr int kInProcessLookahead = 8;

}  // namespace

struct DraftPlanner::Source {
  DraftSource* source = nullptr;
  bool in_process = false;
  uint64_t connection = 0;
  AcceptanceStats acceptance;
  DraftLatency latency;
  int num_assigned = 0;     // sequences whose worker this is
  int num_catching_up = 0;  // of them, those asked without being caught up
  int64_t num_rounds = 0;
  double read_ms_per_token = 0;  // while it catches up; 0: not measured
  bool spoken_to = false;        // since the last Flush
};

// One sequence at one source.
struct DraftPlanner::View {
  DraftSession session;
  AcceptanceStats acceptance;
  int num_sequences = 1;     // that asked together with it
  bool catching_up = false;  // the unanswered request is not a fair measure
};

struct DraftPlanner::Drafted {
  View& at(DraftSourceId source) { return views[source]; }
  absl::btree_map<DraftSourceId, View> views;
  DraftSourceId worker = -1;
  DraftPath last_offer;  // usable when it came
  DraftSourceId last_source = -1;
};

// A sequence that goes on, to be decided on.
struct DraftPlanner::Row {
  const Sequence* sequence = nullptr;
  Drafted* drafted = nullptr;
  int lookahead = 0;      // auto or fixed
  int lookahead_max = 0;  // by its own bounds
  bool started = false;   // its prompt is not yet computed
  DraftGrant grant;
};

DraftPlanner::DraftPlanner(const DraftPlannerOptions& options) : options_(options) {
  CHECK(options.lookahead >= Request::kAutoLookahead && options.lookahead <= kMaxLookahead);
}

DraftPlanner::~DraftPlanner() = default;

DraftPlanner::DraftSourceId DraftPlanner::AddSource(DraftSource* source, bool in_process) {
  sources_.push_back(std::make_unique<Source>());
  sources_.back()->source = source;
  sources_.back()->in_process = in_process;
  return static_cast<DraftSourceId>(sources_.size()) - 1;
}

DraftPlanner::DraftSourceId DraftPlanner::AddPredictionSource(DraftSource* source) {
  prediction_source_ = AddSource(source, /*in_process=*/true);
  return prediction_source_;
}

void DraftPlanner::RemoveSource(DraftSourceId source) {
  for (auto& [id, drafted] : sequences_) {
    drafted->views.erase(source);
    if (drafted->worker == source) drafted->worker = -1;
  }
  sources_[source].reset();
}

int DraftPlanner::num_connected() const {
  return static_cast<int>(std::count_if(sources_.begin(), sources_.end(), [](const std::unique_ptr<Source>& source) {
    return source != nullptr && source->source->connection() != 0;
  }));
}

// What was opened under another connection is gone.
void DraftPlanner::NoticeConnections() {
  for (DraftSourceId id = 0; id < static_cast<DraftSourceId>(sources_.size()); ++id) {
    Source* source = sources_[id].get();
    if (source == nullptr || source->source->connection() == source->connection) continue;
    source->connection = source->source->connection();
    source->num_catching_up = 0;
    for (auto& [sequence, drafted] : sequences_) {
      const auto view = drafted->views.find(id);
      if (view == drafted->views.end()) continue;
      view->second.session.Lose();
      view->second.catching_up = false;
    }
  }
}

// The draft worker of a sequence: it stays while it is connected; else the connected one with the fewest.
DraftPlanner::Source* DraftPlanner::WorkerOf(Drafted& drafted) {
  if (drafted.worker >= 0) {
    Source& source = *sources_[drafted.worker];
    if (source.connection != 0) return &source;
    --source.num_assigned;
    drafted.worker = -1;
  }
  for (DraftSourceId id = 0; id < static_cast<DraftSourceId>(sources_.size()); ++id) {
    const Source* source = sources_[id].get();
    if (source == nullptr || source->in_process || source->connection == 0) continue;
    if (drafted.worker < 0 || source->num_assigned < sources_[drafted.worker]->num_assigned) drafted.worker = id;
  }
  if (drafted.worker < 0) return nullptr;
  ++sources_[drafted.worker]->num_assigned;
  return sources_[drafted.worker].get();
}

void DraftPlanner::Learn(const SequenceUpdate& update, TimePoint now) {
  if (update.num_draft_tokens == 0) return;
  const int num_verified = std::min(update.num_draft_tokens, kMaxLookahead);
  for (int i = 0; i < num_verified; ++i) {
    ++stats_.num_verified[i];
    stats_.num_accepted[i] += i < update.num_accepted;
  }
  const DraftSourceId id = update.draft_source;
  if (id < 0 || id >= static_cast<DraftSourceId>(sources_.size()) || sources_[id] == nullptr) return;
  ++sources_[id]->num_rounds;
  sources_[id]->acceptance.Observe(update.num_draft_tokens, update.num_accepted, now);
  const auto drafted = sequences_.find(update.sequence);
  if (drafted == sequences_.end()) return;
  drafted->second->at(id).acceptance.Observe(update.num_draft_tokens, update.num_accepted, now);
}

void DraftPlanner::Forget(SequenceId sequence) {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end()) return;
  Drafted& drafted = *found->second;
  for (auto& [id, view] : drafted.views) {
    Source& source = *sources_[id];
    if (view.session.open()) {
      source.source->Close(sequence, view.session.epoch());
      source.spoken_to = true;
    }
    source.num_catching_up -= view.catching_up;
  }
  if (drafted.worker >= 0) --sources_[drafted.worker]->num_assigned;
  sequences_.erase(found);
}

std::vector<DraftPlanner::Row> DraftPlanner::RowsOf(absl::Span<const SequenceUpdate> updates, FindSequence find) {
  std::vector<Row> rows;
  for (const SequenceUpdate& update : updates) {
    if (update.terminal() || (update.tokens.empty() && !update.started)) continue;
    const Sequence* sequence = find(update.sequence);
    if (sequence == nullptr || !sequence->may_draft()) continue;
    const int lookahead = sequence->lookahead() == Request::kAutoLookahead ? options_.lookahead : sequence->lookahead();
    if (lookahead == 0) continue;
    Row row{.sequence = sequence, .lookahead = lookahead, .started = update.started};
    std::unique_ptr<Drafted>& drafted = sequences_[update.sequence];
    if (drafted == nullptr) drafted = std::make_unique<Drafted>();
    row.drafted = drafted.get();
    row.lookahead_max = std::clamp(sequence->num_tokens_max() - sequence->num_tokens() - 1, 0, kMaxLookahead);
    row.grant.sequence = update.sequence;
    rows.push_back(row);
  }
  return rows;
}

// Tells a source what was committed and asks for a draft. False while it owes an answer.
bool DraftPlanner::Ask(Row& row, DraftSourceId id, int lookahead, int num_sequences, TimePoint now) {
  Source& source = *sources_[id];
  View& view = row.drafted->at(id);
  if (!view.session.MayAsk(now)) return false;
  source.num_catching_up -= std::exchange(view.catching_up, false);  // it was given up
  const Sequence& sequence = *row.sequence;
  const DraftSession::Command command = view.session.Ask(sequence.num_tokens(), lookahead, now);
  view.num_sequences = num_sequences;
  if (command.open) {
    source.source->Open({.sequence = sequence.id(),
                         .epoch = view.session.epoch(),
                         .prompt = sequence.prompt(),
                         .output = sequence.output(),
                         .params = &sequence.params(),
                         .lookahead = lookahead,
                         .prediction = sequence.prediction(),
                         .trace = sequence.trace()});
  } else {
    source.source->Commit({.sequence = sequence.id(),
                           .epoch = view.session.epoch(),
                           .first_position = command.first_position,
                           .tokens = sequence.tokens().subspan(command.first_position),
                           .lookahead = lookahead});
  }
  source.spoken_to = true;
  if (!source.in_process) asked_at_ = now;
  ++stats_.num_requests;
  return true;
}

// How many draft tokens the last offer still holds.
int DraftPlanner::NumDraftTokensLeft(const Row& row) {
  return static_cast<int>(UsableDraft(row.drafted->last_offer, row.sequence->tokens()).size());
}

// How long its worker would take to read what it has not been told; 0 if that disturbs nobody.
double DraftPlanner::CatchUpMs(const Row& row) const {
  const Source& worker = *sources_[row.drafted->worker];
  if (worker.source->runs_ahead()) return 0;
  const auto view = row.drafted->views.find(row.drafted->worker);
  const bool open = view != row.drafted->views.end() && view->second.session.open();
  return worker.read_ms_per_token * (row.sequence->num_tokens() - (open ? view->second.session.num_told() : 0));
}

bool DraftPlanner::IsCaughtUp(const Row& row, DraftSourceId id) {
  const DraftSession& session = row.drafted->at(id).session;
  return session.open() && session.warm() && row.sequence->num_tokens() - session.num_told() <= kCaughtUpTokens;
}

// How much of a draft's latency is left when the next step could begin.
double DraftPlanner::WaitMs(const Source& source, int lookahead, int num_sequences, TimePoint now) const {
  return std::max(0.0, source.latency.EstimateMs(lookahead, num_sequences, now) - gap_ms_);
}

// Asks the sequence's worker; the grant waits for it if that is worth while.
void DraftPlanner::AskWorker(Row& row, int lookahead, int num_sequences, Duration wait, TimePoint now) {
  const DraftSourceId id = row.drafted->worker;
  Source& source = *sources_[id];
  const bool caught_up = IsCaughtUp(row, id);
  if (!Ask(row, id, lookahead, num_sequences, now)) return;
  if (!caught_up) {
    row.drafted->at(id).catching_up = true;
    ++source.num_catching_up;
  } else if (const double wait_ms = WaitMs(source, lookahead, num_sequences, now); wait_ms <= ToMillis(wait)) {
    row.grant.wait_until = now + wait;
    row.grant.expected = now + FromMillis(gap_ms_ + wait_ms);
  }
}

// Tells a worker that runs ahead what was committed, though a draft is left.
void DraftPlanner::KeepAhead(Row& row, int lookahead, int num_sequences, TimePoint now) {
  const Source* worker = WorkerOf(*row.drafted);
  if (worker == nullptr || !worker->source->runs_ahead() || !IsCaughtUp(row, row.drafted->worker)) return;
  Ask(row, row.drafted->worker, lookahead, num_sequences, now);
}

DraftPlanner::DraftSourceId DraftPlanner::InProcessSource() const {
  for (DraftSourceId id = 0; id < static_cast<DraftSourceId>(sources_.size()); ++id) {
    if (id == prediction_source_ || sources_[id] == nullptr) continue;
    if (sources_[id]->in_process && sources_[id]->connection != 0) return id;
  }
  return -1;
}

// Whether the sequence's own prediction has a draft for it.
bool DraftPlanner::AskPrediction(Row& row, int lookahead, FindSequence find, TimePoint now, DraftDecisions& decisions) {
  if (prediction_source_ < 0 || row.sequence->prediction().empty() || row.started) return false;
  if (!Ask(row, prediction_source_, lookahead, 1, now)) return false;
  Take(prediction_source_, find, now, decisions);
  return NumDraftTokensLeft(row) > 0;
}

void DraftPlanner::DecideFixed(Row& row, int num_sequences, FindSequence find, TimePoint now,
                               DraftDecisions& decisions) {
  row.grant.lookahead = std::min(row.lookahead, row.lookahead_max);
  if (row.grant.lookahead == 0) return;
  if (2 * NumDraftTokensLeft(row) > row.grant.lookahead) {
    return KeepAhead(row, row.grant.lookahead, num_sequences, now);
  }
  if (AskPrediction(row, row.grant.lookahead, find, now, decisions)) return;
  if (WorkerOf(*row.drafted) != nullptr) {
    AskWorker(row, row.grant.lookahead, num_sequences, FromMillis(options_.draft_wait_ms_max), now);
  }
  const DraftSourceId in_process = InProcessSource();
  if (row.grant.wait_until == TimePoint{} && in_process >= 0 && !row.started) {
    Ask(row, in_process, row.grant.lookahead, 1, now);
  }
}

void DraftPlanner::DecideAuto(std::vector<Row>& rows, int num_other_rows, const StepCostModel& decode_cost,
                              FindSequence find, TimePoint now, DraftDecisions& decisions) {
  // The in-process source answers at once, and its answer says how much there is to choose from.
  const DraftSourceId in_process = InProcessSource();
  if (in_process >= 0 || prediction_source_ >= 0) {
    for (Row& row : rows) {
      if (row.started || row.lookahead_max == 0 || NumDraftTokensLeft(row) > 0) continue;
      if (AskPrediction(row, row.lookahead_max, find, now, decisions) || in_process < 0) continue;
      Ask(row, in_process, std::min(kInProcessLookahead, row.lookahead_max), 1, now);
    }
    if (in_process >= 0) Take(in_process, find, now, decisions);
  }

  const int num_rows = static_cast<int>(rows.size()) + num_other_rows;
  const double plain_ms = decode_cost.EstimateMs(num_rows);
  const double wait_ms_max = plain_ms > 0 ? std::min(options_.draft_wait_ratio * plain_ms, options_.draft_wait_ms_max)
                                          : options_.draft_wait_ms_max;
  std::vector<LookaheadCandidate> candidates;
  LookaheadBatch batch{.num_other_rows = num_other_rows, .cost = &decode_cost, .wait_ms_max = wait_ms_max};
  std::vector<bool> caught_up;
  int num_waiting = 0, num_caught_up = 0;
  double catch_up_ms = 0;  // for all that are not caught up
  double num_tokens_left = 0;
  const Source* latest_worker = nullptr;
  for (Row& row : rows) {
    LookaheadCandidate& candidate = candidates.emplace_back();
    const int num_left = NumDraftTokensLeft(row);
    const Source* worker = WorkerOf(*row.drafted);
    candidate.waits = num_left == 0;
    candidate.lookahead_max =
        candidate.waits ? (worker == nullptr ? 0 : row.lookahead_max) : std::min(num_left, row.lookahead_max);
    const DraftSourceId id = candidate.waits ? row.drafted->worker : row.drafted->last_source;
    if (candidate.lookahead_max > 0 && sources_[id] != nullptr) {
      AcceptanceStats::Rates(row.drafted->at(id).acceptance, sources_[id]->acceptance, now, candidate.lookahead_max,
                             candidate.rates.data());
    } else {
      candidate.lookahead_max = 0;
    }
    if (candidate.waits && candidate.lookahead_max > 0) {
      ++num_waiting;
      caught_up.push_back(IsCaughtUp(row, row.drafted->worker));
      num_caught_up += caught_up.back();
      if (!caught_up.back()) catch_up_ms += CatchUpMs(row);
      num_tokens_left += std::min(row.sequence->num_tokens_max() - row.sequence->num_tokens(), kHorizonTokens);
    } else {
      caught_up.push_back(false);
    }
    if (candidate.waits && worker != nullptr) latest_worker = worker;
  }
  // What would be best if all were caught up says who should be; what is best as things are says who waits now.
  batch.candidates = candidates;
  const auto choose = [&](int num_sequences) {
    for (int k = 1; latest_worker != nullptr && k <= kMaxLookahead; ++k) {
      batch.latency_ms[k] = WaitMs(*latest_worker, k, std::max(1, num_sequences), now);
    }
    return ChooseLookaheads(batch);
  };
  const LookaheadChoice best = choose(num_waiting);
  LookaheadChoice choice = best;
  if (num_caught_up < num_waiting) {
    for (size_t i = 0; i < rows.size(); ++i) {
      if (candidates[i].waits && !caught_up[i]) candidates[i].lookahead_max = 0;
    }
    choice = choose(num_caught_up);
  }
  // A worker that reads on the cores that steps run on delays them. What is gained until the sequences end must be
  // more.
  const double gain = best.tokens_per_ms / std::max(choice.tokens_per_ms, 1e-9) - 1;
  const bool catch_up = catch_up_ms <= gain * plain_ms * num_tokens_left / std::max(1, num_waiting);
  for (size_t i = 0; i < rows.size(); ++i) {
    Row& row = rows[i];
    if (!candidates[i].waits || caught_up[i]) {
      row.grant.lookahead = choice.lookaheads[i];
      if (row.grant.lookahead > 0 && candidates[i].waits) {
        AskWorker(row, choice.asks[i], num_caught_up, FromMillis(wait_ms_max), now);
      } else if (row.grant.lookahead > 0) {
        KeepAhead(row, row.grant.lookahead, std::max(1, num_caught_up), now);
      }
      continue;
    }
    row.grant.lookahead = catch_up ? best.lookaheads[i] : 0;
    if (row.grant.lookahead == 0) continue;
    const Source& worker = *sources_[row.drafted->worker];
    const int num_at_once = worker.num_rounds >= kProvingRounds ? num_waiting : std::max(1, num_waiting / 8);
    if (worker.num_catching_up < num_at_once) AskWorker(row, best.asks[i], 1, FromMillis(wait_ms_max), now);
  }
}

void DraftPlanner::Grant(Row& row, DraftDecisions& decisions) {
  row.grant.by_worker = row.grant.lookahead > 0 && WorkerOf(*row.drafted) != nullptr;
  decisions.grants.push_back(row.grant);
}

void DraftPlanner::AfterUpdates(absl::Span<const SequenceUpdate> updates, FindSequence find,
                                const StepCostModel& decode_cost, int num_running, TimePoint now,
                                DraftDecisions& decisions) {
  NoticeConnections();
  for (const SequenceUpdate& update : updates) {
    Learn(update, now);
    if (update.terminal()) Forget(update.sequence);
  }
  std::vector<Row> rows = RowsOf(updates, find);
  std::vector<Row> automatic;
  int num_fixed = 0;
  for (const Row& row : rows) num_fixed += row.lookahead != Request::kAutoLookahead;
  for (Row& row : rows) {
    if (row.lookahead == Request::kAutoLookahead) {
      automatic.push_back(row);
      continue;
    }
    DecideFixed(row, num_fixed, find, now, decisions);
    Grant(row, decisions);
  }
  if (!automatic.empty()) {
    DecideAuto(automatic, std::max(0, num_running - static_cast<int>(automatic.size())), decode_cost, find, now,
               decisions);
    for (Row& row : automatic) Grant(row, decisions);
  }
  for (DraftSourceId id = 0; id < static_cast<DraftSourceId>(sources_.size()); ++id) {
    Source* source = sources_[id].get();
    if (source == nullptr || !std::exchange(source->spoken_to, false)) continue;
    source->source->Flush();
    if (source->in_process) Take(id, find, now, decisions);
  }
}

void DraftPlanner::TakeProposals(FindSequence find, TimePoint now, DraftDecisions& decisions) {
  NoticeConnections();
  if (asked_at_.has_value()) gap_ms_ += kGapWeight * (ToMillis(now - *std::exchange(asked_at_, {})) - gap_ms_);
  for (DraftSourceId id = 0; id < static_cast<DraftSourceId>(sources_.size()); ++id) {
    if (sources_[id] != nullptr) Take(id, find, now, decisions);
  }
}

void DraftPlanner::Take(DraftSourceId id, FindSequence find, TimePoint now, DraftDecisions& decisions) {
  Source& source = *sources_[id];
  proposals_.clear();
  source.source->TakeProposals(proposals_);
  for (DraftSource::Proposal& proposal : proposals_) {
    const auto drop = [this](DropReason reason) { ++stats_.num_dropped[static_cast<int>(reason)]; };
    const auto found = sequences_.find(proposal.sequence);
    const Sequence* sequence = found == sequences_.end() ? nullptr : find(proposal.sequence);
    if (sequence == nullptr || !found->second->views.contains(id)) {
      drop(DropReason::kUnknownSequence);
      continue;
    }
    Drafted& drafted = *found->second;
    View& view = drafted.at(id);
    const DraftSession::Verdict verdict = view.session.Judge(proposal.epoch, proposal.path, sequence->tokens(),
                                                             options_.vocab_size, std::min(proposal.arrived, now));
    if (verdict.answers) {
      ++stats_.num_answers;
      if (view.catching_up) {
        view.catching_up = false;
        --source.num_catching_up;
        if (!source.in_process && verdict.num_new_tokens > 0) {
          const double milliseconds = ToMillis(verdict.latency) / verdict.num_new_tokens;
          source.read_ms_per_token +=
              (source.read_ms_per_token == 0 ? 1 : kReadWeight) * (milliseconds - source.read_ms_per_token);
        }
      } else if (!source.in_process) {
        const double milliseconds = ToMillis(verdict.latency);
        source.latency.Observe(verdict.lookahead, view.num_sequences, milliseconds, now);
        stats_.latency_ms_total += milliseconds;
        ++stats_.num_latencies;
      }
    }
    if (verdict.dropped.has_value()) {
      drop(*verdict.dropped);
      proposal.path.tokens.clear();
    }
    if (!proposal.path.tokens.empty()) {
      drafted.last_offer = proposal.path;
      drafted.last_source = id;
    } else if (!verdict.answers || source.in_process) {
      continue;
    }
    // Without tokens it ends the wait: nothing more will come.
    decisions.offers.push_back({proposal.sequence, id, std::move(proposal.path), id == prediction_source_});
  }
}

}  // namespace outrider
