#include "worker/group/step_broadcast.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/parallel/broadcast_blob.h"

namespace outrider {
namespace {

enum class Command : uint32_t {
  kRun = 1,      // the plan follows
  kCollect = 2,  // collect the oldest step
  kStop = 3,
};

// What every blob of the leader begins with; ranks are of one build and machine type.
struct CommandHeader {
  uint32_t command;
  uint32_t depth;  // the leader's; must be equal
};

void StartBlob(Command command, int depth, std::string* blob) {
  const CommandHeader header{.command = static_cast<uint32_t>(command), .depth = static_cast<uint32_t>(depth)};
  blob->assign(reinterpret_cast<const char*>(&header), sizeof(header));
}

}  // namespace

StepAgreement::StepAgreement(Communicator& communicator)
    : communicator_(communicator),
      bytes_of_rank_(static_cast<size_t>(communicator.world_size()), static_cast<int64_t>(sizeof(Vote))),
      votes_(static_cast<size_t>(communicator.world_size())) {}

absl::Status StepAgreement::Check(StepId step, uint64_t ids_hash) {
  const Vote own{.step = step.value, .ids_hash = ids_hash};
  RETURN_IF_ERROR(communicator_.AllGather(&own, bytes_of_rank_.data(), votes_.data()));
  const Vote& leader = votes_[0];
  std::string differences;
  for (size_t r = 1; r < votes_.size(); ++r) {
    if (votes_[r].step != leader.step) {
      absl::StrAppend(&differences, differences.empty() ? "" : ", ", "rank ", r, " is at step ", votes_[r].step);
    } else if (votes_[r].ids_hash != leader.ids_hash) {
      absl::StrAppend(&differences, differences.empty() ? "" : ", ", "rank ", r, " chose other tokens (hash ",
                      absl::Hex(votes_[r].ids_hash), ", the leader's ", absl::Hex(leader.ids_hash), ")");
    }
  }
  if (differences.empty()) return absl::OkStatus();
  const std::string message = absl::StrCat("step ", leader.step, ": ranks disagree: ", differences);
  communicator_.Abort(message.c_str());
  return absl::InternalError(message);
}

GroupBackend::GroupBackend(StepBackend& local, Communicator& communicator, StepProgress* progress)
    : local_(local),
      communicator_(communicator),
      progress_(progress),
      alone_(communicator.world_size() == 1),
      agreement_(communicator) {
  CHECK(communicator.rank() == 0);
}

absl::Status GroupBackend::Fail(absl::Status status) {
  communicator_.Abort(absl::StrCat("rank 0 failed: ", status.message()).c_str());
  failed_ = std::move(status);
  return failed_;
}

absl::Status GroupBackend::Submit(const StepPlan& plan) {
  RETURN_IF_ERROR(failed_);
  if (progress_ != nullptr) progress_->Began(plan.step);
  if (!alone_) {
    StartBlob(Command::kRun, local_.depth(), &blob_);
    codec_.Encode(plan, &blob_);
    if (absl::Status status = BroadcastBlob(communicator_, &blob_, 0); !status.ok()) return Fail(std::move(status));
  }
  if (absl::Status status = local_.Submit(plan); !status.ok()) return Fail(std::move(status));
  ++num_out_;
  return absl::OkStatus();
}

absl::StatusOr<StepResult> GroupBackend::Collect() {
  RETURN_IF_ERROR(failed_);
  if (num_out_ == 0) return absl::FailedPreconditionError("no step is out");
  if (!alone_ && num_out_ <= local_.depth()) {
    // Followers collect by themselves only when all steps that may be out are.
    StartBlob(Command::kCollect, local_.depth(), &blob_);
    if (absl::Status status = BroadcastBlob(communicator_, &blob_, 0); !status.ok()) return Fail(std::move(status));
  }
  absl::StatusOr<StepResult> result = local_.Collect();
  if (!result.ok()) return Fail(result.status());
  --num_out_;
  if (!alone_) {
    if (absl::Status status = agreement_.Check(result->step, result->ids_hash); !status.ok()) {
      return Fail(std::move(status));
    }
  }
  if (progress_ != nullptr) progress_->Finished(result->step);
  return result;
}

absl::Status GroupBackend::Stop() {
  RETURN_IF_ERROR(failed_);
  if (num_out_ != 0) return absl::FailedPreconditionError(absl::StrCat(num_out_, " steps are out"));
  failed_ = absl::UnavailableError("the group was stopped");
  if (alone_) return absl::OkStatus();
  StartBlob(Command::kStop, local_.depth(), &blob_);
  RETURN_IF_ERROR(BroadcastBlob(communicator_, &blob_, 0));
  // Whoever has voted knows; the leader may go.
  return agreement_.Check(StepId(), 0);
}

namespace {

// RunFollower, without what to do about an error.
class Follower {
 public:
  Follower(StepBackend& backend, Communicator& communicator, const FollowerOptions& options)
      : backend_(backend),
        communicator_(communicator),
        options_(options),
        codec_(options.limits),
        agreement_(communicator) {}

