#include "benchmarks/edge/engine_stream.h"

#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"

namespace outrider::edge {
namespace {

TimePoint Now() { return std::chrono::steady_clock::now(); }

}  // namespace

class EngineStream::Reactor final : public grpc::ClientBidiReactor<v1::TargetCommands, v1::TargetEvents> {
 public:
  explicit Reactor(v1::Target::Stub& stub) {
    stub.async()->Serve(&context_, this);
    AddHold();  // for writes from another thread
    StartRead(&events_);
    StartCall();
  }
  ~Reactor() override {
    context_.TryCancel();
    RemoveHold();
    MutexLock lock(mu_);
    while (!done_) changed_.Wait(mu_);
  }

  void Submit(v1::Submit submit) {
    MutexLock lock(mu_);
    open_[submit.request_id()] = {.started = Now()};
    *queued_.add_commands()->mutable_submit() = std::move(submit);
    WriteNext();
  }
  StreamFigures TakeFigures() {
    MutexLock lock(mu_);
    while (!open_.empty() && !broken_) changed_.Wait(mu_);
    if (!open_.empty()) figures_.failures["the engine's stream broke"] = static_cast<int>(open_.size());
    return std::exchange(figures_, {});
  }

  void OnReadDone(bool ok) override {
    const TimePoint now = Now();
    MutexLock lock(mu_);
    if (!ok) {
      broken_ = true;
      changed_.NotifyAll();
      return;
    }
    for (const v1::TargetEvent& event : events_.events()) {
      const auto request = open_.find(event.request_id());
      if (request == open_.end()) continue;
      if (!std::exchange(request->second.has_first, true)) {
        figures_.first_ms.push_back(Milliseconds(now - request->second.started));
      }
      if (!event.has_finished()) continue;
      ++figures_.num_complete;
      open_.erase(request);
      if (open_.empty()) changed_.NotifyAll();
    }
    StartRead(&events_);
  }
  void OnWriteDone(bool) override {
    MutexLock lock(mu_);
    writing_ = false;
    WriteNext();
  }
  void OnDone(const grpc::Status&) override {
    MutexLock lock(mu_);
    done_ = broken_ = true;
    changed_.NotifyAll();
  }

 private:
  struct Request {
    TimePoint started;
    bool has_first = false;
  };
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || broken_ || queued_.commands_size() == 0) return;
    writing_ = true;
    written_.Clear();
    written_.Swap(&queued_);
    StartWrite(&written_);
  }

  grpc::ClientContext context_;
  v1::TargetEvents events_;
  Mutex mu_;
  CondVar changed_;
  v1::TargetCommands queued_ ABSL_GUARDED_BY(mu_);
  v1::TargetCommands written_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool broken_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  std::unordered_map<uint64_t, Request> open_ ABSL_GUARDED_BY(mu_);  // by request_id
  StreamFigures figures_ ABSL_GUARDED_BY(mu_);
};

EngineStream::EngineStream(const std::string& engine_address)
    : stub_(v1::Target::NewStub(grpc::CreateChannel(engine_address, grpc::InsecureChannelCredentials()))),
      reactor_(std::make_unique<Reactor>(*stub_)) {}

EngineStream::~EngineStream() = default;

StreamFigures EngineStream::Run(const StreamLoad& load) {
  v1::Submit submit;
  for (const TokenId id : PromptOf(load.pace, load.num_prompt_tokens)) submit.add_prompt_token_ids(id);
  submit.mutable_params()->set_max_tokens(load.max_tokens);
  submit.add_lanes();
  const TimePoint begin = Now();
  for (size_t i = 0; i < load.starts.size(); ++i) {
    std::this_thread::sleep_until(begin + load.starts[i]);
    submit.set_request_id(i + 1);
    reactor_->Submit(submit);
  }
  return reactor_->TakeFigures();
}

}  // namespace outrider::edge
