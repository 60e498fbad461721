#include "cli/cluster_pages.h"

#include <utility>

#include "base/page_client.h"
#include "cli/metrics_merge.h"

namespace outrider {

ClusterPages::ClusterPages(const std::vector<UnitPlan>& units, const Supervisor& supervisor)
    : supervisor_(supervisor),
      hangs_(registry_.AddCounter("process_hangs_total", "Processes that were killed because they hung.")),
      crashes_(registry_.AddCounter("process_crashes_total", "Units that ended other than in order, hangs included.")) {
  for (const UnitPlan& unit : units) {
    restarts_.emplace(unit.name, registry_.AddCounter("unit_restarts_total", "Times a unit was started again.",
                                                      {{"unit", unit.name}}));
    for (const ProcessPlan& process : unit.processes) {
      if (process.health_address.empty()) continue;
      processes_.push_back(
          {.name = process.name,
           .address = process.health_address,
           .labels = process.labels,
           .up = registry_.AddGauge("process_up", "1 if the process showed its metrics in time, else 0.",
                                    {{"process", process.name}})});
      processes_.back().labels.insert(processes_.back().labels.begin(), {"process", process.name});
    }
  }
}

std::map<std::string, PageServer::MakePage> ClusterPages::Pages() {
  return {{"/metrics", [this] { return Metrics(); }}, {"/livez", [this] { return Liveness(); }}, {"/readyz", [this] {
                                                                                                    return Readiness();
                                                                                                  }}};
}

Page ClusterPages::Metrics() {
  std::vector<PageRequest> requests;
  for (const Process& process : processes_) requests.push_back({process.address, "/metrics"});
  auto answers = FetchPages(requests, kScrapeBound);
  std::vector<MetricsPage> pages(1);
  for (size_t i = 0; i < processes_.size(); ++i) {
    const bool is_up = answers[i].ok() && answers[i]->status == 200;
    processes_[i].up.Set(is_up ? 1 : 0);
    if (is_up) pages.push_back({processes_[i].labels, std::move(answers[i]->body)});
  }
  for (const auto& [unit, count] : supervisor_.Restarts()) {
    Counter& restarts = restarts_.at(unit);
    restarts.Add(count - restarts.value());
  }
  hangs_.Add(supervisor_.num_hangs() - hangs_.value());
  crashes_.Add(supervisor_.num_crashes() - crashes_.value());
  pages[0] = {{{"process", "serve"}}, registry_.ToText()};
  return {.body = MergeMetrics(pages), .content_type = kMetricsContentType};
}

Page ClusterPages::Liveness() const {
  if (supervisor_.IsHealthy()) return {.body = "ok\n"};
  return {.status = 503, .body = "not live: the supervisor's loop does not turn\n"};
}

Page ClusterPages::Readiness() const {
  if (Page page = Liveness(); page.status != 200) return page;
  if (!ready_) return {.status = 503, .body = "not ready: starting\n"};
  // The router is ready while any group is.
  const auto router = FetchPages({{processes_.at(0).address, "/readyz"}}, kScrapeBound)[0];
  if (!router.ok()) return {.status = 503, .body = "not ready: the router does not answer\n"};
  return {.status = router->status, .body = router->body};
}

}  // namespace outrider
