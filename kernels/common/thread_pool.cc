#include "kernels/common/thread_pool.h"

#include <algorithm>
#include <chrono>

namespace outrider::kernels {
namespace {

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Polls `ready` for about ThreadPool::kSpinMicros; whether it came true.
template <typename Ready>
bool SpinUntil(const Ready& ready) {
  using std::chrono::steady_clock;
  constexpr int kPollsPerClockRead = 16;
  const auto deadline = steady_clock::now() + std::chrono::microseconds(ThreadPool::kSpinMicros);
  do {
    for (int i = 0; i < kPollsPerClockRead; ++i) {
      if (ready()) return true;
      Pause();
    }
  } while (steady_clock::now() < deadline);
  return ready();
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(std::clamp(num_threads, 1, kMaxThreads)) {
  workers_.reserve(num_threads_ - 1);
  for (int i = 1; i < num_threads_; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  call_opened_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t num_tasks, TaskFn task_fn, const void* fn) {
  // Nobody is inside a call now, and entering one synchronises with the store that opens it.
  task_fn_ = task_fn;
  fn_ = fn;
  num_tasks_ = num_tasks;
  next_task_.store(0, std::memory_order_relaxed);
  const uint32_t call = (state_.load(std::memory_order_relaxed) & ~(kActiveMask | kOpenBit)) + kCallUnit;
  // Sequentially consistent against num_sleepers_: either we see a sleeper, or it sees the open call.
  state_.store(call | kOpenBit, std::memory_order_seq_cst);
  if (num_sleepers_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard lock(mu_); }
    call_opened_.notify_all();
  }

  for (int64_t task; (task = next_task_.fetch_add(1, std::memory_order_relaxed)) < num_tasks;) task_fn(fn, task, 0);

  // No task is left, so late workers need not come in; those inside still run their last one.
  if ((state_.fetch_and(~kOpenBit, std::memory_order_seq_cst) & kActiveMask) != 0) AwaitWorkers();
}

void ThreadPool::AwaitWorkers() {
  const auto all_left = [this] { return (state_.load(std::memory_order_acquire) & kActiveMask) == 0; };
  if (SpinUntil(all_left)) return;
  std::unique_lock lock(mu_);
  caller_sleeps_.store(true, std::memory_order_seq_cst);
  workers_left_.wait(lock, [this] { return (state_.load(std::memory_order_seq_cst) & kActiveMask) == 0; });
  caller_sleeps_.store(false, std::memory_order_relaxed);
}

bool ThreadPool::HasNews(uint32_t seen_call) const {
  const uint32_t state = state_.load(std::memory_order_seq_cst);
  return ((state & kOpenBit) != 0 && (state & ~(kActiveMask | kOpenBit)) != seen_call) ||
         stopping_.load(std::memory_order_relaxed);
}

bool ThreadPool::AwaitCall(uint32_t seen_call) {
  const auto has_news = [&] { return HasNews(seen_call); };
  if (!SpinUntil(has_news)) {
    std::unique_lock lock(mu_);
    num_sleepers_.fetch_add(1, std::memory_order_seq_cst);
    call_opened_.wait(lock, has_news);
    num_sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }
  return !stopping_.load(std::memory_order_relaxed);
}

void ThreadPool::WorkerLoop(int thread_index) {
  uint32_t seen_call = 0;
  while (AwaitCall(seen_call)) {
    uint32_t state = state_.load(std::memory_order_relaxed);
    if ((state & kOpenBit) == 0) continue;
    // Whatever call the exchange succeeds on is open and cannot end before we leave it.
    if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire, std::memory_order_relaxed)) continue;
    seen_call = state & ~(kActiveMask | kOpenBit);
    const int64_t num_tasks = num_tasks_;
    for (int64_t task; (task = next_task_.fetch_add(1, std::memory_order_relaxed)) < num_tasks;) {
      task_fn_(fn_, task, thread_index);
    }
    const uint32_t before = state_.fetch_sub(1, std::memory_order_seq_cst);
    if ((before & kActiveMask) == 1 && (before & kOpenBit) == 0 && caller_sleeps_.load(std::memory_order_seq_cst)) {
      { std::lock_guard lock(mu_); }
      workers_left_.notify_one();
    }
  }
}

}  // namespace outrider::kernels
