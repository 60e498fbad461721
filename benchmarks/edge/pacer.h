// Pacer steps whatever was added to it at a fixed interval, all of one interval together, as an engine's batch goes.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"

namespace outrider::edge {

class Paced {
 public:
  virtual ~Paced() = default;
  // One step; false once it was the last. Called from the pacer's thread.
  virtual bool Step() = 0;
};

class Pacer {
 public:
  // `after_steps` is called once all of an interval have had their step. The thread runs as long as the process.
  explicit Pacer(std::function<void()> after_steps);
  Pacer(const Pacer&) = delete;
  Pacer& operator=(const Pacer&) = delete;

  // Steps `member` every `interval_ms` > 0, at the next time of those that have the same interval.
  void Add(int interval_ms, std::shared_ptr<Paced> member);

 private:
  struct Batch {
    TimePoint next{};
    std::vector<std::shared_ptr<Paced>> members;
  };
  void Run();

  const std::function<void()> after_steps_;
  Mutex mu_;
  CondVar changed_;
  std::map<int, Batch> batches_ ABSL_GUARDED_BY(mu_);  // by interval, ms
};

}  // namespace outrider::edge
