#include "router/dispatcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace outrider::router {
namespace {

// Leases and streams are looked after this often; a share of the shortest sensible worker_timeout.
constexpr Duration kTurnInterval = std::chrono::milliseconds(100);
// Without a turn for so long, the router does not call itself healthy.
constexpr Duration kStalledAfter = std::chrono::seconds(5);
// Calls prepared (tokenized) between two turns, so that leases are looked after meanwhile.
constexpr size_t kPreparedAtOnce = 16;
constexpr size_t kMaxLogged = 1024;

std::string StateOf(const GroupView& group) {
  if (group.draining) return "is draining";
  if (!group.serving) return "is not ready";
  if (!group.connected) return absl::StrCat("can not be reached at ", group.address);
  return "serves";
}

}  // namespace

Dispatcher::Dispatcher(const Options& options, const Clock* clock, RouterMetrics* metrics)
    : options_(options),
      clock_(clock),
      metrics_(metrics),
      last_turn_(clock->Now()),
      registry_(options.registry),
      admission_(options.admission),
      store_(clock,
             [this] {
               MutexLock lock(mu_);
               Wake();
             }),
      thread_([this] { Run(); }) {}

Dispatcher::~Dispatcher() { Close(); }

void Dispatcher::Close() {
  {
    MutexLock lock(mu_);
    stopped_ = true;
    Wake();
  }
  if (thread_.joinable()) thread_.join();
  absl::flat_hash_map<std::string, Client> clients;
  {
    MutexLock lock(mu_);
    clients.swap(clients_);
  }
  for (auto& [id, client] : clients) client.client->Close();
  clients.clear();
  gate_.AwaitNone();
}

void Dispatcher::Wake() {
  wake_ = true;
  wake_changed_.NotifyOne();
}

void Dispatcher::Run() {
  while (true) {
    Work work;
    {
      MutexLock lock(mu_);
      TimePoint until = last_turn_ + kTurnInterval;
      if (const auto expiry = admission_.next_expiry()) until = std::min(until, *expiry);
      while (!stopped_ && !wake_ && wake_changed_.WaitUntil(mu_, until)) {
      }
      if (stopped_) return;
      wake_ = false;
      TakeTurn(work);
    }
    Do(work);
  }
}

void Dispatcher::TakeTurn(Work& work) {
  const TimePoint now = clock_->Now();
  last_turn_ = now;
  for (const LostWorker& lost : registry_.Expire(now)) {
    LogWarning(lost.is_group ? "target group " : "draft worker ", lost.id, " is lost: no heartbeat for ",
               static_cast<int64_t>(ToMillis(options_.registry.worker_timeout)), " ms");
    if (!lost.is_group) continue;
    if (const auto it = clients_.find(lost.id); it != clients_.end()) {
      work.to_close.push_back(std::move(it->second.client));
      clients_.erase(it);
    }
  }
  for (const AdmissionController::Ticket ticket : admission_.TakeExpired(now)) {
    const auto it = waiting_.find(ticket);
    CHECK(it != waiting_.end());
    Waiting& waiting = it->second;
    work.refusals.emplace_back(
        waiting.call, absl::UnavailableError(absl::StrCat(
                          "no target group could take the request within ",
                          static_cast<int64_t>(ToMillis(options_.admission.queue_timeout)),
                          " ms (queue_timeout_ms): ", WhyNot(waiting.needs.has_value() ? &*waiting.needs : nullptr))));
    tickets_.erase(waiting.call.get());
    waiting_.erase(it);
  }
  DispatchQueue(work);
  for (const auto& [id, client] : clients_) work.to_keep_open.push_back(client.client);
  const ClusterSnapshot& cluster = registry_.snapshot();
  metrics_->SetQueue(admission_.num_requests(), admission_.num_tokens());
  metrics_->SetCluster(static_cast<int>(cluster.groups.size()),
                       static_cast<int>(std::count_if(cluster.groups.begin(), cluster.groups.end(),
                                                      [](const GroupView& group) { return group.usable(); })),
                       static_cast<int>(cluster.draft_workers.size()));
}

