#include "router/dispatcher.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/status_macros.h"

namespace outrider::router {
namespace {

// Leases and streams are looked after this often; a share of the shortest sensible worker_timeout.
constexpr Duration kTurnInterval = std::chrono::milliseconds(100);
// Without a turn for so long, the router does not call itself healthy.
constexpr Duration kStalledAfter = std::chrono::seconds(5);
constexpr size_t kMaxLogged = 1024;
// A group that was given up is listened to for so long, to count what it still says; and so many are.
constexpr Duration kFencedMax = std::chrono::seconds(60);
constexpr size_t kMaxFenced = 64;

}  // namespace

Dispatcher::Dispatcher(const DispatchQueue::Options& options, const Clock* clock, RouterMetrics* metrics,
                       const LinkSecurity* links)
    : clock_(clock),
      started_(clock->Now()),
      metrics_(metrics),
      links_(links),
      last_turn_(clock->Now()),
      queue_(options),
      store_(clock,
             [this] {
               MutexLock lock(mu_);
               Wake();
             }),
      thread_([this] { Run(); }) {}

Dispatcher::~Dispatcher() {
  {
    MutexLock lock(mu_);
    stopped_ = true;
    Wake();
  }
  thread_.join();
  absl::flat_hash_map<std::string, Client> clients;
  decltype(fenced_) fenced;
  {
    MutexLock lock(mu_);
    clients.swap(clients_);
    fenced.swap(fenced_);
  }
  for (auto& [id, client] : clients) client.client->Close();
  for (auto& [since, client] : fenced) client->Close();
  clients.clear();
  fenced.clear();
  gate_.AwaitNone();
}

void Dispatcher::Wake() {
  queue_.WantTurn();
  wake_changed_.NotifyOne();
}

void Dispatcher::WakeIfWanted() {
  if (queue_.turn_wanted()) wake_changed_.NotifyOne();
}

void Dispatcher::Run() {
  while (true) {
    Work work;
    {
      MutexLock lock(mu_);
      TimePoint until = last_turn_ + kTurnInterval;
      if (const auto next = queue_.next_turn()) until = std::min(until, *next);
      while (!stopped_ && !queue_.turn_wanted() && wake_changed_.WaitUntil(mu_, until)) {
      }
      if (stopped_) return;
      TakeTurn(work);
    }
    Do(work);
  }
}

void Dispatcher::TakeTurn(Work& work) {
  const TimePoint now = clock_->Now();
  last_turn_ = now;
  DispatchQueue::Decisions decisions;
  queue_.TakeTurn(now, store_.model() != nullptr, decisions);
  for (const LostWorker& lost : decisions.lost) {
    LogWarning(lost.is_group ? "target group " : "draft worker ", lost.id, " is lost: no heartbeat for ",
               static_cast<int64_t>(ToMillis(queue_.options().registry.worker_timeout)), " ms");
    if (!lost.is_group) continue;
    metrics_->GroupLost(lost.id);
    if (const auto it = clients_.find(lost.id); it != clients_.end()) {
      Fence(std::move(it->second.client), work);
      clients_.erase(it);
    }
  }
  for (const DispatchQueue::HandOver& hand_over : decisions.hand_overs) {
    if (const auto it = clients_.find(hand_over.group.group_id); it != clients_.end()) {
      work.hand_overs.emplace_back(it->second.client, hand_over.num_lanes);
    }
  }
  std::erase_if(fenced_, [&](const auto& entry) {
    if (entry.second->ended()) return true;
    if (now - entry.first < kFencedMax) return false;
    work.to_close.push_back(entry.second);
    return true;
  });
  Resolve(decisions, work);
  metrics_->RequestsQuarantined(queue_.num_quarantined() -
                                std::exchange(num_quarantined_told_, queue_.num_quarantined()));
  for (const auto& [id, client] : clients_) work.to_keep_open.push_back(client.client);
  const ClusterSnapshot& cluster = queue_.snapshot();
  metrics_->SetQueue(queue_.num_requests(), queue_.num_tokens());
  metrics_->SetCluster(static_cast<int>(cluster.groups.size()),
                       static_cast<int>(std::count_if(cluster.groups.begin(), cluster.groups.end(),
                                                      [](const GroupView& group) { return group.usable(); })),
                       static_cast<int>(cluster.draft_workers.size()));
}

void Dispatcher::Fence(std::shared_ptr<TargetClient> client, Work& work) {
  if (fenced_.size() >= kMaxFenced) {
    work.to_close.push_back(std::move(fenced_.front().second));
    fenced_.erase(fenced_.begin());
  }
  work.to_fence.push_back(client);
  fenced_.emplace_back(clock_->Now(), std::move(client));
}

void Dispatcher::Resolve(DispatchQueue::Decisions& decisions, Work& work) {
  const auto take = [&](CallId call_id) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const auto it = waiting_.find(call_id);
    CHECK(it != waiting_.end());
    std::shared_ptr<RoutedCall> call = std::move(it->second);
    waiting_.erase(it);
    return call;
  };
  for (DispatchQueue::Start& start : decisions.starts) {
    const auto client = clients_.find(start.group.group_id);
    CHECK(client != clients_.end() && client->second.incarnation == start.group.incarnation);
    work.starts.emplace_back(take(start.call_id),
                             Placement{.client = client->second.client, .group = std::move(start.group)});
  }
  for (DispatchQueue::Refusal& refusal : decisions.refusals) {
    work.refusals.emplace_back(take(refusal.call_id), std::move(refusal.status));
  }
  for (const CallId call_id : decisions.to_prepare) work.to_prepare.push_back(waiting_.at(call_id));
}

