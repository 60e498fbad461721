// What policies may look at: the workers that are registered now, with the load each carries.
//
// The registry keeps one and changes it in place; it is read under the lock that guards the registry. Both lists are
// sorted by id, so that equal clusters give equal choices.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/engine_totals.h"

namespace outrider::router {

// Which model a group serves. Requests are prepared for one and may only go to groups of it.
struct ModelKey {
  std::string model;
  std::string tokenizer_fingerprint;
  friend bool operator==(const ModelKey&, const ModelKey&) = default;
};

struct GroupLoad {
  int64_t num_lanes = 0;
  int64_t num_tokens = 0;  // prompt tokens to compute and output tokens that may come
};

// What a group says of itself, to be shown; policies do not look at it.
struct GroupUsage {
  int sequences_running = 0;
  int sequences_waiting = 0;
  float kv_cache_used_ratio = 0;  // blocks of live sequences
  int block_size = 0;             // tokens
  int num_kv_blocks = 0;
  int num_ranks = 0;  // 0: it does not say
  EngineTotals totals;
};

// A group's stream to a draft worker, as the group measures it.
struct DraftLinkView {
  std::string worker_id;
  uint64_t incarnation = 0;
  double round_trip_ms = 0;
};

struct GroupView {
  std::string id;
  uint64_t incarnation = 0;
  std::string address;
  ModelKey model;
  std::string numerics_id;
  uint64_t epoch = 0;
  int max_model_len = 0;
  int max_sequences = 0;
  bool serving = false;                    // as it says: all ranks are in, steps make progress
  bool draining = false;                   // takes nothing new
  bool connected = false;                  // this router's stream to it is up
  bool held = false;                       // refused or failed something; nothing new until its next heartbeat
  bool suspect = false;                    // its heartbeats are late; chosen only if nobody else can
  uint32_t life = 0;                       // a number of this life of the group alone, from 1
  GroupLoad own;                           // of this router's open attempts
  std::vector<DraftLinkView> draft_links;  // also to workers that it was paired with before and that live
  GroupUsage usage;                        // as of its last heartbeat
  GroupLoad foreign;  // what its last heartbeat told beyond `own` of then: the load of other routers

  bool usable() const { return serving && connected && !draining; }
  int64_t num_lanes() const { return own.num_lanes + foreign.num_lanes; }
  int64_t num_tokens() const { return own.num_tokens + foreign.num_tokens; }
};

// A group in one of its lives, as an attempt knows it.
struct GroupRef {
  std::string group_id;
  uint64_t incarnation = 0;
  uint64_t epoch = 0;
  std::string numerics_id;
};

// Why something that a group said is not taken.
enum class StaleReason : uint8_t {
  kAttempt,      // the attempt is not open (any more)
  kFenced,       // the group was given up, then spoke again
  kIncarnation,  // it is in another life than the one that was spoken to
};

struct DraftWorkerView {
  std::string id;
  uint64_t incarnation = 0;
  std::string address;
  std::string model;
  std::string tokenizer_fingerprint;
  int max_sequences = 0;
  bool draining = false;
  int num_sequences = 0;  // that it drafts for
  int num_queued_tokens = 0;
  double tokens_per_second = 0;  // 0: not measured yet
  double queue_ms = 0;           // what waits there takes so long, by its own speed; smoothed over heartbeats
};

// What requests ask of a group; groups of one cluster are of few kinds.
struct GroupKind {
  ModelKey model;
  std::string numerics_id;
  int max_model_len = 0;
  friend bool operator==(const GroupKind&, const GroupKind&) = default;
};

// What choosing looks at, a group each: half a cache line in place of five.
struct GroupCost {
  int64_t num_tokens = 0;
  int32_t num_lanes = 0;
  int32_t max_sequences = 0;
  uint32_t kind = 0;  // into ClusterSnapshot::kinds
  uint32_t life = 0;
  bool usable = false;
  bool held = false;
  bool suspect = false;
};

struct ClusterSnapshot {
  std::vector<GroupView> groups;
  std::vector<DraftWorkerView> draft_workers;

  // Follow from `groups`: whoever changes those says so.
  std::vector<GroupCost> costs;  // in the same order
  std::vector<GroupKind> kinds;
  // Groups came, went or changed their kind.
  void Rebuild();
  // Numbers and flags of one changed. REQUIRES: nothing else did since Rebuild.
  void Refresh(size_t index);

  // -1 if no group is in that life.
  int IndexOfLife(uint32_t life) const;
};

}  // namespace outrider::router
