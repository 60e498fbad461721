// FakeCollector is a collector of traces for tests: it keeps what it is sent, or fails in one of the ways that
// collectors fail.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "proto/otlp.grpc.pb.h"

namespace outrider {

class FakeCollector final : public ::opentelemetry::proto::collector::trace::v1::TraceService::Service {
 public:
  using Request = ::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
  using Response = ::opentelemetry::proto::collector::trace::v1::ExportTraceServiceResponse;
  using Span = ::opentelemetry::proto::collector::trace::v1::Span;

  // What is said to a request, once it is kept; by default OK.
  using Answer = std::function<grpc::Status(const Request& request, Response* response)>;
  // Listens at HOST:PORT (port 0: a free one), or unix:PATH.
  explicit FakeCollector(const std::string& address = "127.0.0.1:0", Answer answer = nullptr);
  ~FakeCollector() override;

  // As a client calls it.
  const std::string& address() const { return address_; }
  // From now on nothing is answered until the client gives up or this ends.
  void SetStuck(bool stuck);

  // A span with who sent it and its attributes as text, by name.
  struct Received {
    Span span;
    std::string service;
    std::string instance;
    std::map<std::string, std::string> attributes;
  };
  std::vector<Received> received();
  int num_requests();
  // Waits (20 s at most) until `predicate` holds of all that came; false if it never did.
  bool Await(const std::function<bool(const std::vector<Received>&)>& predicate);
  // The same for the number of requests, answered or not.
  bool AwaitRequests(int count);

  grpc::Status Export(grpc::ServerContext* context, const Request* request, Response* response) override;

 private:
  const Answer answer_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;

  Mutex mu_;
  CondVar changed_;
  bool stuck_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  int num_requests_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<Received> received_ ABSL_GUARDED_BY(mu_);
};

}  // namespace outrider
