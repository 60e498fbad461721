#include "tracing/trace_exporter.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <iterator>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "proto/otlp.grpc.pb.h"
#include "security/tls.h"

namespace outrider {
namespace {

// An answer says next to nothing.
constexpr int kMaxAnswerBytes = 65536;
constexpr int kReconnectMsMin = 500;
constexpr int kReconnectMsMax = 10'000;
constexpr int kKeepaliveTimeMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 10'000;

absl::Status ToStatus(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

}  // namespace

TraceMetrics::TraceMetrics(MetricsRegistry& registry)
    : exported_(registry.AddCounter("trace_spans_exported_total", "Spans of traces that the collector took.")) {
  const auto dropped = [&registry](const char* reason) {
    return registry.AddCounter("trace_spans_dropped_total", "Spans of traces that no collector got.",
                               {{"reason", reason}});
  };
  overflow_.emplace(dropped("overflow"));
  refused_.emplace(dropped("refused"));
  unreachable_.emplace(dropped("unreachable"));
}

struct TraceExporter::Wire {
  std::unique_ptr<otlp::TraceService::Stub> stub;
  std::minstd_rand random{std::random_device()()};
};

TraceExporter::TraceExporter(Options options, TraceMetrics metrics)
    : options_(std::move(options)), metrics_(metrics), wire_(std::make_unique<Wire>()) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxAnswerBytes);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMsMin);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kReconnectMsMin);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMsMax);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  // Its own connection, whatever else this process says to that address.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  wire_->stub = otlp::TraceService::NewStub(grpc::CreateCustomChannel(
      options_.endpoint.address,
      options_.endpoint.tls ? TlsChannel({}, TlsPeer::kNamed) : grpc::InsecureChannelCredentials(), arguments));
  thread_ = std::thread([this] { Run(); });
}

TraceExporter::~TraceExporter() {
  {
    MutexLock lock(mu_);
    stopped_ = true;
    last_moment_ = std::chrono::steady_clock::now() + options_.last_words;
    changed_.NotifyAll();
    while (!ended_ && changed_.WaitUntil(mu_, last_moment_)) {
    }
    if (open_call_ != nullptr) open_call_->TryCancel();
  }
  thread_.join();
}

void TraceExporter::Add(std::vector<TraceSpan> spans) {
  if (spans.empty()) return;
  size_t num_queued;
  {
    MutexLock lock(mu_);
    const size_t before = queue_.size();
    if (stopped_ || spans.size() > options_.max_queued_spans - before) {
      metrics_.Overflowed(static_cast<int64_t>(spans.size()));
      return;
    }
    std::move(spans.begin(), spans.end(), std::back_inserter(queue_));
    num_queued = queue_.size();
    // The thread looks by itself once an interval while there is something.
    if (before > 0 && (before >= options_.max_batch_spans || num_queued < options_.max_batch_spans)) return;
  }
  changed_.NotifyAll();
}

std::vector<TraceSpan> TraceExporter::AwaitBatch() {
  MutexLock lock(mu_);
  while (!stopped_ && queue_.empty()) changed_.Wait(mu_);
  const TimePoint due = std::chrono::steady_clock::now() + options_.interval;
  while (!stopped_ && queue_.size() < options_.max_batch_spans && changed_.WaitUntil(mu_, due)) {
  }
  if (queue_.size() <= options_.max_batch_spans) return std::exchange(queue_, {});
  const auto end = queue_.begin() + static_cast<std::ptrdiff_t>(options_.max_batch_spans);
  std::vector<TraceSpan> batch(std::make_move_iterator(queue_.begin()), std::make_move_iterator(end));
  queue_.erase(queue_.begin(), end);
  return batch;
}

void TraceExporter::Run() {
  while (true) {
    const std::vector<TraceSpan> batch = AwaitBatch();
    if (batch.empty()) break;
    Send(batch);
  }
  MutexLock lock(mu_);
  ended_ = true;
  changed_.NotifyAll();
}

void TraceExporter::Send(const std::vector<TraceSpan>& batch) {
  const int64_t num_spans = static_cast<int64_t>(batch.size());
  otlp::ExportTraceServiceRequest request;
  SpansToOtlp(options_.resource, batch, &request);
  while (true) {
    grpc::ClientContext context;
    bool last;
    {
      MutexLock lock(mu_);
      last = stopped_;
      const TimePoint now = std::chrono::steady_clock::now();
      const Duration patience = last ? std::min(options_.timeout, last_moment_ - now) : options_.timeout;
      if (patience <= Duration::zero()) return metrics_.GaveUp(num_spans);
      context.set_deadline(std::chrono::system_clock::now() +
                           std::chrono::duration_cast<std::chrono::system_clock::duration>(patience));
      open_call_ = &context;
    }
    otlp::ExportTraceServiceResponse response;
    const absl::Status status = ToStatus(wire_->stub->Export(&context, request, &response));
    const TimePoint now = std::chrono::steady_clock::now();
    {
      MutexLock lock(mu_);
      open_call_ = nullptr;
      last |= stopped_;
    }
    const int64_t num_rejected = response.partial_success().rejected_spans();
    const double chance = std::uniform_real_distribution<double>()(wire_->random);
    const ExportPolicy::Decision decision = last
                                                ? policy_.OnLastAnswer(status.code(), num_rejected, num_spans, now)
                                                : policy_.OnAnswer(status.code(), num_rejected, num_spans, chance, now);
    metrics_.Exported(decision.num_exported);
    metrics_.Refused(decision.num_refused);
    metrics_.GaveUp(decision.num_given_up);
    if (decision.tell) Tell(status, decision.num_refused, response.partial_success().error_message());
    if (!decision.again.has_value()) return;
    MutexLock lock(mu_);
    const TimePoint next = now + *decision.again;
    while (!stopped_ && changed_.WaitUntil(mu_, next)) {
    }
  }
}

void TraceExporter::Tell(const absl::Status& status, int64_t num_rejected, const std::string& why) const {
  const std::string collector = absl::StrCat("the trace collector at ", options_.endpoint.address);
  constexpr absl::string_view kConsequence =
      "; requests are served on, and spans that are lost are counted (trace_spans_dropped_total)";
  if (!status.ok()) {
    LogWarning(collector, " does not take spans: ", absl::StatusCodeToString(status.code()), ": ", status.message(),
               kConsequence);
  } else if (num_rejected > 0) {
    LogWarning(collector, " refused ", num_rejected, " spans: ", why, kConsequence);
  } else {
    LogInfo(collector, " takes spans again");
  }
}

}  // namespace outrider
