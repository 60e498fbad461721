#include "worker/engine/step_thread.h"

#include <utility>

#include "base/status_macros.h"

namespace outrider {

// Either the sleeper is seen here, or it sees the new value before it sleeps: both sides write, then read the other's.
void StepThread::Counter::Raise() {
  value_.fetch_add(1);
  if (!sleeps_.load()) return;
  MutexLock lock(mu_);
  raised_.NotifyOne();
}

void StepThread::Counter::AwaitAbove(uint64_t count) {
  const SystemClock clock;
  const TimePoint until = clock.Now() + kSpin;
  do {
    if (value() > count) return;
    std::this_thread::yield();
  } while (clock.Now() < until);
  MutexLock lock(mu_);
  sleeps_.store(true);
  while (value_.load() <= count) raised_.Wait(mu_);
  sleeps_.store(false);
}

StepThread::StepThread(StepBackend& inner) : inner_(inner) {
  CHECK(inner.depth() == 0);
  thread_ = std::thread([this] { Loop(); });
}

StepThread::~StepThread() {
  stopping_.store(true);
  submitted_.Raise();
  thread_.join();
}

void StepThread::Loop() {
  for (uint64_t step = 0;; ++step) {
    submitted_.AwaitAbove(step);
    if (stopping_.load()) return;
    Slot& slot = slots_[step % slots_.size()];
    slot.result = inner_.SubmitAndCollect(slot.plan);
    const bool failed = !slot.result.ok();
    done_.Raise();
    if (failed) return;
  }
}

absl::Status StepThread::Submit(const StepPlan& plan) {
  RETURN_IF_ERROR(failed_);
  const uint64_t num_out = num_submitted_ - num_collected_;
  CHECK(num_out < slots_.size());
  if (num_out > 0 && done_.value() > num_collected_) {
    failed_ = slots_[num_collected_ % slots_.size()].result.status();
    RETURN_IF_ERROR(failed_);
  }
  slots_[num_submitted_++ % slots_.size()].plan = plan;
  submitted_.Raise();
  return absl::OkStatus();
}

absl::StatusOr<StepResult> StepThread::Collect() {
  RETURN_IF_ERROR(failed_);
  if (num_submitted_ == num_collected_) return absl::FailedPreconditionError("no step is out");
  done_.AwaitAbove(num_collected_);
  absl::StatusOr<StepResult> result = std::move(slots_[num_collected_++ % slots_.size()].result);
  failed_ = result.status();
  return result;
}

absl::StatusOr<StepResult> StepThread::SubmitAndCollect(const StepPlan& plan) {
  RETURN_IF_ERROR(failed_);
  CHECK(num_submitted_ == num_collected_);
  absl::StatusOr<StepResult> result = inner_.SubmitAndCollect(plan);
  failed_ = result.status();
  return result;
}

}  // namespace outrider
