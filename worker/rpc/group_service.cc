#include "worker/rpc/group_service.h"

#include <grpcpp/grpcpp.h>
#include <sys/random.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "proto/group.grpc.pb.h"
#include "worker/group/group_membership.h"
#include "worker/parallel/host_identity.h"
#include "worker/parallel/shm_communicator.h"
#include "worker/parallel/single_communicator.h"
#include "worker/parallel/star_communicator.h"
#include "worker/rpc/exchange_link.h"
#include "worker/rpc/status_conversions.h"

namespace outrider {
namespace {

// How often silence is looked for.
constexpr Duration kTickInterval = std::chrono::milliseconds(100);
// Followers of other hosts that were told to stop have so long to go before the leader does.
constexpr Duration kLeaveGrace = std::chrono::seconds(1);

// Of a numerics_id that came over the wire; ours have 32.
constexpr size_t kMaxNumericsIdBytes = 128;

RankHello FromProto(const v1::FollowerHello& hello) {
  return {.rank = static_cast<int>(std::min<uint32_t>(hello.rank(), INT_MAX)),
          .world_size = static_cast<int>(std::min<uint32_t>(hello.world_size(), INT_MAX)),
          .incarnation = hello.incarnation(),
          .numerics_id = hello.numerics_id().substr(0, kMaxNumericsIdBytes),
          .num_kv_blocks_max = static_cast<int64_t>(std::min<uint64_t>(hello.kv_blocks_max(), INT_MAX))};
}

class JoinStream;

// The group's state, shared by the streams' callbacks, the caller and the watching thread.
class Group final : public LeaderGroup {
 public:
  explicit Group(Options options, uint64_t epoch)
      : options_(std::move(options)),
        epoch_(epoch),
        service_(*this),
        host_(HostIdentity()),
        membership_({.epoch = epoch,
                     .world_size = options_.world_size,
                     .numerics_id = options_.numerics_id,
                     .num_kv_blocks_max = options_.num_kv_blocks_max,
                     .silence_max = options_.silence_max,
                     .step_max = options_.step_timeout}),
        links_(static_cast<size_t>(options_.world_size)) {}
  ~Group() override;

  absl::Status Open();

  grpc::Service* service() override { return &service_; }
  absl::Status WaitForRanks(Duration timeout) override;
  Communicator& communicator() override {
    CHECK(communicator_ != nullptr);
    return *communicator_;
  }
  int64_t num_kv_blocks() const override {
    MutexLock lock(mu_);
    return membership_.num_kv_blocks();
  }
  uint64_t epoch() const override { return epoch_; }
  absl::Status status() const override {
    MutexLock lock(mu_);
    return membership_.status();
  }
  void ExpectEnd() override {
    MutexLock lock(mu_);
    end_expected_ = true;
  }
  void Stop() override;

  // Of the streams.
  absl::Status Join(JoinStream& stream, const v1::FollowerHello& hello);
  // Once all ranks are in, tells them how they exchange.
  void SayHello();
  absl::StatusOr<std::shared_ptr<ExchangeLink>> Attach(const v1::ExchangeHello& hello);
  void Progress(int rank, const v1::FollowerProgress& progress);
  // `rank` is 0 for a stream that never joined.
  void StreamDone(JoinStream& stream, int rank);

 private:
  class Service final : public v1::Group::CallbackService {
   public:
    explicit Service(Group& group) : group_(group) {}
    grpc::ServerBidiReactor<v1::FollowerMessage, v1::LeaderMessage>* Join(
        grpc::CallbackServerContext* context) override;
    grpc::ServerBidiReactor<v1::ExchangeFrame, v1::ExchangeFrame>* Exchange(
        grpc::CallbackServerContext* context) override;

   private:
    Group& group_;
  };

