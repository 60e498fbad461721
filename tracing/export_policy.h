// ExportPolicy decides what becomes of a batch after a collector's answer, and what is said of it in the log. PURE.
//
// A batch is sent again, later and later, where the standard says that may help (OTLP specification, "Failures");
// kTriesMax times, then it is given up. The log hears of the first failure and of the first success after it, and of
// neither more than once in kTellInterval: a collector that comes and goes fills no disk.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "base/clock.h"

namespace outrider {

class ExportPolicy {
 public:
  static constexpr int kTriesMax = 4;
  static constexpr Duration kFirstPause = std::chrono::seconds(1);
  static constexpr Duration kTellInterval = std::chrono::minutes(1);

  struct Decision {
    std::optional<Duration> again;  // send the same batch again after that; empty: it is done with
    int64_t num_exported = 0;
    int64_t num_refused = 0;  // dropped, for the collector would not have them
    int64_t num_given_up = 0;
    bool tell = false;  // the log is to hear of this
  };
  // The answer to a try of a batch of `num_spans`. `num_rejected` is what the collector says it did not take of them,
  // if the status is OK: any number, also one that can not be. `chance` in [0, 1) spreads those who try again.
  Decision OnAnswer(absl::StatusCode code, int64_t num_rejected, int64_t num_spans, double chance, TimePoint now);
  // The try is to be the last: the process ends.
  Decision OnLastAnswer(absl::StatusCode code, int64_t num_rejected, int64_t num_spans, TimePoint now);

 private:
  bool Tell(bool failing, TimePoint now);

  int num_tries_ = 0;  // of the batch
  bool told_failing_ = false;
  std::optional<TimePoint> told_at_;
};

}  // namespace outrider
