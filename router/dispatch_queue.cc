#include "router/dispatch_queue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "router/retry_after.h"

namespace outrider::router {
namespace {

// Calls prepared (tokenized) between two turns, so that leases are looked after meanwhile.
constexpr size_t kPreparedAtOnce = 16;
// What a refusal says at least and at most.
constexpr Duration kRetryAfterMin = std::chrono::milliseconds(100);
constexpr Duration kRetryAfterMax = std::chrono::seconds(30);
// Service times are measured in the mean; who must make a deadline is given so much more. Without it, half of those
// started at the edge would miss theirs, after they have taken others' time.
constexpr double kServiceMargin = 1.25;
// A wait is foretold from the rate of the last seconds, and the rate may drop before it is over: then those at the edge
// are given up when their turn comes, after they have waited in vain. A queue that is shorter by so much keeps the
// groups as busy.
constexpr double kWaitMargin = 1.5;

std::string StateOf(const GroupView& group) {
  if (group.draining) return "is draining";
  if (!group.serving) return "is not ready";
  if (!group.connected) return absl::StrCat("can not be reached at ", group.address);
  return "serves";
}

int64_t WholeMs(Duration duration) { return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count(); }

}  // namespace

AdmissionController::Arrival DispatchQueue::ArrivalOf(const RouteRequest& request) {
  return {.num_tokens = request.num_tokens,
          .replay = request.kind != RouteKind::kNew,
          .priority = request.priority,
          .since = request.since,
          .deadline = request.deadline};
}

void DispatchQueue::Route(CallId call_id, RouteRequest request, TimePoint now, Decisions& decisions) {
  if (request.needs.has_value()) request.num_tokens = request.needs->num_tokens;
  const bool is_new = request.kind == RouteKind::kNew;
  const Verdict verdict = Judge(request, now);
  if (verdict == Verdict::kQuarantined) {
    decisions.refusals.push_back({call_id, QuarantineOf(request, now), /*admitted=*/!is_new});
    return;
  }
  Waiting waiting{.request = std::move(request)};
  RouteRequest& wanted = waiting.request;
  if (verdict == Verdict::kMayStart && wanted.needs.has_value() && (admission_.empty() || !is_new) &&
      Pay(waiting, now)) {
    RoutingRefusal refusal;
    if (std::optional<GroupRef> group = Place(*wanted.needs, &refusal)) {
      decisions.starts.push_back({call_id, *std::move(group)});
      return;
    }
  }
  absl::Status refused = is_new ? CheckWait(wanted, now) : absl::OkStatus();
  std::vector<AdmissionController::Ticket> displaced;
  if (refused.ok()) {
    refused = admission_.Enqueue(call_id, ArrivalOf(wanted), displaced);
    if (!refused.ok()) refused = WithRetryAfter(refused, RetryAfter(now));
  }
  if (!refused.ok()) {
    decisions.refusals.push_back({call_id, std::move(refused), /*admitted=*/false});
    return;
  }
  for (const CallId victim : displaced) {
    waiting_.erase(victim);
    decisions.refusals.push_back(
        {victim, WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                                    "the queue is full, and a request of higher priority came; try again later")),
                                RetryAfter(now))});
  }
  if (verdict == Verdict::kSettles) WantTurnAt(wanted.since + kReplaySettle);
  turn_wanted_ |= !wanted.needs.has_value() || admission_.num_requests() == 1;
  waiting_.emplace(call_id, std::move(waiting));
}