  // Waits until all ranks are in, and, if they are on several hosts, have attached.
  absl::Status AwaitAll(TimePoint deadline, Duration timeout);
  bool AllAttached() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return num_attached_ == options_.world_size - 1; }
  // Looks for silence and for a broken group until either is found or the group goes.
  void Watch();
  // Looks at the leader's own steps and tells them to the followers.
  void Tick(TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const uint64_t epoch_;
  Service service_;
  const std::string host_;
  std::unique_ptr<ShmRendezvous> rendezvous_;   // null for one rank
  std::unique_ptr<Communicator> communicator_;  // set by WaitForRanks
  std::thread watcher_;

  mutable Mutex mu_;
  CondVar changed_;
  GroupMembership membership_ ABSL_GUARDED_BY(mu_);
  std::vector<JoinStream*> streams_ ABSL_GUARDED_BY(mu_);  // open, joined or not
  bool hello_said_ ABSL_GUARDED_BY(mu_) = false;
  bool one_host_ ABSL_GUARDED_BY(mu_) = true;                              // of those that have joined
  std::vector<std::shared_ptr<ExchangeLink>> links_ ABSL_GUARDED_BY(mu_);  // [world_size]
  int num_attached_ ABSL_GUARDED_BY(mu_) = 0;
  Communicator* running_ ABSL_GUARDED_BY(mu_) = nullptr;  // communicator_, once it may be aborted
  bool end_expected_ ABSL_GUARDED_BY(mu_) = false;
  bool leaving_told_ ABSL_GUARDED_BY(mu_) = false;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
};

// One follower's call. Deletes itself when gRPC is done with it.
//
// Thread safety: callbacks of gRPC and calls of Group; own lock, never held while calling Group.
class JoinStream final : public grpc::ServerBidiReactor<v1::FollowerMessage, v1::LeaderMessage> {
 public:
  explicit JoinStream(Group& group) : group_(group) { StartRead(&received_); }

  // Sends `message` after those before it; of those about progress the latest is enough.
  void Send(v1::LeaderMessage message) {
    MutexLock lock(mu_);
    if (finished_) return;
    const size_t num_writing = writing_ ? 1 : 0;
    if (message.has_progress() && outgoing_.size() > num_writing && outgoing_.back().has_progress()) {
      outgoing_.pop_back();
    }
    outgoing_.push_back(std::move(message));
    StartNextWrite();
  }

  // Ends the call; later calls have no effect.
  void End(const absl::Status& status) {
    MutexLock lock(mu_);
    if (std::exchange(finished_, true)) return;
    final_status_ = ToGrpcStatus(status);
    if (!writing_) Finish(final_status_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      End(absl::OkStatus());
      return;
    }
    if (received_.has_hello()) {
      if (rank_ != 0) return End(absl::InvalidArgumentError("a second hello on one stream"));
      if (absl::Status status = group_.Join(*this, received_.hello()); !status.ok()) return End(status);
      rank_ = static_cast<int>(received_.hello().rank());
      group_.SayHello();
    } else if (rank_ == 0) {
      return End(absl::InvalidArgumentError("the first message is no hello"));
    } else if (received_.has_progress()) {
      group_.Progress(rank_, received_.progress());
    }
    StartRead(&received_);
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    writing_ = false;
    outgoing_.pop_front();
    if (!ok) outgoing_.clear();  // nothing is being written
    if (finished_) {
      Finish(final_status_);
    } else {
      StartNextWrite();
    }
  }

  void OnCancel() override { End(absl::CancelledError("the follower went away")); }

  void OnDone() override {
    group_.StreamDone(*this, rank_);
    delete this;
  }

 private:
  void StartNextWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || outgoing_.empty()) return;
    writing_ = true;
    StartWrite(&outgoing_.front());
  }

  Group& group_;
  v1::FollowerMessage received_;  // of the read in progress
  int rank_ = 0;                  // once joined; callbacks of reads only, and OnDone

  Mutex mu_;
  // Four at most: hello, start, a progress before them that is being written, and the latest.
  std::deque<v1::LeaderMessage> outgoing_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;  // outgoing_[0]
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Status final_status_ ABSL_GUARDED_BY(mu_);
};

// One follower's exchange. Deletes itself when gRPC is done with it.
class ExchangeStream final : public grpc::ServerBidiReactor<v1::ExchangeFrame, v1::ExchangeFrame>,
                             public ExchangeLink::Stream {
 public:
  explicit ExchangeStream(Group& group) : group_(group) { StartRead(&hello_); }

  void ReadFrame(v1::ExchangeFrame* frame) override { StartRead(frame); }
  void WriteFrame(const v1::ExchangeFrame* frame) override { StartWrite(frame); }
  void EndStream(const absl::Status& status) override { Finish(ToGrpcStatus(status)); }

  void OnReadDone(bool ok) override {
    if (link_ != nullptr) return link_->ReadDone(ok);
    if (!ok) return Finish(grpc::Status::OK);
    absl::StatusOr<std::shared_ptr<ExchangeLink>> link = group_.Attach(hello_.hello());
    if (!link.ok()) {
      LogWarning("an exchange was refused: ", std::string(link.status().message()));
      return Finish(ToGrpcStatus(link.status()));
    }
    link_ = *std::move(link);
    link_->Open(*this, std::nullopt);
  }
  void OnWriteDone(bool ok) override { link_->WriteDone(ok); }
  void OnCancel() override { cancelled_ = true; }
  void OnDone() override {
    if (link_ != nullptr) link_->Done(cancelled_ ? absl::CancelledError() : absl::OkStatus());
    delete this;
  }

 private:
  Group& group_;
  v1::ExchangeFrame hello_;
  std::atomic<bool> cancelled_{false};
  std::shared_ptr<ExchangeLink> link_;  // once it has said who it is
};

