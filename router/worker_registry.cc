#include "router/worker_registry.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider::router {
namespace {

absl::Status CheckName(absl::string_view role, absl::string_view field, absl::string_view value) {
  if (value.empty()) return absl::InvalidArgumentError(absl::StrCat("heartbeat of a ", role, ": ", field, " is empty"));
  if (value.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("heartbeat of a ", role, ": ", field, " is ", value.size(),
                                                   " bytes; at most ", kMaxNameBytes, " are allowed"));
  }
  return absl::OkStatus();
}

template <typename View>
typename std::vector<View>::iterator LowerBound(std::vector<View>& views, absl::string_view id) {
  return std::lower_bound(views.begin(), views.end(), id,
                          [](const View& view, absl::string_view id) { return absl::string_view(view.id) < id; });
}

// The worker's place among `views`, made if it is new.
template <typename View>
View& FindOrInsert(std::vector<View>& views, const std::string& id, bool& is_new) {
  auto it = LowerBound(views, id);
  is_new = it == views.end() || it->id != id;
  if (is_new) {
    it = views.insert(it, View());
    it->id = id;
  }
  return *it;
}

// Weight of the newest heartbeat in a draft worker's queue time, and the most that one may say.
constexpr double kQueueGain = 0.2;
constexpr double kQueueMsMax = 10'000;

double QueueMs(const DraftWorkerReport& report) {
  if (!(report.tokens_per_second > 0) || report.num_queued_tokens <= 0) return 0;
  return std::min(kQueueMsMax, 1000.0 * report.num_queued_tokens / report.tokens_per_second);
}

// Takes in what a group measured now; what it measured before of workers that it has left stays.
void UpdateLinks(const std::vector<DraftLinkView>& reported, std::vector<DraftLinkView>& links) {
  for (size_t i = 0; i < reported.size() && i < kMaxDraftLinks; ++i) {
    const DraftLinkView& link = reported[i];
    if (link.worker_id.empty() || link.worker_id.size() > kMaxNameBytes || !(link.round_trip_ms > 0)) continue;
    const auto known = std::find_if(links.begin(), links.end(),
                                    [&](const DraftLinkView& other) { return other.worker_id == link.worker_id; });
    if (known != links.end()) {
      *known = link;
    } else if (links.size() < kMaxDraftLinks) {
      links.push_back(link);
    }
  }
}

}  // namespace

absl::Status WorkerRegistry::CheckIdentity(const WorkerIdentity& who, absl::string_view role,
                                           const absl::flat_hash_map<std::string, uint64_t>& incarnations) const {
  RETURN_IF_ERROR(CheckName(role, "worker_id", who.id));
  RETURN_IF_ERROR(CheckName(role, "address", who.address));
  const auto known = incarnations.find(who.id);
  if (known != incarnations.end() && who.incarnation < known->second) {
    return absl::FailedPreconditionError(absl::StrCat(role, " ", who.id, ": incarnation ", who.incarnation,
                                                      " is older than ", known->second,
                                                      ", which is known; two processes have this id, or a past one "
                                                      "still runs"));
  }
  return absl::OkStatus();
}

void WorkerRegistry::Remember(const WorkerIdentity& who, absl::flat_hash_map<std::string, uint64_t>& incarnations) {
  // Ids of the past are forgotten when there are many: the bound matters more than a fence nobody has run into.
  constexpr size_t kMaxIncarnations = 4 * kMaxWorkers;
  if (incarnations.size() >= kMaxIncarnations && !incarnations.contains(who.id)) {
    absl::flat_hash_map<std::string, uint64_t> kept;
    const auto keep = [&](const std::string& id) {
      if (const auto it = incarnations.find(id); it != incarnations.end()) kept.insert(*it);
    };
    for (const GroupView& group : snapshot_.groups) keep(group.id);
    for (const DraftWorkerView& worker : snapshot_.draft_workers) keep(worker.id);
    incarnations = std::move(kept);
  }
  incarnations[who.id] = who.incarnation;
}

