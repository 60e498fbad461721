#include "cli/bench_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/mutex.h"

namespace outrider {
namespace {

// Progress is told so often though nothing ends.
constexpr Duration kProgressInterval = std::chrono::milliseconds(200);

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

// What the calls tell the loop. Calls may end on any thread.
struct Ended {
  Mutex mu;
  CondVar changed;
  std::vector<size_t> indices ABSL_GUARDED_BY(mu);
};

class GrpcCall final : public OpenCall, public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  // `request` and `record` outlive this.
  GrpcCall(v1::Inference::Stub& stub, const v1::GenerateRequest& request, double timeout_s, BenchRecord& record,
           std::function<void()> on_end)
      : num_choices_(std::max(1u, request.n())), record_(record), on_end_(std::move(on_end)) {
    if (timeout_s > 0) {
      context_.set_deadline(std::chrono::system_clock::now() +
                            std::chrono::microseconds(static_cast<int64_t>(1e6 * timeout_s)));
    }
    sent_ = last_ = std::chrono::steady_clock::now();
    stub.async()->Generate(&context_, &request, this);
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    const TimePoint now = std::chrono::steady_clock::now();
    if (response_.has_started()) {
      record_.prompt_tokens = response_.started().prompt_token_ids_size();
    } else if (response_.has_delta()) {
      const v1::Delta& delta = response_.delta();
      record_.text += delta.text();
      if (delta.token_ids_size() > 0) {
        if (record_.message_tokens.empty()) {
          record_.ttft_s = Seconds(now - sent_);
        } else {
          record_.itl_s.push_back(Seconds(now - last_));
        }
        record_.message_tokens.push_back(delta.token_ids_size());
        record_.output_tokens += delta.token_ids_size();
        last_ = now;
      }
    } else if (response_.has_finished()) {
      const v1::Usage& usage = response_.finished().usage();
      record_.num_drafts += usage.rounds();
      record_.draft_tokens += usage.draft_tokens();
      record_.accepted_tokens += usage.accepted_tokens();
      ++num_finished_;
    }
    response_.Clear();
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    record_.success = status.ok() && num_finished_ == num_choices_;
    record_.latency_s = Seconds((record_.message_tokens.empty() ? std::chrono::steady_clock::now() : last_) - sent_);
    if (!status.ok()) {
      record_.error = absl::StrCat(absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code())), ": ",
                                   status.error_message());
    } else if (!record_.success) {
      record_.error = "the stream ended before each choice had finished";
    }
    on_end_();
  }

 private:
  const uint32_t num_choices_;
  BenchRecord& record_;
  const std::function<void()> on_end_;
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
  TimePoint sent_, last_;
  uint32_t num_finished_ = 0;
};

}  // namespace

OpenLoopResult RunOpenLoop(const StartCall& start_call, const OpenLoopOptions& options,
                           const std::vector<double>& arrivals_s, const std::function<void(int, int)>& on_progress) {
  const size_t num_requests = arrivals_s.size();
  OpenLoopResult result;
  result.records.resize(num_requests);
  std::vector<std::unique_ptr<OpenCall>> calls(num_requests);
  Ended ended;
  const int num_open_max = std::min(options.max_concurrency.value_or(kMaxOpenRequests), kMaxOpenRequests);
  const TimePoint start = std::chrono::steady_clock::now();
  const auto at = [&](size_t index) {
    return start + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(arrivals_s[index]));
  };
  size_t next = 0;
  int num_open = 0, num_done = 0, num_failed = 0;
  while (num_done < static_cast<int>(num_requests)) {
    TimePoint now = std::chrono::steady_clock::now();
    for (; next < num_requests && num_open < num_open_max && at(next) <= now; ++next, ++num_open) {
      BenchRecord& record = result.records[next];
      record.start_s = Seconds(now - start);
      record.queue_s = Seconds(now - at(next));
      calls[next] = start_call(next, record, [&ended, index = next] {
        MutexLock lock(ended.mu);
        ended.indices.push_back(index);
        ended.changed.NotifyOne();
      });
      now = std::chrono::steady_clock::now();
    }
    TimePoint wake = now + kProgressInterval;
    if (next < num_requests && num_open < num_open_max) wake = std::min(wake, at(next));
    std::vector<size_t> indices;
    {
      MutexLock lock(ended.mu);
      if (ended.indices.empty()) ended.changed.WaitUntil(ended.mu, wake);
      indices.swap(ended.indices);
    }
    for (const size_t index : indices) {
      calls[index].reset();
      num_failed += !result.records[index].success;
      ++num_done;
      --num_open;
    }
    on_progress(num_done, num_failed);
  }
  result.duration_s = Seconds(std::chrono::steady_clock::now() - start);
  return result;
}

OpenLoopResult RunOpenLoop(v1::Inference::Stub& stub, const OpenLoopOptions& options,
                           const std::vector<v1::GenerateRequest>& requests, const std::vector<double>& arrivals_s,
                           const std::function<void(int, int)>& on_progress) {
  return RunOpenLoop(
      [&](size_t index, BenchRecord& record, std::function<void()> on_end) -> std::unique_ptr<OpenCall> {
        return std::make_unique<GrpcCall>(stub, requests[index], options.timeout_s, record, std::move(on_end));
      },
      options, arrivals_s, on_progress);
}

}  // namespace outrider
