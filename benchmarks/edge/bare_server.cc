#include "benchmarks/edge/bare_server.h"

#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "benchmarks/edge/paced_output.h"

namespace outrider::edge {
namespace {

class BareStream final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                         public Paced,
                         public std::enable_shared_from_this<BareStream> {
 public:
  void Begin(const v1::GenerateRequest& request, Pacer& pacer) {
    const OutputPace pace = PaceOf(request.prompt_token_ids());
    bool more;
    {
      MutexLock lock(mu_);
      self_ = shared_from_this();
      pace_ = pace;
      max_tokens_ = request.max_tokens();
      v1::Started& started = *queue_.emplace_back().mutable_started();
      started.set_request_id("00000000000000000000000000000000");
      started.mutable_prompt_token_ids()->CopyFrom(request.prompt_token_ids());
      started.set_seed(1);
      started.set_numerics_id("edge-bench");
      started.set_model("edge-bench");
      num_prompt_tokens_ = static_cast<uint32_t>(request.prompt_token_ids_size());
      more = StepLocked();
    }
    if (more) pacer.Add(pace.interval_ms, shared_from_this());
  }

  bool Step() override {
    MutexLock lock(mu_);
    return StepLocked();
  }
  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    writing_ = false;
    queue_.pop_front();
    if (!ok) Drop();
    WriteNext();
  }
  void OnCancel() override {
    MutexLock lock(mu_);
    Drop();
    WriteNext();
  }
  void OnDone() override {
    std::shared_ptr<BareStream> self;  // its end comes after the lock's
    MutexLock lock(mu_);
    self = std::move(self_);
  }

 private:
  bool StepLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (complete_) return false;
    v1::Delta& delta = *queue_.emplace_back().mutable_delta();
    for (int i = 0; i < pace_.num_tokens && num_made_ < max_tokens_; ++i) {
      const TokenId id = OutputToken(pace_, num_made_++);
      delta.add_token_ids(id);
      *delta.mutable_text() += static_cast<char>(id);
    }
    if (num_made_ == max_tokens_) {
      complete_ = true;
      v1::Finished& finished = *queue_.emplace_back().mutable_finished();
      finished.set_finish_reason(v1::FINISH_REASON_LENGTH);
      finished.mutable_usage()->set_prompt_tokens(num_prompt_tokens_);
      finished.mutable_usage()->set_output_tokens(num_made_);
      finished.mutable_usage()->set_plain_steps(num_made_);
      finished.mutable_timing_ms()->set_total(1);
      finished.set_numerics_id("edge-bench");
    }
    WriteNext();
    return !complete_;
  }
  // The client is gone.
  void Drop() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    complete_ = true;
    while (queue_.size() > (writing_ ? 1 : 0)) queue_.pop_back();
  }
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (!queue_.empty()) {
      writing_ = true;
      if (complete_ && queue_.size() == 1) {
        finished_ = true;
        StartWriteAndFinish(&queue_.front(), grpc::WriteOptions(), grpc::Status::OK);
      } else {
        StartWrite(&queue_.front());
      }
    } else if (complete_) {
      finished_ = true;
      Finish(grpc::Status::OK);
    }
  }

  Mutex mu_;
  std::shared_ptr<BareStream> self_ ABSL_GUARDED_BY(mu_);  // until OnDone
  std::deque<v1::GenerateResponse> queue_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;   // the first of queue_
  bool complete_ ABSL_GUARDED_BY(mu_) = false;  // nothing more comes to queue_
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  OutputPace pace_ ABSL_GUARDED_BY(mu_);
  uint32_t num_prompt_tokens_ ABSL_GUARDED_BY(mu_) = 0;
  uint32_t max_tokens_ ABSL_GUARDED_BY(mu_) = 0;
  uint32_t num_made_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace

BareServer::BareServer() : pacer_([] {}) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  CHECK(server_ != nullptr && port > 0);
  address_ = absl::StrCat("127.0.0.1:", port);
}

grpc::ServerWriteReactor<v1::GenerateResponse>* BareServer::Generate(grpc::CallbackServerContext*,
                                                                     const v1::GenerateRequest* request) {
  auto stream = std::make_shared<BareStream>();
  stream->Begin(*request, pacer_);
  return stream.get();
}

}  // namespace outrider::edge
