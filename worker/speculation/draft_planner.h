// DraftPlanner asks sources for drafts and passes on those that are usable. After each turn of the scheduler it tells
// sources what was committed, how many draft tokens are wanted, and the scheduler how long to wait for them. PURE but
// for the sources it calls, none of which may block.
//
// Fixed lookahead: every sequence that may draft asks its draft worker (or, while none is there or it has not caught
// up, the in-process source) for so many tokens, and waits at most draft_wait_ms_max. Auto: LookaheadPolicy chooses by
// what is measured; waits are also bounded by draft_wait_ratio of a plain step. With none chosen a source is not spoken
// to at all; it catches up with one longer commit when it is asked again. While a source has yet to prove itself, few
// sequences at a time catch up with it. A source that shares the group's cores catches up only if the gain until the
// sequences end pays for its reading.
//
// A sequence that came with a prediction is drafted for from it, as long as its output follows it.
//
// A source that runs ahead is told of every commit, also while a draft is left, so that the next one is there before it
// is needed; for that nobody waits.
//
// A grant says whether a worker drafts for the sequence: then results are told before the next step is planned, since
// an answer to what lies a step back would come too late again and again.
//
// Only a source that is caught up and answers in time is waited for; every sequence of a turn that waits asks for the
// same number of tokens, so that drafts come together and steps stay whole.
//
// Thread safety: none. Owned by the engine's thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/ids.h"
#include "worker/sequence/sequence.h"
#include "worker/sequence/sequence_update.h"
#include "worker/speculation/acceptance_stats.h"
#include "worker/speculation/draft_latency.h"
#include "worker/speculation/draft_session.h"
#include "worker/speculation/draft_source.h"
#include "worker/speculation/lookahead_policy.h"
#include "worker/step/draft_offer.h"
#include "worker/step/step_cost_model.h"

namespace outrider {

struct DraftPlannerOptions {
  int vocab_size = 0;
  int lookahead = Request::kAutoLookahead;  // of sequences that do not say: auto or 0..kMaxLookahead
  double draft_wait_ratio = 0.7;
  double draft_wait_ms_max = 50;
};

// For the scheduler: GrantDraft and OfferDraft each.
struct DraftDecisions {
  std::vector<DraftGrant> grants;
  std::vector<DraftOffer> offers;
  void clear() { grants.clear(), offers.clear(); }
};

// Counts since the start, all sources together.
struct DraftStats {
  std::array<int64_t, kNumDropReasons> num_dropped{};  // by DropReason
  int64_t num_requests = 0;                            // drafts asked for
  int64_t num_answers = 0;
  double latency_ms_total = 0;  // of answers to sources that were caught up: commit to proposal
  int64_t num_latencies = 0;
  std::array<int64_t, kMaxLookahead> num_verified{};  // draft tokens by position in their draft
  std::array<int64_t, kMaxLookahead> num_accepted{};
};

class DraftPlanner {
 public:
  // A live sequence's tokens, or null once it ended.
  using FindSequence = absl::FunctionRef<const Sequence*(SequenceId)>;
  using DraftSourceId = int;  // never used twice

  explicit DraftPlanner(const DraftPlannerOptions& options);
  ~DraftPlanner();

  // The source outlives this or its RemoveSource. `in_process`: it answers within the call, at no cost worth waiting
  // for.
  DraftSourceId AddSource(DraftSource* source, bool in_process);
  // The same, in process, of the source that drafts from predictions: asked first for sequences that have one.
  DraftSourceId AddPredictionSource(DraftSource* source);
  void RemoveSource(DraftSourceId source);

  // Takes what sources proposed. Call it before each PlanStep. Appends to `decisions`.
  void TakeProposals(FindSequence find, TimePoint now, DraftDecisions& decisions);

  // Takes in what Scheduler::TakeUpdates gave, learns from it, and speaks to sources. Appends to `decisions`.
  // `decode_cost` is the scheduler's.
  // `num_running` is the number of sequences in a step.
  void AfterUpdates(absl::Span<const SequenceUpdate> updates, FindSequence find, const StepCostModel& decode_cost,
                    int num_running, TimePoint now, DraftDecisions& decisions);

  const DraftStats& stats() const { return stats_; }
  int num_sequences() const { return static_cast<int>(sequences_.size()); }
  // Sources that have a peer.
  int num_connected() const;

 private:
  struct Source;
  struct View;
  struct Drafted;
  struct Row;

  void NoticeConnections();
  Source* WorkerOf(Drafted& drafted);
  void Learn(const SequenceUpdate& update, TimePoint now);
  void Forget(SequenceId sequence);
  std::vector<Row> RowsOf(absl::Span<const SequenceUpdate> updates, FindSequence find);
  static int NumDraftTokensLeft(const Row& row);
  double CatchUpMs(const Row& row) const;
  static bool IsCaughtUp(const Row& row, DraftSourceId id);
  DraftSourceId InProcessSource() const;
  double WaitMs(const Source& source, int lookahead, int num_sequences, TimePoint now) const;
  void AskWorker(Row& row, int lookahead, int num_sequences, Duration wait, TimePoint now);
  void KeepAhead(Row& row, int lookahead, int num_sequences, TimePoint now);
  bool AskPrediction(Row& row, int lookahead, FindSequence find, TimePoint now, DraftDecisions& decisions);
  void DecideFixed(Row& row, int num_sequences, FindSequence find, TimePoint now, DraftDecisions& decisions);
  void DecideAuto(std::vector<Row>& rows, int num_other_rows, const StepCostModel& decode_cost, FindSequence find,
                  TimePoint now, DraftDecisions& decisions);
  void Grant(Row& row, DraftDecisions& decisions);
  bool Ask(Row& row, DraftSourceId source, int lookahead, int num_sequences, TimePoint now);
  void Take(DraftSourceId source, FindSequence find, TimePoint now, DraftDecisions& decisions);

  const DraftPlannerOptions options_;
  DraftStats stats_;
  std::vector<std::unique_ptr<Source>> sources_;  // by id; null once removed
  DraftSourceId prediction_source_ = -1;          // -1: none
  absl::flat_hash_map<SequenceId, std::unique_ptr<Drafted>> sequences_;
  std::vector<DraftSource::Proposal> proposals_;
  // From asking a worker to planning the step that may wait for it: results go out meanwhile, so it hides so much.
  std::optional<TimePoint> asked_at_;
  double gap_ms_ = 0;
};

}  // namespace outrider
