// Counts what a test allocates: a program that links this has the global operator new counted.
//
// Thread safety: yes.
#pragma once

#include <cstdint>

namespace outrider {

// Since the program started, by all threads.
int64_t NumAllocations();

}  // namespace outrider
