// Certificates for tests: an authority and what it signs, as PEM files in a folder that goes with the object.
#pragma once

#include <string>

#include "security/tls.h"

namespace outrider {

class TestAuthority {
 public:
  explicit TestAuthority(const std::string& name);
  ~TestAuthority();
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  // A certificate of this authority for `host` (a DNS name, or an address in digits) and its key, valid from and until
  // so many seconds from now. `authorities` is this one.
  TlsFiles Issue(const std::string& name, const std::string& host, long first_second = -60,
                 long end_second = 30L * 24 * 3600);
  const std::string& folder() const { return folder_; }

 private:
  struct Pair;
  const std::string folder_;
  Pair* own_;
  long num_issued_ = 1;
};

}  // namespace outrider