absl::StatusOr<HeartbeatNews> WorkerRegistry::Heartbeat(const GroupReport& report, TimePoint now) {
  RETURN_IF_ERROR(CheckIdentity(report.who, "target group", group_incarnations_));
  RETURN_IF_ERROR(CheckName("target group", "tokenizer_fingerprint", report.model.tokenizer_fingerprint));
  RETURN_IF_ERROR(CheckName("target group", "numerics_id", report.numerics_id));
  if (report.max_model_len <= 0 || report.max_sequences <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("target group ", report.who.id,
                                                   ": max_model_len = ", report.max_model_len,
                                                   " and max_sequences = ", report.max_sequences, " must be above 0"));
  }
  for (const GroupView& other : snapshot_.groups) {
    if (other.id == report.who.id || other.model == report.model) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "target group ", report.who.id, " serves model ", report.model.model, " (tokenizer ",
        report.model.tokenizer_fingerprint, "), but group ", other.id, " of this cluster serves ", other.model.model,
        " (tokenizer ", other.model.tokenizer_fingerprint, "); a cluster serves one model"));
  }
  if (snapshot_.groups.size() >= kMaxWorkers && FindGroup(report.who.id, report.who.incarnation) == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat(kMaxWorkers, " target groups are registered; no more are taken"));
  }

  bool is_new;
  GroupView& group = FindOrInsert(snapshot_.groups, report.who.id, is_new);
  HeartbeatNews news = is_new ? HeartbeatNews::kJoined : HeartbeatNews::kNone;
  if (!is_new && (group.incarnation != report.who.incarnation || group.address != report.who.address)) {
    news = HeartbeatNews::kRestarted;
    group.own = GroupLoad();
    group.connected = false;
  }
  if (news != HeartbeatNews::kNone || group.model != report.model || group.draining != report.who.draining) {
    pairing_is_old_ = true;
  }
  const bool same_kind = news == HeartbeatNews::kNone && group.model == report.model &&
                         group.numerics_id == report.numerics_id && group.max_model_len == report.max_model_len;
  if (news != HeartbeatNews::kNone) group.life = ++last_life_;
  group.incarnation = report.who.incarnation;
  group.address = report.who.address;
  group.draining = report.who.draining;
  group.model = report.model;
  group.numerics_id = report.numerics_id;
  group.epoch = report.epoch;
  group.max_model_len = report.max_model_len;
  group.max_sequences = report.max_sequences;
  group.serving = report.serving;
  group.usage = report.usage;
  group.held = false;
  group.suspect = false;
  UpdateLinks(report.draft_links, group.draft_links);
  if (now - paired_at_ >= kPairingInterval) {
    pairing_is_due_ = true;
    paired_at_ = now;
  }
  group.foreign = {.num_lanes = std::max<int64_t>(0, report.load.num_lanes - group.own.num_lanes),
                   .num_tokens = std::max<int64_t>(0, report.load.num_tokens - group.own.num_tokens)};
  if (same_kind) {
    Refresh(group);
  } else {
    snapshot_.Rebuild();
  }
  Remember(report.who, group_incarnations_);
  if (group.draining) {
    absl::erase_if(drained_, [&](const auto& entry) { return !group_incarnations_.contains(entry.first); });
    drained_[group.id] = group.incarnation;
  }
  gone_.erase(group.id);
  group_detector_.Heard(report.who.id, now);
  return news;
}

