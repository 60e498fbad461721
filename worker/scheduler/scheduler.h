// Scheduler decides what each step computes and what came of it: (state, event, now) -> decision. PURE.
//
// Continuous batching at the iteration level (Orca), chunked prompts (Sarathi), paged KV and preemption by recompute
// (PagedAttention), prefix cache. A step first gives every running sequence that only lacks its next token one row,
// then draft rows, then prompt chunks in order of rank, then admits waiting sequences. When blocks run out, drafts are
// dropped, then the last in rank is preempted; it waits at its old place.
//
// Rank is by priority and age: waiting for kPriorityAgeing is worth one priority, so nobody starves, and among equals
// the first come is served first. Where the batch is full or blocks lack, a waiting sequence preempts running ones that
// come after it and have a lower priority; between two steps, never within one.
//
// A sequence may wait for its draft, as long as its grant says; others go on without it. Only sequences whose drafts
// are there wait for those that still wait, if nothing else is to be computed: a step of half the batch takes nearly as
// long as one of all, and who once went in another step does so in every round. They wait for kHoldShare of their
// step's time at most, or until the other drafts are expected, if that is no more than what going apart costs in
// kHoldRounds.
//
// A step's tokens are bounded by max_step_tokens and by what is measured to last step_time_ms_max; the oldest prompt
// always gets kPromptTokensMin.
//
// Where logprobs of the prompt are asked for, every position is computed, once, by the request's first lane: the prefix
// cache is looked into only for what was told before a preemption.
//
// The choices of a request are lanes. A lane waits until an earlier one has computed the full blocks of the prompt,
// then shares them.
//
// One step may be outstanding: PlanStep may be called once before the result of the step before. What such a plan has
// for a sequence that ends with that result is discarded: it costs a row, never a token. Drafts are of results, so that
// planning ahead goes without most of them: MayPlanAhead says when there are none to lose. Blocks given back are given
// out again at once; that is safe because every rank runs steps in order, and what a step reads it or a step before has
// written.
//
//   turn:  GrantDraft, OfferDraft, Submit, Cancel, StopAt   in any order
//          plan = PlanStep(now)          updates = TakeUpdates()   -> tell routers, DraftPlanner
//          backend.Submit(plan), Collect
//          ApplyResult(result, now)      updates = TakeUpdates()   -> tell routers, DraftPlanner
//   An empty plan: sleep until an event or NextDeadline().
//
// Invariants (scheduler_model_test.cc):
//   - committed tokens come from results only, checked against the plan; drafts never change them;
//   - every sequence ends with exactly one terminal update, and then holds no block;
//   - used blocks are those of live sequences.
//
// Thread safety: none. Owned by the engine's thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "worker/kvcache/kv_allocator.h"
#include "worker/sequence/request.h"
#include "worker/sequence/sequence.h"
#include "worker/sequence/sequence_update.h"
#include "worker/step/draft_offer.h"
#include "worker/step/step_cost_model.h"
#include "worker/step/step_plan.h"
#include "worker/step/step_result.h"

namespace outrider {

struct SchedulerOptions {
  int vocab_size = 0;
  int max_model_len = 0;  // prompt and output together
  int num_blocks = 0;
  int block_size = 16;
  bool prefix_cache = true;
  int max_sequences = 64;            // in a step
  int max_waiting_sequences = 1024;  // beyond, Submit refuses
  int max_step_tokens = 2048;        // hard bound: ranks size their buffers by it
  double step_time_ms_max = 200;     // soft bound, by measurement
};

// Counts since the start.
struct SchedulerStats {
  int64_t num_steps = 0;
  int64_t num_steps_ahead = 0;       // of them, those planned before the result of the step before
  int64_t num_step_tokens = 0;       // rows
  int64_t num_discarded_tokens = 0;  // rows planned ahead of a result that ended their sequence: not computed
  int64_t num_preemptions = 0;       // those for priority among them
  int64_t num_priority_preemptions = 0;
  int64_t num_cached_tokens = 0;
  int64_t num_rounds = 0;         // rows verified with a draft
  int64_t num_hidden_rounds = 0;  // of them, those whose draft was there without waiting
  int64_t num_draft_waits = 0;    // rows that waited
  int64_t num_draft_misses = 0;   // of them, those that went without
  Duration draft_wait_total{};
};

class Scheduler {
 public:
  // A prompt gets at least so many tokens a step, however long steps last: enough for progress, little beside a batch.
  static constexpr int kPromptTokensMin = 16;
  // Prompt positions a step whose logprobs are asked for, all sequences together: each goes through the model's head,
  // and its logits to where tokens are chosen.
  static constexpr int kPromptLogprobRowsMax = 256;
  static constexpr double kHoldShare = 0.5;
  static constexpr double kHoldRounds = 8;
  static constexpr Duration kPriorityAgeing = std::chrono::seconds(1);
  static constexpr int kMaxLanes = 128;
  // Drafts kept beside a sequence; the oldest goes.
  static constexpr int kMaxPaths = 4;

  // INVALID_ARGUMENT naming an option that makes no sense.
  static absl::Status Validate(const SchedulerOptions& options);
  // REQUIRES: Validate(options).ok().
  explicit Scheduler(const SchedulerOptions& options);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Takes a request; its sequences in the order of its lanes. All or nothing:
  //   INVALID_ARGUMENT   a parameter, id or length that can never work, named with its value
  //   RESOURCE_EXHAUSTED max_waiting_sequences is reached
  // A lane whose delivered output has ended already gets its terminal update at once.
  absl::StatusOr<std::vector<SequenceId>> Submit(const Request& request, TimePoint now);

