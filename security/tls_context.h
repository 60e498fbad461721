// TlsContext is TLS for servers that are not gRPC's: OpenSSL's context of the files of security/tls.h, made anew when
// they change (looked at every kTlsReloadInterval). Files that do not fit each other change nothing, and the log says
// so.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "security/tls.h"

namespace boost::asio::ssl {
class context;
}  // namespace boost::asio::ssl

namespace outrider {

class TlsContext {
 public:
  // TLS 1.2 and later. With authorities, only clients that show a certificate of theirs get through the handshake.
  // INVALID_ARGUMENT naming the file that can not be used. `clock` outlives this. REQUIRES: CheckTlsFiles(files), with
  // a certificate.
  static absl::StatusOr<std::unique_ptr<TlsContext>> Create(const TlsFiles& files, const Clock* clock);
  ~TlsContext();

  // What a connection that begins now uses; it keeps it.
  std::shared_ptr<boost::asio::ssl::context> Current();

 private:
  TlsContext(const TlsFiles& files, const Clock* clock) : files_(files), clock_(clock) {}

  const TlsFiles files_;
  const Clock* const clock_;
  Mutex mu_;
  std::shared_ptr<boost::asio::ssl::context> context_ ABSL_GUARDED_BY(mu_);
  std::string stamp_ ABSL_GUARDED_BY(mu_);
  TimePoint looked_at_ ABSL_GUARDED_BY(mu_){};
};

}  // namespace outrider
