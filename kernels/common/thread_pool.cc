#include "kernels/common/thread_pool.h"

#if defined(__linux__)
#include <sched.h>
#endif

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

int CurrentProcessor() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

}  // namespace

// The processors the pool's creator may use.
struct ThreadPool::Affinity {
#if defined(__linux__)
  cpu_set_t allowed;
  Affinity() {
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) CPU_ZERO(&allowed);
  }
  // Moves the calling thread off the processors of shares [0, num_shares) if that leaves any. Whether it did.
  bool Avoid(const Share* shares, int num_shares) const {
    cpu_set_t set = allowed;
    for (int i = 0; i < num_shares; ++i) {
      const int processor = shares[i].processor.load(std::memory_order_relaxed);
      if (processor >= 0 && processor < CPU_SETSIZE) CPU_CLR(processor, &set);
    }
    return CPU_COUNT(&set) > 0 && sched_setaffinity(0, sizeof(set), &set) == 0;
  }
#else
  bool Avoid(const Share*, int) const { return false; }
#endif
};

ThreadPool::ThreadPool(int num_threads)
    : num_threads_(std::clamp(num_threads, 1, kMaxThreads)),
      affinity_(std::make_unique<Affinity>()),
      shares_(std::make_unique<Share[]>(num_threads_)) {
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

int64_t ThreadPool::TakeTask(int share_index) {
  const int64_t first = num_tasks_ * share_index / num_threads_;
  const int64_t end = num_tasks_ * (share_index + 1) / num_threads_;
  std::atomic<uint64_t>& share = shares_[share_index].taken;
  uint64_t seen = share.load(std::memory_order_relaxed);
  for (;;) {
    const int64_t taken = seen >> kTakenBits == call_number_ ? static_cast<int64_t>(seen & kMaxTasks) : 0;
    if (first + taken >= end) return -1;
    const uint64_t next = call_number_ << kTakenBits | static_cast<uint64_t>(taken + 1);
    if (share.compare_exchange_weak(seen, next, std::memory_order_relaxed)) return first + taken;
  }
}

void ThreadPool::RunTasks(int thread_index) {
  for (int i = 0; i < num_threads_; ++i) {
    const int share_index = (thread_index + i) % num_threads_;
    for (int64_t task; (task = TakeTask(share_index)) >= 0;) task_fn_(fn_, task, thread_index);
  }
}

void ThreadPool::SpreadOut(int thread_index) {
  std::atomic<int>& own = shares_[thread_index].processor;
  const int processor = CurrentProcessor();
  if (own.load(std::memory_order_relaxed) != processor) own.store(processor, std::memory_order_relaxed);
  if (processor < 0) return;
  for (int i = 0; i < thread_index; ++i) {
    if (shares_[i].processor.load(std::memory_order_relaxed) != processor) continue;
    if (affinity_->Avoid(shares_.get(), thread_index)) own.store(CurrentProcessor(), std::memory_order_relaxed);
    return;
  }
}

void ThreadPool::Run(int64_t num_tasks, TaskFn task_fn, const void* fn) {
  // Nobody is inside a call now, and entering one synchronises with the store that opens it.
  task_fn_ = task_fn;
  fn_ = fn;
  num_tasks_ = num_tasks;
  ++call_number_;
  SpreadOut(0);
  const uint32_t call = (state_.load(std::memory_order_relaxed) & ~(kActiveMask | kOpenBit)) + kCallUnit;
  // Sequentially consistent against num_sleepers_: either we see a sleeper, or it sees the open call.
  state_.store(call | kOpenBit, std::memory_order_seq_cst);
  if (num_sleepers_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard lock(mu_); }
    call_opened_.notify_all();
  }

  RunTasks(0);

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
    SpreadOut(thread_index);
    RunTasks(thread_index);
    const uint32_t before = state_.fetch_sub(1, std::memory_order_seq_cst);
    if ((before & kActiveMask) == 1 && (before & kOpenBit) == 0 && caller_sleeps_.load(std::memory_order_seq_cst)) {
      { std::lock_guard lock(mu_); }
      workers_left_.notify_one();
    }
  }
}

}  // namespace outrider::kernels
