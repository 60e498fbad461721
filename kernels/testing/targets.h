// Runs a test once with each instruction set that this machine and this build have.
#pragma once

#include <functional>

namespace outrider::kernels::testing {

// Calls test(name) with Highway's dispatch held to one target at a time, best first; restores it.
void ForEachTarget(const std::function<void(const char* target_name)>& test);

}  // namespace outrider::kernels::testing
