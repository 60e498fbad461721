#include "security/link_security.h"

#include <grpcpp/grpcpp.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

bool IsUnix(const std::string& address) { return absl::StartsWith(address, "unix:"); }

}  // namespace

bool IsLocalHost(const std::string& host) {
  return IsUnix(host) || host == "localhost" || host == "::1" || host == "[::1]" || absl::StartsWith(host, "127.");
}

LinkSecurity::LinkSecurity(const TlsFiles& files, bool allow_insecure_links)
    : allow_insecure_links_(allow_insecure_links) {
  if (files.empty()) return;
  server_ = TlsServer(files);
  channel_ = TlsChannel(files, TlsPeer::kAnyOfAuthorities);
}

absl::StatusOr<std::shared_ptr<const LinkSecurity>> LinkSecurity::Create(const TlsFiles& files,
                                                                         bool allow_insecure_links) {
  RETURN_IF_ERROR(CheckTlsFiles(files, "link"));
  if (!files.empty() && (files.certificate.empty() || files.authorities.empty())) {
    return absl::InvalidArgumentError(absl::StrCat("link_certificate '", files.certificate, "', link_private_key '",
                                                   files.private_key, "' and link_authorities '", files.authorities,
                                                   "' come together: processes show theirs and ask for the other's"));
  }
  return std::shared_ptr<const LinkSecurity>(new LinkSecurity(files, allow_insecure_links));
}

std::shared_ptr<grpc::ChannelCredentials> LinkSecurity::ForPeer(const std::string& address) const {
  return channel_ == nullptr || IsUnix(address) ? grpc::InsecureChannelCredentials() : channel_;
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> LinkSecurity::ForListener(const std::string& host,
                                                                                   const std::string& setting) const {
  if (server_ != nullptr && !IsUnix(host)) return server_;
  if (!IsLocalHost(host) && !allow_insecure_links_) {
    return absl::InvalidArgumentError(
        absl::StrCat(setting, " '", host,
                     "' can be reached from other machines, and whoever comes would be taken for one of this cluster: "
                     "give link_certificate, link_private_key and link_authorities, or set allow_insecure_links if "
                     "that network is trusted"));
  }
  return grpc::InsecureServerCredentials();
}

std::shared_ptr<grpc::ChannelCredentials> LinkCredentials(const LinkSecurity* security, const std::string& address) {
  return security == nullptr ? grpc::InsecureChannelCredentials() : security->ForPeer(address);
}

}  // namespace outrider
