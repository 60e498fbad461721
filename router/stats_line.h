// StatsLine is the line of the log that tells, every so often while there is work, what a router's cluster does.
//
// Thread safety: none. Pure: the time is an argument.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"

namespace outrider::router {

// As of a moment. Numbers of tokens, rounds and drafts are totals since the start.
struct Traffic {
  double num_prompt_tokens = 0;
  double num_output_tokens = 0;
  double num_requests_waiting = 0;   // in the router
  double num_sequences_running = 0;  // in groups
  double num_sequences_waiting = 0;
  double kv_cache_used_ratio_max = 0;
  double num_draft_rounds = 0;
  std::vector<double> num_drafted;   // by position
  std::vector<double> num_accepted;  // as many
};

inline constexpr Duration kStatsInterval = std::chrono::seconds(10);

class StatsLine {
 public:
  explicit StatsLine(TimePoint start) : told_at_(start) {}

  // An interval has passed: ask with the traffic of now.
  bool IsDue(TimePoint now) const { return now - told_at_ >= kStatsInterval; }
  // What to log; nothing if there was no work since the last call and is none now.
  std::optional<std::string> Tell(TimePoint now, const Traffic& traffic);

 private:
  TimePoint told_at_;
  Traffic told_;
};

}  // namespace outrider::router
