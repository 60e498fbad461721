#include "cli/bench_statistics.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace outrider {
namespace {

// Of drafts; far beyond any lookahead. A page may claim anything.
constexpr int kMaxPositions = 1024;

// Tokens by the second they came in, of which the greatest.
double PeakTokensPerSecond(const std::vector<BenchRecord>& records, double first_start_s) {
  std::map<int64_t, int64_t> by_second;
  for (const BenchRecord& record : records) {
    if (!record.success) continue;
    double at = record.start_s + record.ttft_s - first_start_s;
    for (size_t i = 0; i < record.message_tokens.size(); ++i) {
      if (i > 0) at += record.itl_s[i - 1];
      by_second[static_cast<int64_t>(at)] += record.message_tokens[i];
    }
  }
  int64_t peak = 0;
  for (const auto& [second, tokens] : by_second) peak = std::max(peak, tokens);
  return static_cast<double>(peak);
}

// Requests at once over half-open intervals [start, end).
int PeakConcurrency(const std::vector<BenchRecord>& records) {
  std::vector<std::pair<double, int>> events;
  for (const BenchRecord& record : records) {
    if (!record.success) continue;
    events.emplace_back(record.start_s, 1);
    events.emplace_back(record.start_s + record.latency_s, -1);
  }
  std::sort(events.begin(), events.end());  // an end goes before a start at the same time
  int now = 0, peak = 0;
  for (const auto& [time, change] : events) peak = std::max(peak, now += change);
  return peak;
}

}  // namespace

double Percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = percent / 100 * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (rank - static_cast<double>(below)) * (values[above] - values[below]);
}

BenchDistribution Distribution(const std::vector<double>& seconds, const std::vector<double>& percents) {
  BenchDistribution result;
  double sum = 0, squares = 0;
  for (const double value : seconds) sum += value;
  const double count = static_cast<double>(std::max<size_t>(1, seconds.size()));
  const double mean = sum / count;
  for (const double value : seconds) squares += (value - mean) * (value - mean);
  result.mean = 1000 * mean;
  result.std = 1000 * std::sqrt(squares / count);
  result.median = 1000 * Percentile(seconds, 50);
  for (const double percent : percents) result.percentiles.emplace_back(percent, 1000 * Percentile(seconds, percent));
  return result;
}

BenchMetrics Summarize(const std::vector<BenchRecord>& records, double duration_s, const std::vector<double>& percents,
                       const std::map<std::string, double>& goodput) {
  BenchMetrics metrics;
  std::map<std::string, std::vector<double>> values = {{"ttft", {}},
                                                       {"tpot", {}},
                                                       {"itl", {}},
                                                       {"e2el", {}},
                                                       {"client_queue_time", {}},
                                                       {"e2el_including_client_queue", {}}};
  int num_good = 0;
  double first_start_s = 0;
  for (const BenchRecord& record : records) {
    if (!record.success) {
      ++metrics.failed;
      continue;
    }
    first_start_s = metrics.completed == 0 ? record.start_s : std::min(first_start_s, record.start_s);
    ++metrics.completed;
    metrics.total_input += record.prompt_tokens;
    metrics.total_output += record.output_tokens;
    double tpot = 0;  // of a single token, which meets any target
    if (record.output_tokens > 1) {
      tpot = (record.latency_s - record.ttft_s) / (record.output_tokens - 1);
      values["tpot"].push_back(tpot);
    }
    values["ttft"].push_back(record.ttft_s);
    values["e2el"].push_back(record.latency_s);
    values["itl"].insert(values["itl"].end(), record.itl_s.begin(), record.itl_s.end());
    values["client_queue_time"].push_back(record.queue_s);
    values["e2el_including_client_queue"].push_back(record.latency_s + record.queue_s);
    const std::map<std::string, double> of_request = {
        {"ttft", record.ttft_s}, {"tpot", tpot}, {"e2el", record.latency_s}};
    num_good += !goodput.empty() && std::all_of(goodput.begin(), goodput.end(), [&](const auto& target) {
      return of_request.at(target.first) <= target.second / 1000;
    });
  }
  metrics.request_throughput = metrics.completed / duration_s;
  metrics.request_goodput = num_good / duration_s;
  metrics.output_throughput = static_cast<double>(metrics.total_output) / duration_s;
  metrics.total_token_throughput = static_cast<double>(metrics.total_input + metrics.total_output) / duration_s;
  metrics.max_output_tokens_per_s = PeakTokensPerSecond(records, first_start_s);
  metrics.max_concurrent_requests = PeakConcurrency(records);
  for (const auto& [name, seconds] : values) metrics.distributions[name] = Distribution(seconds, percents);
  return metrics;
}

