#include "security/tls.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

using FileWatcher = grpc::experimental::FileWatcherCertificateProvider;

constexpr unsigned kReloadSeconds = std::chrono::duration_cast<std::chrono::seconds>(kTlsReloadInterval).count();
constexpr long kWeekSeconds = 7 * 24 * 3600;

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
struct FreeX509 {
  void operator()(X509* certificate) const { X509_free(certificate); }
};
struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Bio = std::unique_ptr<BIO, FreeBio>;
using Certificate = std::unique_ptr<X509, FreeX509>;

absl::Status Wrong(const std::string& setting, const std::string& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(setting, " '", path, "' ", what));
}

absl::StatusOr<Bio> Open(const std::string& setting, const std::string& path) {
  Bio bio(BIO_new_file(path.c_str(), "r"));
  if (bio == nullptr) return Wrong(setting, path, "can not be read: is it there, and may this process read it?");
  return bio;
}

absl::StatusOr<Certificate> FirstCertificate(const std::string& setting, const std::string& path) {
  ASSIGN_OR_RETURN(const Bio bio, Open(setting, path));
  Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) {
    return Wrong(setting, path, "holds no certificate; PEM is wanted, beginning with -----BEGIN CERTIFICATE-----");
  }
  return certificate;
}

// At `seconds` from now.
bool EndsBefore(const X509& certificate, long seconds) {
  time_t then = std::time(nullptr) + seconds;
  return X509_cmp_time(X509_get0_notAfter(&certificate), &then) < 0;
}

absl::Status CheckDates(const std::string& setting, const std::string& path, const X509& certificate) {
  if (EndsBefore(certificate, 0)) return Wrong(setting, path, "has expired; renew it");
  if (X509_cmp_current_time(X509_get0_notBefore(&certificate)) > 0) {
    return Wrong(setting, path, "is not valid yet; is this machine's clock right?");
  }
  if (EndsBefore(certificate, kWeekSeconds)) LogWarning(setting, " '", path, "' expires within a week; renew it");
  return absl::OkStatus();
}

std::shared_ptr<FileWatcher> Watcher(const TlsFiles& files) {
  return std::make_shared<FileWatcher>(files.private_key, files.certificate, files.authorities, kReloadSeconds);
}

}  // namespace

absl::Status CheckTlsFiles(const TlsFiles& files, const std::string& prefix) {
  const std::string certificate_setting = prefix + "_certificate";
  const std::string key_setting = prefix + "_private_key";
  const std::string authorities_setting = prefix + "_authorities";
  if (files.certificate.empty() != files.private_key.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(certificate_setting, " '", files.certificate, "' and ", key_setting,
                                                   " '", files.private_key, "' come together: give both or neither"));
  }
  if (!files.certificate.empty()) {
    ASSIGN_OR_RETURN(const Certificate certificate, FirstCertificate(certificate_setting, files.certificate));
    RETURN_IF_ERROR(CheckDates(certificate_setting, files.certificate, *certificate));
    ASSIGN_OR_RETURN(const Bio bio, Open(key_setting, files.private_key));
    // The empty password keeps OpenSSL from asking at the terminal.
    const std::unique_ptr<EVP_PKEY, FreeKey> key(
        PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, const_cast<char*>("")));
    if (key == nullptr) {
      return Wrong(key_setting, files.private_key, "holds no key that can be read; an unencrypted PEM key is wanted");
    }
    if (X509_check_private_key(certificate.get(), key.get()) != 1) {
      return Wrong(key_setting, files.private_key,
                   absl::StrCat("is not the key of ", certificate_setting, " '", files.certificate, "'"));
    }
  }
  if (!files.authorities.empty()) {
    ASSIGN_OR_RETURN(const Certificate authority, FirstCertificate(authorities_setting, files.authorities));
    RETURN_IF_ERROR(CheckDates(authorities_setting, files.authorities, *authority));
  }
  return absl::OkStatus();
}

std::shared_ptr<grpc::ServerCredentials> TlsServer(const TlsFiles& files) {
  grpc::experimental::TlsServerCredentialsOptions options(Watcher(files));
  options.watch_identity_key_cert_pairs();
  if (!files.authorities.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> TlsChannel(const TlsFiles& files, TlsPeer peer) {
  grpc::experimental::TlsChannelCredentialsOptions options;
  if (!files.empty()) options.set_certificate_provider(Watcher(files));
  if (!files.authorities.empty()) options.watch_root_certs();
  if (!files.certificate.empty()) options.watch_identity_key_cert_pairs();
  options.set_verify_server_certs(true);
  if (peer == TlsPeer::kAnyOfAuthorities) {
    options.set_certificate_verifier(std::make_shared<grpc::experimental::NoOpCertificateVerifier>());
    options.set_check_call_host(false);
  }
  return grpc::experimental::TlsCredentials(options);
}

}  // namespace outrider
