// ThreadPool runs the parallel parts of CPU kernels on a fixed set of threads.
//
// A thread takes the tasks of its own contiguous share first, in order, so that it streams through memory and finds in
// its cache what it touched in the last call; then it takes what others have left. So a thread that lost its core
// (several ranks share a machine) delays a call by one task, not by its share, and a worker that is not awake yet when
// the caller has done all the work is not waited for. Idle workers spin for kSpinMicros, so that the ~200 calls of a
// decode step find them awake, then sleep until the next call. Which thread runs a task is unspecified: kernels must
// not let results depend on it.
//
// Some kernels of virtual machines pack the threads of a process onto one processor while others idle. A worker that
// finds itself on the processor of the caller or of a lower worker excludes those from its affinity mask (Linux; never
// more than the mask it was born with).
//
// Invariants: every task index runs exactly once; all effects of the tasks are visible to the caller when ParallelFor
// returns; no thread other than the caller is started when num_threads is 1.
//
// Thread safety: one ParallelFor at a time; the calling thread may change between calls if the calls are ordered.
// Tasks must not call ParallelFor of the same pool and must not throw.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace outrider::kernels {

class ThreadPool {
 public:
  // How long an idle worker, or a caller that waits for the last task, spins before it sleeps: longer than the serial
  // gaps of a decode step (a few us), short against a scheduler slice because other processes share the cores.
  static constexpr int64_t kSpinMicros = 40;
  static constexpr int kMaxThreads = 256;

  // `num_threads` counts the caller; it is clamped to [1, kMaxThreads].
  explicit ThreadPool(int num_threads);
  // REQUIRES: no ParallelFor is running.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls fn(task_index) or fn(task_index, thread_index) once for each task_index in [0, num_tasks) and returns when
  // all have returned. thread_index is in [0, num_threads()), unique among the threads inside this call, 0 for the
  // caller: an index for scratch memory. Cost when warm: about a microsecond; none with one thread or one task. 2^24
  // tasks or more run on the caller alone: cut the work into larger ones.
  template <typename Fn>
  void ParallelFor(int64_t num_tasks, const Fn& fn) {
    if (num_threads_ == 1 || num_tasks <= 1 || num_tasks > kMaxTasks) {
      for (int64_t task = 0; task < num_tasks; ++task) Invoke(fn, task, 0);
      return;
    }
    Run(num_tasks, &Trampoline<Fn>, &fn);
  }

  // Splits [0, num_items) into contiguous ranges of at least `min_items` (the last may be shorter), at most a few a
  // thread, and calls fn(first, end) for each. For element-wise work: pick min_items so that a range takes >= 1 us.
  template <typename Fn>
  void ParallelForRange(int64_t num_items, int64_t min_items, const Fn& fn) {
    if (num_items <= 0) return;
    const int64_t num_ranges_max = int64_t{num_threads_} == 1 ? 1 : int64_t{num_threads_} * kRangesPerThread;
    const int64_t even = (num_items + num_ranges_max - 1) / num_ranges_max;
    const int64_t range = even < min_items ? min_items : even;
    ParallelFor((num_items + range - 1) / range, [&](int64_t task) {
      const int64_t first = task * range;
      fn(first, first + range < num_items ? first + range : num_items);
    });
  }

 private:
  using TaskFn = void (*)(const void* fn, int64_t task_index, int thread_index);

  // Ranges a thread in ParallelForRange: enough to even out a thread that started late.
  static constexpr int64_t kRangesPerThread = 2;

  // A thread's share of the tasks: bits 0..23 how many are taken in the call whose number is in the bits above; a share
  // with another call's number is untouched. So nobody has to reset the shares of sleeping threads.
  static constexpr int kTakenBits = 24;
  static constexpr int64_t kMaxTasks = (int64_t{1} << kTakenBits) - 1;
  struct alignas(64) Share {
    std::atomic<uint64_t> taken{0};
    std::atomic<int> processor{-1};  // where the thread last began a call
  };

  struct Affinity;

  // state_: bits 0..8 workers inside the current call, bit 9 call is open for workers, rest the call's number,
  // wrapping.
  static constexpr uint32_t kActiveMask = (1u << 9) - 1;
  static constexpr uint32_t kOpenBit = 1u << 9;
  static constexpr uint32_t kCallUnit = 1u << 10;

  template <typename Fn>
  static void Invoke(const Fn& fn, int64_t task, int thread_index) {
    if constexpr (std::is_invocable_v<const Fn&, int64_t, int>) {
      fn(task, thread_index);
    } else {
      fn(task);
    }
  }
  template <typename Fn>
  static void Trampoline(const void* fn, int64_t task, int thread_index) {
    Invoke(*static_cast<const Fn*>(fn), task, thread_index);
  }

  void Run(int64_t num_tasks, TaskFn task_fn, const void* fn);
  void WorkerLoop(int thread_index);
  // Runs tasks until none is left to take.
  void RunTasks(int thread_index);
  // The next task of a thread's share, or -1.
  int64_t TakeTask(int share_index);
  // Waits for an open call other than `seen_call`; false when the pool is being destroyed.
  bool AwaitCall(uint32_t seen_call);
  bool HasNews(uint32_t seen_call) const;
  void AwaitWorkers();
  // Notes the processor this thread runs on and, if a thread of a lower index is there too, asks for another.
  void SpreadOut(int thread_index);

  const int num_threads_;
  const std::unique_ptr<const Affinity> affinity_;

  // Written by the caller while no worker is inside a call; read by workers that entered it.
  TaskFn task_fn_ = nullptr;
  const void* fn_ = nullptr;
  int64_t num_tasks_ = 0;
  uint64_t call_number_ = 0;

  // Self-synchronised. Apart by cache lines: workers poll state_ while tasks run.
  alignas(64) std::atomic<uint32_t> state_{0};
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<int> num_sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  const std::unique_ptr<Share[]> shares_;  // [num_threads_]

  // Only for sleeping and waking.
  std::mutex mu_;
  std::condition_variable call_opened_;
  std::condition_variable workers_left_;

  std::vector<std::thread> workers_;
};

}  // namespace outrider::kernels
