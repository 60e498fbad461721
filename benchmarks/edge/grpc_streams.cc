#include "benchmarks/edge/grpc_streams.h"

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"

namespace outrider::edge {
namespace {

TimePoint Now() { return std::chrono::steady_clock::now(); }

// What the streams of a load report to; outlives them.
struct Collector {
  explicit Collector(const StreamLoad& l) : load(l) {}
  const StreamLoad& load;
  Mutex mu;
  CondVar changed;
  StreamFigures figures ABSL_GUARDED_BY(mu);
  int num_open ABSL_GUARDED_BY(mu) = 0;
};

class ClientCall final : public grpc::ClientReadReactor<v1::GenerateResponse>,
                         public std::enable_shared_from_this<ClientCall> {
 public:
  ClientCall(Collector* collector, const v1::GenerateRequest* request) : collector_(collector), request_(request) {}

  void Start(v1::Inference::Stub& stub, double late_ms) {
    self_ = shared_from_this();
    late_ms_ = late_ms;
    started_ = last_ = Now();
    stub.async()->Generate(&context_, request_, this);
    StartRead(&response_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    const TimePoint now = Now();
    if (first_ms_ < 0) first_ms_ = Milliseconds(now - started_);
    if (response_.has_delta()) {
      if (num_tokens_ > 0) gap_ms_.push_back(Milliseconds(now - last_));
      last_ = now;
      num_tokens_ += response_.delta().token_ids_size();
    }
    if (!collector_->load.stop_reading) StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<ClientCall> self = std::move(self_);
    MutexLock lock(collector_->mu);
    StreamFigures& figures = collector_->figures;
    if (first_ms_ >= 0) figures.first_ms.push_back(first_ms_);
    figures.gap_ms.insert(figures.gap_ms.end(), gap_ms_.begin(), gap_ms_.end());
    figures.late_ms.push_back(late_ms_);
    if (status.ok() && num_tokens_ == collector_->load.max_tokens) {
      ++figures.num_complete;
    } else if (status.error_code() == grpc::StatusCode::CANCELLED) {
      ++figures.num_cancelled;
    } else {
      ++figures.failures[status.ok() ? absl::StrCat("ended after ", num_tokens_, " tokens")
                                     : absl::StrCat("code ", static_cast<int>(status.error_code()), ": ",
                                                    status.error_message())];
    }
    if (--collector_->num_open == 0) collector_->changed.NotifyAll();
  }

 private:
  Collector* const collector_;
  const v1::GenerateRequest* const request_;
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
  std::shared_ptr<ClientCall> self_;  // until OnDone
  TimePoint started_, last_;
  double late_ms_ = 0;
  double first_ms_ = -1;
  uint32_t num_tokens_ = 0;
  std::vector<double> gap_ms_;
};

}  // namespace

GrpcClients::GrpcClients(const std::string& address, int num_connections) {
  for (int i = 0; i < num_connections; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // else they would share one connection
    stubs_.push_back(
        v1::Inference::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments)));
  }
}

StreamFigures GrpcClients::Run(const StreamLoad& load) {
  Collector collector(load);
  v1::GenerateRequest request;
  for (const TokenId id : PromptOf(load.pace, load.num_prompt_tokens)) request.add_prompt_token_ids(id);
  request.set_max_tokens(load.max_tokens);
  request.set_ignore_eos(true);
  request.set_temperature(0);
  std::vector<std::shared_ptr<ClientCall>> to_cancel;
  const TimePoint begin = Now();
  for (size_t i = 0; i < load.starts.size(); ++i) {
    const TimePoint at = begin + load.starts[i];
    std::this_thread::sleep_until(at);
    {
      MutexLock lock(collector.mu);
      ++collector.num_open;
    }
    auto call = std::make_shared<ClientCall>(&collector, &request);
    if (load.cancel_after > Duration::zero()) to_cancel.push_back(call);
    call->Start(*stubs_[i % stubs_.size()], Milliseconds(Now() - at));
  }
  if (!to_cancel.empty()) {
    std::this_thread::sleep_until(begin + load.cancel_after);
    for (const auto& call : to_cancel) call->Cancel();
  }
  MutexLock lock(collector.mu);
  while (collector.num_open > 0) collector.changed.Wait(collector.mu);
  return std::move(collector.figures);
}

}  // namespace outrider::edge