absl::StatusOr<HeartbeatNews> WorkerRegistry::Heartbeat(const DraftWorkerReport& report, TimePoint now) {
  RETURN_IF_ERROR(CheckIdentity(report.who, "draft worker", draft_incarnations_));
  RETURN_IF_ERROR(CheckName("draft worker", "tokenizer_fingerprint", report.tokenizer_fingerprint));
  if (!snapshot_.groups.empty()) {
    const GroupView& group = snapshot_.groups.front();
    if (group.model.tokenizer_fingerprint != report.tokenizer_fingerprint) {
      return absl::FailedPreconditionError(
          absl::StrCat("draft worker ", report.who.id, " (model ", report.model, ", tokenizer ",
                       report.tokenizer_fingerprint, ") can not draft for target group ", group.id, " (model ",
                       group.model.model, ", tokenizer ", group.model.tokenizer_fingerprint,
                       "): their tokenizers differ; give it a draft model with the target's vocabulary"));
    }
  }
  bool is_new;
  if (snapshot_.draft_workers.size() >= kMaxWorkers) {
    const auto it = LowerBound(snapshot_.draft_workers, report.who.id);
    if (it == snapshot_.draft_workers.end() || it->id != report.who.id) {
      return absl::ResourceExhaustedError(
          absl::StrCat(kMaxWorkers, " draft workers are registered; no more are taken"));
    }
  }
  DraftWorkerView& worker = FindOrInsert(snapshot_.draft_workers, report.who.id, is_new);
  HeartbeatNews news = is_new ? HeartbeatNews::kJoined : HeartbeatNews::kNone;
  if (!is_new && (worker.incarnation != report.who.incarnation || worker.address != report.who.address)) {
    news = HeartbeatNews::kRestarted;
  }
  if (news != HeartbeatNews::kNone || worker.tokenizer_fingerprint != report.tokenizer_fingerprint ||
      worker.draining != report.who.draining) {
    pairing_is_old_ = true;
  }
  worker.incarnation = report.who.incarnation;
  worker.address = report.who.address;
  worker.draining = report.who.draining;
  worker.model = report.model;
  worker.tokenizer_fingerprint = report.tokenizer_fingerprint;
  worker.max_sequences = report.max_sequences;
  worker.num_sequences = report.num_sequences;
  worker.num_queued_tokens = report.num_queued_tokens;
  worker.tokens_per_second = report.tokens_per_second;
  if (news == HeartbeatNews::kRestarted) worker.queue_ms = 0;
  worker.queue_ms += kQueueGain * (QueueMs(report) - worker.queue_ms);
  Remember(report.who, draft_incarnations_);
  draft_detector_.Heard(report.who.id, now);
  return news;
}

std::vector<LostWorker> WorkerRegistry::Expire(TimePoint now) {
  group_detector_.Look(now);
  draft_detector_.Look(now);
  std::vector<LostWorker> lost;
  for (GroupView& group : snapshot_.groups) {
    group.suspect = group_detector_.Judge(group.id, now) == Liveness::kSuspect;
  }
  std::erase_if(snapshot_.groups, [&](const GroupView& group) {
    if (group_detector_.Judge(group.id, now) != Liveness::kDead) return false;
    lost.push_back({.is_group = true, .id = group.id, .incarnation = group.incarnation});
    group_detector_.Forget(group.id);
    return true;
  });
  std::erase_if(snapshot_.draft_workers, [&](const DraftWorkerView& worker) {
    if (draft_detector_.Judge(worker.id, now) != Liveness::kDead) return false;
    lost.push_back({.is_group = false, .id = worker.id, .incarnation = worker.incarnation});
    draft_detector_.Forget(worker.id);
    return true;
  });
  for (const LostWorker& worker : lost) {
    if (worker.is_group) continue;
    for (GroupView& group : snapshot_.groups) {
      std::erase_if(group.draft_links, [&](const DraftLinkView& link) { return link.worker_id == worker.id; });
    }
  }
  if (!lost.empty()) pairing_is_old_ = true;
  snapshot_.Rebuild();
  return lost;
}

const GroupView* WorkerRegistry::FindGroup(absl::string_view id, uint64_t incarnation) const {
  return const_cast<WorkerRegistry*>(this)->MutableGroup(id, incarnation);
}

GroupView* WorkerRegistry::MutableGroup(absl::string_view id, uint64_t incarnation) {
  const auto it = LowerBound(snapshot_.groups, id);
  if (it == snapshot_.groups.end() || absl::string_view(it->id) != id || it->incarnation != incarnation) {
    return nullptr;
  }
  return &*it;
}

