#include "security/tls_context.h"

#include <boost/asio/ssl/context.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file_stamp.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

namespace ssl = boost::asio::ssl;

// Sessions of clients that were let in are theirs alone to take up again.
constexpr unsigned char kSessionContext[] = "outrider";

std::string StampOf(const TlsFiles& files) {
  return absl::StrCat(FileStamp(files.certificate), " ", FileStamp(files.private_key), " ",
                      files.authorities.empty() ? "" : FileStamp(files.authorities));
}

absl::StatusOr<std::shared_ptr<ssl::context>> Load(const TlsFiles& files) {
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  boost::system::error_code error;
  const auto wrong = [&](const std::string& path) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' can not be used for TLS: ", error.message()));
  };
  context->set_options(ssl::context::default_workarounds | ssl::context::no_sslv2 | ssl::context::no_sslv3 |
                           ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1,
                       error);
  if (!error) context->use_certificate_chain_file(files.certificate, error);
  if (error) return wrong(files.certificate);
  context->use_private_key_file(files.private_key, ssl::context::pem, error);
  if (error) return wrong(files.private_key);
  SSL_CTX_set_session_id_context(context->native_handle(), kSessionContext, sizeof(kSessionContext) - 1);
  if (files.authorities.empty()) return context;
  context->load_verify_file(files.authorities, error);
  if (!error) context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert, error);
  if (error) return wrong(files.authorities);
  return context;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::Create(const TlsFiles& files, const Clock* clock) {
  std::unique_ptr<TlsContext> tls(new TlsContext(files, clock));
  MutexLock lock(tls->mu_);
  tls->stamp_ = StampOf(files);
  tls->looked_at_ = clock->Now();
  ASSIGN_OR_RETURN(tls->context_, Load(files));
  return tls;
}

TlsContext::~TlsContext() = default;

std::shared_ptr<ssl::context> TlsContext::Current() {
  MutexLock lock(mu_);
  const TimePoint now = clock_->Now();
  if (now - looked_at_ < kTlsReloadInterval) return context_;
  looked_at_ = now;
  std::string stamp = StampOf(files_);
  if (stamp == stamp_) return context_;
  stamp_ = std::move(stamp);
  absl::StatusOr<std::shared_ptr<ssl::context>> context = Load(files_);
  if (context.ok()) {
    context_ = *std::move(context);
    LogInfo("read the certificate ", files_.certificate, " again");
  } else {
    LogError(context.status().message(), "; the files that were read before count on");
  }
  return context_;
}

}  // namespace outrider
