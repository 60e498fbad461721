#include "router/cluster_load.h"

#include <algorithm>

#include "base/version.h"

namespace outrider::router {
namespace {

// Counts are not negative; what a hostile worker says is kept in range where it is heard.
template <typename T>
uint32_t Count(T count) {
  return static_cast<uint32_t>(std::max<T>(0, count));
}
uint64_t Total(int64_t total) { return static_cast<uint64_t>(std::max<int64_t>(0, total)); }

v1::WorkerState StateOf(const GroupView& group) {
  if (group.draining) return v1::WORKER_STATE_DRAINING;
  if (!group.serving) return v1::WORKER_STATE_NOT_SERVING;
  if (!group.connected) return v1::WORKER_STATE_UNREACHABLE;
  if (group.suspect) return v1::WORKER_STATE_SUSPECT;
  return group.held ? v1::WORKER_STATE_HELD : v1::WORKER_STATE_SERVING;
}

void AddPartners(const GroupView& group, const ClusterState& state, v1::GroupStatus& out) {
  if (const auto paired = state.pairing.find(group.id); paired != state.pairing.end()) {
    for (const std::string& id : paired->second) {
      v1::DraftPartner& partner = *out.add_draft_workers();
      partner.set_id(id);
      partner.set_paired(true);
    }
  }
  for (const DraftLinkView& link : group.draft_links) {
    auto& partners = *out.mutable_draft_workers();
    const auto known =
        std::find_if(partners.begin(), partners.end(), [&](const auto& p) { return p.id() == link.worker_id; });
    v1::DraftPartner& partner = known == partners.end() ? *out.add_draft_workers() : *known;
    partner.set_id(link.worker_id);
    partner.set_connected(true);
    partner.set_round_trip_ms(static_cast<float>(link.round_trip_ms));
  }
}

void AddGroup(const GroupView& group, const ClusterState& state, v1::GroupStatus& out) {
  const GroupUsage& usage = group.usage;
  const EngineTotals& totals = usage.totals;
  out.set_id(group.id);
  out.set_state(StateOf(group));
  out.set_epoch(group.epoch);
  out.set_ranks(Count(usage.num_ranks));
  out.set_numerics_id(group.numerics_id);
  out.set_sequences_running(Count(usage.sequences_running));
  out.set_sequences_waiting(Count(usage.sequences_waiting));
  out.set_max_sequences(Count(group.max_sequences));
  out.set_outstanding_tokens(Total(group.num_tokens()));
  out.set_kv_cache_used_ratio(usage.kv_cache_used_ratio);
  out.set_kv_blocks(Count(usage.num_kv_blocks));
  out.set_block_size(Count(usage.block_size));
  out.set_committed_tokens_total(Total(totals.num_committed_tokens));
  out.set_preemptions_total(Total(totals.num_preemptions));
  out.set_rounds_total(Total(totals.num_rounds));
  out.set_hidden_rounds_total(Total(totals.num_hidden_rounds));
  size_t num_positions = totals.draft_tokens.size();
  while (num_positions > 0 && totals.draft_tokens[num_positions - 1] == 0) --num_positions;
  for (size_t i = 0; i < num_positions; ++i) {
    out.add_draft_tokens_by_position(Total(totals.draft_tokens[i]));
    out.add_accepted_tokens_by_position(Total(totals.accepted_tokens[i]));
  }
  AddPartners(group, state, out);
}

void AddDraftWorker(const DraftWorkerView& worker, v1::DraftWorker& out) {
  out.set_id(worker.id);
  out.set_state(worker.draining ? v1::WORKER_STATE_DRAINING : v1::WORKER_STATE_SERVING);
  out.set_model(worker.model);
  out.set_sequences(Count(worker.num_sequences));
  out.set_max_sequences(Count(worker.max_sequences));
  out.set_queued_tokens(Count(worker.num_queued_tokens));
  out.set_tokens_per_second(static_cast<float>(worker.tokens_per_second));
  out.set_queue_ms(static_cast<float>(worker.queue_ms));
}

}  // namespace

v1::ClusterLoad ToClusterLoad(const RouterOverview& overview, const ClusterState& state) {
  v1::ClusterLoad load;
  load.set_version(kProgramVersion);
  load.set_model(overview.model);
  load.set_max_model_len(Count(overview.max_model_len));
  load.set_serving(overview.why_not_serving.empty());
  load.set_status(overview.why_not_serving);
  v1::RouterLoad& router = *load.mutable_router();
  router.set_uptime_seconds(std::chrono::duration<double>(state.uptime).count());
  router.set_requests_open(Count(overview.num_requests_open));
  router.set_requests_waiting(Count(state.num_requests_waiting));
  router.set_tokens_waiting(Total(state.num_tokens_waiting));
  router.set_prompt_tokens_total(Total(static_cast<int64_t>(overview.traffic.num_prompt_tokens)));
  router.set_output_tokens_total(Total(static_cast<int64_t>(overview.traffic.num_output_tokens)));
  for (const GroupView& group : state.groups) AddGroup(group, state, *load.add_groups());
  for (const DraftWorkerView& worker : state.draft_workers) AddDraftWorker(worker, *load.add_draft_workers());
  return load;
}

}  // namespace outrider::router
