#include "router/draft_pairing_policy.h"

#include <algorithm>

namespace outrider::router {
namespace {

struct Candidate {
  const DraftWorkerView* worker;
  int num_groups = 0;
};

// Pairs the groups of one tokenizer with the draft workers of it.
void PairOneTokenizer(const std::vector<const GroupView*>& groups, std::vector<Candidate> candidates,
                      const DraftPairing& current, int num_per_group, DraftPairing& pairing) {
  const int num_pairs_each = std::min<int>(num_per_group, static_cast<int>(candidates.size()));
  const int num_pairs = num_pairs_each * static_cast<int>(groups.size());
  const int num_groups_max =
      (num_pairs + static_cast<int>(candidates.size()) - 1) / static_cast<int>(candidates.size());
  for (const GroupView* group : groups) {
    const auto kept = current.find(group->id);
    if (kept == current.end()) continue;
    std::vector<std::string>& chosen = pairing[group->id];
    for (const std::string& id : kept->second) {
      for (Candidate& candidate : candidates) {
        if (candidate.worker->id == id && candidate.num_groups < num_groups_max && chosen.size() < num_pairs_each) {
          chosen.push_back(id);
          ++candidate.num_groups;
        }
      }
    }
  }
  for (const GroupView* group : groups) {
    std::vector<std::string>& chosen = pairing[group->id];
    while (chosen.size() < num_pairs_each) {
      Candidate* best = nullptr;
      for (Candidate& candidate : candidates) {
        if (std::find(chosen.begin(), chosen.end(), candidate.worker->id) != chosen.end()) continue;
        if (best == nullptr || candidate.num_groups < best->num_groups) best = &candidate;
      }
      chosen.push_back(best->worker->id);
      ++best->num_groups;
    }
  }
}

}  // namespace

DraftPairing PairDraftWorkers(const ClusterSnapshot& cluster, const DraftPairing& current, int num_per_group) {
  std::map<std::string, std::vector<const GroupView*>> groups;
  for (const GroupView& group : cluster.groups) groups[group.model.tokenizer_fingerprint].push_back(&group);
  DraftPairing pairing;
  for (const auto& [fingerprint, members] : groups) {
    std::vector<Candidate> candidates;
    for (const DraftWorkerView& worker : cluster.draft_workers) {
      if (!worker.draining && worker.tokenizer_fingerprint == fingerprint) candidates.push_back({&worker});
    }
    if (candidates.empty()) continue;
    PairOneTokenizer(members, std::move(candidates), current, num_per_group, pairing);
  }
  return pairing;
}

}  // namespace outrider::router
