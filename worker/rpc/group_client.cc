#include "worker/rpc/group_client.h"

#include <grpcpp/grpcpp.h>
#include <sys/random.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "proto/group.grpc.pb.h"
#include "worker/group/step_broadcast.h"
#include "worker/parallel/shm_communicator.h"
#include "worker/parallel/star_communicator.h"
#include "worker/rpc/exchange_link.h"
#include "worker/rpc/status_conversions.h"

namespace outrider {
namespace {

// Between two tries to join, when the leader that answered was on its way out.
constexpr Duration kRetryInterval = std::chrono::milliseconds(200);

std::chrono::system_clock::time_point ToSystem(TimePoint deadline) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(deadline - std::chrono::steady_clock::now());
}

// This rank's exchange with the leader. Its call is over when it is destroyed.
class ExchangeCall final : public grpc::ClientBidiReactor<v1::ExchangeFrame, v1::ExchangeFrame>,
                           public ExchangeLink::Stream {
 public:
  ExchangeCall(v1::Group::Stub& stub, const v1::ExchangeHello& hello) : link_(std::make_shared<ExchangeLink>(0)) {
    stub.async()->Exchange(&context_, this);
    v1::ExchangeFrame frame;
    *frame.mutable_hello() = hello;
    AddHold();  // operations start outside of callbacks until EndStream
    link_->Open(*this, std::move(frame));
    StartCall();
  }
  ~ExchangeCall() override {
    link_->Leave();
    MutexLock lock(mu_);
    // What was sent arrives; a leader that does not answer is not waited for long.
    const TimePoint deadline = std::chrono::steady_clock::now() + kFollowerGrace;
    while (!done_ && (ended_.WaitUntil(mu_, deadline) || std::chrono::steady_clock::now() < deadline)) {
    }
    context_.TryCancel();
    while (!done_) ended_.Wait(mu_);
  }

  std::shared_ptr<ExchangeLink> link() const { return link_; }

  void ReadFrame(v1::ExchangeFrame* frame) override { StartRead(frame); }
  void WriteFrame(const v1::ExchangeFrame* frame) override { StartWrite(frame); }
  void EndStream(const absl::Status&) override {
    StartWritesDone();
    RemoveHold();
  }

  void OnReadDone(bool ok) override { link_->ReadDone(ok); }
  void OnWriteDone(bool ok) override { link_->WriteDone(ok); }
  void OnDone(const grpc::Status& status) override {
    link_->Done(FromGrpcStatus(status));
    MutexLock lock(mu_);
    done_ = true;
    ended_.NotifyAll();
  }

 private:
  grpc::ClientContext context_;
  const std::shared_ptr<ExchangeLink> link_;
  Mutex mu_;
  CondVar ended_;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

// One stay in one group: a stream, a thread that reads it and one that tells progress.
class Stay final : public FollowerGroup {
 public:
  Stay(const FollowerGroupOptions& options, std::unique_ptr<v1::Group::Stub> stub)
      : options_(options), stub_(std::move(stub)) {}
  ~Stay() override;

  // UNAVAILABLE and ALREADY_EXISTS: another try may succeed.
  absl::Status Enter(TimePoint deadline);

  Communicator& communicator() override { return *communicator_; }
  int64_t num_kv_blocks() const override { return num_kv_blocks_; }
  uint64_t epoch() const override { return epoch_; }
  StepProgress& progress() override { return options_.progress != nullptr ? *options_.progress : own_progress_; }
  void Finished() override {
    MutexLock lock(mu_);
    finished_ = true;
    changed_.NotifyAll();
  }

 private:
  void Read();
  void TellProgress();
  // Ends the stay when the leader falls silent.
  void WatchLeader();
  // Waits for `message` to come; the stream's end or the deadline is an error.
  absl::Status Await(const std::optional<v1::LeaderMessage>& message, TimePoint deadline, const char* what);

  const FollowerGroupOptions options_;
  const std::unique_ptr<v1::Group::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::FollowerMessage, v1::LeaderMessage>> stream_;
  std::unique_ptr<ExchangeCall> exchange_;  // null where memory is shared
  std::unique_ptr<Communicator> communicator_;
  int64_t num_kv_blocks_ = 0;
  uint64_t epoch_ = 0;
  StepProgress own_progress_;
  std::thread reader_;
  std::thread teller_;
  std::thread watcher_;

  Mutex mu_;
  CondVar changed_;
  std::optional<v1::LeaderMessage> hello_ ABSL_GUARDED_BY(mu_);
  std::optional<v1::LeaderMessage> start_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> ended_ ABSL_GUARDED_BY(mu_);  // why the stream ended; never OK
  Communicator* running_ ABSL_GUARDED_BY(mu_) = nullptr;    // communicator_, once it may be aborted
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  TimePoint heard_ ABSL_GUARDED_BY(mu_){};  // of the leader, whatever it said
  bool leader_is_silent_ ABSL_GUARDED_BY(mu_) = false;
};

Stay::~Stay() {
  Finished();
  context_.TryCancel();
  if (reader_.joinable()) reader_.join();
  if (teller_.joinable()) teller_.join();
  if (watcher_.joinable()) watcher_.join();
}

absl::Status Stay::Enter(TimePoint deadline) {
  stream_ = stub_->Join(&context_);
  uint64_t incarnation = 0;
  if (getrandom(&incarnation, sizeof(incarnation), 0) != sizeof(incarnation)) {
    return absl::InternalError("getrandom failed");
  }
  v1::FollowerMessage message;
  v1::FollowerHello* hello = message.mutable_hello();
  hello->set_rank(static_cast<uint32_t>(options_.rank));
  hello->set_world_size(static_cast<uint32_t>(options_.world_size));
  hello->set_incarnation(incarnation);
  hello->set_numerics_id(options_.numerics_id);
  hello->set_kv_blocks_max(static_cast<uint64_t>(std::max<int64_t>(0, options_.num_kv_blocks_max)));
  hello->set_host(options_.host);
  stream_->Write(message);  // that it failed is told by the read
  reader_ = std::thread([this] { Read(); });
  teller_ = std::thread([this] { TellProgress(); });
  watcher_ = std::thread([this] { WatchLeader(); });
  RETURN_IF_ERROR(Await(hello_, deadline, "say that all ranks are in"));
  std::string socket_name;
  {
    MutexLock lock(mu_);
    epoch_ = hello_->hello().epoch();
    socket_name = hello_->hello().shm_socket();
  }
  if (socket_name.empty()) {
    v1::ExchangeHello hello_of_exchange;
    hello_of_exchange.set_epoch(epoch_);
    hello_of_exchange.set_rank(static_cast<uint32_t>(options_.rank));
    exchange_ = std::make_unique<ExchangeCall>(*stub_, hello_of_exchange);
    communicator_ = MakeStarPoint(exchange_->link(), options_.rank, options_.world_size, options_.step_timeout);
  } else {
    ASSIGN_OR_RETURN(communicator_,
                     AttachShm(socket_name, options_.rank, options_.world_size, epoch_,
                               deadline - std::chrono::steady_clock::now(), {.timeout = options_.step_timeout}));
  }
  RETURN_IF_ERROR(Await(start_, deadline, "start the epoch"));
  MutexLock lock(mu_);
  if (ended_.has_value()) return *ended_;
  num_kv_blocks_ = static_cast<int64_t>(std::min<uint64_t>(start_->start().num_kv_blocks(), INT32_MAX));
  running_ = communicator_.get();
  return absl::OkStatus();
}

absl::Status Stay::Await(const std::optional<v1::LeaderMessage>& message, TimePoint deadline, const char* what) {
  MutexLock lock(mu_);
  while (!message.has_value()) {
    if (ended_.has_value()) return *ended_;
    if (!changed_.WaitUntil(mu_, deadline) && std::chrono::steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("the leader at ", options_.leader_address, " did not ", what, " in time"));
    }
  }
  return absl::OkStatus();
}

void Stay::Read() {
  v1::LeaderMessage message;
  while (stream_->Read(&message)) {
    MutexLock lock(mu_);
    if (message.has_hello() && !hello_.has_value()) hello_ = message;
    if (message.has_start() && !start_.has_value()) start_ = message;
    heard_ = std::chrono::steady_clock::now();
    changed_.NotifyAll();
  }
  absl::Status status = FromGrpcStatus(stream_->Finish());
  if (status.ok()) status = absl::UnavailableError("the leader ended the stream");
  std::string reason;
  {
    MutexLock lock(mu_);
    if (leader_is_silent_) {
      status = absl::UnavailableError(absl::StrCat("the leader was silent for more than ",
                                                   static_cast<int64_t>(ToMillis(options_.silence_max)), " ms"));
    }
    ended_ = status;
    changed_.NotifyAll();
    if (running_ == nullptr || finished_) return;
    reason = absl::StrCat("the leader is lost: ", status.message());
    running_->Abort(reason.c_str());
    const TimePoint deadline = std::chrono::steady_clock::now() + kFollowerGrace;
    while (!finished_) {
      if (!changed_.WaitUntil(mu_, deadline) && std::chrono::steady_clock::now() >= deadline) break;
    }
    if (finished_) return;
  }
  if (options_.on_stuck) options_.on_stuck(reason);
}

// Apart from TellProgress, whose writes may block on a leader that stands still.
void Stay::WatchLeader() {
  MutexLock lock(mu_);
  TimePoint looked = std::chrono::steady_clock::now();
  heard_ = looked;
  while (!finished_ && !ended_.has_value()) {
    changed_.WaitUntil(mu_, looked + kProgressInterval);
    const TimePoint now = std::chrono::steady_clock::now();
    // Who stood still itself judges nobody by what it could not hear.
    if (now - looked > options_.silence_max / 2) heard_ = now;
    if (now - looked >= kProgressInterval) looked = now;
    if (now - heard_ <= options_.silence_max) continue;
    leader_is_silent_ = true;
    context_.TryCancel();  // ends Read, which does the rest
    return;
  }
}

void Stay::TellProgress() {
  v1::FollowerMessage message;
  for (;;) {
    {
      MutexLock lock(mu_);
      const TimePoint next = std::chrono::steady_clock::now() + kProgressInterval;
      while (!finished_ && !ended_.has_value() && changed_.WaitUntil(mu_, next)) {
      }
      if (finished_ || ended_.has_value()) return;
    }
    const StepProgress::Snapshot steps = progress().Now();
    message.mutable_progress()->set_last_step(steps.last_step);
    message.mutable_progress()->set_step_under_way(steps.step_under_way);
    message.mutable_progress()->set_leaving(options_.leaving != nullptr && options_.leaving->load());
    if (!stream_->Write(message)) return;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<FollowerGroup>> FollowerGroup::Join(const FollowerGroupOptions& options) {
  const TimePoint deadline = std::chrono::steady_clock::now() + options.join_timeout;
  grpc::ChannelArguments arguments;
  // A leader that restarts is back within seconds, and it is no place that a proxy knows.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  const auto channel = grpc::CreateCustomChannel(options.leader_address,
                                                 LinkCredentials(options.security, options.leader_address), arguments);
  std::string told;
  for (;;) {
    if (!channel->WaitForConnected(ToSystem(deadline))) {
      return absl::DeadlineExceededError(absl::StrCat("no leader at ", options.leader_address, " within ",
                                                      static_cast<int64_t>(ToMillis(options.join_timeout)), " ms"));
    }
    auto stay = std::make_unique<Stay>(options, v1::Group::NewStub(channel));
    const absl::Status status = stay->Enter(deadline);
    if (status.ok()) return std::unique_ptr<FollowerGroup>(std::move(stay));
    const bool leader_is_leaving = absl::IsUnavailable(status) || absl::IsAlreadyExists(status);
    if (!leader_is_leaving || std::chrono::steady_clock::now() + kRetryInterval >= deadline) return status;
    if (const std::string reason(status.message()); reason != told) {
      LogInfo("joining the group again: ", reason);
      told = reason;
    }
    std::this_thread::sleep_for(kRetryInterval);
  }
}

absl::Status RunFollowerRank(const FollowerGroupOptions& options, const FollowerLimits& limits,
                             const MakeBackend& make_backend) {
  ASSIGN_OR_RETURN(const std::unique_ptr<FollowerGroup> group, FollowerGroup::Join(options));
  absl::StatusOr<std::unique_ptr<StepBackend>> backend = make_backend(group->communicator(), group->num_kv_blocks());
  if (!backend.ok()) {
    group->communicator().Abort(absl::StrCat("rank ", options.rank, " failed: ", backend.status().message()).c_str());
    return backend.status();
  }
  const absl::Status status = RunFollower(**backend, group->communicator(),
                                          {.limits = {.vocab_size = limits.vocab_size,
                                                      .num_kv_blocks = group->num_kv_blocks(),
                                                      .max_model_len = limits.max_model_len},
                                           .progress = &group->progress()});
  group->Finished();
  return status;
}

}  // namespace outrider
