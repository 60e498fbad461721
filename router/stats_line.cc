#include "router/stats_line.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace outrider::router {

std::optional<std::string> StatsLine::Tell(TimePoint now, const Traffic& traffic) {
  const double seconds = std::max(1e-3, std::chrono::duration<double>(now - told_at_).count());
  const Traffic before = std::exchange(told_, traffic);
  told_at_ = now;
  const double prompt_tokens = traffic.num_prompt_tokens - before.num_prompt_tokens;
  const double output_tokens = traffic.num_output_tokens - before.num_output_tokens;
  const double num_open = traffic.num_requests_waiting + traffic.num_sequences_running + traffic.num_sequences_waiting;
  if (prompt_tokens == 0 && output_tokens == 0 && num_open == 0) return std::nullopt;
  std::string line = absl::StrFormat(
      "prompt %.1f tokens/s, output %.1f tokens/s, running %.0f, waiting %.0f, KV cache %.1f %%",
      prompt_tokens / seconds, output_tokens / seconds, traffic.num_sequences_running,
      traffic.num_requests_waiting + traffic.num_sequences_waiting, 100 * traffic.kv_cache_used_ratio_max);
  const double rounds = traffic.num_draft_rounds - before.num_draft_rounds;
  if (rounds <= 0) return line;
  double drafted = 0, accepted = 0;
  std::string by_position;
  for (size_t i = 0; i < traffic.num_drafted.size(); ++i) {
    const auto growth = [i](const std::vector<double>& to, const std::vector<double>& from) {
      return to[i] - (i < from.size() ? from[i] : 0);
    };
    const double drafted_here = growth(traffic.num_drafted, before.num_drafted);
    const double accepted_here = growth(traffic.num_accepted, before.num_accepted);
    if (drafted_here <= 0) break;
    drafted += drafted_here;
    accepted += accepted_here;
    absl::StrAppendFormat(&by_position, " %.2f", accepted_here / rounds);
  }
  if (drafted <= 0) return line;
  absl::StrAppendFormat(&line, "; drafts: acceptance length %.2f, rate %.2f, accepted a round by position%s",
                        1 + accepted / rounds, accepted / drafted, by_position);
  return line;
}

}  // namespace outrider::router
