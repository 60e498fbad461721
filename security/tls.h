// TLS from files: what a process shows to others, and whom it believes.
//
// Files are PEM and are read again every kTlsReloadInterval, so certificates are renewed without a restart: write new
// ones beside the old and rename, key and certificate in one folder whose link is moved (as Kubernetes does), since
// they must match whenever they are read.
//
// Thread safety: all functions.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace outrider {

inline constexpr Duration kTlsReloadInterval = std::chrono::seconds(1);

// Paths of PEM files; empty: none.
struct TlsFiles {
  std::string certificate;  // own, with what leads from it to an authority
  std::string private_key;  // of the certificate
  std::string authorities;  // whose certificates are believed
  bool empty() const { return certificate.empty() && private_key.empty() && authorities.empty(); }
};

// A certificate and its key must come together, be readable, match, and be valid now. INVALID_ARGUMENT naming the
// setting ("tls" + "_certificate" for prefix "tls"), the file and the remedy. Warns of what ends within a week.
absl::Status CheckTlsFiles(const TlsFiles& files, const std::string& prefix);

// Shows its certificate; with authorities, only those are let in who show one of theirs. REQUIRES: checked, with
// certificate.
std::shared_ptr<grpc::ServerCredentials> TlsServer(const TlsFiles& files);

// Whom to expect at the other end: who is named in its certificate as it was called, or anyone of the authorities.
enum class TlsPeer { kNamed, kAnyOfAuthorities };
// Believes `authorities`, or those of this system without any; shows its certificate if it has one. REQUIRES: checked.
std::shared_ptr<grpc::ChannelCredentials> TlsChannel(const TlsFiles& files, TlsPeer peer);

}  // namespace outrider