void Dispatcher::DispatchQueue(Work& work) {
  if (admission_.empty()) return;
  const bool model_ready = store_.model() != nullptr;
  admission_.VisitInOrder([&](AdmissionController::Ticket ticket) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const auto it = waiting_.find(ticket);
    CHECK(it != waiting_.end());
    Waiting& waiting = it->second;
    if (!waiting.needs.has_value()) {
      if (!model_ready || work.to_prepare.size() >= kPreparedAtOnce) return AdmissionController::Visit::kStop;
      if (!waiting.preparing) {
        waiting.preparing = true;
        work.to_prepare.emplace_back(ticket, waiting.call);
      }
      return AdmissionController::Visit::kSkip;
    }
    RoutingRefusal refusal;
    std::optional<Placement> placement = Place(*waiting.needs, &refusal);
    if (!placement.has_value()) {
      // Whoever is asked for by numerics or size must not hold up those that any group can take.
      const bool only_this = refusal == RoutingRefusal::kNoneFits ||
                             (refusal == RoutingRefusal::kAllBusy && !waiting.needs->numerics_id.empty());
      return only_this ? AdmissionController::Visit::kSkip : AdmissionController::Visit::kStop;
    }
    tickets_.erase(waiting.call.get());
    work.starts.emplace_back(std::move(waiting.call), *std::move(placement));
    waiting_.erase(it);
    return AdmissionController::Visit::kTake;
  });
}

void Dispatcher::Do(Work& work) {
  for (const auto& client : work.to_close) client->Close();
  for (const auto& client : work.to_keep_open) client->KeepOpen();
  for (auto& [call, status] : work.refusals) call->Refuse(status);
  for (auto& [call, placement] : work.starts) call->Start(std::move(placement));
  if (work.to_prepare.empty()) return;
  const std::shared_ptr<const ServedModel> model = store_.model();
  for (auto& [ticket, call] : work.to_prepare) {
    absl::StatusOr<RoutingNeeds> needs = absl::UnavailableError("the model changed");
    if (model != nullptr) needs = call->Prepare(model, MaxModelLen(*model));
    bool refused = false;
    {
      MutexLock lock(mu_);
      const auto it = waiting_.find(ticket);
      if (it == waiting_.end()) continue;  // withdrawn or expired meanwhile
      if (needs.ok()) {
        admission_.SetTokens(ticket, needs->num_tokens);
        it->second.needs = *std::move(needs);
      } else {
        refused = true;
        admission_.Remove(ticket);
        tickets_.erase(call.get());
        waiting_.erase(it);
      }
    }
    if (refused) call->Refuse(needs.status());
  }
  MutexLock lock(mu_);
  Wake();
}

std::optional<Placement> Dispatcher::Place(const RoutingNeeds& needs, RoutingRefusal* refusal) {
  const RoutingDecision decision = policy_.Choose(registry_.snapshot(), needs);
  *refusal = decision.refusal;
  if (decision.group_index < 0) return std::nullopt;
  const GroupView& group = registry_.snapshot().groups[decision.group_index];
  const auto client = clients_.find(group.id);
  CHECK(client != clients_.end() && client->second.incarnation == group.incarnation);
  Placement placement{.client = client->second.client,
                      .group_id = group.id,
                      .incarnation = group.incarnation,
                      .numerics_id = group.numerics_id};
  registry_.Charge(group.id, group.incarnation, {.num_lanes = needs.num_lanes, .num_tokens = needs.num_tokens});
  return placement;
}

void Dispatcher::Route(const std::shared_ptr<RoutedCall>& call, std::optional<RoutingNeeds> needs,
                       int64_t num_tokens_estimate, AdmissionController::Place place) {
  absl::Status refused;
  std::optional<Placement> placement;
  {
    MutexLock lock(mu_);
    RoutingRefusal refusal;
    if (needs.has_value() && (admission_.empty() || place == AdmissionController::Place::kFront)) {
      placement = Place(*needs, &refusal);
    }
    if (!placement.has_value()) {
      const TimePoint now = clock_->Now();
      const auto ticket = admission_.Enqueue(place, needs.has_value() ? needs->num_tokens : num_tokens_estimate, now);
      if (ticket.ok()) {
        const bool wake = !needs.has_value();
        waiting_.emplace(*ticket, Waiting{.call = call, .needs = std::move(needs), .since = now});
        tickets_[call.get()] = *ticket;
        if (wake || admission_.num_requests() == 1) Wake();
      } else {
        refused = ticket.status();
      }
    }
  }
  if (placement.has_value()) {
    call->Start(*std::move(placement));
  } else if (!refused.ok()) {
    call->Refuse(refused);
  }
}

void Dispatcher::Withdraw(const RoutedCall* call) {
  std::shared_ptr<RoutedCall> kept;  // its destructor runs without the lock
  MutexLock lock(mu_);
  const auto ticket = tickets_.find(call);
  if (ticket == tickets_.end()) return;
  const auto waiting = waiting_.find(ticket->second);
  kept = std::move(waiting->second.call);
  admission_.Remove(ticket->second);
  waiting_.erase(waiting);
  tickets_.erase(ticket);
}

void Dispatcher::Release(const Placement& placement, const GroupLoad& load) {
  MutexLock lock(mu_);
  registry_.Release(placement.group_id, placement.incarnation, load);
  if (!admission_.empty()) Wake();
}

