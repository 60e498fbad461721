// Numbers a process shows to Prometheus: a registry, its counters, gauges and histograms, and the HTTP page with health
// beside it. The only includer of prometheus/ is metrics.cc.
//
// Names get the prefix "outrider_"; base units, `_total`, `_ratio`, `_seconds` (docs/STYLE.md). One class a room holds
// the metrics it speaks of, as verbs; logic sees that class, never a registry.
//
// Thread safety: everything here may be used from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/health.h"
#include "base/page_server.h"

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
class Registry;
}  // namespace prometheus

namespace outrider {

using MetricLabels = std::map<std::string, std::string>;

// Handles; valid as long as the registry that made them.
class Counter {
 public:
  void Add(double amount = 1);  // amount >= 0
  double value() const;

 private:
  friend class MetricsRegistry;
  explicit Counter(prometheus::Counter* counter) : counter_(counter) {}
  prometheus::Counter* counter_;
};

class Gauge {
 public:
  void Set(double value);
  double value() const;

 private:
  friend class MetricsRegistry;
  explicit Gauge(prometheus::Gauge* gauge) : gauge_(gauge) {}
  prometheus::Gauge* gauge_;
};

class Histogram {
 public:
  void Observe(double value);
  // As many observations a bucket, the one beyond the last bound included; all of them together sum up to `sum`.
  // REQUIRES: counts.size() is the number of bounds + 1.
  void ObserveMany(const std::vector<double>& counts, double sum);
  uint64_t count() const;
  double sum() const;

 private:
  friend class MetricsRegistry;
  explicit Histogram(prometheus::Histogram* histogram) : histogram_(histogram) {}
  prometheus::Histogram* histogram_;
};

// Bucket bounds from `first` on, each `factor` times the one before: ExponentialBuckets(1e-4, 2, 18) spans 0.1 ms to
// 13 s.
std::vector<double> ExponentialBuckets(double first, double factor, int count);

// The metrics of one process, or of one server in a test.
class MetricsRegistry {
 public:
  MetricsRegistry();
  ~MetricsRegistry();
  MetricsRegistry(const MetricsRegistry&) = delete;
  MetricsRegistry& operator=(const MetricsRegistry&) = delete;

  // The metric `outrider_<name>` with these labels; the same one when asked for again.
  // REQUIRES: one kind and one set of label names a name.
  Counter AddCounter(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  Gauge AddGauge(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  Histogram AddHistogram(const std::string& name, const std::string& help, const std::vector<double>& bucket_bounds,
                         const MetricLabels& labels = {});

  // What `more` makes of the page follows it, at each scrape. Call before the page is served.
  void AppendToText(std::function<std::string(const std::string& page)> more) { more_ = std::move(more); }

  // The page as Prometheus reads it (text format 0.0.4): the metrics above, what the log lost, and process_*.
  std::string ToText() const;

 private:
  std::function<std::string(const std::string& page)> more_;
  const std::shared_ptr<prometheus::Registry> registry_;
};

// The page of a process at http://HOST:PORT until destroyed: /metrics; /livez and /readyz say 200, or 503 and why not.
class MetricsServer {
 public:
  // `host` may be unix:PATH. Port 0 takes a free one. `registry` and `health` outlive the server; without health the
  // process counts as alive and ready. UNAVAILABLE naming host and port if it can not be bound.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& host, int port,
                                                              const MetricsRegistry& registry,
                                                              const ProcessHealth* health = nullptr);

  int port() const { return pages_->port(); }  // 0 for a unix socket

 private:
  explicit MetricsServer(std::unique_ptr<PageServer> pages) : pages_(std::move(pages)) {}
  const std::unique_ptr<PageServer> pages_;
};

// What Prometheus expects of the page.
inline constexpr char kMetricsContentType[] = "text/plain; version=0.0.4; charset=utf-8";
// The answers of /livez and /readyz. The latter's body tells both apart: "ok", "not live: ...", "not ready: ...".
Page LivenessPage(const ProcessHealth* health);
Page ReadinessPage(const ProcessHealth* health);

}  // namespace outrider