grpc::ServerBidiReactor<v1::FollowerMessage, v1::LeaderMessage>* Group::Service::Join(grpc::CallbackServerContext*) {
  return new JoinStream(group_);
}

grpc::ServerBidiReactor<v1::ExchangeFrame, v1::ExchangeFrame>* Group::Service::Exchange(grpc::CallbackServerContext*) {
  return new ExchangeStream(group_);
}

absl::Status Group::Open() {
  if (options_.world_size > 1) {
    ASSIGN_OR_RETURN(rendezvous_,
                     ShmRendezvous::Listen(options_.world_size, epoch_, {.timeout = options_.step_timeout}));
  }
  watcher_ = std::thread([this] { Watch(); });
  return absl::OkStatus();
}

Group::~Group() {
  Stop();
  if (watcher_.joinable()) watcher_.join();
}

absl::Status Group::Join(JoinStream& stream, const v1::FollowerHello& hello) {
  const RankHello rank_hello = FromProto(hello);
  MutexLock lock(mu_);
  absl::Status status = membership_.Join(rank_hello, std::chrono::steady_clock::now());
  if (status.ok()) {
    LogInfo("rank ", rank_hello.rank, " joined the group (epoch ", absl::Hex(epoch_), ")");
    streams_.push_back(&stream);
    one_host_ = one_host_ && hello.host() == host_;
    changed_.NotifyAll();
  } else {
    LogWarning("a rank was refused: ", std::string(status.message()));
  }
  return status;
}

void Group::Progress(int rank, const v1::FollowerProgress& progress) {
  bool leaving;
  {
    MutexLock lock(mu_);
    membership_.Progress(rank, {.last_step = progress.last_step(), .step_under_way = progress.step_under_way()},
                         std::chrono::steady_clock::now());
    leaving = progress.leaving() && !std::exchange(leaving_told_, true);
  }
  if (leaving && options_.on_leaving) options_.on_leaving(rank);
}

void Group::StreamDone(JoinStream& stream, int rank) {
  MutexLock lock(mu_);
  streams_.erase(std::remove(streams_.begin(), streams_.end(), &stream), streams_.end());
  if (!end_expected_) membership_.Leave(rank, "its stream ended");
  changed_.NotifyAll();
}

void Group::SayHello() {
  MutexLock lock(mu_);
  if (!membership_.complete() || std::exchange(hello_said_, true)) return;
  v1::LeaderMessage message;
  message.mutable_hello()->set_epoch(epoch_);
  if (one_host_) message.mutable_hello()->set_shm_socket(rendezvous_->socket_name());
  for (JoinStream* stream : streams_) stream->Send(message);
}

absl::StatusOr<std::shared_ptr<ExchangeLink>> Group::Attach(const v1::ExchangeHello& hello) {
  MutexLock lock(mu_);
  RETURN_IF_ERROR(membership_.status());
  if (hello.epoch() != epoch_) return absl::FailedPreconditionError("an exchange of another epoch, or without hello");
  if (!hello_said_ || one_host_) return absl::FailedPreconditionError("the ranks of this group share memory");
  if (hello.rank() < 1 || hello.rank() >= static_cast<uint32_t>(options_.world_size)) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", hello.rank(), " is not in [1, ", options_.world_size, ")"));
  }
  std::shared_ptr<ExchangeLink>& link = links_[hello.rank()];
  if (link != nullptr) return absl::AlreadyExistsError(absl::StrCat("rank ", hello.rank(), " exchanges already"));
  link = std::make_shared<ExchangeLink>(static_cast<int>(hello.rank()));
  ++num_attached_;
  changed_.NotifyAll();
  return link;
}

absl::Status Group::AwaitAll(TimePoint deadline, Duration timeout) {
  MutexLock lock(mu_);
  while (!membership_.complete() || (!one_host_ && !AllAttached())) {
    RETURN_IF_ERROR(membership_.status());
    if (changed_.WaitUntil(mu_, deadline) || std::chrono::steady_clock::now() < deadline) continue;
    const int64_t ms = static_cast<int64_t>(ToMillis(timeout));
    if (!membership_.complete()) {
      return absl::DeadlineExceededError(
          absl::StrCat("rank ", membership_.MissingRanks(), " did not join within ", ms, " ms"));
    }
    return absl::DeadlineExceededError(absl::StrCat(options_.world_size - 1 - num_attached_,
                                                    " ranks of other hosts did not exchange within ", ms, " ms"));
  }
  return membership_.status();
}

