#include "worker/rpc/draft_connections.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "worker/rpc/grpc_draft_source.h"

namespace outrider {
namespace {

// Names of sources begin with where they come from.
constexpr char kStatic[] = "static/";
constexpr char kAssigned[] = "assigned/";

}  // namespace

DraftConnections::DraftConnections(DraftLink::Options target, Inbox& inbox, DraftLinkMetrics& metrics)
    : target_(std::move(target)), inbox_(inbox), metrics_(metrics) {}

DraftConnections::~DraftConnections() {
  MutexLock lock(mu_);
  for (const auto& [name, link] : links_) link->Stop();
}

void DraftConnections::Add(const std::string& name, const std::string& address, uint64_t incarnation) {
  if (static_cast<int>(links_.size()) >= kMaxLinks) {
    return LogWarning("draft worker at ", address, " is left out: ", kMaxLinks, " are connected to already");
  }
  DraftLink::Options options = target_;
  options.address = address;
  options.worker_incarnation = incarnation;
  options.wake = [this] { inbox_.Wake(); };
  std::shared_ptr<DraftLink> link = DraftLink::Start(std::move(options), metrics_);
  links_[name] = link;
  (void)inbox_.Post(AttachSourceEvent{name, std::make_unique<GrpcDraftSource>(std::move(link))});
}

void DraftConnections::ConnectTo(const std::string& address) {
  MutexLock lock(mu_);
  const std::string name = kStatic + address;
  if (!links_.contains(name)) Add(name, address, 0);
}

void DraftConnections::Assign(const google::protobuf::RepeatedPtrField<v1::DraftAssignment>& assignments) {
  std::vector<std::shared_ptr<DraftLink>> left;
  {
    MutexLock lock(mu_);
    std::map<std::string, const v1::DraftAssignment*> wanted;  // by source name
    for (const v1::DraftAssignment& assignment : assignments) {
      wanted[absl::StrCat(kAssigned, assignment.worker_id(), "/", assignment.incarnation(), "@",
                          assignment.address())] = &assignment;
    }
    for (auto link = links_.begin(); link != links_.end();) {
      if (link->first.rfind(kAssigned, 0) != 0 || wanted.contains(link->first)) {
        ++link;
        continue;
      }
      (void)inbox_.Post(DetachSourceEvent{link->first});
      left.push_back(std::move(link->second));
      link = links_.erase(link);
    }
    for (const auto& [name, assignment] : wanted) {
      if (!links_.contains(name)) Add(name, assignment->address(), assignment->incarnation());
    }
  }
  for (const auto& link : left) link->Stop();
}

std::vector<DraftLink::Status> DraftConnections::Statuses() const {
  MutexLock lock(mu_);
  std::vector<DraftLink::Status> statuses;
  for (const auto& [name, link] : links_) {
    if (DraftLink::Status status = link->status(); status.connected) statuses.push_back(std::move(status));
  }
  return statuses;
}

int DraftConnections::num_connected() const {
  MutexLock lock(mu_);
  int count = 0;
  for (const auto& [name, link] : links_) count += link->connection() != 0;
  return count;
}

}  // namespace outrider