GroupFate WorkerRegistry::FateOf(const GroupRef& group) const {
  if (const GroupView* view = FindGroup(group.group_id, group.incarnation)) {
    if (view->draining) return GroupFate::kDrained;
    return view->usable() && !view->held ? GroupFate::kServes : GroupFate::kUnknown;
  }
  const auto is_this_life = [&](const absl::flat_hash_map<std::string, uint64_t>& lives) {
    const auto it = lives.find(group.group_id);
    return it != lives.end() && it->second == group.incarnation;
  };
  if (is_this_life(drained_)) return GroupFate::kDrained;
  const auto last = group_incarnations_.find(group.group_id);
  const bool has_successor = last != group_incarnations_.end() && last->second > group.incarnation;
  return has_successor || is_this_life(gone_) ? GroupFate::kDied : GroupFate::kSilent;
}

void WorkerRegistry::NoteGone(const std::string& id, uint64_t incarnation) {
  const auto last = group_incarnations_.find(id);
  if (last == group_incarnations_.end() || last->second != incarnation) return;
  absl::erase_if(gone_, [&](const auto& entry) { return !group_incarnations_.contains(entry.first); });
  gone_[id] = incarnation;
}

void WorkerRegistry::SetConnected(absl::string_view id, uint64_t incarnation, bool connected) {
  if (GroupView* group = MutableGroup(id, incarnation)) {
    group->connected = connected;
    Refresh(*group);
  }
}

void WorkerRegistry::Charge(absl::string_view id, uint64_t incarnation, const GroupLoad& load) {
  if (GroupView* group = MutableGroup(id, incarnation)) {
    group->own.num_lanes += load.num_lanes;
    group->own.num_tokens += load.num_tokens;
    Refresh(*group);
  }
}

void WorkerRegistry::Release(absl::string_view id, uint64_t incarnation, const GroupLoad& load) {
  if (GroupView* group = MutableGroup(id, incarnation)) {
    // A group that was lost and came back in the same incarnation begins at zero: nothing goes below.
    group->own.num_lanes = std::max<int64_t>(0, group->own.num_lanes - load.num_lanes);
    group->own.num_tokens = std::max<int64_t>(0, group->own.num_tokens - load.num_tokens);
    Refresh(*group);
  }
}

void WorkerRegistry::Refresh(const GroupView& group) { snapshot_.Refresh(&group - snapshot_.groups.data()); }

void WorkerRegistry::Hold(absl::string_view id, uint64_t incarnation) {
  if (GroupView* group = MutableGroup(id, incarnation)) {
    group->held = true;
    Refresh(*group);
  }
}

std::optional<ModelKey> WorkerRegistry::model() const {
  if (snapshot_.groups.empty()) return std::nullopt;
  return snapshot_.groups.front().model;
}

int WorkerRegistry::max_model_len() const {
  int longest = 0;
  for (const GroupView& group : snapshot_.groups) longest = std::max(longest, group.max_model_len);
  return longest;
}

std::vector<const DraftWorkerView*> WorkerRegistry::DraftWorkersOf(const std::string& group_id) {
  if (pairing_is_old_ || pairing_is_due_) {
    const int max_moves = pairing_is_old_ ? static_cast<int>(kMaxWorkers) : 1;
    pairing_ = PairDraftWorkers(snapshot_, pairing_, options_.draft_workers_per_group, max_moves);
    pairing_is_old_ = pairing_is_due_ = false;
  }
  std::vector<const DraftWorkerView*> workers;
  const auto ids = pairing_.find(group_id);
  if (ids == pairing_.end()) return workers;
  for (const std::string& id : ids->second) {
    const auto it = LowerBound(snapshot_.draft_workers, id);
    if (it != snapshot_.draft_workers.end() && it->id == id) workers.push_back(&*it);
  }
  return workers;
}

}  // namespace outrider::router