DispatchQueue::Verdict DispatchQueue::Judge(const RouteRequest& request, TimePoint now) const {
  if (request.kind == RouteKind::kNew && request.needs.has_value() &&
      quarantine_.Remaining(request.needs->fingerprint, now) > Duration::zero()) {
    return Verdict::kQuarantined;
  }
  int num_died = 0, num_unknown = 0;
  for (const GroupRef& group : request.lost_on) {
    const GroupFate fate = registry_.FateOf(group);
    num_died += fate == GroupFate::kDied;
    num_unknown += fate == GroupFate::kUnknown;
  }
  if (num_died >= kGroupDeathsMax) return Verdict::kQuarantined;
  if (num_died + num_unknown >= kGroupDeathsMax) return Verdict::kWaits;
  return num_died + num_unknown > 0 && now < request.since + kReplaySettle ? Verdict::kSettles : Verdict::kMayStart;
}

absl::Status DispatchQueue::QuarantineOf(const RouteRequest& request, TimePoint now) {
  ++num_quarantined_;
  if (request.kind == RouteKind::kNew) {
    return absl::InternalError(absl::StrCat(
        "the request is quarantined for ", WholeMs(quarantine_.Remaining(request.needs->fingerprint, now)),
        " ms more: one like it was on ", kGroupDeathsMax, " target groups when they died; look at their logs"));
  }
  if (request.needs.has_value()) quarantine_.Add(request.needs->fingerprint, now);
  std::vector<std::string> groups;
  for (const GroupRef& group : request.lost_on) {
    if (registry_.FateOf(group) == GroupFate::kDied) groups.push_back(group.group_id);
  }
  return absl::InternalError(absl::StrCat("the request is quarantined: it was on ", groups.size(),
                                          " target groups when they died (", absl::StrJoin(groups, ", "),
                                          ") and is not tried again; look at their logs"));
}

absl::Status DispatchQueue::CheckWait(const RouteRequest& request, TimePoint now) {
  const std::optional<double> rate = rate_.TokensPerSecond(NumPlaces(), now);
  // Without a rate, or with nobody to serve, time will tell.
  if (!rate.has_value() || admission_.empty()) return absl::OkStatus();
  const AdmissionController::Arrival arrival = ArrivalOf(request);
  const Duration wait = FromMillis(1000.0 * static_cast<double>(admission_.TokensAhead(arrival)) / *rate);
  const Duration wait_max = options_.admission.queue_timeout;
  if (wait > wait_max) {
    return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                              "the queue is too long: the request would wait for about ", WholeMs(wait),
                              " ms, and may for ", WholeMs(wait_max), " (queue_timeout_ms); try again later")),
                          std::clamp(wait - wait_max, kRetryAfterMin, kRetryAfterMax));
  }
  if (!request.deadline.has_value()) return absl::OkStatus();
  const Duration served_in = rate_.MeanServiceTime();
  const Duration left = *request.deadline - now;
  const Duration needed = FromMillis(kWaitMargin * ToMillis(wait) + kServiceMargin * ToMillis(served_in));
  if (needed <= left) return absl::OkStatus();
  return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                            "the request can not make its deadline in ", WholeMs(left), " ms: it would wait for about ",
                            WholeMs(wait), " ms and requests last ", WholeMs(served_in), " ms; try again later")),
                        std::clamp(needed - left, kRetryAfterMin, kRetryAfterMax));
}

int64_t DispatchQueue::NumPlaces() const {
  int64_t num_places = 0;
  for (const GroupCost& cost : registry_.snapshot().costs) {
    if (cost.usable) num_places += cost.max_sequences;
  }
  return num_places;
}

Duration DispatchQueue::RetryAfter(TimePoint now) {
  const std::optional<double> rate = rate_.TokensPerSecond(NumPlaces(), now);
  if (!rate.has_value()) return kRetryAfterDefault;
  // Until an eighth of what waits is gone: then those who were refused come to a queue with room.
  return std::clamp(FromMillis(1000.0 / 8 * static_cast<double>(admission_.num_tokens()) / *rate), kRetryAfterMin,
                    kRetryAfterMax);
}

bool DispatchQueue::Pay(Waiting& waiting, TimePoint now) {
  if (waiting.paid || waiting.request.kind != RouteKind::kReplay) return true;
  if (budget_.TryTake(now)) return waiting.paid = true;
  WantTurnAt(budget_.NextAt(now));
  return false;
}

