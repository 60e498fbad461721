// LinkSecurity: how the processes of a cluster know each other on the links between them (registration, target, draft,
// group).
//
// With certificates both ends of a link over TCP must show one of the cluster's authorities; give the cluster
// authorities of its own, since whoever has a certificate of theirs is one of it. Without, links are open, and may only
// be listened for where no other machine comes: on unix: sockets and loopback, unless that was allowed explicitly.
//
// Thread safety: all methods.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "security/tls.h"

namespace outrider {

class LinkSecurity {
 public:
  // Errors: those of CheckTlsFiles for "link"; INVALID_ARGUMENT where one of the three files is missing.
  static absl::StatusOr<std::shared_ptr<const LinkSecurity>> Create(const TlsFiles& files, bool allow_insecure_links);

  // For whom a peer at HOST:PORT or unix:PATH is called with.
  std::shared_ptr<grpc::ChannelCredentials> ForPeer(const std::string& address) const;
  // For a server of links at `host`, an address or unix:PATH. INVALID_ARGUMENT, naming `setting`, where others could
  // come unasked who they are.
  absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ForListener(const std::string& host,
                                                                       const std::string& setting) const;

  bool mutual() const { return server_ != nullptr; }

 private:
  LinkSecurity(const TlsFiles& files, bool allow_insecure_links);

  const bool allow_insecure_links_;
  std::shared_ptr<grpc::ServerCredentials> server_;  // null: none
  std::shared_ptr<grpc::ChannelCredentials> channel_;
};

// Whether only this machine's processes reach a server at `host`.
bool IsLocalHost(const std::string& host);

// What a client of `security` (null: an open one) calls `address` with.
std::shared_ptr<grpc::ChannelCredentials> LinkCredentials(const LinkSecurity* security, const std::string& address);

}  // namespace outrider
