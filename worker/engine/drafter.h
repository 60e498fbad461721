// Drafter is the draft worker's loop: it keeps sequences of many target groups in step with what is committed, and
// answers each commit that asks for a draft with one path of the draft model's own tokens under the sequence's noise.
//
// All drafts of all groups advance together, one token a step; a long prompt is caught up in chunks beside them, so it
// holds nobody's draft back. With run_ahead, what nobody asked for yet goes in what room is left. Everything a target
// says is taken with distrust: what is out of range or does not fit is dropped and counted by reason, and answered by
// silence.
//
// KV memory is a cache: when blocks run out, the sequences longest unheard of give theirs up and are computed again
// from their tokens at their next commit. A sequence unheard of for `lease` is forgotten.
//
// Thread safety: Attach, Detach, Post, Stop, load and health from any thread; Run and RunTurn from one, which owns the
// rest.
#pragma once

#include <atomic>
#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/mutex.h"
#include "base/trace_context.h"
#include "tracing/tracer.h"
#include "worker/engine/draft_sequence.h"
#include "worker/engine/drafter_metrics.h"
#include "worker/step/step_backend.h"

namespace outrider {

// What a target group asks for. Nothing in it is validated.
struct DraftOpen {
  std::vector<TokenId> prompt;
  std::vector<TokenId> output;        // committed so far
  SamplingParams params;              // lane included
  int64_t lookahead = 0;              // draft tokens wanted now
  std::optional<TraceContext> trace;  // empty: the sequence belongs to no trace that is recorded
};
struct DraftCommit {
  int64_t first_position = 0;
  std::vector<TokenId> tokens;
  int64_t lookahead = 0;
};
struct DraftClose {};
struct DraftCommand {
  uint64_t sequence = 0;  // the target's name for it, unique on its stream
  uint32_t epoch = 0;
  std::variant<DraftOpen, DraftCommit, DraftClose> command;
};

struct DraftProposal {
  uint64_t sequence = 0;
  uint32_t epoch = 0;
  DraftPath path;
};

struct DrafterLoad {
  int num_sequences = 0;
  int num_queued_tokens = 0;  // to compute for the drafts that are wanted
  float tokens_per_second = 0;
  float kv_used_ratio = 0;
};

// A target group's stream, as the drafter sees it. Called from the drafter's thread; may not block.
class DraftClient {
 public:
  virtual ~DraftClient() = default;
  // Everything this client has coming from one turn. Dropped if the peer does not read.
  virtual void Send(std::vector<DraftProposal> proposals, const DrafterLoad* load) = 0;
  // So many batches given to Post have been taken in; there is room for as many again.
  virtual void BatchesTaken(int count) = 0;
};

using DraftClientId = uint64_t;

class Drafter {
 public:
  struct Options {
    int vocab_size = 0;
    int max_model_len = 0;
    int max_sequences = 0;
    int block_size = 0;
    int num_blocks = 0;
    int max_step_tokens = 0;
    Duration lease{};
    // Draft on after each answer, beside what is asked for: hides the next draft where all of one is accepted, and
    // computes in vain where not. For a drafter with cores of its own.
    bool run_ahead = false;
    Tracer* tracer = nullptr;  // null: no spans are recorded; outlives the drafter
  };
  // Drafting rounds of a sequence that are recorded as spans, at most; as many as its group records of its own.
  static constexpr int kMaxTracedRounds = 16;
  // A client's batches that wait to be taken, at most: RESOURCE_EXHAUSTED beyond. Its reader keeps within it.
  static constexpr int kMaxWaitingBatches = 8;
  static constexpr int kMaxClients = 256;
  // Draft tokens a commit may ask for; more are not drafted.
  static constexpr int kMaxLookahead = 32;
  // Prompt tokens computed beside drafts in one step, at most: bounds what a long prompt adds to everyone's draft.
  static constexpr int kCatchUpTokensBesideDrafts = 64;

  // All outlive this.
  Drafter(const Options& options, StepBackend& backend, const Clock& clock, DrafterMetrics& metrics);
  ~Drafter();
  Drafter(const Drafter&) = delete;
  Drafter& operator=(const Drafter&) = delete;

