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
  rank.heard = now;
  ++num_joined_;
  return absl::OkStatus();
}

void GroupMembership::Progress(int rank, uint64_t last_step, TimePoint now) {
  if (rank < 1 || rank >= options_.world_size || !ranks_[rank].joined) return;
  ranks_[rank].heard = std::max(ranks_[rank].heard, now);
  ranks_[rank].last_step = std::max(ranks_[rank].last_step, last_step);
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
  for (int r = 1; r < options_.world_size; ++r) {
    if (ranks_[r].joined && now - ranks_[r].heard > options_.silence_max) {
      Leave(r, absl::StrCat("silent for more than ", static_cast<int64_t>(ToMillis(options_.silence_max)), " ms"));
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
