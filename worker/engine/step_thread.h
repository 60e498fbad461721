// StepThread is a StepBackend of depth 1 over one of depth 0: a thread of its own runs the steps, in order, each as
// soon as the one before has ended. Meanwhile the caller tells what came of the last step and plans the next: what
// computes does not wait for either.
//
// SubmitAndCollect runs its step on the caller's thread, since nothing is done beside it and a hand-over would only
// cost time. Steps never overlap and each sees the effects of those before it, so the inner backend needs no lock; it
// must not mind which thread calls it.
//
// After an error nothing runs any more and every call returns it. A step that was done before it can still be
// collected, as long as no call has returned the error.
//
// Plans are copied into slots that keep their memory: a step like those before it allocates nothing here
// (step_thread_test).
//
// Thread safety: none; one thread submits and collects.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "worker/step/step_backend.h"

namespace outrider {

class StepThread final : public StepBackend {
 public:
  // `inner` outlives this and is spoken to by nobody else while a step is out. REQUIRES: inner.depth() == 0.
  explicit StepThread(StepBackend& inner);
  // Waits for a step that is being run, as long as that takes; one that waits behind it is not run.
  ~StepThread() override;
  StepThread(const StepThread&) = delete;
  StepThread& operator=(const StepThread&) = delete;

  int depth() const override { return kDepth; }
  // Errors: of the step that is out, if it has failed already.
  absl::Status Submit(const StepPlan& plan) override;
  // Errors: the inner backend's; FAILED_PRECONDITION if no step is out.
  absl::StatusOr<StepResult> Collect() override;
  absl::StatusOr<StepResult> SubmitAndCollect(const StepPlan& plan) override;

  // How long either thread looks out for the other before it sleeps. Longer than the gap between two plans of an engine
  // that is a little late, short against a scheduler's slice, since others want the processor.
  static constexpr Duration kSpin = std::chrono::microseconds(40);

 private:
  static constexpr int kDepth = 1;

  // A number that one thread raises by one and another waits for.
  class Counter {
   public:
    uint64_t value() const { return value_.load(std::memory_order_acquire); }
    void Raise();
    // Returns once the value is above `count`: looks for kSpin, then sleeps.
    void AwaitAbove(uint64_t count);

   private:
    std::atomic<uint64_t> value_{0};
    std::atomic<bool> sleeps_{false};
    Mutex mu_;
    CondVar raised_;
  };

  struct Slot {
    StepPlan plan;
    absl::StatusOr<StepResult> result;
  };

  void Loop();

  StepBackend& inner_;
  // Step n, from 0, is in slot n modulo their number: the thread's from when submitted_ passes n until done_ does.
  std::array<Slot, 1 + kDepth> slots_;
  Counter submitted_, done_;
  std::atomic<bool> stopping_{false};

  // The caller's own. Steps of SubmitAndCollect do not count.
  uint64_t num_submitted_ = 0;
  uint64_t num_collected_ = 0;
  absl::Status failed_;

  std::thread thread_;
};

}  // namespace outrider