  absl::Status Run() {
    for (;;) {
      RETURN_IF_ERROR(communicator_.AwaitPeer(0));
      RETURN_IF_ERROR(BroadcastBlob(communicator_, &blob_, 0));
      CommandHeader header{};
      if (blob_.size() < sizeof(header)) {
        return absl::InternalError(absl::StrCat("the leader's command has ", blob_.size(), " bytes"));
      }
      std::memcpy(&header, blob_.data(), sizeof(header));
      if (header.depth != static_cast<uint32_t>(backend_.depth())) {
        return absl::InternalError(
            absl::StrCat("the leader keeps ", header.depth, " steps ahead, this rank ", backend_.depth()));
      }
      switch (static_cast<Command>(header.command)) {
        case Command::kRun:
          RETURN_IF_ERROR(SubmitPlan(absl::string_view(blob_).substr(sizeof(header))));
          break;
        case Command::kCollect:
          RETURN_IF_ERROR(CollectStep());
          break;
        case Command::kStop:
          return agreement_.Check(StepId(), 0);
        default:
          return absl::InternalError(absl::StrCat("the leader's command ", header.command, " is unknown"));
      }
    }
  }

 private:
  absl::Status SubmitPlan(absl::string_view bytes) {
    if (num_out_ > backend_.depth()) return absl::InternalError("the leader sent a step too many");
    RETURN_IF_ERROR(codec_.Decode(bytes, &plan_));
    if (options_.progress != nullptr) options_.progress->Began(plan_.step);
    RETURN_IF_ERROR(backend_.Submit(plan_));
    return ++num_out_ > backend_.depth() ? CollectStep() : absl::OkStatus();
  }

  absl::Status CollectStep() {
    if (num_out_ == 0) return absl::InternalError("the leader collects a step that it never sent");
    ASSIGN_OR_RETURN(const StepResult result, backend_.Collect());
    --num_out_;
    RETURN_IF_ERROR(agreement_.Check(result.step, result.ids_hash));
    if (options_.progress != nullptr) options_.progress->Finished(result.step);
    return absl::OkStatus();
  }

  StepBackend& backend_;
  Communicator& communicator_;
  const FollowerOptions& options_;
  PlanCodec codec_;
  StepAgreement agreement_;
  StepPlan plan_;
  std::string blob_;
  int num_out_ = 0;
};

}  // namespace

absl::Status RunFollower(StepBackend& backend, Communicator& communicator, const FollowerOptions& options) {
  CHECK(communicator.rank() > 0);
  const absl::Status status = Follower(backend, communicator, options).Run();
  if (!status.ok()) {
    communicator.Abort(absl::StrCat("rank ", communicator.rank(), " failed: ", status.message()).c_str());
  }
  return status;
}

}  // namespace outrider
