#include "worker/parallel/host_identity.h"

#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"

namespace outrider {

std::string HostIdentity() {
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  char network[64] = {};
  if (readlink("/proc/self/ns/net", network, sizeof(network) - 1) < 0) network[0] = '\0';
  return absl::StrCat(boot_id, " ", network, " user ", geteuid());
}

}  // namespace outrider
