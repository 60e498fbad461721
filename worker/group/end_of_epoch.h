// The end of a process whose group's epoch has ended. Nothing is torn down in order: a peer may be dead, a thread may
// be in a collective, and whoever supervises the group starts all its ranks anew.
#pragma once

#include <string>

namespace outrider {

// The exit code of a rank whose epoch ended; for logs of the supervisor.
inline constexpr int kEndOfEpochExitCode = 75;  // EX_TEMPFAIL of sysexits.h: try again

// Logs the reason and exits at once, without destructors or exit handlers. Thread safe.
[[noreturn]] void ExitAtEndOfEpoch(const std::string& reason);

}  // namespace outrider
