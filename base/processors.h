// How many processors this process may keep busy: what a pool of threads that wait for each other must not exceed.
#pragma once

#include <string>

namespace outrider {

// The processors of its affinity (taskset, cpusets), or fewer if a cgroup grants it less time than they have (a
// container's CPU limit, of cgroup v1 or v2, its own or an ancestor's), rounded down: with more threads than granted
// time all of them stop together. At least 1. What can not be read limits nothing.
//
// Thread safety: yes.
int NumUsableProcessors();

// What of it comes from cgroups: whole processors granted, 0 if unlimited. `root` is the folder that /proc and /sys are
// in, "" for this system's.
// Formats: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max), cgroups(7) (/proc/self/cgroup).
int NumGrantedProcessors(const std::string& root);

}  // namespace outrider
