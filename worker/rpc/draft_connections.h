// DraftConnections keeps a target group's links to draft workers: those named in its settings for good, those the
// router assigns for as long as it does. It attaches each link's source to the engine by way of the inbox, and detaches
// it.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "proto/cluster.pb.h"
#include "worker/engine/inbox.h"
#include "worker/rpc/draft_link.h"

namespace outrider {

class DraftConnections {
 public:
  // Draft workers at once, at most; more are not connected to.
  static constexpr int kMaxLinks = 16;

  // `target` but for address and wake. `inbox` and `metrics` outlive this.
  DraftConnections(DraftLink::Options target, Inbox& inbox, DraftLinkMetrics& metrics);
  // Ends all links.
  ~DraftConnections();

  void ConnectTo(const std::string& address);
  // Connects to those that are new, leaves those that are not among them any more; a worker that restarted is connected
  // to anew.
  void Assign(const google::protobuf::RepeatedPtrField<v1::DraftAssignment>& assignments);

  int num_connected() const;
  // Of those that have a peer.
  std::vector<DraftLink::Status> Statuses() const;

 private:
  void Add(const std::string& name, const std::string& address, uint64_t incarnation)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const DraftLink::Options target_;
  Inbox& inbox_;
  DraftLinkMetrics& metrics_;
  mutable Mutex mu_;
  std::map<std::string, std::shared_ptr<DraftLink>> links_ ABSL_GUARDED_BY(mu_);  // by source name
};

}  // namespace outrider
