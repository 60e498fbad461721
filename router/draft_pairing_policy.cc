#include "router/draft_pairing_policy.h"

#include <algorithm>

namespace outrider::router {
namespace {

struct Candidate {
  const DraftWorkerView* worker;
  int num_groups = 0;
};

// Of one group's share of a worker, if the worker had `num_groups` in all.
double CostMs(const GroupView& group, const DraftWorkerView& worker, int num_groups) {
  const auto measured = std::find_if(group.draft_links.begin(), group.draft_links.end(),
                                     [&](const DraftLinkView& link) { return link.worker_id == worker.id; });
  const double round_trip_ms = measured == group.draft_links.end() ? 0 : measured->round_trip_ms;
  return num_groups * (kDraftBaseMs + std::max(0.0, round_trip_ms) + std::max(0.0, worker.queue_ms));
}

bool Contains(const std::vector<std::string>& ids, const std::string& id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Moves the pair that gains most, if any gains enough. Of equal gains the last group's, to the first worker.
bool MoveOne(const std::vector<const GroupView*>& groups, std::vector<Candidate>& candidates, DraftPairing& pairing) {
  std::string* moved = nullptr;
  Candidate* from = nullptr;
  Candidate* to = nullptr;
  double best = kPairingGain;
  for (auto group = groups.rbegin(); group != groups.rend(); ++group) {
    std::vector<std::string>& chosen = pairing[(*group)->id];
    for (std::string& id : chosen) {
      const auto now = std::find_if(candidates.begin(), candidates.end(),
                                    [&](const Candidate& candidate) { return candidate.worker->id == id; });
      const double cost_now = CostMs(**group, *now->worker, now->num_groups);
      for (Candidate& other : candidates) {
        if (Contains(chosen, other.worker->id)) continue;
        const double gain = CostMs(**group, *other.worker, other.num_groups + 1) / cost_now;
        if (gain >= best) continue;
        best = gain;
        moved = &id;
        from = &*now;
        to = &other;
      }
    }
  }
  if (moved == nullptr) return false;
  *moved = to->worker->id;
  --from->num_groups;
  ++to->num_groups;
  return true;
}

// Pairs the groups of one tokenizer with the draft workers of it. The moves made.
int PairOneTokenizer(const std::vector<const GroupView*>& groups, std::vector<Candidate> candidates,
                     const DraftPairing& current, int num_per_group, int max_moves, DraftPairing& pairing) {
  const size_t num_pairs_each = std::min(static_cast<size_t>(std::max(0, num_per_group)), candidates.size());
  for (const GroupView* group : groups) {
    const auto kept = current.find(group->id);
    if (kept == current.end()) continue;
    std::vector<std::string>& chosen = pairing[group->id];
    for (const std::string& id : kept->second) {
      for (Candidate& candidate : candidates) {
        if (candidate.worker->id != id || chosen.size() >= num_pairs_each || Contains(chosen, id)) continue;
        chosen.push_back(id);
        ++candidate.num_groups;
      }
    }
  }
  for (const GroupView* group : groups) {
    std::vector<std::string>& chosen = pairing[group->id];
    while (chosen.size() < num_pairs_each) {
      Candidate* best = nullptr;
      double best_ms = 0;
      for (Candidate& candidate : candidates) {
        if (Contains(chosen, candidate.worker->id)) continue;
        const double cost_ms = CostMs(*group, *candidate.worker, candidate.num_groups + 1);
        if (best != nullptr && cost_ms >= best_ms) continue;
        best = &candidate;
        best_ms = cost_ms;
      }
      chosen.push_back(best->worker->id);
      ++best->num_groups;
    }
  }
  int num_moves = 0;
  while (num_moves < max_moves && MoveOne(groups, candidates, pairing)) ++num_moves;
  return num_moves;
}

}  // namespace

DraftPairing PairDraftWorkers(const ClusterSnapshot& cluster, const DraftPairing& current, int num_per_group,
                              int max_moves) {
  std::map<std::string, std::vector<const GroupView*>> groups;
  for (const GroupView& group : cluster.groups) groups[group.model.tokenizer_fingerprint].push_back(&group);
  DraftPairing pairing;
  for (const auto& [fingerprint, members] : groups) {
    std::vector<Candidate> candidates;
    for (const DraftWorkerView& worker : cluster.draft_workers) {
      if (!worker.draining && worker.tokenizer_fingerprint == fingerprint) candidates.push_back({&worker});
    }
    if (candidates.empty()) continue;
    max_moves -= PairOneTokenizer(members, std::move(candidates), current, num_per_group, max_moves, pairing);
  }
  return pairing;
}

}  // namespace outrider::router
