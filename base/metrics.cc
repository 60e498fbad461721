#include "base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/process_metrics.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

std::string Prefixed(const std::string& name) { return "outrider_" + name; }

}  // namespace

void Counter::Add(double amount) { counter_->Increment(amount); }
double Counter::value() const { return counter_->Value(); }

void Gauge::Set(double value) { gauge_->Set(value); }
double Gauge::value() const { return gauge_->Value(); }

void Histogram::Observe(double value) { histogram_->Observe(value); }
void Histogram::ObserveMany(const std::vector<double>& counts, double sum) { histogram_->ObserveMultiple(counts, sum); }
uint64_t Histogram::count() const { return histogram_->Collect().histogram.sample_count; }
double Histogram::sum() const { return histogram_->Collect().histogram.sample_sum; }

std::vector<double> ExponentialBuckets(double first, double factor, int count) {
  std::vector<double> bounds;
  for (int i = 0; i < count; ++i, first *= factor) bounds.push_back(first);
  return bounds;
}

MetricsRegistry::MetricsRegistry() : registry_(std::make_shared<prometheus::Registry>()) {}
MetricsRegistry::~MetricsRegistry() = default;

Counter MetricsRegistry::AddCounter(const std::string& name, const std::string& help, const MetricLabels& labels) {
  return Counter(&prometheus::BuildCounter().Name(Prefixed(name)).Help(help).Register(*registry_).Add(labels));
}

Gauge MetricsRegistry::AddGauge(const std::string& name, const std::string& help, const MetricLabels& labels) {
  return Gauge(&prometheus::BuildGauge().Name(Prefixed(name)).Help(help).Register(*registry_).Add(labels));
}

Histogram MetricsRegistry::AddHistogram(const std::string& name, const std::string& help,
                                        const std::vector<double>& bucket_bounds, const MetricLabels& labels) {
  return Histogram(&prometheus::BuildHistogram()
                        .Name(Prefixed(name))
                        .Help(help)
                        .Register(*registry_)
                        .Add(labels, prometheus::Histogram::BucketBoundaries(bucket_bounds)));
}

std::string MetricsRegistry::ToText() const {
  // The log knows no registry; what it lost is told here.
  std::string page = prometheus::TextSerializer().Serialize(registry_->Collect());
  absl::StrAppend(&page, "# HELP outrider_log_lines_lost_total Log lines that could not be written.\n",
                  "# TYPE outrider_log_lines_lost_total counter\n", "outrider_log_lines_lost_total ", NumLogLinesLost(),
                  "\n", ProcessMetrics());
  if (more_) page += more_(page);
  return page;
}

Page LivenessPage(const ProcessHealth* health) {
  const std::string reason = health == nullptr ? std::string() : health->WhyNotLive();
  if (reason.empty()) return {.body = "ok\n"};
  return {.status = 503, .body = absl::StrCat("not live: ", reason, "\n")};
}

Page ReadinessPage(const ProcessHealth* health) {
  if (health == nullptr) return {.body = "ok\n"};
  if (Page page = LivenessPage(health); page.status != 200) return page;
  const std::string reason = health->WhyNotReady();
  if (reason.empty()) return {.body = "ok\n"};
  return {.status = 503, .body = absl::StrCat("not ready: ", reason, "\n")};
}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& host, int port,
                                                                    const MetricsRegistry& registry,
                                                                    const ProcessHealth* health) {
  std::map<std::string, PageServer::MakePage> pages;
  pages["/metrics"] = [&registry] { return Page{.body = registry.ToText(), .content_type = kMetricsContentType}; };
  pages["/livez"] = [health] { return LivenessPage(health); };
  pages["/readyz"] = [health] { return ReadinessPage(health); };
  ASSIGN_OR_RETURN(std::unique_ptr<PageServer> server, PageServer::Start(host, port, std::move(pages)));
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(server)));
}

}  // namespace outrider
