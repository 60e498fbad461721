#include "worker/rpc/group_service.h"

#include <grpcpp/grpcpp.h>
#include <sys/random.h>

#include <algorithm>
#include <climits>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "proto/group.grpc.pb.h"
#include "worker/group/group_membership.h"
#include "worker/parallel/shm_communicator.h"
#include "worker/parallel/single_communicator.h"
#include "worker/rpc/status_conversions.h"

namespace outrider {
namespace {

// How often silence is looked for.
constexpr Duration kTickInterval = std::chrono::milliseconds(100);

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
        membership_({.epoch = epoch,
                     .world_size = options_.world_size,
                     .numerics_id = options_.numerics_id,
                     .num_kv_blocks_max = options_.num_kv_blocks_max,
                     .silence_max = options_.silence_max,
                     .step_max = options_.step_timeout}) {}
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
  void Progress(int rank, const v1::FollowerProgress& progress);
  // `rank` is 0 for a stream that never joined.
  void StreamDone(JoinStream& stream, int rank);
  v1::LeaderMessage Hello() const;

 private:
  class Service final : public v1::Group::CallbackService {
   public:
    explicit Service(Group& group) : group_(group) {}
    grpc::ServerBidiReactor<v1::FollowerMessage, v1::LeaderMessage>* Join(
        grpc::CallbackServerContext* context) override;

   private:
    Group& group_;
  };

  // Looks for silence and for a broken group until either is found or the group goes.
  void Watch();
  // Looks at the leader's own steps and tells them to the followers.
  void Tick(TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const uint64_t epoch_;
  Service service_;
  std::unique_ptr<ShmRendezvous> rendezvous_;   // null for one rank
  std::unique_ptr<Communicator> communicator_;  // set by WaitForRanks
  std::thread watcher_;

  mutable Mutex mu_;
  CondVar changed_;
  GroupMembership membership_ ABSL_GUARDED_BY(mu_);
  std::vector<JoinStream*> streams_ ABSL_GUARDED_BY(mu_);  // open, joined or not
  Communicator* running_ ABSL_GUARDED_BY(mu_) = nullptr;   // communicator_, once it may be aborted
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
      Send(group_.Hello());
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

grpc::ServerBidiReactor<v1::FollowerMessage, v1::LeaderMessage>* Group::Service::Join(grpc::CallbackServerContext*) {
  return new JoinStream(group_);
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

v1::LeaderMessage Group::Hello() const {
  v1::LeaderMessage message;
  message.mutable_hello()->set_epoch(epoch_);
  message.mutable_hello()->set_shm_socket(rendezvous_->socket_name());
  return message;
}

absl::Status Group::WaitForRanks(Duration timeout) {
  if (rendezvous_ == nullptr) {
    communicator_ = std::make_unique<SingleCommunicator>();
  } else {
    absl::StatusOr<std::unique_ptr<Communicator>> communicator = rendezvous_->AwaitRanks(timeout);
    MutexLock lock(mu_);
    RETURN_IF_ERROR(membership_.status());  // the better reason, when the wait was cancelled
    if (!communicator.ok() && !membership_.complete()) {
      return absl::Status(
          communicator.status().code(),
          absl::StrCat("rank ", membership_.MissingRanks(), " did not join: ", communicator.status().message()));
    }
    RETURN_IF_ERROR(communicator.status());
    if (!membership_.complete()) return absl::InternalError("a rank attached to the group without joining it");
    communicator_ = *std::move(communicator);
  }
  MutexLock lock(mu_);
  running_ = communicator_.get();
  v1::LeaderMessage start;
  start.mutable_start()->set_num_kv_blocks(static_cast<uint64_t>(membership_.num_kv_blocks()));
  for (JoinStream* stream : streams_) stream->Send(start);
  LogInfo("the group is complete: ", options_.world_size, " ranks, ", membership_.num_kv_blocks(), " KV blocks");
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
    const absl::Status status = membership_.status();
    reason = std::string(status.message());
    if (running_ != nullptr) running_->Abort(reason.c_str());
    if (rendezvous_ != nullptr) rendezvous_->Cancel();
    for (JoinStream* stream : streams_) stream->End(status);
    if (stopped_) return;
  }
  if (options_.on_broken) options_.on_broken(reason);
}

void Group::Stop() {
  MutexLock lock(mu_);
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