absl::StatusOr<std::map<std::string, double>> ParseGoodput(const std::vector<std::string>& pairs) {
  std::map<std::string, double> goodput;
  for (const std::string& pair : pairs) {
    const std::vector<std::string> parts = absl::StrSplit(pair, ':');
    double target = 0;
    if (parts.size() != 2 || !absl::SimpleAtod(parts[1], &target) || !(target >= 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--goodput '", pair, "' is no target; write NAME:MILLISECONDS, such as ttft:200"));
    }
    if (parts[0] != "ttft" && parts[0] != "tpot" && parts[0] != "e2el") {
      return absl::InvalidArgumentError(
          absl::StrCat("--goodput '", pair, "': '", parts[0], "' is none of ttft, tpot, e2el"));
    }
    goodput[parts[0]] = target;
  }
  return goodput;
}

DraftCounters ReadDraftCounters(const std::string& metrics_page) {
  DraftCounters vllm, ours;
  bool has_ours = false;
  for (const absl::string_view line : absl::StrSplit(metrics_page, '\n')) {
    const size_t space = line.rfind(' ');
    double value = 0;
    if (line.empty() || line[0] == '#' || space == absl::string_view::npos ||
        !absl::SimpleAtod(line.substr(space + 1), &value) || !(std::abs(value) < 1e18)) {
      continue;
    }
    const absl::string_view name = line.substr(0, std::min(line.find('{'), space));
    int position = -1;
    if (const size_t label = line.find("position=\""); label != absl::string_view::npos) {
      const absl::string_view rest = line.substr(label + 10);
      if (!absl::SimpleAtoi(rest.substr(0, rest.find('"')), &position) || position > kMaxPositions) position = -1;
    }
    const int64_t count = static_cast<int64_t>(value);
    if (name == "vllm:spec_decode_num_drafts_total") {
      vllm.num_drafts += count;
    } else if (name == "vllm:spec_decode_num_draft_tokens_total") {
      vllm.draft_tokens += count;
    } else if (name == "vllm:spec_decode_num_accepted_tokens_total") {
      vllm.accepted_tokens += count;
    } else if (name == "vllm:spec_decode_num_accepted_tokens_per_pos_total" && position >= 0) {
      vllm.accepted_by_position[position] += count;
    } else if (name == "outrider_draft_rounds_total") {
      has_ours = true;
      ours.num_drafts += count;
    } else if (name == "outrider_draft_tokens_total") {
      ours.draft_tokens += count;
    } else if (name == "outrider_draft_tokens_accepted_total" && position >= 1) {
      ours.accepted_by_position[position - 1] += count;
      ours.accepted_tokens += count;
    }
  }
  // What the router shows under vLLM's names comes with heartbeats, later than what groups count themselves.
  return has_ours ? ours : vllm;
}

SpeculationFigures Speculation(const std::vector<BenchRecord>& records, const DraftCounters& before,
                               const DraftCounters& after, bool pages_count) {
  SpeculationFigures figures;
  for (const BenchRecord& record : records) {
    figures.num_drafts += record.num_drafts;
    figures.draft_tokens += record.draft_tokens;
    figures.accepted_tokens += record.accepted_tokens;
  }
  const int64_t num_drafts = after.num_drafts - before.num_drafts;
  if (num_drafts <= 0) return figures;
  if (pages_count && figures.num_drafts == 0) {
    figures.num_drafts = num_drafts;
    figures.draft_tokens = after.draft_tokens - before.draft_tokens;
    figures.accepted_tokens = after.accepted_tokens - before.accepted_tokens;
  }
  for (const auto& [position, count] : after.accepted_by_position) {
    const auto earlier = before.accepted_by_position.find(position);
    const int64_t change = count - (earlier == before.accepted_by_position.end() ? 0 : earlier->second);
    figures.per_position.resize(static_cast<size_t>(position) + 1);
    figures.per_position[static_cast<size_t>(position)] = static_cast<double>(change) / static_cast<double>(num_drafts);
  }
  while (!figures.per_position.empty() && figures.per_position.back() == 0) figures.per_position.pop_back();
  return figures;
}

}  // namespace outrider
