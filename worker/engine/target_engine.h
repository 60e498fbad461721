// TargetEngine is a target group's only loop: drain the inbox, plan a step, run it, apply what came of it, tell the
// routers. One thread owns all state; everyone else posts to the inbox and reads published snapshots.
//
// A turn, in order: events of the inbox; proposals of draft sources; a plan, given to the backend; the result of the
// oldest step, if as many are out as the backend allows or there is nothing more to plan. With depth 1 a step is
// planned while the one before runs, unless a running sequence may have a draft (Scheduler::MayPlanAhead): then each
// result is applied before the next plan, as with depth 0. So what comes while a step runs is in the step after the
// next at the latest. When there is nothing to do the loop sleeps on the inbox until the scheduler's next deadline.
//
// Every lane that was submitted ends with exactly one FinishedEvent or FailedEvent, whatever happens; an error of the
// backend ends them all with UNAVAILABLE, and Run with that error.
//
// Equal events at equal times give equal outcomes in equal order: a simulation may call Step in place of Run.
//
// Thread safety: Run, Step and RunTurn from one thread; the rest from any.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "tracing/tracer.h"
#include "worker/engine/engine_metrics.h"
#include "worker/engine/inbox.h"
#include "worker/engine/lane_trace.h"
#include "worker/scheduler/scheduler.h"
#include "worker/speculation/draft_planner.h"
#include "worker/speculation/ngram_source.h"
#include "worker/speculation/prediction_source.h"
#include "worker/step/step_backend.h"

namespace outrider {

// What the group carries; as of the last turn.
struct EngineLoad {
  int num_running = 0;
  int num_waiting = 0;
  int64_t num_outstanding_tokens = 0;
  float kv_used_ratio = 0;    // blocks of live sequences
  float kv_cached_ratio = 0;  // blocks that the prefix cache knows, of live sequences or of none
  int num_sources = 0;        // draft sources other than the in-process one
  EngineTotals totals;
};

class TargetEngine {
 public:
  struct Options {
    SchedulerOptions scheduler;
    DraftPlannerOptions drafts;
    bool ngram_draft = true;
    Tracer* tracer = nullptr;  // null: no spans are recorded; outlives the engine
  };
  // All outlive this. REQUIRES: Scheduler::Validate(options.scheduler) is OK.
  TargetEngine(const Options& options, Inbox& inbox, StepBackend& backend, const Clock& clock, EngineMetrics& metrics);
  ~TargetEngine();
  TargetEngine(const TargetEngine&) = delete;
  TargetEngine& operator=(const TargetEngine&) = delete;

  // Takes turns until Stop, or until Drain and nothing lives any more: OK. Else the backend's error.
  absl::Status Run();
  // Takes nothing new; Run returns once what runs has ended.
  void Drain();
  // Run returns after the turn under way; what still lives ends with UNAVAILABLE "draining", so that its router takes
  // it elsewhere.
  void Stop();

  // What Run does between two looks at the inbox: a turn, and the end if it is due. An error is Run's.
  enum class Next : uint8_t { kTurn, kSleep, kEnd };
  absl::StatusOr<Next> Step();
  // One turn. True if a step was run or collected: there may be more to do at once.
  absl::StatusOr<bool> RunTurn();
  // When RunTurn has to be called again though nothing is posted.
  TimePoint NextDeadline() const { return scheduler_.NextDeadline(); }
  // Ends everything that lives with `error`.
  void FailAll(const absl::Status& error);

  EngineLoad load() const;
  // Turns are taken, or the loop sleeps since it has nothing to do: no turn has lasted for `patience`.
  bool IsHealthy(Duration patience) const;

  // For tests, by the thread that takes turns or once it has ended.
  const Scheduler& scheduler() const { return scheduler_; }
  const DraftStats& draft_stats() const { return draft_planner_.stats(); }

 private:
  struct Lane {
    StreamPointer stream;
    LaneId id;
    TimePoint received{};
    std::optional<TimePoint> last_token;  // empty: none yet
    std::unique_ptr<LaneTrace> trace;     // null: not recorded
  };
  struct RequestKey {
    const TokenStream* stream = nullptr;
    RequestId id;
    friend bool operator==(const RequestKey&, const RequestKey&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const RequestKey& key) {
      return H::combine(std::move(h), key.stream, key.id);
    }
  };

  // Whether a step may be planned while one is out.
  bool PlansAhead() const;
  // Takes in the result of the oldest step that is out.
  absl::Status Apply(const absl::StatusOr<StepResult>& result);
  void DrainInbox(TimePoint now);
  void Take(SubmitEvent event, TimePoint now);
  void Take(CancelEvent event, TimePoint now);
  void Take(StopAtEvent event, TimePoint now);
  void Take(StreamLostEvent event, TimePoint now);
  void Take(AttachSourceEvent event, TimePoint now);
  void Take(DetachSourceEvent event, TimePoint now);
  // Takes what the scheduler did to routers and draft sources, until it has nothing more to say. `step_began`: of the
  // step that tokens came of, if any did.
  void Digest(TimePoint now, TimePoint step_began);
  void Emit(SequenceUpdate& update, TimePoint now, TimePoint step_began);
  // Whose draft it was, by name.
  std::string SourceName(DraftPlanner::DraftSourceId source) const;
  void EndLane(SequenceId sequence);
  void Touch(const StreamPointer& stream);
  // Collects what is out and drops it, so that the backend can be stopped.
  absl::Status CollectRest();
  void ApplyDraftDecisions();
  // Nobody waits for a draft of a source that has lost its peer.
  void NoticeLostPeers();
  void EndDraftWaits();
  void Publish();

  Inbox& inbox_;
  StepBackend& backend_;
  const Clock& clock_;
  EngineMetrics& metrics_;
  Tracer* const tracer_;

  // The loop's own.
  Scheduler scheduler_;
  struct AttachedSource {
    DraftPlanner::DraftSourceId id = 0;
    std::unique_ptr<DraftSource> source;
    uint64_t connection = 0;  // as of the last turn
  };
  NgramSource ngram_source_;
  PredictionSource prediction_source_;
  DraftPlanner::DraftSourceId prediction_source_id_ = 0;
  absl::btree_map<std::string, AttachedSource> sources_;
  DraftPlanner draft_planner_;  // speaks to the sources above
  absl::btree_map<SequenceId, Lane> lanes_;
  absl::flat_hash_map<RequestKey, std::vector<SequenceId>> requests_;
  std::vector<StreamPointer> touched_streams_;  // appended to since the last flush; each once
  DraftDecisions draft_decisions_;
  struct StepOut {
    const StepPlan* plan = nullptr;  // the scheduler's, until its result is applied
    TimePoint submitted{};
  };
  std::deque<StepOut> steps_out_;  // given to the backend, not yet collected; the oldest first
  TimePoint last_collected_{};

  std::atomic<bool> draining_{false};
  std::atomic<bool> stopped_{false};
  mutable Mutex mu_;
  EngineLoad load_ ABSL_GUARDED_BY(mu_);
  std::optional<TimePoint> turn_began_ ABSL_GUARDED_BY(mu_);  // empty: asleep
};

}  // namespace outrider
