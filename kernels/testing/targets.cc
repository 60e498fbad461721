#include "kernels/testing/targets.h"

#include "hwy/highway.h"
#include "hwy/targets.h"

namespace outrider::kernels::testing {

void ForEachTarget(const std::function<void(const char* target_name)>& test) {
  // Kernels are built without SSSE3 and SSE4 (no fma there), so dispatch cannot be held to those.
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS & ~(HWY_SSSE3 | HWY_SSE4);
  for (int64_t rest = targets; rest != 0; rest &= rest - 1) {
    const int64_t target = rest & -rest;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    test(hwy::TargetName(target));
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace outrider::kernels::testing