  // RESOURCE_EXHAUSTED beyond kMaxClients; UNAVAILABLE while draining.
  absl::StatusOr<DraftClientId> Attach(std::shared_ptr<DraftClient> client);
  // Frees everything the client opened. Nothing is sent to it once the next turn has begun.
  void Detach(DraftClientId client);
  absl::Status Post(DraftClientId client, std::vector<DraftCommand> commands);

  // Takes turns until Stop, or until drained; sleeps while there is nothing to do. An error is the backend's and fatal.
  absl::Status Run();
  void Stop();
  // Takes no new client and no new sequence; Run returns once all clients have left, or at `deadline`. The first call
  // counts.
  void Drain(TimePoint deadline);

  // One turn: take what was posted, run a step, send what is ready. True if there was anything to compute.
  absl::StatusOr<bool> RunTurn();

  DrafterLoad load() const;
  // The loop turns, or sleeps because nothing is asked of it: no step has been under way for `patience`.
  bool IsHealthy(Duration patience) const;

 private:
  struct Key {
    DraftClientId client = 0;
    uint64_t sequence = 0;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  struct Entry;
  struct Posted {
    DraftClientId client = 0;
    std::shared_ptr<DraftClient> attached;  // set: the client begins
    bool detached = false;
    std::vector<DraftCommand> commands;
  };
  struct Wanting {
    Key key;
    uint64_t order = 0;
  };
  struct Planned {
    Key key;
    int num_tokens = 0;
    bool samples = false;
  };

  void TakePosted(TimePoint now);
  void Take(const Key& key, DraftCommand command, TimePoint now);
  void Open(const Key& key, uint32_t epoch, DraftOpen open, TimePoint now);
  void Commit(const Key& key, Entry& entry, const DraftCommit& commit, TimePoint now);
  bool TokensAreValid(const std::vector<TokenId>& tokens) const;
  void Want(const Key& key, Entry& entry, int64_t lookahead, TimePoint now);
  void Forget(const Key& key);
  void ForgetExpired(TimePoint now);
  void DropKv(Entry& entry);
  Entry* FindWanting(const Wanting& item);
  StepPlan PlanStep(std::vector<Planned>& planned);
  bool PlanSpan(const Key& key, Entry& entry, int num_tokens, StepPlan& plan, std::vector<Planned>& planned);
  bool ReserveBlocks(Entry& entry, int num_positions);
  Entry* FindVictim(const Entry& entry);
  // Notes that the entry wants a draft, behind all that want one already.
  void Enqueue(const Key& key, Entry& entry, std::vector<Wanting>& wanting);
  void ApplyResult(const StepResult& result, const std::vector<Planned>& planned, Duration elapsed);
  void CollectReady(TimePoint now);
  void RecordRound(Entry& entry, TimePoint now, int num_draft_tokens);
  void PublishLoad();
  void SendAll(TimePoint now);
  void SetStepBegan(std::optional<TimePoint> when);
  bool IsDraining() const;

  const Options options_;
  StepBackend& backend_;
  const Clock& clock_;
  DrafterMetrics& metrics_;

  // The loop's own.
  absl::btree_map<DraftClientId, std::shared_ptr<DraftClient>> clients_;
  absl::btree_map<Key, std::unique_ptr<Entry>> sequences_;  // ordered: equal events give equal outcomes
  std::vector<Wanting> wanting_;  // in the order they asked; stale where FindWanting finds none
  absl::flat_hash_map<DraftClientId, std::vector<DraftProposal>> outgoing_;
  std::vector<BlockId> free_blocks_;
  std::vector<SequenceId> ended_mirrors_;  // to be named in the next plan
  uint64_t last_order_ = 0;
  uint64_t last_mirror_ = 0;
  uint64_t last_step_ = 0;
  TimePoint next_load_{};
  TimePoint next_expiry_{};
  double tokens_per_second_ = 0;

  mutable Mutex mu_;
  CondVar posted_changed_;
  std::vector<Posted> posted_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<DraftClientId, int> waiting_batches_ ABSL_GUARDED_BY(mu_);  // of attached clients
  DraftClientId last_client_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<TimePoint> drain_until_ ABSL_GUARDED_BY(mu_);
  DrafterLoad load_ ABSL_GUARDED_BY(mu_);
  std::optional<TimePoint> step_began_ ABSL_GUARDED_BY(mu_);  // empty: no step is under way
};

}  // namespace outrider
