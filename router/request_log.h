// RequestLog is the router's ledger: one line of JSON when a request is accepted and one when it ends, joined by its
// id. No prompts, no output.
//
//   {"event":"accepted","request_id":"req-...","at_ms":1700000000000}
//   {"event":"ended","request_id":"req-...","at_ms":...,"outcome":"complete","code":0,"attempts":1,
//    "output_tokens":40,"total_ms":812}
//
// Both have "trace_id" too, after "request_id", if the request belongs to a trace (docs/tracing.md).
//
// outcome: complete, retriable, permanent, cancelled, deadline. A request that was refused before it was accepted has
// no line. A line that can not be written (a full disk) is dropped and counted, and the first of them is told
// in the log: serving goes on.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "router/router_metrics.h"

namespace outrider::router {

// What the end of an accepted request counts as.
absl::string_view OutcomeOf(absl::StatusCode code);

class RequestLog {
 public:
  // `path` empty: nothing is written. UNAVAILABLE naming a path that can not be opened. `metrics` outlives this.
  static absl::StatusOr<std::unique_ptr<RequestLog>> Open(const std::string& path, RouterMetrics* metrics);
  ~RequestLog();
  RequestLog(const RequestLog&) = delete;
  RequestLog& operator=(const RequestLog&) = delete;

  // `trace_id`: empty if it belongs to no trace; then the line has none.
  void Accepted(const std::string& request_id, const std::string& trace_id = "");
  struct End {
    std::string trace_id;
    absl::Status status;
    uint32_t num_attempts = 0;
    int64_t num_output_tokens = 0;
    Duration total{};
  };
  void Ended(const std::string& request_id, const End& end);

 private:
  RequestLog(int fd, RouterMetrics* metrics) : fd_(fd), metrics_(metrics) {}
  void Write(const std::string& line);

  const int fd_;  // -1: none
  RouterMetrics* const metrics_;
  Mutex mu_;
  bool torn_ ABSL_GUARDED_BY(mu_) = false;        // the last line is not whole
  int64_t num_dropped_ ABSL_GUARDED_BY(mu_) = 0;  // since the last line that was written
};

}  // namespace outrider::router
