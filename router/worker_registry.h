// WorkerRegistry knows the target groups and draft workers: who they are, whether they live, what they carry, and who
// drafts for whom.
//
// Invariants:
//   - a worker id is held by the greatest incarnation that was ever heard; messages of older ones change nothing;
//   - all groups serve one model, that of the first: ids of two models must not mix in one service. Another model's
//     groups are refused while a group of the first lives.
//
// Everything is bounded: kMaxWorkers of each role, names of kMaxNameBytes.
//
// Thread safety: none. Pure: time is an argument.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "router/cluster_snapshot.h"
#include "router/draft_pairing_policy.h"
#include "router/failure_detector.h"

namespace outrider::router {

inline constexpr size_t kMaxWorkers = 1024;
inline constexpr size_t kMaxNameBytes = 256;

// Who sends a heartbeat.
struct WorkerIdentity {
  std::string id;
  uint64_t incarnation = 0;
  std::string address;
  bool draining = false;
};

struct GroupReport {
  WorkerIdentity who;
  ModelKey model;
  std::string numerics_id;
  uint64_t epoch = 0;
  int max_model_len = 0;
  int max_sequences = 0;
  bool serving = false;
  GroupLoad load;  // lanes running and waiting, outstanding tokens; of all routers
  GroupUsage usage;
  std::vector<DraftLinkView> draft_links;
};

struct DraftWorkerReport {
  WorkerIdentity who;
  std::string model;
  std::string tokenizer_fingerprint;
  int max_sequences = 0;
  int num_sequences = 0;
  int num_queued_tokens = 0;
  double tokens_per_second = 0;  // 0: not measured yet
};

// Draft links of one group that are looked at.
inline constexpr size_t kMaxDraftLinks = 64;
// Pairs of draft workers are looked at this often for what is measured, and one is moved at most.
inline constexpr Duration kPairingInterval = std::chrono::seconds(10);

// What a heartbeat changed.
enum class HeartbeatNews : uint8_t {
  kNone,
  kJoined,     // was not registered
  kRestarted,  // was, in an older incarnation or at another address
};

// What became of a group's life that an attempt ran in.
enum class GroupFate : uint8_t {
  kServes,   // it goes on
  kUnknown,  // it is registered, but can not be reached or does not serve
  kDrained,  // it was told to end
  kSilent,   // its lease ran out, and nothing says why: the network, the machine, or a process that stands still
  kDied,     // a later life of it is known, or its host says that nobody listens where it was
};

struct LostWorker {
  bool is_group = false;
  std::string id;
  uint64_t incarnation = 0;
};

class WorkerRegistry {
 public:
  struct Options {
    Duration worker_timeout = FromMillis(3000);
    int draft_workers_per_group = 1;
  };
  explicit WorkerRegistry(const Options& options)
      : options_(options), group_detector_(options.worker_timeout), draft_detector_(options.worker_timeout) {}

  // Errors: INVALID_ARGUMENT (a field is empty, too long or zero), FAILED_PRECONDITION (an older incarnation, another
  // model; a draft worker whose tokenizer no group has: both are named), RESOURCE_EXHAUSTED (kMaxWorkers).
  absl::StatusOr<HeartbeatNews> Heartbeat(const GroupReport& report, TimePoint now);
  absl::StatusOr<HeartbeatNews> Heartbeat(const DraftWorkerReport& report, TimePoint now);

  // Removes those that have not been heard for worker_timeout and returns them. Call a few times a timeout.
  std::vector<LostWorker> Expire(TimePoint now);

  const ClusterSnapshot& snapshot() const { return snapshot_; }
  // Null if not registered, or in another incarnation.
  const GroupView* FindGroup(absl::string_view id, uint64_t incarnation) const;

  GroupFate FateOf(const GroupRef& group) const;
  // The host of a group's life answers, and nobody listens at its address: this life has ended, unless it is heard of
  // again. Of another incarnation than the last that was heard: nothing happens.
  void NoteGone(const std::string& id, uint64_t incarnation);

  // This router's side of a group. Of an unknown group or another incarnation: nothing happens.
  void SetConnected(absl::string_view id, uint64_t incarnation, bool connected);
  void Charge(absl::string_view id, uint64_t incarnation, const GroupLoad& load);
  void Release(absl::string_view id, uint64_t incarnation, const GroupLoad& load);
  // Nothing new until its next heartbeat: it refused or failed something, and what is known of it is old.
  void Hold(absl::string_view id, uint64_t incarnation);

  // The model that is served; nothing while no group is registered.
  std::optional<ModelKey> model() const;
  // Greatest context of the groups; 0 without any.
  int max_model_len() const;

  // As groups were told last: the draft workers of each, in order of choice.
  const DraftPairing& pairing() const { return pairing_; }
  // The draft workers of a group, in order of choice.
  std::vector<const DraftWorkerView*> DraftWorkersOf(const std::string& group_id);

 private:
  absl::Status CheckIdentity(const WorkerIdentity& who, absl::string_view role,
                             const absl::flat_hash_map<std::string, uint64_t>& incarnations) const;
  // Its numbers or flags changed.
  void Refresh(const GroupView& group);
  GroupView* MutableGroup(absl::string_view id, uint64_t incarnation);
  void Remember(const WorkerIdentity& who, absl::flat_hash_map<std::string, uint64_t>& incarnations);

  const Options options_;
  FailureDetector group_detector_;
  FailureDetector draft_detector_;
  ClusterSnapshot snapshot_;
  uint32_t last_life_ = 0;
  // Greatest incarnations heard, also of workers that are gone.
  absl::flat_hash_map<std::string, uint64_t> group_incarnations_;
  absl::flat_hash_map<std::string, uint64_t> draft_incarnations_;
  // The last incarnation that said it drains, of those in group_incarnations_.
  absl::flat_hash_map<std::string, uint64_t> drained_;
  // The last incarnation that nobody listens for any more, likewise.
  absl::flat_hash_map<std::string, uint64_t> gone_;
  DraftPairing pairing_;
  bool pairing_is_old_ = false;  // workers or groups came or went
  bool pairing_is_due_ = false;  // measurements may say better by now
  TimePoint paired_at_{};
};

}  // namespace outrider::router