void DispatchQueue::WantTurnAt(TimePoint at) {
  replay_turn_ = replay_turn_.has_value() ? std::min(*replay_turn_, at) : at;
}

void DispatchQueue::OnPrepared(CallId call_id, absl::StatusOr<RoutingNeeds> needs, Decisions& decisions) {
  turn_wanted_ = true;
  const auto it = waiting_.find(call_id);
  if (it == waiting_.end()) return;  // withdrawn or expired meanwhile
  if (needs.ok()) {
    RouteRequest& request = it->second.request;
    admission_.SetTokens(call_id, needs->num_tokens);
    request.num_tokens = needs->num_tokens;
    request.needs = *std::move(needs);
    return;
  }
  admission_.Remove(call_id);
  waiting_.erase(it);
  decisions.refusals.push_back({call_id, needs.status()});
}

bool DispatchQueue::Withdraw(CallId call_id, TimePoint now) {
  if (waiting_.erase(call_id) == 0) return false;
  admission_.Remove(call_id);
  if (admission_.empty()) rate_.SetBusy(false, now);
  return true;
}

void DispatchQueue::Release(const GroupRef& group, const GroupLoad& load, std::optional<Duration> served_in,
                            TimePoint now) {
  registry_.Release(group.group_id, group.incarnation, load);
  if (served_in.has_value()) rate_.Served(load.num_tokens, *served_in, now);
  turn_wanted_ |= !admission_.empty();
}

void DispatchQueue::Hold(const GroupRef& group) { registry_.Hold(group.group_id, group.incarnation); }