void Dispatcher::Do(Work& work) {
  for (const auto& client : work.to_fence) client->Fence();
  for (const auto& client : work.to_close) client->Close();
  for (const auto& client : work.to_keep_open) client->KeepOpen();
  for (const auto& [client, num_lanes] : work.hand_overs) client->HandOver(num_lanes);
  for (auto& [call, status] : work.refusals) call->Refuse(status);
  for (auto& [call, placement] : work.starts) call->Start(std::move(placement));
  if (work.to_prepare.empty()) return;
  const std::shared_ptr<const ServedModel> model = store_.model();
  for (const std::shared_ptr<RoutedCall>& call : work.to_prepare) {
    absl::StatusOr<RoutingNeeds> needs = absl::UnavailableError("the model changed");
    if (model != nullptr) needs = call->Prepare(model, MaxModelLen(*model));
    Work refused;
    {
      MutexLock lock(mu_);
      DispatchQueue::Decisions decisions;
      queue_.OnPrepared(call->call_id(), std::move(needs), decisions);
      Resolve(decisions, refused);
    }
    Do(refused);
  }
}

bool Dispatcher::Route(const std::shared_ptr<RoutedCall>& call, RouteRequest request) {
  Work work;
  bool admitted = true;
  {
    MutexLock lock(mu_);
    DispatchQueue::Decisions decisions;
    waiting_[call->call_id()] = call;
    queue_.Route(call->call_id(), std::move(request), clock_->Now(), decisions);
    for (const DispatchQueue::Refusal& refusal : decisions.refusals) {
      if (refusal.call_id == call->call_id()) admitted = refusal.admitted;
    }
    Resolve(decisions, work);
    WakeIfWanted();
  }
  Do(work);
  return admitted;
}

void Dispatcher::Withdraw(const RoutedCall& call) {
  std::shared_ptr<RoutedCall> kept;  // its destructor runs without the lock
  MutexLock lock(mu_);
  if (!queue_.Withdraw(call.call_id(), clock_->Now())) return;
  const auto it = waiting_.find(call.call_id());
  kept = std::move(it->second);
  waiting_.erase(it);
}

void Dispatcher::Release(const GroupRef& group, const GroupLoad& load, std::optional<Duration> served_in) {
  MutexLock lock(mu_);
  queue_.Release(group, load, served_in, clock_->Now());
  WakeIfWanted();
}

void Dispatcher::Hold(const GroupRef& group) {
  MutexLock lock(mu_);
  queue_.Hold(group);
}

bool Dispatcher::LogOnce(const std::string& worker_id, uint64_t incarnation) {
  if (logged_.size() >= kMaxLogged) logged_.clear();
  return logged_.insert({worker_id, incarnation}).second;
}

