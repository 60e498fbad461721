// How soon a thread runs that has something to do, where others compute on the same processors.
//
// Linux (EEVDF, since 6.6) lets the thread that computes finish its slice of a few milliseconds, which without
// preemption ends at a timer tick (every 4 ms at 250 Hz), before one that has just woken up. A thread with shorter
// slices need not wait for that (6.12 and later). Slices change when a thread runs, not how much: shares stay equal,
// and no privilege is needed, other than for a lower nice value.
// Source: https://docs.kernel.org/scheduler/sched-eevdf.html, sched_setattr(2), kernel/sched/fair.c (PREEMPT_SHORT).
#pragma once

#include "base/clock.h"

namespace outrider {

// Asks for slices of 0.1 ms, the shortest there are, for the calling thread and for those that it starts from now on:
// for processes whose threads do little at a time while others wait for it. False where the system does not know of
// slices a thread; then nothing has changed.
//
// Thread safety: yes.
bool UseShortSlices();

// The calling thread's slice as it was asked for; zero if it was not, or can not be.
Duration RequestedSlice();

}  // namespace outrider
