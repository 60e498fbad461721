#include "worker/group/end_of_epoch.h"

#include <unistd.h>

#include "base/log.h"

namespace outrider {

void ExitAtEndOfEpoch(const std::string& reason) {
  LogError("the group's epoch has ended: ", reason);
  _exit(kEndOfEpochExitCode);
}

}  // namespace outrider