  // Ends a sequence with kCancelled and frees everything it holds. No effect on one that has ended.
  void Cancel(SequenceId sequence);

  // The sequence ends, as finished by a stop string, with its output token number num_output_tokens (from 1); later
  // ones are dropped. No effect on one that has ended. INVALID_ARGUMENT if it has no such token.
  absl::Status StopAt(SequenceId sequence, int num_output_tokens);

  // Ends a sequence with an error (a reader too slow, say). No effect on one that has ended. REQUIRES: !error.ok().
  void Fail(SequenceId sequence, absl::Status error);

  // Drafting (worker/step/draft_offer.h). No effect on sequences that have ended; a grant's wait is for one round.
  void GrantDraft(const DraftGrant& grant);
  void OfferDraft(DraftOffer offer);

  // The next step. Lives until ApplyResult of it. Empty if there is nothing to do before an event or NextDeadline().
  // REQUIRES: at most one non-empty plan's result is outstanding.
  const StepPlan& PlanStep(TimePoint now);

  // Whether the next step loses nothing if it is planned before the result of the one that is out: no running sequence
  // is granted a draft that is there or that a worker makes.
  bool MayPlanAhead() const;

  // The outcome of the oldest outstanding step. INTERNAL if it does not fit the plan: the epoch must end.
  absl::Status ApplyResult(const StepResult& result, TimePoint now);

  // What happened since the last call, in order.
  std::vector<SequenceUpdate> TakeUpdates();

  // When PlanStep has to be called though nothing happens: a draft wait or a deadline ends. max(): never.
  TimePoint NextDeadline() const;

  // Null once ended.
  const Sequence* Find(SequenceId sequence) const;

  int num_running() const { return static_cast<int>(running_.size()); }
  int num_waiting() const { return static_cast<int>(waiting_.size()); }
  int num_outstanding_steps() const { return num_outstanding_; }
  int64_t num_queued_tokens() const;  // to be computed and generated for all live sequences, at most
  const KvAllocator& kv() const { return kv_; }
  const SchedulerStats& stats() const { return stats_; }
  // Steps in which each span computed one committed token and its drafts: what a round costs by rows.
  const StepCostModel& decode_cost() const { return decode_cost_; }
  const StepCostModel& step_cost() const { return step_cost_; }

  // INTERNAL naming what is wrong. For tests.
  absl::Status CheckInvariants() const;

 private:
  struct Entry;
  struct Outstanding;
  struct ByRank {
    bool operator()(const Entry* a, const Entry* b) const;
  };

  absl::Status ValidateRequest(const Request& request) const;
  void ExpireDeadlines(TimePoint now);
  void Finish(Entry& entry, SequenceUpdate update);

  // Questions.
  bool EndsWithPredecessor(const Entry& entry) const;
  bool WaitsForDraft(const Entry& entry) const;
  bool WaitsForResult(const Entry& entry) const;
  int UsableLookahead(const Entry& entry) const;
  bool WaitsForLane(const Entry& entry) const;
  const Entry* Leader(const Entry& entry) const;
  int SharedTokens(const Entry& entry) const;
  int EndPosition(const Entry& entry) const;
  int PromptLogprobsWanted(const Entry& entry, int num_tokens) const;

  // Parts of PlanStep, in order.
  void PreemptForPriority();
  void ShareTokens(TimePoint now);
  void TakeTokens(Entry& entry);
  bool Holds(int num_waiting, TimePoint now);
  bool ReserveOrPreempt(Entry& entry);
  void Preempt(Entry& entry);
  void Admit(Outstanding& step, TimePoint now);
  bool Enter(Entry& entry);
  void EmitSpan(Entry& entry, Outstanding& step, TimePoint now);

  absl::Status ApplyPromptLogprobs(const Span& span, const SpanResult& result, Entry& entry, StepId step);
  absl::Status ApplySpan(const Span& span, const SpanResult& result, const Outstanding& step, int index);

  const SchedulerOptions options_;
  const int max_running_;
  KvAllocator kv_;
  StepCostModel step_cost_;
  StepCostModel decode_cost_;
  SchedulerStats stats_;

  absl::flat_hash_map<SequenceId, std::unique_ptr<Entry>> entries_;  // live ones
  std::vector<Entry*> running_;                                      // by rank
  std::set<Entry*, ByRank> waiting_;
  std::set<std::pair<TimePoint, SequenceId>> deadlines_;
  std::vector<SequenceId> ends_;  // ended, not yet told to ranks
  std::vector<SequenceUpdate> updates_;
  std::array<std::unique_ptr<Outstanding>, 2> steps_;  // the oldest outstanding first
  int num_outstanding_ = 0;
  std::optional<TimePoint> hold_until_;  // drafted sequences wait for others
  int num_tokens_left_ = 0;              // of the step being planned
  int num_prompt_logprobs_left_ = 0;     // likewise
  TimePoint last_applied_{};
  uint64_t last_sequence_ = 0;
  uint64_t last_step_ = 0;
  StepPlan empty_plan_;
};

}  // namespace outrider
