// What `outrider top` shows: a cluster between two looks at its metrics. Pure.
#pragma once

#include <string>
#include <vector>

#include "cli/metrics_page.h"

namespace outrider {

// NaN: not known, or nothing happened.
struct GroupRow {
  std::string name;
  double running = 0, waiting = 0, kv_used_ratio = 0;
  double tokens_per_s = 0, step_ms = 0;
  double acceptance_rate = 0;    // of draft tokens
  double acceptance_length = 0;  // tokens a round
  double hidden_ratio = 0;       // rounds whose draft was there without a wait
  double preempted_per_s = 0;
};

struct DraftWorkerRow {
  std::string name;
  double sequences = 0, kv_used_ratio = 0;
  double tokens_per_s = 0, step_ms = 0, answer_ms = 0;
  double dropped_per_s = 0;
};

struct ProcessRow {
  std::string name;
  bool up = true;
  double restarts = 0;  // of its unit
};

struct ClusterView {
  double seconds = 0;  // between the looks
  double groups = 0, groups_serving = 0, draft_workers = 0;
  double requests_running = 0, requests_waiting = 0;
  double requests_per_s = 0, failed_per_s = 0, prompt_tokens_per_s = 0, output_tokens_per_s = 0;
  double ttft_ms_p50 = 0, ttft_ms_p99 = 0, itl_ms_p50 = 0, itl_ms_p99 = 0;
  std::vector<GroupRow> group_list;
  std::vector<DraftWorkerRow> draft_list;
  std::vector<ProcessRow> processes;  // empty unless the page is a supervisor's
};

// Rates are over `seconds` > 0. A counter that fell, as after a restart, counts from 0.
ClusterView ViewCluster(const MetricsPageView& before, const MetricsPageView& after, double seconds);

// Lines of at most `width` columns; names are cut. `height`: of the whole, rows beyond are counted in the last; 0: any.
std::string ClusterText(const ClusterView& view, const std::string& title, int width, int height, bool colour);

// Every figure of the view by its name here; null: not known.
std::string ClusterJson(const ClusterView& view);

}  // namespace outrider
