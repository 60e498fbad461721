#include "security/testing/certificates.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

std::string MakeFolder() {
  const char* base = std::getenv("TEST_TMPDIR");
  std::string path = absl::StrCat(base == nullptr ? "/tmp" : base, "/certificates-XXXXXX");
  CHECK(::mkdtemp(path.data()) != nullptr);
  return path;
}

void AddExtension(X509* certificate, int kind, const std::string& value) {
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, kind, value.c_str());
  CHECK(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

}  // namespace

struct TestAuthority::Pair {
  X509* certificate = X509_new();
  EVP_PKEY* key = EVP_EC_gen("P-256");
  ~Pair() {
    X509_free(certificate);
    EVP_PKEY_free(key);
  }
  void Fill(const std::string& name, long serial, long first_second, long end_second) {
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial);
    X509_gmtime_adj(X509_getm_notBefore(certificate), first_second);
    X509_gmtime_adj(X509_getm_notAfter(certificate), end_second);
    X509_set_pubkey(certificate, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  }
  // `folder`/`name`.crt and .key, each there whole or not at all.
  void Write(const std::string& folder, const std::string& name) const {
    const auto write = [&](const std::string& path, const auto& fill) {
      std::FILE* const file = std::fopen((path + ".new").c_str(), "w");
      CHECK(file != nullptr && fill(file) == 1);
      std::fclose(file);
      std::filesystem::rename(path + ".new", path);
    };
    const std::string path = absl::StrCat(folder, "/", name);
    write(path + ".key",
          [&](std::FILE* file) { return PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr); });
    write(path + ".crt", [&](std::FILE* file) { return PEM_write_X509(file, certificate); });
  }
};

TestAuthority::TestAuthority(const std::string& name) : folder_(MakeFolder()), own_(new Pair) {
  own_->Fill(name, 1, -3600, 365L * 24 * 3600);
  X509_set_issuer_name(own_->certificate, X509_get_subject_name(own_->certificate));
  AddExtension(own_->certificate, NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(own_->certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
  CHECK(X509_sign(own_->certificate, own_->key, EVP_sha256()) > 0);
  own_->Write(folder_, "authority");
}

TestAuthority::~TestAuthority() {
  delete own_;
  std::error_code error;
  std::filesystem::remove_all(folder_, error);
}

TlsFiles TestAuthority::Issue(const std::string& name, const std::string& host, long first_second, long end_second) {
  Pair pair;
  pair.Fill(name, ++num_issued_, first_second, end_second);
  X509_set_issuer_name(pair.certificate, X509_get_subject_name(own_->certificate));
  const bool is_digits = host.find_first_not_of("0123456789.:") == std::string::npos;
  AddExtension(pair.certificate, NID_subject_alt_name, absl::StrCat(is_digits ? "IP:" : "DNS:", host));
  CHECK(X509_sign(pair.certificate, own_->key, EVP_sha256()) > 0);
  pair.Write(folder_, name);
  const std::string path = absl::StrCat(folder_, "/", name);
  return {.certificate = path + ".crt", .private_key = path + ".key", .authorities = folder_ + "/authority.crt"};
}

}  // namespace outrider