void Dispatcher::Hold(const Placement& placement) {
  MutexLock lock(mu_);
  registry_.Hold(placement.group_id, placement.incarnation);
}

bool Dispatcher::LogOnce(const std::string& worker_id, uint64_t incarnation) {
  if (logged_.size() >= kMaxLogged) logged_.clear();
  return logged_.insert({worker_id, incarnation}).second;
}

absl::StatusOr<std::vector<DraftWorkerView>> Dispatcher::Heartbeat(const GroupReport& report) {
  std::vector<DraftWorkerView> draft_workers;
  std::shared_ptr<TargetClient> client;
  std::shared_ptr<TargetClient> old_client;
  HeartbeatNews news;
  {
    MutexLock lock(mu_);
    const absl::StatusOr<HeartbeatNews> heard = registry_.Heartbeat(report, clock_->Now());
    if (!heard.ok()) {
      metrics_->HeartbeatRefused();
      if (LogOnce(report.who.id, report.who.incarnation)) LogError("refused: ", heard.status().message());
      return heard.status();
    }
    news = *heard;
    Client& known = clients_[report.who.id];
    if (known.client == nullptr || news != HeartbeatNews::kNone) {
      old_client = std::move(known.client);
      known.incarnation = report.who.incarnation;
      known.client =
          TargetClient::Create({.group_id = report.who.id,
                                .address = report.who.address,
                                .clock = clock_,
                                .gate = &gate_,
                                .on_connected = [this, id = report.who.id, incarnation = report.who.incarnation](
                                                    bool connected) { OnConnected(id, incarnation, connected); }});
    }
    client = known.client;
    for (const DraftWorkerView* worker : registry_.DraftWorkersOf(report.who.id)) draft_workers.push_back(*worker);
    if (!admission_.empty()) Wake();
  }
  metrics_->GroupReported(report.who.id, report.usage);
  if (news == HeartbeatNews::kJoined) {
    LogInfo("target group ", report.who.id, " at ", report.who.address, ": model ", report.model.model,
            ", numerics_id ", report.numerics_id);
  } else if (news == HeartbeatNews::kRestarted) {
    LogInfo("target group ", report.who.id, " restarted, now at ", report.who.address);
  }
  if (old_client != nullptr) old_client->Close();
  client->KeepOpen();
  store_.Want(report.model, client);
  return draft_workers;
}

absl::Status Dispatcher::Heartbeat(const DraftWorkerReport& report) {
  MutexLock lock(mu_);
  const absl::StatusOr<HeartbeatNews> news = registry_.Heartbeat(report, clock_->Now());
  if (!news.ok()) {
    metrics_->HeartbeatRefused();
    if (LogOnce(report.who.id, report.who.incarnation)) LogError("refused: ", news.status().message());
    return news.status();
  }
  if (*news == HeartbeatNews::kJoined) {
    LogInfo("draft worker ", report.who.id, " at ", report.who.address, ": model ", report.model);
  } else if (*news == HeartbeatNews::kRestarted) {
    LogInfo("draft worker ", report.who.id, " restarted, now at ", report.who.address);
  }
  return absl::OkStatus();
}

void Dispatcher::OnConnected(const std::string& group_id, uint64_t incarnation, bool connected) {
  MutexLock lock(mu_);
  registry_.SetConnected(group_id, incarnation, connected);
  if (connected) Wake();
}

int Dispatcher::MaxModelLen(const ServedModel& model) const {
  MutexLock lock(mu_);
  const int longest = registry_.max_model_len();
  return longest > 0 ? longest : model.max_model_len;
}

ClusterCounts Dispatcher::Counts() const {
  const bool model_ready = store_.model() != nullptr;
  MutexLock lock(mu_);
  ClusterCounts counts;
  const ClusterSnapshot& cluster = registry_.snapshot();
  counts.num_groups = static_cast<int>(cluster.groups.size());
  counts.num_draft_workers = static_cast<int>(cluster.draft_workers.size());
  for (const GroupView& group : cluster.groups) {
    if (!group.usable() || !model_ready) continue;
    ++counts.num_groups_serving;
    if (std::find(counts.numerics_ids.begin(), counts.numerics_ids.end(), group.numerics_id) ==
        counts.numerics_ids.end()) {
      counts.numerics_ids.push_back(group.numerics_id);
    }
  }
  return counts;
}

bool Dispatcher::Serving() const {
  if (Counts().num_groups_serving == 0) return false;
  MutexLock lock(mu_);
  return clock_->Now() - last_turn_ < kStalledAfter;
}

std::string Dispatcher::WhyNotServing() const {
  MutexLock lock(mu_);
  return WhyNot(nullptr);
}

std::string Dispatcher::WhyNot(const RoutingNeeds* needs) const {
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
