// TraceExporter brings spans to a collector by OTLP/gRPC: a bounded queue, and a thread of its own that sends what is
// in it, a batch at a time.
//
// Whoever records never waits: Add takes what fits the queue and counts the rest as dropped. A collector that is down,
// slow or says nonsense costs the memory of the queue and of one batch, and a line in the log when that begins and one
// when it ends (ExportPolicy).
//
// Thread safety: all methods, from any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "tracing/export_policy.h"
#include "tracing/otlp_encoding.h"
#include "tracing/otlp_endpoint.h"
#include "tracing/trace_span.h"

namespace grpc {
class ChannelCredentials;
class ClientContext;
}  // namespace grpc

namespace outrider {

// outrider_trace_spans_exported_total, outrider_trace_spans_dropped_total{reason}: overflow (the queue was full),
// refused (the collector would not have them), unreachable (it did not answer in time, or at all).
class TraceMetrics {
 public:
  explicit TraceMetrics(MetricsRegistry& registry);
  void Exported(int64_t count) { exported_.Add(static_cast<double>(count)); }
  void Overflowed(int64_t count) { overflow_->Add(static_cast<double>(count)); }
  void Refused(int64_t count) { refused_->Add(static_cast<double>(count)); }
  void GaveUp(int64_t count) { unreachable_->Add(static_cast<double>(count)); }

 private:
  Counter exported_;
  std::optional<Counter> overflow_;
  std::optional<Counter> refused_;
  std::optional<Counter> unreachable_;
};

class TraceExporter final : public SpanSink {
 public:
  struct Options {
    OtlpEndpoint endpoint;
    TraceResource resource;
    size_t max_queued_spans = 8192;  // of about half a kilobyte
    size_t max_batch_spans = 512;
    // A batch that is not full is sent after that.
    Duration interval = std::chrono::seconds(1);
    // An answer takes at most so long.
    Duration timeout = std::chrono::seconds(5);
    // What is queued when the process ends may be sent for so long.
    Duration last_words = std::chrono::milliseconds(500);
  };
  explicit TraceExporter(Options options, TraceMetrics metrics);
  // Sends what is queued, for last_words at most.
  ~TraceExporter() override;
  TraceExporter(const TraceExporter&) = delete;
  TraceExporter& operator=(const TraceExporter&) = delete;

  void Add(std::vector<TraceSpan> spans) override;

 private:
  void Run();
  // Up to a batch, once there is one or the interval has passed; empty: the end.
  std::vector<TraceSpan> AwaitBatch();
  void Send(const std::vector<TraceSpan>& batch);
  void Tell(const absl::Status& status, int64_t num_rejected, const std::string& why) const;

  const Options options_;
  TraceMetrics metrics_;

  // The thread's own.
  struct Wire;
  std::unique_ptr<Wire> wire_;
  ExportPolicy policy_;

  Mutex mu_;
  CondVar changed_;
  std::vector<TraceSpan> queue_ ABSL_GUARDED_BY(mu_);
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  TimePoint last_moment_ ABSL_GUARDED_BY(mu_){};  // once stopped
  grpc::ClientContext* open_call_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::thread thread_;
};

}  // namespace outrider