absl::Status Group::WaitForRanks(Duration timeout) {
  const TimePoint deadline = std::chrono::steady_clock::now() + timeout;
  if (rendezvous_ == nullptr) {
    communicator_ = std::make_unique<SingleCommunicator>();
  } else {
    RETURN_IF_ERROR(AwaitAll(deadline, timeout));
    std::vector<std::shared_ptr<ByteLink>> links;
    {
      MutexLock lock(mu_);
      if (!one_host_) links.assign(links_.begin(), links_.end());
    }
    if (links.empty()) {
      absl::StatusOr<std::unique_ptr<Communicator>> communicator =
          rendezvous_->AwaitRanks(deadline - std::chrono::steady_clock::now());
      MutexLock lock(mu_);
      RETURN_IF_ERROR(membership_.status());  // the better reason, when the wait was cancelled
      RETURN_IF_ERROR(communicator.status());
      communicator_ = *std::move(communicator);
    } else {
      communicator_ = MakeStarCentre(std::move(links), options_.step_timeout);
    }
  }
  MutexLock lock(mu_);
  running_ = communicator_.get();
  v1::LeaderMessage start;
  start.mutable_start()->set_num_kv_blocks(static_cast<uint64_t>(membership_.num_kv_blocks()));
  for (JoinStream* stream : streams_) stream->Send(start);
  LogInfo("the group is complete: ", options_.world_size, one_host_ ? " ranks, " : " ranks on several hosts, ",
          membership_.num_kv_blocks(), " KV blocks");
  return absl::OkStatus();
}

void Group::Tick(TimePoint now) {
  v1::LeaderMessage message;
  v1::LeaderProgress* const told = message.mutable_progress();
  if (options_.progress != nullptr) {
    const StepProgress::Snapshot own = options_.progress->Now();
    membership_.Progress(0, own, now);
    told->set_last_step(own.last_step);
    told->set_step_under_way(own.step_under_way);
  }
  membership_.Tick(now);
  for (JoinStream* stream : streams_) stream->Send(message);
  if (!options_.on_tick) return;
  for (int rank = 0; rank < options_.world_size; ++rank) {
    options_.on_tick(rank, membership_.last_step(rank), membership_.silence(rank, now));
  }
}

void Group::Watch() {
  std::string reason;
  {
    MutexLock lock(mu_);
    while (!stopped_ && !membership_.broken()) {
      changed_.WaitUntil(mu_, std::chrono::steady_clock::now() + kTickInterval);
      if (!end_expected_) Tick(std::chrono::steady_clock::now());
    }
    if (!membership_.broken()) membership_.Break("the leader has stopped");
    changed_.NotifyAll();  // a wait for ranks that woke before
    const absl::Status status = membership_.status();
    reason = std::string(status.message());
    if (running_ != nullptr) running_->Abort(reason.c_str());
    if (rendezvous_ != nullptr) rendezvous_->Cancel();
    for (const auto& link : links_) {
      if (link != nullptr) link->Abort(reason);
    }
    for (JoinStream* stream : streams_) stream->End(status);
    if (stopped_) return;
  }
  if (options_.on_broken) options_.on_broken(reason);
}

void Group::Stop() {
  MutexLock lock(mu_);
  // What ends the last step is still on its way to other hosts: they go when they have it.
  const TimePoint deadline = std::chrono::steady_clock::now() + kLeaveGrace;
  while (end_expected_ && !one_host_ && !streams_.empty() && !membership_.broken()) {
    if (!changed_.WaitUntil(mu_, deadline) && std::chrono::steady_clock::now() >= deadline) break;
  }
  stopped_ = true;
  changed_.NotifyAll();
}

}  // namespace

absl::StatusOr<std::unique_ptr<LeaderGroup>> LeaderGroup::Create(Options options) {
  uint64_t epoch = 0;
  if (getrandom(&epoch, sizeof(epoch), 0) != sizeof(epoch)) return absl::InternalError("getrandom failed");
  if (options.world_size < 1 || options.world_size > kMaxRanks) {
    return absl::InvalidArgumentError(
        absl::StrCat("world size ", options.world_size, " is not in [1, ", kMaxRanks, "]"));
  }
  auto group = std::make_unique<Group>(std::move(options), epoch);
  RETURN_IF_ERROR(group->Open());
  return std::unique_ptr<LeaderGroup>(std::move(group));
}

}  // namespace outrider