absl::StatusOr<std::vector<DraftWorkerView>> Dispatcher::Heartbeat(const GroupReport& report) {
  std::vector<DraftWorkerView> draft_workers;
  std::shared_ptr<TargetClient> client;
  Work fenced;
  HeartbeatNews news;
  {
    MutexLock lock(mu_);
    const absl::StatusOr<HeartbeatNews> heard = queue_.Heartbeat(report, clock_->Now());
    if (!heard.ok()) {
      metrics_->HeartbeatRefused();
      if (LogOnce(report.who.id, report.who.incarnation)) LogError("refused: ", heard.status().message());
      return heard.status();
    }
    news = *heard;
    Client& known = clients_[report.who.id];
    if (known.client == nullptr || news != HeartbeatNews::kNone) {
      if (known.client != nullptr) Fence(std::move(known.client), fenced);
      known = MakeClient(report.who);
    }
    client = known.client;
    for (const DraftWorkerView* worker : queue_.DraftWorkersOf(report.who.id)) draft_workers.push_back(*worker);
    WakeIfWanted();
  }
  metrics_->GroupReported({.id = report.who.id,
                           .incarnation = report.who.incarnation,
                           .model = report.model.model,
                           .max_model_len = report.max_model_len},
                          report.usage);
  if (news == HeartbeatNews::kJoined) {
    LogInfo("target group ", report.who.id, " at ", report.who.address, ": model ", report.model.model,
            ", numerics_id ", report.numerics_id);
  } else if (news == HeartbeatNews::kRestarted) {
    LogInfo("target group ", report.who.id, " restarted, now at ", report.who.address);
  }
  Do(fenced);
  client->KeepOpen();
  store_.Want(report.model, client);
  return draft_workers;
}

absl::Status Dispatcher::Heartbeat(const DraftWorkerReport& report) {
  MutexLock lock(mu_);
  const absl::StatusOr<HeartbeatNews> news = queue_.Heartbeat(report, clock_->Now());
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

Dispatcher::Client Dispatcher::MakeClient(const WorkerIdentity& who) {
  const uint64_t number = ++num_clients_made_;
  return {.number = number,
          .incarnation = who.incarnation,
          .client = TargetClient::Create(
              {.group_id = who.id,
               .incarnation = who.incarnation,
               .address = who.address,
               .security = links_,
               .clock = clock_,
               .gate = &gate_,
               .on_connected = [this, id = who.id, number](bool connected) { OnConnected(id, number, connected); },
               .on_gone = [this, id = who.id, incarnation = who.incarnation] { OnGone(id, incarnation); },
               .on_stale = [this](StaleReason reason, int num_events) { metrics_->StaleEvents(reason, num_events); }})};
}

void Dispatcher::OnConnected(const std::string& group_id, uint64_t client_number, bool connected) {
  MutexLock lock(mu_);
  const auto client = clients_.find(group_id);
  if (client == clients_.end() || client->second.number != client_number) return;
  queue_.SetConnected(group_id, client->second.incarnation, connected);
  WakeIfWanted();
}

void Dispatcher::OnGone(const std::string& group_id, uint64_t incarnation) {
  MutexLock lock(mu_);
  queue_.NoteGone(group_id, incarnation);
}

int Dispatcher::MaxModelLen(const ServedModel& model) const {
  MutexLock lock(mu_);
  const int longest = queue_.max_model_len();
  return longest > 0 ? longest : model.max_model_len;
}

ClusterCounts Dispatcher::Counts() const {
  const bool model_ready = store_.model() != nullptr;
  MutexLock lock(mu_);
  ClusterCounts counts;
  const ClusterSnapshot& cluster = queue_.snapshot();
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

ClusterState Dispatcher::State() const {
  const Duration uptime = clock_->Now() - started_;
  MutexLock lock(mu_);
  const ClusterSnapshot& cluster = queue_.snapshot();
  return {.groups = cluster.groups,
          .draft_workers = cluster.draft_workers,
          .pairing = queue_.pairing(),
          .num_requests_waiting = queue_.num_requests(),
          .num_tokens_waiting = queue_.num_tokens(),
          .uptime = uptime};
}

bool Dispatcher::Serving() const { return Counts().num_groups_serving > 0 && Turns(); }

bool Dispatcher::Turns() const {
  MutexLock lock(mu_);
  return clock_->Now() - last_turn_ < kStalledAfter;
}

std::string Dispatcher::WhyNotServing() const {
  MutexLock lock(mu_);
  return queue_.WhyNot(nullptr);
}

}  // namespace outrider::router
