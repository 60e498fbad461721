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

}  // namespace

Dispatcher::Dispatcher(const DispatchQueue::Options& options, const Clock* clock, RouterMetrics* metrics)
    : clock_(clock),
      metrics_(metrics),
      last_turn_(clock->Now()),
      queue_(options),
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
      if (const auto expiry = queue_.next_expiry()) until = std::min(until, *expiry);
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
    if (const auto it = clients_.find(lost.id); it != clients_.end()) {
      work.to_close.push_back(std::move(it->second.client));
      clients_.erase(it);
    }
  }
  Resolve(decisions, work);
  for (const auto& [id, client] : clients_) work.to_keep_open.push_back(client.client);
  const ClusterSnapshot& cluster = queue_.snapshot();
  metrics_->SetQueue(queue_.num_requests(), queue_.num_tokens());
  metrics_->SetCluster(static_cast<int>(cluster.groups.size()),
                       static_cast<int>(std::count_if(cluster.groups.begin(), cluster.groups.end(),
                                                      [](const GroupView& group) { return group.usable(); })),
                       static_cast<int>(cluster.draft_workers.size()));
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
  for (const auto& client : work.to_close) client->Close();
  for (const auto& client : work.to_keep_open) client->KeepOpen();
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

void Dispatcher::Route(const std::shared_ptr<RoutedCall>& call, std::optional<RoutingNeeds> needs,
                       int64_t num_tokens_estimate, AdmissionController::Place place) {
  Work work;
  {
    MutexLock lock(mu_);
    DispatchQueue::Decisions decisions;
    waiting_[call->call_id()] = call;
    queue_.Route(call->call_id(), std::move(needs), num_tokens_estimate, place, clock_->Now(), decisions);
    Resolve(decisions, work);
    WakeIfWanted();
  }
  Do(work);
}

void Dispatcher::Withdraw(const RoutedCall& call) {
  std::shared_ptr<RoutedCall> kept;  // its destructor runs without the lock
  MutexLock lock(mu_);
  if (!queue_.Withdraw(call.call_id())) return;
  const auto it = waiting_.find(call.call_id());
  kept = std::move(it->second);
  waiting_.erase(it);
}

void Dispatcher::Release(const GroupRef& group, const GroupLoad& load) {
  MutexLock lock(mu_);
  queue_.Release(group, load);
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
  std::shared_ptr<TargetClient> old_client;
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
    for (const DraftWorkerView* worker : queue_.DraftWorkersOf(report.who.id)) draft_workers.push_back(*worker);
    WakeIfWanted();
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

void Dispatcher::OnConnected(const std::string& group_id, uint64_t incarnation, bool connected) {
  MutexLock lock(mu_);
  queue_.SetConnected(group_id, incarnation, connected);
  WakeIfWanted();
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

bool Dispatcher::Serving() const {
  if (Counts().num_groups_serving == 0) return false;
  MutexLock lock(mu_);
  return clock_->Now() - last_turn_ < kStalledAfter;
}

std::string Dispatcher::WhyNotServing() const {
  MutexLock lock(mu_);
  return queue_.WhyNot(nullptr);
}

}  // namespace outrider::router