absl::StatusOr<HeartbeatNews> DispatchQueue::Heartbeat(const GroupReport& report, TimePoint now) {
  turn_wanted_ |= !admission_.empty() || report.who.draining;
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

void DispatchQueue::NoteGone(const std::string& group_id, uint64_t incarnation) {
  registry_.NoteGone(group_id, incarnation);
}

std::optional<TimePoint> DispatchQueue::next_turn() const {
  const std::optional<TimePoint> expiry = admission_.next_expiry();
  if (!expiry.has_value() || !replay_turn_.has_value()) return expiry;
  return std::min(*expiry, *replay_turn_);
}

void DispatchQueue::TakeTurn(TimePoint now, bool model_ready, Decisions& decisions) {
  turn_wanted_ = false;
  replay_turn_.reset();
  for (LostWorker& lost : registry_.Expire(now)) decisions.lost.push_back(std::move(lost));
  for (const CallId call_id : admission_.TakeExpired(now)) {
    const auto it = waiting_.find(call_id);
    CHECK(it != waiting_.end());
    decisions.refusals.push_back({call_id, RefusalOfExpired(it->second, now)});
    waiting_.erase(it);
  }
  HandOverDraining(decisions);
  StartWhoCan(now, model_ready, decisions);
  // While nobody serves, waiting says nothing about how fast it goes.
  const std::vector<GroupView>& groups = registry_.snapshot().groups;
  rate_.SetBusy(!admission_.empty() &&
                    std::any_of(groups.begin(), groups.end(), [](const GroupView& group) { return group.usable(); }),
                now);
}

absl::Status DispatchQueue::RefusalOfExpired(const Waiting& waiting, TimePoint now) const {
  const RouteRequest& request = waiting.request;
  if (request.deadline.has_value() && *request.deadline <= now) {
    return absl::DeadlineExceededError("the client's deadline has passed");
  }
  const bool is_new = request.kind == RouteKind::kNew;
  return absl::UnavailableError(absl::StrCat("no target group could take the request within ",
                                             WholeMs(admission_.WaitMax(ArrivalOf(request))),
                                             is_new ? " ms (queue_timeout_ms): " : " ms (replay_wait_ms): ",
                                             WhyNot(request.needs.has_value() ? &*request.needs : nullptr)));
}

void DispatchQueue::HandOverDraining(Decisions& decisions) {
  for (const GroupView& group : registry_.snapshot().groups) {
    if (!group.draining || !group.connected || group.own.num_lanes == 0) continue;
    int64_t num_lanes = 0;
    for (const GroupView& other : registry_.snapshot().groups) {
      if (!other.usable() || other.held || other.numerics_id != group.numerics_id || other.model != group.model)
        continue;
      num_lanes += std::max<int64_t>(0, other.max_sequences - other.num_lanes());
    }
    if (num_lanes == 0) continue;
    decisions.hand_overs.push_back({.group = {.group_id = group.id,
                                              .incarnation = group.incarnation,
                                              .epoch = group.epoch,
                                              .numerics_id = group.numerics_id},
                                    .num_lanes = std::min(num_lanes, group.own.num_lanes)});
  }
}

void DispatchQueue::StartWhoCan(TimePoint now, bool model_ready, Decisions& decisions) {
  if (admission_.empty()) return;
  using Visit = AdmissionController::Visit;
  admission_.VisitInOrder([&](CallId call_id) {
    const auto it = waiting_.find(call_id);
    CHECK(it != waiting_.end());
    Waiting& waiting = it->second;
    const RouteRequest& request = waiting.request;
    const auto refuse = [&](absl::Status status) {
      decisions.refusals.push_back({call_id, std::move(status)});
      waiting_.erase(it);
      return Visit::kTake;
    };
    if (!request.needs.has_value()) {
      if (!model_ready || decisions.to_prepare.size() >= kPreparedAtOnce) return Visit::kStop;
      if (!waiting.preparing) {
        waiting.preparing = true;
        decisions.to_prepare.push_back(call_id);
      }
      return Visit::kSkip;
    }
    const Verdict verdict = Judge(request, now);
    if (verdict == Verdict::kQuarantined) return refuse(QuarantineOf(request, now));
    if (verdict == Verdict::kSettles) WantTurnAt(request.since + kReplaySettle);
    if (verdict != Verdict::kMayStart || !Pay(waiting, now)) return Visit::kSkip;
    if (request.kind == RouteKind::kNew && request.deadline.has_value() &&
        now + FromMillis(kServiceMargin * ToMillis(rate_.MeanServiceTime())) > *request.deadline) {
      return refuse(WithRetryAfter(
          absl::ResourceExhaustedError(absl::StrCat("the request can not make its deadline in ",
                                                    WholeMs(*request.deadline - now), " ms: requests last ",
                                                    WholeMs(rate_.MeanServiceTime()), " ms; try again later")),
          RetryAfter(now)));
    }
    RoutingRefusal refusal;
    std::optional<GroupRef> group = Place(*request.needs, &refusal);
    if (!group.has_value()) {
      // Whoever is asked for by numerics or size must not hold up those that any group can take.
      const bool only_this = refusal == RoutingRefusal::kNoneFits ||
                             (refusal == RoutingRefusal::kAllBusy && !request.needs->numerics_id.empty());
      return only_this ? Visit::kSkip : Visit::kStop;
    }
    decisions.starts.push_back({call_id, *std::move(group)});
    waiting_.erase(it);
    return Visit::kTake;
  });
}

std::optional<GroupRef> DispatchQueue::Place(const RoutingNeeds& needs, RoutingRefusal* refusal) {
  const RoutingDecision decision = policy_.Choose(registry_.snapshot(), needs);
  *refusal = decision.refusal;
  if (decision.group_index < 0) return std::nullopt;
  const GroupView& group = registry_.snapshot().groups[decision.group_index];
  GroupRef ref{
      .group_id = group.id, .incarnation = group.incarnation, .epoch = group.epoch, .numerics_id = group.numerics_id};
  prefixes_.Learn(needs.prefix_chain, group.life);
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
