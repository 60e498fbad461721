#include "worker/group/group_membership.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace outrider {

GroupMembership::GroupMembership(Options options) : options_(std::move(options)) {
  CHECK(options_.world_size >= 1);
  ranks_.resize(options_.world_size);
  ranks_[0].joined = true;
  ranks_[0].num_kv_blocks_max = options_.num_kv_blocks_max;
}

absl::Status GroupMembership::Join(const RankHello& hello, TimePoint now) {
  if (broken_) return absl::UnavailableError(absl::StrCat("the group's epoch has ended: ", reason_));
  if (hello.world_size != options_.world_size) {
    return absl::FailedPreconditionError(absl::StrCat("rank ", hello.rank, " is of a group of ", hello.world_size,
                                                      " ranks, this group has ", options_.world_size));
  }
  if (hello.rank < 1 || hello.rank >= options_.world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", hello.rank, " can not join: not in [1, ", options_.world_size, ")"));
  }
  if (hello.numerics_id != options_.numerics_id) {
    return absl::FailedPreconditionError(absl::StrCat("rank ", hello.rank, " has numerics_id \"", hello.numerics_id,
                                                      "\", the leader \"", options_.numerics_id,
                                                      "\": other weights, options, build or processor"));
  }
  if (hello.num_kv_blocks_max < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", hello.rank, " could hold ", hello.num_kv_blocks_max, " KV blocks"));
  }
  Rank& rank = ranks_[hello.rank];
  if (rank.joined) return absl::AlreadyExistsError(absl::StrCat("rank ", hello.rank, " is already in the group"));
  rank.joined = true;
  rank.num_kv_blocks_max = hello.num_kv_blocks_max;
  rank.heard = rank.advanced = now;
  ++num_joined_;
  return absl::OkStatus();
}

void GroupMembership::Progress(int rank, const StepProgress::Snapshot& progress, TimePoint now) {
  if (rank < 0 || rank >= options_.world_size || !ranks_[rank].joined) return;
  Rank& known = ranks_[rank];
  known.heard = std::max(known.heard, now);
  if (progress.step_under_way == 0 || progress.last_step > known.steps.last_step || known.steps.step_under_way == 0) {
    known.advanced = std::max(known.advanced, now);
  }
  known.steps.last_step = std::max(known.steps.last_step, progress.last_step);
  known.steps.step_under_way = progress.step_under_way;
}

void GroupMembership::Leave(int rank, absl::string_view why) {
  if (rank < 1 || rank >= options_.world_size || !ranks_[rank].joined) return;
  Break(absl::StrCat("rank ", rank, " is lost: ", why));
}

void GroupMembership::Break(absl::string_view reason) {
  if (std::exchange(broken_, true)) return;
  reason_ = std::string(reason);
}

void GroupMembership::Tick(TimePoint now) {
  const bool stood_still = last_tick_.has_value() && now - *last_tick_ > options_.silence_max / 2;
  last_tick_ = now;
  for (int r = 0; r < options_.world_size; ++r) {
    Rank& rank = ranks_[r];
    if (!rank.joined) continue;
    if (stood_still) rank.heard = rank.advanced = now;
    if (r > 0 && now - rank.heard > options_.silence_max) {
      Leave(r, absl::StrCat("silent for more than ", static_cast<int64_t>(ToMillis(options_.silence_max)), " ms"));
    } else if (rank.steps.step_under_way != 0 && now - rank.advanced > options_.step_max) {
      Break(absl::StrCat("rank ", r, " is lost: in step ", rank.steps.step_under_way, " for more than ",
                         static_cast<int64_t>(ToMillis(options_.step_max)), " ms"));
    }
  }
}

absl::Status GroupMembership::status() const { return broken_ ? absl::UnavailableError(reason_) : absl::OkStatus(); }

std::string GroupMembership::MissingRanks() const {
  std::vector<int> missing;
  for (int r = 1; r < options_.world_size; ++r) {
    if (!ranks_[r].joined) missing.push_back(r);
  }
  return absl::StrJoin(missing, ", ");
}

int64_t GroupMembership::num_kv_blocks() const {
  int64_t least = ranks_[0].num_kv_blocks_max;
  for (const Rank& rank : ranks_) {
    if (rank.joined) least = std::min(least, rank.num_kv_blocks_max);
  }
  return least;
}

}  // namespace outrider
