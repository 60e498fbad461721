#include "router/request_lifecycle.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "router/prefix_index.h"
#include "router/retry_after.h"
#include "router/retry_policy.h"

namespace outrider::router {
namespace {

constexpr Duration kDeadlineSlack = std::chrono::milliseconds(10);
constexpr int kDeadlineRounding = 50;

// FNV-1a over 64-bit words: equal on every router and in every run.
class Hasher {
 public:
  void Add(uint64_t word) { hash_ = (hash_ ^ word) * 1099511628211ull; }
  void Add(const std::vector<TokenId>& ids) {
    Add(ids.size());
    for (const TokenId id : ids) Add(static_cast<uint32_t>(id));
  }
  void AddFloat(float value) { Add(std::bit_cast<uint32_t>(value)); }
  // Never 0, which means none.
  uint64_t hash() const { return hash_ == 0 ? 1 : hash_; }

 private:
  uint64_t hash_ = 1469598103934665603ull;
};

// Of what a group is asked to do, but for the seed.
uint64_t FingerprintOf(const ResolvedRequest& request) {
  const ResolvedSampling& sampling = request.sampling;
  Hasher hasher;
  hasher.Add(request.prompt_token_ids);
  for (const float value : {sampling.temperature, sampling.top_p, sampling.min_p, sampling.repetition_penalty,
                            sampling.presence_penalty, sampling.frequency_penalty}) {
    hasher.AddFloat(value);
  }
  for (const auto& [token_id, bias] : sampling.logit_bias) {
    hasher.Add(static_cast<uint32_t>(token_id));
    hasher.AddFloat(bias);
  }
  for (const uint64_t value : {sampling.top_k, sampling.max_tokens, sampling.min_tokens, request.num_choices}) {
    hasher.Add(value);
  }
  hasher.Add(sampling.end_token_ids);
  hasher.Add(sampling.stop_token_ids);
  hasher.Add(static_cast<uint32_t>(sampling.num_logprobs));
  hasher.Add(static_cast<uint32_t>(sampling.num_prompt_logprobs));
  hasher.Add(request.prediction_token_ids);
  return hasher.hash();
}

}  // namespace

RoutingNeeds RequestLifecycle::Prepare(ResolvedRequest request, Model model) {
  CHECK(!prepared() && !ending_);
  request_ = std::move(request);
  model_ = std::move(model);
  fingerprint_ = FingerprintOf(request_);
  prefix_chain_ = PrefixChain(request_.prompt_token_ids);
  relay_.emplace(&request_, model_.tokenizer, options_.arrival, options_.max_stream_buffer_bytes);
  return Needs();
}

RoutingNeeds RequestLifecycle::Needs() const {
  RoutingNeeds needs;
  needs.model = model_.key;
  needs.prefix_chain = prefix_chain_;
  needs.fingerprint = fingerprint_;
  const int64_t num_prompt_tokens = static_cast<int64_t>(request_.prompt_token_ids.size());
  needs.num_context_tokens = static_cast<int>(num_prompt_tokens + request_.sampling.max_tokens);
  needs.num_lanes = 0;
  needs.num_tokens = num_prompt_tokens;
  for (const uint32_t lane : relay_->LanesToRun()) {
    ++needs.num_lanes;
    needs.num_tokens += request_.sampling.max_tokens - relay_->output_token_ids(lane).size();
  }
  if (relay_->has_taken()) needs.numerics_id = numerics_id_;
  return needs;
}

void RequestLifecycle::OnArrived(int64_t num_tokens_estimate, Commands& commands) {
  if (ending_) return;
  RouteRequest request = Request(RouteKind::kNew);
  if (!prepared()) request.num_tokens = num_tokens_estimate;
  commands.push_back(RouteCall{std::move(request)});
}

RouteRequest RequestLifecycle::Request(RouteKind kind) const {
  RouteRequest request{.kind = kind,
                       .since = waits_since_,
                       .deadline = options_.deadline,
                       .priority = options_.priority,
                       .lost_on = lost_on_};
  if (prepared()) {
    request.needs = Needs();
    request.num_tokens = request.needs->num_tokens;
  }
  return request;
}

void RequestLifecycle::OnRefused(const absl::Status& refusal, Commands& commands) {
  if (ending_) return;
  // The queue knows no names; what is refused for what it did is looked for in logs.
  const absl::Status status =
      absl::IsInternal(refusal)
          ? WithMessage(refusal, absl::StrCat("request ", options_.request_name, ": ", refusal.message()))
          : refusal;
  if (lost_because_.empty()) {
    Fail(status, /*drop_pending=*/true, commands);
  } else {
    Fail(WithMessage(status, absl::StrCat(lost_because_, "; then ", status.message())), /*drop_pending=*/false,
         commands);
  }
}

void RequestLifecycle::OnStart(GroupRef group, uint64_t attempt_id, TimePoint now, Commands& commands) {
  CHECK(prepared() && attempt_id_ == 0 && attempt_id != 0);
  const RoutingNeeds needs = Needs();
  group_ = std::move(group);
  charged_group_ = true;
  charged_ = {.num_lanes = needs.num_lanes, .num_tokens = needs.num_tokens};
  if (ending_) {
    ReleaseAttempt(/*cancel=*/false, std::nullopt, commands);
    return;
  }
  started_at_ = now;
  ++attempt_;
  attempt_id_ = attempt_id;
  numerics_id_ = group_.numerics_id;
  relay_->OnAttemptSent(now);
  if (attempt_ == 1) {
    commands.push_back(Report{.kind = Report::Kind::kDispatched,
                              .count = static_cast<int64_t>(request_.prompt_token_ids.size()),
                              .duration = now - options_.arrival});
  } else {
    commands.push_back(Report{.kind = Report::Kind::kReplayed});
  }
  commands.push_back(SubmitAttempt{.attempt_id = attempt_id_, .attempt = attempt_});
}

void RequestLifecycle::OnSubmitRefused(TimePoint now, Commands& commands) {
  if (attempt_id_ == 0) return;
  // The stream went down between choice and submission: nothing was sent, so this is no attempt.
  --attempt_;
  attempt_id_ = 0;
  if (options_.deadline.has_value() && *options_.deadline <= now) {
    ReleaseAttempt(/*cancel=*/false, std::nullopt, commands);
    Fail(absl::DeadlineExceededError("the client's deadline has passed"), /*drop_pending=*/false, commands);
    return;
  }
  commands.push_back(HoldGroup());
  ReleaseAttempt(/*cancel=*/false, std::nullopt, commands);
  RouteAgain(RouteKind::kAgain, commands);
}

bool RequestLifecycle::Takes(uint64_t attempt_id, Commands& commands) {
  if (!ending_ && attempt_id != 0 && attempt_id == attempt_id_) return true;
  commands.push_back(Report{.kind = Report::Kind::kStaleEvent, .count = 1});
  return false;
}

void RequestLifecycle::OnTokens(uint64_t attempt_id, uint32_t lane, uint32_t first_output_index,
                                absl::Span<const TokenId> token_ids, std::vector<RelayedLogprobs> logprobs,
                                TimePoint now, Commands& commands, uint32_t num_accepted) {
  if (!Takes(attempt_id, commands)) return;
  const bool first = relay_->num_output_tokens() == 0;
  const GenerateRelay::TokensOutcome outcome =
      relay_->OnTokens(lane, first_output_index, token_ids, std::move(logprobs), now, num_accepted);
  if (outcome.num_taken > 0) {
    commands.push_back(Report{.kind = Report::Kind::kOutputTokens, .count = outcome.num_taken});
    if (first) commands.push_back(Report{.kind = Report::Kind::kFirstToken, .duration = now - options_.arrival});
    if (outcome.gap.has_value()) {
      commands.push_back(
          Report{.kind = Report::Kind::kMoreTokens, .count = outcome.num_taken, .duration = *outcome.gap});
    }
  }
  if (outcome.status.ok()) {
    if (outcome.stop_at.has_value()) {
      commands.push_back(StopLane{.attempt_id = attempt_id_, .lane = lane, .num_output_tokens = *outcome.stop_at});
    }
  } else if (absl::IsResourceExhausted(outcome.status)) {
    commands.push_back(Report{.kind = Report::Kind::kStreamCut});
    Fail(outcome.status, /*drop_pending=*/true, commands);
  } else {
    FailBroken(outcome.status, commands);
  }
  Flush(commands);
}

void RequestLifecycle::OnPromptLogprobs(uint64_t attempt_id, uint32_t lane, uint32_t first_position,
                                        std::vector<RelayedLogprobs> logprobs, Commands& commands) {
  if (!Takes(attempt_id, commands)) return;
  const absl::Status status = relay_->OnPromptLogprobs(lane, first_position, std::move(logprobs));
  if (!status.ok()) FailBroken(status, commands);
  Flush(commands);
}

void RequestLifecycle::OnLaneFinished(uint64_t attempt_id, uint32_t lane, EndReason reason, const LaneUsage& usage,
                                      double queue_ms, TimePoint now, Commands& commands) {
  if (!Takes(attempt_id, commands)) return;
  const absl::Status status = relay_->OnFinished(lane, reason, usage, queue_ms, now);
  if (status.ok()) {
    EndLane(now, commands);
  } else {
    FailBroken(status, commands);
  }
  Flush(commands);
}

void RequestLifecycle::OnLaneFailed(uint64_t attempt_id, const absl::Status& status, TimePoint now,
                                    Commands& commands) {
  if (!Takes(attempt_id, commands)) return;
  const LostAttempt lost{.attempt = 1 + num_replays_, .tokens_delivered = relay_->has_taken(), .code = status.code()};
  if (lost.code == absl::StatusCode::kUnavailable || DecideRetry(lost) != RetryDecision::kGiveUp) {
    // The group is there, but does not take this now: what its last heartbeat told is old.
    commands.push_back(HoldGroup());
    ReleaseAttempt(/*cancel=*/true, std::nullopt, commands);
    if (lost.code == absl::StatusCode::kUnavailable) NoteLostOn();
    LoseAttempt(status, now, commands);
  } else {
    Fail(status, /*drop_pending=*/false, commands);
  }
  Flush(commands);
}

void RequestLifecycle::OnProtocolBroken(uint64_t attempt_id, const absl::Status& status, Commands& commands) {
  if (!Takes(attempt_id, commands)) return;
  FailBroken(status, commands);
}

void RequestLifecycle::OnTargetLost(uint64_t attempt_id, const absl::Status& status, TimePoint now,
                                    Commands& commands) {
  if (!Takes(attempt_id, commands)) return;
  ReleaseAttempt(/*cancel=*/false, std::nullopt, commands);
  NoteLostOn();
  LoseAttempt(status, now, commands);
  Flush(commands);
}

void RequestLifecycle::NoteLostOn() {
  const auto same = [&](const GroupRef& group) {
    return group.group_id == group_.group_id && group.incarnation == group_.incarnation;
  };
  if (std::none_of(lost_on_.begin(), lost_on_.end(), same)) lost_on_.push_back(group_);
}

void RequestLifecycle::OnHandOver(uint64_t attempt_id, TimePoint now, Commands& commands) {
  if (ending_ || attempt_id == 0 || attempt_id != attempt_id_ || num_hand_overs_ >= kMaxHandOvers) return;
  ++num_hand_overs_;
  commands.push_back(Report{.kind = Report::Kind::kHandedOver});
  ReleaseAttempt(/*cancel=*/true, std::nullopt, commands);
  relay_->OnAttemptLost(now);
  if (relay_->done()) {
    ending_ = true;
  } else {
    lost_because_ =
        absl::StrCat("group ", group_.group_id, " drained after ", relay_->num_output_tokens(), " output tokens");
    waits_since_ = now;
    RouteAgain(RouteKind::kHandOver, commands);
  }
  Flush(commands);
}

void RequestLifecycle::EndLane(TimePoint now, Commands& commands) {
  if (relay_->done()) {
    ending_ = true;
    ReleaseAttempt(/*cancel=*/false, now - started_at_, commands);
    return;
  }
  const GroupLoad load{.num_lanes = 1,
                       .num_tokens = std::min<int64_t>(charged_.num_tokens, request_.sampling.max_tokens)};
  charged_.num_lanes -= load.num_lanes;
  charged_.num_tokens -= load.num_tokens;
  commands.push_back(ReleaseLoad{load, now - started_at_});
}

void RequestLifecycle::LoseAttempt(const absl::Status& status, TimePoint now, Commands& commands) {
  commands.push_back(Report{.kind = Report::Kind::kAttemptLost, .status = status});
  relay_->OnAttemptLost(now);
  if (relay_->done()) {
    ending_ = true;
    return;
  }
  lost_because_ = absl::StrCat(status.message(), " after ", relay_->num_output_tokens(), " output tokens");
  const RetryDecision decision =
      DecideRetry({.attempt = 1 + num_replays_, .tokens_delivered = relay_->has_taken(), .code = status.code()});
  if (decision != RetryDecision::kGiveUp) {
    ++num_replays_;
    waits_since_ = now;
    RouteAgain(RouteKind::kReplay, commands);
    return;
  }
  Fail(WithMessage(status, absl::StrCat(lost_because_, "; this was attempt ", 1 + num_replays_, " of ", kMaxAttempts)),
       /*drop_pending=*/false, commands);
}

void RequestLifecycle::RouteAgain(RouteKind kind, Commands& commands) { commands.push_back(RouteCall{Request(kind)}); }

void RequestLifecycle::ReleaseAttempt(bool cancel, std::optional<Duration> served_in, Commands& commands) {
  if (!charged_group_) return;
  charged_group_ = false;
  if (attempt_id_ != 0) {
    if (cancel) {
      commands.push_back(CancelAttempt{attempt_id_});
    } else {
      commands.push_back(ForgetAttempt{attempt_id_});
    }
  }
  commands.push_back(ReleaseLoad{charged_, served_in});
  charged_ = GroupLoad();
  attempt_id_ = 0;
}

void RequestLifecycle::Fail(const absl::Status& status, bool drop_pending, Commands& commands) {
  if (ending_) return;
  ending_ = true;
  end_status_ = status;
  ReleaseAttempt(/*cancel=*/true, std::nullopt, commands);
  if (drop_pending && relay_.has_value()) relay_->DropPending();
  Flush(commands);
}

void RequestLifecycle::FailBroken(const absl::Status& status, Commands& commands) {
  commands.push_back(Report{.kind = Report::Kind::kProtocolBroken, .status = status});
  Fail(status, /*drop_pending=*/false, commands);
}

void RequestLifecycle::Flush(Commands& commands) {
  if (finish_commanded_) return;
  if (write_in_flight_) {
    if (ending_ && !timer_set_) {
      timer_set_ = true;
      commands.push_back(SetTimer{kLingerMax});
    }
    return;
  }
  if (relay_.has_value() && relay_->has_pending()) {
    write_in_flight_ = true;
    if (!started_sent_) {
      started_sent_ = true;
      commands.push_back(WriteStarted());
      return;
    }
    relay_->TakeNext(&event_);
    const bool last = ending_ && !relay_->has_pending() && end_status_.ok();
    if (last) {
      finish_commanded_ = true;
      write_in_flight_ = false;
    }
    commands.push_back(WriteEvent{last});
    return;
  }
  if (ending_) {
    finish_commanded_ = true;
    commands.push_back(FinishCall{end_status_});
  }
}

void RequestLifecycle::OnWriteDone(bool ok, Commands& commands) {
  write_in_flight_ = false;
  if (!ok) {
    // The client is gone; OnClientGone says so too, maybe later.
    if (relay_.has_value()) relay_->DropPending();
    Fail(absl::CancelledError("the client is gone"), /*drop_pending=*/true, commands);
  }
  Flush(commands);
}

void RequestLifecycle::OnClientGone(TimePoint now, Commands& commands) {
  // The client's clock comes first: the wire rounds its timeout up by about a hundredth, and its cancel is quick.
  const bool late =
      options_.deadline.has_value() &&
      now + kDeadlineSlack + (*options_.deadline - options_.arrival) / kDeadlineRounding >= *options_.deadline;
  const absl::Status status = late ? absl::DeadlineExceededError("the client's deadline has passed")
                                   : absl::CancelledError("the client cancelled the call");
  // Of a call that was ending anyway, what waits will not be read. Nor was its end, also where it was on its way: a
  // transport that has sent a call's end tells of no cancel.
  if (relay_.has_value()) relay_->DropPending();
  if (ending_) end_status_ = status;
  Fail(status, /*drop_pending=*/true, commands);
  Flush(commands);
  commands.push_back(WithdrawCall());
}

void RequestLifecycle::OnShutdown(const absl::Status& status, Commands& commands) {
  if (ending_) return;
  Fail(status, /*drop_pending=*/false, commands);
  commands.push_back(WithdrawCall());
}

void RequestLifecycle::OnTimer(Commands& commands) {
  if (!finish_commanded_) commands.push_back(CutClient());
}

}  // namespace outrider::router
