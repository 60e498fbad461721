// Where the time of a step goes, by op: for benches. Of Ops made with a clock (Ops::op_clock), ProfiledOps marks it
// after each operation; what lies between two marks is the later one's.
//
// Thread safety: none; the thread that runs steps.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace outrider {

enum class OpKind : uint8_t {
  kEmbed,
  kQkv,
  kAttention,
  kAttentionOutput,
  kGateUp,
  kDown,
  kAllReduce,
  kHead,
  kSample,
};
inline constexpr int kNumOpKinds = 9;

constexpr const char* OpKindName(OpKind kind) {
  constexpr const char* kNames[kNumOpKinds] = {"embed",      "qkv",  "attention", "attention_output", "gate_up", "down",
                                               "all_reduce", "head", "sample"};
  return kNames[static_cast<int>(kind)];
}

// Of one step.
struct OpTime {
  int count = 0;  // operations
  double ms = 0;  // of all of them
};
using OpTimes = std::array<OpTime, kNumOpKinds>;

class OpClock {
 public:
  virtual ~OpClock() = default;

  // Between steps. An inactive clock, as it is at first, notes nothing and costs nothing.
  void set_active(bool active) { active_ = active; }
  bool active() const { return active_; }

  // A step begins.
  absl::Status Begin() { return active_ ? NoteBegin() : absl::OkStatus(); }
  // What was done, or queued, since the mark before is an operation of `kind`.
  absl::Status Mark(OpKind kind) { return active_ ? NoteMark(kind) : absl::OkStatus(); }
  // Of the last step while active; waits for what is queued.
  virtual absl::StatusOr<OpTimes> Read() = 0;

 private:
  virtual absl::Status NoteBegin() = 0;
  virtual absl::Status NoteMark(OpKind kind) = 0;

  bool active_ = false;
};

// Of operations that are done when they return.
class HostOpClock final : public OpClock {
 public:
  absl::StatusOr<OpTimes> Read() override { return times_; }

 private:
  absl::Status NoteBegin() override {
    times_ = {};
    last_ = std::chrono::steady_clock::now();
    return absl::OkStatus();
  }
  absl::Status NoteMark(OpKind kind) override {
    const auto now = std::chrono::steady_clock::now();
    OpTime& time = times_[static_cast<size_t>(kind)];
    ++time.count;
    time.ms += std::chrono::duration<double, std::milli>(now - last_).count();
    last_ = now;
    return absl::OkStatus();
  }

  OpTimes times_{};
  std::chrono::steady_clock::time_point last_;
};

}  // namespace outrider
