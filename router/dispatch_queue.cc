#include "router/dispatch_queue.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace outrider::router {
namespace {

// Calls prepared (tokenized) between two turns, so that leases are looked after meanwhile.
constexpr size_t kPreparedAtOnce = 16;

std::string StateOf(const GroupView& group) {
  if (group.draining) return "is draining";
  if (!group.serving) return "is not ready";
  if (!group.connected) return absl::StrCat("can not be reached at ", group.address);
  return "serves";
}

}  // namespace

void DispatchQueue::Route(CallId call_id, std::optional<RoutingNeeds> needs, int64_t num_tokens_estimate,
                          AdmissionController::Place place, TimePoint now, Decisions& decisions) {
  if (needs.has_value() && (admission_.empty() || place == AdmissionController::Place::kFront)) {
    RoutingRefusal refusal;
    if (std::optional<GroupRef> group = Place(*needs, &refusal)) {
      decisions.starts.push_back({call_id, *std::move(group)});
      return;
    }
  }
  absl::Status refused =
      admission_.Enqueue(call_id, place, needs.has_value() ? needs->num_tokens : num_tokens_estimate, now);
  if (!refused.ok()) {
    decisions.refusals.push_back({call_id, std::move(refused)});
    return;
  }
  turn_wanted_ |= !needs.has_value() || admission_.num_requests() == 1;
  waiting_.emplace(call_id, Waiting{.needs = std::move(needs)});
}

void DispatchQueue::OnPrepared(CallId call_id, absl::StatusOr<RoutingNeeds> needs, Decisions& decisions) {
  turn_wanted_ = true;
  const auto it = waiting_.find(call_id);
  if (it == waiting_.end()) return;  // withdrawn or expired meanwhile
  if (needs.ok()) {
    admission_.SetTokens(call_id, needs->num_tokens);
    it->second.needs = *std::move(needs);
    return;
  }
  admission_.Remove(call_id);
  waiting_.erase(it);
  decisions.refusals.push_back({call_id, needs.status()});
}

bool DispatchQueue::Withdraw(CallId call_id) {
  if (waiting_.erase(call_id) == 0) return false;
  admission_.Remove(call_id);
  return true;
}

void DispatchQueue::Release(const GroupRef& group, const GroupLoad& load) {
  registry_.Release(group.group_id, group.incarnation, load);
  turn_wanted_ |= !admission_.empty();
}

void DispatchQueue::Hold(const GroupRef& group) { registry_.Hold(group.group_id, group.incarnation); }

absl::StatusOr<HeartbeatNews> DispatchQueue::Heartbeat(const GroupReport& report, TimePoint now) {
  turn_wanted_ |= !admission_.empty();
  return registry_.Heartbeat(report, now);
}

absl::StatusOr<HeartbeatNews> DispatchQueue::Heartbeat(const DraftWorkerReport& report, TimePoint now) {
  return registry_.Heartbeat(report, now);
}

std::vector<const DraftWorkerView*> DispatchQueue::DraftWorkersOf(const std::string& group_id) {
  return registry_.DraftWorkersOf(group_id);
}

void DispatchQueue::SetConnected(const std::string& group_id, uint64_t incarnation, bool connected) {
  registry_.SetConnected(group_id, incarnation, connected);
  turn_wanted_ |= connected;
}

void DispatchQueue::TakeTurn(TimePoint now, bool model_ready, Decisions& decisions) {
  turn_wanted_ = false;
  for (LostWorker& lost : registry_.Expire(now)) decisions.lost.push_back(std::move(lost));
  for (const CallId call_id : admission_.TakeExpired(now)) {
    const auto it = waiting_.find(call_id);
    CHECK(it != waiting_.end());
    const std::optional<RoutingNeeds>& needs = it->second.needs;
    decisions.refusals.push_back(
        {call_id, absl::UnavailableError(
                      absl::StrCat("no target group could take the request within ",
                                   static_cast<int64_t>(ToMillis(options_.admission.queue_timeout)),
                                   " ms (queue_timeout_ms): ", WhyNot(needs.has_value() ? &*needs : nullptr)))});
    waiting_.erase(it);
  }
  StartWhoCan(model_ready, decisions);
}

