#include "tracing/testing/fake_collector.h"

#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

namespace otlp = ::opentelemetry::proto::collector::trace::v1;

constexpr Duration kPatience = std::chrono::seconds(20);
// A client that gives up is looked for so often.
constexpr Duration kPoll = std::chrono::milliseconds(20);

std::string Text(const otlp::AnyValue& value) {
  switch (value.value_case()) {
    case otlp::AnyValue::kStringValue:
      return value.string_value();
    case otlp::AnyValue::kBoolValue:
      return value.bool_value() ? "true" : "false";
    case otlp::AnyValue::kIntValue:
      return absl::StrCat(value.int_value());
    case otlp::AnyValue::kDoubleValue:
      return absl::StrCat(value.double_value());
    case otlp::AnyValue::kArrayValue: {
      std::string text;
      for (const otlp::AnyValue& element : value.array_value().values()) {
        absl::StrAppend(&text, text.empty() ? "" : ",", Text(element));
      }
      return text;
    }
    case otlp::AnyValue::VALUE_NOT_SET:
      break;
  }
  return "";
}

}  // namespace

FakeCollector::FakeCollector(const std::string& address, Answer answer) : answer_(std::move(answer)) {
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  CHECK(server_ != nullptr);
  address_ = absl::StartsWith(address, "unix:") ? address : absl::StrCat("127.0.0.1:", port);
}

FakeCollector::~FakeCollector() {
  {
    MutexLock lock(mu_);
    ending_ = true;
    changed_.NotifyAll();
  }
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

void FakeCollector::SetStuck(bool stuck) {
  MutexLock lock(mu_);
  stuck_ = stuck;
  changed_.NotifyAll();
}

grpc::Status FakeCollector::Export(grpc::ServerContext* context, const Request* request, Response* response) {
  MutexLock lock(mu_);
  ++num_requests_;
  changed_.NotifyAll();
  while (stuck_ && !ending_ && !context->IsCancelled()) {
    changed_.WaitUntil(mu_, std::chrono::steady_clock::now() + kPoll);
  }
  if (context->IsCancelled() || ending_) return grpc::Status::CANCELLED;
  const grpc::Status status = answer_ ? answer_(*request, response) : grpc::Status::OK;
  if (!status.ok()) return status;
  for (const otlp::ResourceSpans& resource : request->resource_spans()) {
    Received received;
    for (const otlp::KeyValue& attribute : resource.resource().attributes()) {
      if (attribute.key() == "service.name") received.service = attribute.value().string_value();
      if (attribute.key() == "service.instance.id") received.instance = attribute.value().string_value();
    }
    for (const otlp::ScopeSpans& scope : resource.scope_spans()) {
      for (const Span& span : scope.spans()) {
        received.span = span;
        received.attributes.clear();
        for (const otlp::KeyValue& attribute : span.attributes()) {
          CHECK(received.attributes.emplace(attribute.key(), Text(attribute.value())).second);  // names are unique
        }
        received_.push_back(received);
      }
    }
  }
  changed_.NotifyAll();
  return status;
}

std::vector<FakeCollector::Received> FakeCollector::received() {
  MutexLock lock(mu_);
  return received_;
}

int FakeCollector::num_requests() {
  MutexLock lock(mu_);
  return num_requests_;
}

bool FakeCollector::Await(const std::function<bool(const std::vector<Received>&)>& predicate) {
  const TimePoint deadline = std::chrono::steady_clock::now() + kPatience;
  MutexLock lock(mu_);
  while (!predicate(received_)) {
    if (!changed_.WaitUntil(mu_, deadline)) return predicate(received_);
  }
  return true;
}

bool FakeCollector::AwaitRequests(int count) {
  const TimePoint deadline = std::chrono::steady_clock::now() + kPatience;
  MutexLock lock(mu_);
  while (num_requests_ < count) {
    if (!changed_.WaitUntil(mu_, deadline)) return num_requests_ >= count;
  }
  return true;
}

}  // namespace outrider
