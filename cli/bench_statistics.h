// What a serving benchmark measured, request by request, and the figures of `vllm bench serve` over it: the same
// definitions to the letter, so that numbers of both can be put side by side. Pure.
//
// Times are seconds; start_s is from the start of the benchmark. Figures of failed requests count nowhere but in
// `failed`. Source: vllm-project/vllm, vllm/benchmarks/serve.py, calculate_metrics.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace outrider {

struct BenchRecord {
  bool success = false;
  std::string error;
  int prompt_tokens = 0;
  int output_tokens = 0;
  double start_s = 0;    // when it was sent
  double queue_s = 0;    // from its arrival until it was sent: the wait for --max-concurrency
  double ttft_s = 0;     // from sending to the first token
  double latency_s = 0;  // from sending to the end
  // Gaps between messages that brought tokens, and how many tokens the first and each later message brought. Under
  // speculation a message may bring several.
  std::vector<double> itl_s;
  std::vector<int> message_tokens;  // itl_s.size() + 1 of a success with tokens
  std::string text;
  // Of its Usage.
  int64_t num_drafts = 0, draft_tokens = 0, accepted_tokens = 0;
};

// Of ttft, tpot, itl or e2el, in milliseconds.
struct BenchDistribution {
  double mean = 0, median = 0, std = 0;
  std::vector<std::pair<double, double>> percentiles;  // percent, value
};

struct BenchMetrics {
  int completed = 0, failed = 0;
  int64_t total_input = 0, total_output = 0;
  double request_throughput = 0;
  double request_goodput = 0;
  double output_throughput = 0;
  double total_token_throughput = 0;
  double max_output_tokens_per_s = 0;  // of the seconds since the first success was sent
  int max_concurrent_requests = 0;
  std::map<std::string, BenchDistribution> distributions;  // ttft, tpot, itl, e2el, client_queue_time,
                                                           // e2el_including_client_queue
};

// numpy.percentile, its default method: linear between the closest ranks. 0 of nothing. `percent` in [0, 100].
double Percentile(std::vector<double> values, double percent);

// numpy.mean, numpy.median, numpy.std of values in seconds, as milliseconds; zeros of nothing.
BenchDistribution Distribution(const std::vector<double>& seconds, const std::vector<double>& percents);

// `goodput`: ttft, tpot or e2el to its target in milliseconds; a request is good that meets all. REQUIRES: duration_s >
// 0.
BenchMetrics Summarize(const std::vector<BenchRecord>& records, double duration_s, const std::vector<double>& percents,
                       const std::map<std::string, double>& goodput);

// Pairs as "ttft:200". INVALID_ARGUMENT names what is wrong.
absl::StatusOr<std::map<std::string, double>> ParseGoodput(const std::vector<std::string>& pairs);

// Of the whole run.
struct SpeculationFigures {
  int64_t num_drafts = 0, draft_tokens = 0, accepted_tokens = 0;
  // Share of drafts whose token at this position was accepted; empty if it is not known.
  std::vector<double> per_position;

  double acceptance_rate() const {
    return 100.0 * static_cast<double>(accepted_tokens) / static_cast<double>(draft_tokens);
  }
  double acceptance_length() const {
    return 1 + static_cast<double>(accepted_tokens) / static_cast<double>(num_drafts);
  }
};

// Counts of the draft counters of a metrics page, all series summed: ours, or those of vLLM's names where there are
// none.
struct DraftCounters {
  int64_t num_drafts = 0, draft_tokens = 0, accepted_tokens = 0;
  std::map<int, int64_t> accepted_by_position;  // from 0
  friend bool operator==(const DraftCounters&, const DraftCounters&) = default;
};
DraftCounters ReadDraftCounters(const std::string& metrics_page);

// `before` and `after` the run, of the pages; totals are those of the records, so that others' requests do not count.
// `pages_count`: those of the pages where no record has any, as of servers that do not tell a request's.
SpeculationFigures Speculation(const std::vector<BenchRecord>& records, const DraftCounters& before,
                               const DraftCounters& after, bool pages_count = false);

}  // namespace outrider