void DispatchQueue::StartWhoCan(bool model_ready, Decisions& decisions) {
  if (admission_.empty()) return;
  admission_.VisitInOrder([&](CallId call_id) {
    const auto it = waiting_.find(call_id);
    CHECK(it != waiting_.end());
    Waiting& waiting = it->second;
    if (!waiting.needs.has_value()) {
      if (!model_ready || decisions.to_prepare.size() >= kPreparedAtOnce) return AdmissionController::Visit::kStop;
      if (!waiting.preparing) {
        waiting.preparing = true;
        decisions.to_prepare.push_back(call_id);
      }
      return AdmissionController::Visit::kSkip;
    }
    RoutingRefusal refusal;
    std::optional<GroupRef> group = Place(*waiting.needs, &refusal);
    if (!group.has_value()) {
      // Whoever is asked for by numerics or size must not hold up those that any group can take.
      const bool only_this = refusal == RoutingRefusal::kNoneFits ||
                             (refusal == RoutingRefusal::kAllBusy && !waiting.needs->numerics_id.empty());
      return only_this ? AdmissionController::Visit::kSkip : AdmissionController::Visit::kStop;
    }
    decisions.starts.push_back({call_id, *std::move(group)});
    waiting_.erase(it);
    return AdmissionController::Visit::kTake;
  });
}

std::optional<GroupRef> DispatchQueue::Place(const RoutingNeeds& needs, RoutingRefusal* refusal) {
  const RoutingDecision decision = policy_.Choose(registry_.snapshot(), needs);
  *refusal = decision.refusal;
  if (decision.group_index < 0) return std::nullopt;
  const GroupView& group = registry_.snapshot().groups[decision.group_index];
  GroupRef ref{
      .group_id = group.id, .incarnation = group.incarnation, .epoch = group.epoch, .numerics_id = group.numerics_id};
  registry_.Charge(ref.group_id, ref.incarnation, {.num_lanes = needs.num_lanes, .num_tokens = needs.num_tokens});
  return ref;
}

std::string DispatchQueue::WhyNot(const RoutingNeeds* needs) const {
  const std::vector<GroupView>& groups = registry_.snapshot().groups;
  if (groups.empty()) {
    return "no target group is registered with this router; start one with this router as its --router-address, and "
           "look at its log if one should be there";
  }
  constexpr size_t kGroupsNamed = 4;
  std::vector<std::string> states;
  bool any_usable = false;
  for (const GroupView& group : groups) {
    any_usable |= group.usable();
    if (states.size() < kGroupsNamed) states.push_back(absl::StrCat("group ", group.id, " ", StateOf(group)));
  }
  const std::string listed = absl::StrCat(absl::StrJoin(states, ", "), groups.size() > kGroupsNamed ? ", ..." : "");
  if (!any_usable) {
    return absl::StrCat("of ", groups.size(), " target groups none serves (", listed, "); look at their logs");
  }
  if (needs == nullptr) return "the model's tokenizer has not come from a group yet; look at the router's log";
  RoutingNeeds elsewhere = *needs;
  if (policy_.Choose(registry_.snapshot(), elsewhere).refusal == RoutingRefusal::kNoneFits) {
    if (!needs->numerics_id.empty()) {
      return absl::StrCat("none has numerics_id ", needs->numerics_id,
                          ", which the tokens delivered so far came from (", listed,
                          "); start a group with the same model, ranks and numerics");
    }
    return absl::StrCat("none takes ", needs->num_context_tokens, " tokens of prompt and output of model ",
                        needs->model.model, " (", listed, "); lower max_tokens or raise the groups' max_model_len");
  }
  return absl::StrCat("all are busy (", listed, "); try again later or add groups");
}

}  // namespace outrider::router
