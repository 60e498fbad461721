#include "base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <exception>

#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

std::string Prefixed(const std::string& name) { return "outrider_" + name; }

}  // namespace

void Counter::Add(double amount) { counter_->Increment(amount); }
double Counter::value() const { return counter_->Value(); }

void Gauge::Set(double value) { gauge_->Set(value); }
double Gauge::value() const { return gauge_->Value(); }

void Histogram::Observe(double value) { histogram_->Observe(value); }
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

std::string MetricsRegistry::ToText() const { return prometheus::TextSerializer().Serialize(registry_->Collect()); }

MetricsServer::MetricsServer() = default;
MetricsServer::~MetricsServer() = default;

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& host, int port,
                                                                    const MetricsRegistry& registry) {
  auto server = std::unique_ptr<MetricsServer>(new MetricsServer());
  const std::string address = absl::StrCat(host, ":", port);
  // The library reports a port in use by an exception; it ends here.
  try {
    server->exposer_ = std::make_unique<prometheus::Exposer>(address, /*num_threads=*/1);
    server->exposer_->RegisterCollectable(registry.registry_);
    const std::vector<int> ports = server->exposer_->GetListeningPorts();
    if (ports.empty()) return absl::UnavailableError(absl::StrCat("metrics server has no port at ", address));
    server->port_ = ports.front();
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("metrics server can not listen on ", address,
                                               " (metrics_port in use or not allowed?): ", error.what()));
  }
  return server;
}

}  // namespace outrider
