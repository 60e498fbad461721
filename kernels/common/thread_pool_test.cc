#include "kernels/common/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <vector>

namespace outrider::kernels {
namespace {

// Keeps the caller busy so that workers run out of their spinning time and go to sleep.
void StayBusy(std::chrono::microseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}

TEST(ThreadPool, RunsEveryTaskOnceAndShowsItsEffects) {
  for (const int num_threads : {1, 2, 3, 4, 8}) {
    ThreadPool pool(num_threads);
    for (const int64_t num_tasks : {0, 1, 2, 3, 7, 64, 1000}) {
      std::vector<int> runs(num_tasks, 0);  // not atomic: tasks own their element, the return publishes it
      pool.ParallelFor(num_tasks, [&](int64_t task) { ++runs[task]; });
      for (const int count : runs) ASSERT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, TasksSeeWhatTheCallerWroteBefore) {
  ThreadPool pool(3);
  std::vector<int64_t> in(64), out(64);
  for (int64_t call = 0; call < 20000; ++call) {
    std::fill(in.begin(), in.end(), call);
    pool.ParallelFor(64, [&](int64_t task) { out[task] = in[task] + task; });
    int64_t sum = 0;
    for (const int64_t v : out) sum += v;
    ASSERT_EQ(sum, 64 * call + 64 * 63 / 2);
  }
}

TEST(ThreadPool, WakesSleepingWorkersAndSurvivesSlowTasks) {
  ThreadPool pool(4);
  int64_t total = 0;
  for (int call = 0; call < 200; ++call) {
    StayBusy(std::chrono::microseconds(call % 5 * 40));
    std::vector<int64_t> sums(9);
    pool.ParallelFor(9, [&](int64_t task) {
      if (task == call % 9) StayBusy(std::chrono::microseconds(call % 7 * 30));  // the caller may sleep for this one
      sums[task] = task;
    });
    total += std::accumulate(sums.begin(), sums.end(), int64_t{0});
  }
  EXPECT_EQ(total, 200 * 36);
}

TEST(ThreadPool, ThreadIndicesAreUniqueInsideACall) {
  ThreadPool pool(4);
  for (int call = 0; call < 500; ++call) {
    std::vector<int64_t> scratch(pool.num_threads(), 0);  // a shared index would be a race, for ThreadSanitizer to see
    pool.ParallelFor(100, [&](int64_t task, int thread_index) { scratch.at(thread_index) += task; });
    EXPECT_EQ(std::accumulate(scratch.begin(), scratch.end(), int64_t{0}), 100 * 99 / 2);
  }
}

TEST(ThreadPool, RangesCoverAllItemsWithoutOverlap) {
  for (const int num_threads : {1, 2, 4}) {
    ThreadPool pool(num_threads);
    for (const int64_t num_items : {0, 1, 5, 16, 17, 1000}) {
      for (const int64_t min_items : {1, 4, 64}) {
        std::vector<int> runs(num_items, 0);
        pool.ParallelForRange(num_items, min_items, [&](int64_t first, int64_t end) {
          ASSERT_LT(first, end);
          for (int64_t i = first; i < end; ++i) ++runs[i];
        });
        for (const int count : runs) ASSERT_EQ(count, 1);
      }
    }
  }
}

TEST(ThreadPool, OneThreadRunsOnTheCaller) {
  ThreadPool pool(1);
  const std::thread::id caller = std::this_thread::get_id();
  pool.ParallelFor(5, [&](int64_t) { EXPECT_EQ(std::this_thread::get_id(), caller); });
}

TEST(ThreadPool, ClampsItsSizeAndDiesUnused) {
  EXPECT_EQ(ThreadPool(0).num_threads(), 1);
  EXPECT_EQ(ThreadPool(-3).num_threads(), 1);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(ThreadPool(3).num_threads(), 3);
}

TEST(ThreadPool, CallersMayTakeTurns) {
  ThreadPool pool(2);
  int64_t count = 0;
  for (int i = 0; i < 10; ++i) {
    std::thread([&] {
      std::vector<int> runs(10);
      pool.ParallelFor(10, [&](int64_t task) { runs[task] = 1; });
      count += std::accumulate(runs.begin(), runs.end(), 0);
    }).join();
  }
  EXPECT_EQ(count, 100);
}

}  // namespace
}  // namespace outrider::kernels
