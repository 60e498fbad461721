// What this program calls itself.
#pragma once

namespace outrider {

inline constexpr char kProgramVersion[] = "0.1.0";

}  // namespace outrider
