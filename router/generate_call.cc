#include "router/generate_call.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "router/grpc_status.h"
#include "router/proto_conversions.h"
#include "router/request_validation.h"
#include "router/retry_policy.h"

namespace outrider::router {
namespace {

// A seed from the operating system's source of randomness.
uint64_t DrawSeed() {
  std::random_device source;
  return (uint64_t{source()} << 32) | source();
}

// ms until the client's deadline, at least 1; 0 if it has none.
uint32_t DeadlineMs(const grpc::CallbackServerContext& context) {
  constexpr int64_t kNoDeadlineMs = int64_t{1000} * 60 * 60 * 24 * 30;
  const int64_t left_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(context.deadline() - std::chrono::system_clock::now())
          .count();
  return left_ms >= kNoDeadlineMs ? 0 : static_cast<uint32_t>(std::max<int64_t>(1, left_ms));
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerateCall::Begin(const CallEnvironment& environment,
                                                                    grpc::CallbackServerContext* context,
                                                                    const v1::GenerateRequest* request) {
  const std::shared_ptr<GenerateCall> call(new GenerateCall(environment, context, request));
  {
    MutexLock lock(call->mu_);
    call->self_ = call;
  }
  call->Route();
  return call.get();
}

GenerateCall::GenerateCall(const CallEnvironment& environment, grpc::CallbackServerContext* context,
                           const v1::GenerateRequest* request)
    : environment_(environment),
      context_(context),
      message_(request),
      arrival_(environment.clock->Now()),
      request_name_(environment.calls->NameOf(environment.calls->NextId())) {}

GenerateCall::~GenerateCall() = default;

void GenerateCall::Route() {
  std::optional<RoutingNeeds> needs;
  int64_t num_tokens_estimate = 0;
  {
    MutexLock lock(mu_);
    absl::Status status = environment_.calls->Enter();
    environment_.metrics->SetRunning(environment_.calls->num_open());
    if (status.ok()) {
      input_ = ViewOf(*message_);
      status = CheckInput(input_);
    }
    if (status.ok()) {
      num_tokens_estimate = EstimateTokens(input_);
      if (std::shared_ptr<const ServedModel> model = environment_.dispatcher->model(); model != nullptr) {
        const int max_model_len = environment_.dispatcher->MaxModelLen(*model);
        absl::StatusOr<RoutingNeeds> prepared = PrepareLocked(std::move(model), max_model_len);
        status = prepared.status();
        if (prepared.ok()) needs = *std::move(prepared);
      }
    }
    if (!status.ok()) {
      Fail(status, /*drop_pending=*/true);
      return;
    }
  }
  environment_.dispatcher->Route(shared_from_this(), std::move(needs), num_tokens_estimate,
                                 AdmissionController::Place::kBack);
}

absl::StatusOr<RoutingNeeds> GenerateCall::Prepare(std::shared_ptr<const ServedModel> model, int max_model_len) {
  MutexLock lock(mu_);
  if (ending_) return absl::CancelledError("the call has ended");
  return PrepareLocked(std::move(model), max_model_len);
}

absl::StatusOr<RoutingNeeds> GenerateCall::PrepareLocked(std::shared_ptr<const ServedModel> model, int max_model_len) {
  const ModelBounds bounds{
      .vocab_size = model->vocab_size, .max_model_len = max_model_len, .end_token_ids = model->end_token_ids};
  std::vector<TokenId> prompt_token_ids;
  if (input_.prompt.has_value()) {
    RETURN_IF_ERROR(CheckPromptBytes(input_.prompt->size(), model->token_bytes_max, bounds));
    ASSIGN_OR_RETURN(prompt_token_ids, model->Encode(*input_.prompt, /*add_special_tokens=*/true));
  } else if (!input_.messages.empty()) {
    ASSIGN_OR_RETURN(const std::string rendered, model->RenderChat(input_.messages));
    RETURN_IF_ERROR(CheckPromptBytes(rendered.size(), model->token_bytes_max, bounds));
    ASSIGN_OR_RETURN(prompt_token_ids, model->EncodeChat(rendered));
  } else {
    prompt_token_ids.assign(input_.prompt_token_ids.begin(), input_.prompt_token_ids.end());
  }
  if (!input_.stop.empty() && model->tokenizer == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("model ", model->name, " has no tokenizer, so stop strings can not be found; use stop_token_ids"));
  }
  const uint64_t drawn_seed = input_.seed.has_value() ? 0 : DrawSeed();
  ASSIGN_OR_RETURN(request_, ResolveRequest(input_, std::move(prompt_token_ids), bounds, drawn_seed));
  model_ = std::move(model);
  relay_.emplace(&request_, model_->tokenizer.get(), arrival_, environment_.max_stream_buffer_bytes);
  return NeedsNow();
}

RoutingNeeds GenerateCall::NeedsNow() const {
  RoutingNeeds needs;
  needs.model = model_->key;
  const int64_t num_prompt_tokens = static_cast<int64_t>(request_.prompt_token_ids.size());
  needs.num_context_tokens = static_cast<int>(num_prompt_tokens + request_.sampling.max_tokens);
  needs.num_lanes = 0;
  needs.num_tokens = num_prompt_tokens;
  for (const uint32_t lane : relay_->LanesToRun()) {
    ++needs.num_lanes;
    needs.num_tokens += request_.sampling.max_tokens - relay_->output_token_ids(lane).size();
  }
  if (relay_->num_output_tokens() > 0) needs.numerics_id = numerics_id_;
  return needs;
}

void GenerateCall::Start(Placement placement) {
  if (StartAttempt(std::move(placement))) RouteAgain();
}

bool GenerateCall::StartAttempt(Placement placement) {
  MutexLock lock(mu_);
  const RoutingNeeds needs = NeedsNow();
  const GroupLoad charged{.num_lanes = needs.num_lanes, .num_tokens = needs.num_tokens};
  if (ending_) {
    environment_.dispatcher->Release(placement, charged);
    return false;
  }
  const TimePoint now = environment_.clock->Now();
  ++attempt_;
  attempt_id_ = environment_.calls->NextId();
  charged_ = charged;
  numerics_id_ = placement.numerics_id;
  placement_ = std::move(placement);
  relay_->OnAttemptSent(now);
  if (attempt_ == 1) {
    environment_.metrics->RequestDispatched(now - arrival_, static_cast<int64_t>(request_.prompt_token_ids.size()));
  } else {
    environment_.metrics->AttemptReplayed();
  }
  v1::Submit submit = ToSubmit(request_, *relay_);
  submit.set_request_id(attempt_id_);
  submit.set_attempt(attempt_);
  submit.set_deadline_ms(DeadlineMs(*context_));
  if (placement_->client->Submit(std::move(submit), shared_from_this())) return false;
  // The stream went down between choice and submission: nothing was sent, so this is no attempt.
  --attempt_;
  attempt_id_ = 0;
  environment_.dispatcher->Hold(*placement_);
  ReleaseAttempt(/*cancel=*/false);
  return true;
}

void GenerateCall::Refuse(const absl::Status& status) {
  MutexLock lock(mu_);
  if (ending_) return;
  if (lost_because_.empty()) {
    Fail(status, /*drop_pending=*/true);
  } else {
    Fail(absl::Status(status.code(), absl::StrCat(lost_because_, "; then ", status.message())),
         /*drop_pending=*/false);
  }
}

void GenerateCall::OnTargetEvent(v1::TargetEvent& event) {
  bool route_again = false;
  {
    MutexLock lock(mu_);
    if (ending_ || event.request_id() != attempt_id_) return;
    absl::Status status;
    switch (event.event_case()) {
      case v1::TargetEvent::kTokens:
        status = OnTokens(event.lane(), *event.mutable_tokens());
        break;
      case v1::TargetEvent::kFinished: {
        const v1::LaneFinished& finished = event.finished();
        const absl::StatusOr<EndReason> reason = FromProto(finished.finish_reason());
        status = reason.status();
        if (reason.ok()) {
          status = relay_->OnFinished(event.lane(), *reason, FromProto(finished.usage()), finished.queue_ms(),
                                      environment_.clock->Now());
        }
        if (status.ok()) EndLane();
        break;
      }
      case v1::TargetEvent::kFailed:
        route_again = OnLaneFailed(FromProto(event.failed()));
        break;
      case v1::TargetEvent::EVENT_NOT_SET:
        status = absl::InternalError("the target group broke the protocol: an empty event");
        break;
    }
    if (!status.ok()) {
      const bool cut = absl::IsResourceExhausted(status);
      if (cut) {
        environment_.metrics->StreamCut();
      } else {
        LogError("request ", request_name_, " on group ", placement_->group_id, ": ", status.message());
      }
      Fail(status, /*drop_pending=*/cut);
    }
    Flush();
  }
  if (route_again) RouteAgain();
}

absl::Status GenerateCall::OnTokens(uint32_t lane, v1::Tokens& tokens) {
  const TimePoint now = environment_.clock->Now();
  const bool first = relay_->num_output_tokens() == 0;
  const GenerateRelay::TokensOutcome outcome = relay_->OnTokens(
      lane, tokens.first_output_index(), absl::MakeConstSpan(tokens.token_ids().data(), tokens.token_ids_size()),
      FromProto(tokens.logprobs()), now);
  if (outcome.num_taken > 0) {
    environment_.metrics->OutputTokens(outcome.num_taken);
    if (first) environment_.metrics->FirstToken(now - arrival_);
    if (outcome.gap.has_value()) environment_.metrics->MoreTokens(*outcome.gap, outcome.num_taken);
  }
  if (outcome.status.ok() && outcome.stop_at.has_value()) {
    placement_->client->StopAt(attempt_id_, lane, *outcome.stop_at);
  }
  return outcome.status;
}

void GenerateCall::EndLane() {
  if (relay_->done()) {
    ending_ = true;
    ReleaseAttempt(/*cancel=*/false);
    return;
  }
  const GroupLoad load{.num_lanes = 1,
                       .num_tokens = std::min<int64_t>(charged_.num_tokens, request_.sampling.max_tokens)};
  charged_.num_lanes -= 1;
  charged_.num_tokens -= load.num_tokens;
  environment_.dispatcher->Release(*placement_, load);
}

bool GenerateCall::OnLaneFailed(const absl::Status& status) {
  const LostAttempt lost{
      .attempt = attempt_, .tokens_delivered = relay_->num_output_tokens() > 0, .code = status.code()};
  if (lost.code == absl::StatusCode::kUnavailable || DecideRetry(lost) != RetryDecision::kGiveUp) {
    // The group is there, but does not take this now: what its last heartbeat told is old.
    environment_.dispatcher->Hold(*placement_);
    ReleaseAttempt(/*cancel=*/true);
    return LoseAttempt(status);
  }
  Fail(status, /*drop_pending=*/false);
  return false;
}

void GenerateCall::OnTargetLost(uint64_t request_id, const absl::Status& status) {
  bool route_again = false;
  {
    MutexLock lock(mu_);
    if (ending_ || request_id != attempt_id_) return;
    ReleaseAttempt(/*cancel=*/false);
    route_again = LoseAttempt(status);
    Flush();
  }
  if (route_again) RouteAgain();
}

bool GenerateCall::LoseAttempt(const absl::Status& status) {
  environment_.metrics->AttemptLost();
  relay_->OnAttemptLost(environment_.clock->Now());
  if (relay_->done()) {
    ending_ = true;
    return false;
  }
  lost_because_ = absl::StrCat(status.message(), " after ", relay_->num_output_tokens(), " output tokens");
  const RetryDecision decision =
      DecideRetry({.attempt = attempt_, .tokens_delivered = relay_->num_output_tokens() > 0, .code = status.code()});
  if (decision != RetryDecision::kGiveUp) return true;
  Fail(absl::Status(status.code(), absl::StrCat(lost_because_, "; this was attempt ", attempt_, " of ", kMaxAttempts)),
       /*drop_pending=*/false);
  return false;
}

void GenerateCall::RouteAgain() {
  std::optional<RoutingNeeds> needs;
  {
    MutexLock lock(mu_);
    if (ending_) return;
    needs = NeedsNow();
  }
  const int64_t num_tokens = needs->num_tokens;
  environment_.dispatcher->Route(shared_from_this(), std::move(needs), num_tokens, AdmissionController::Place::kFront);
  // A cancel that came in between found nothing to withdraw.
  bool ended;
  {
    MutexLock lock(mu_);
    ended = ending_;
  }
  if (ended) environment_.dispatcher->Withdraw(this);
}

void GenerateCall::ReleaseAttempt(bool cancel) {
  if (!placement_.has_value()) return;
  if (attempt_id_ != 0) {
    if (cancel) {
      placement_->client->Cancel(attempt_id_);
    } else {
      placement_->client->Forget(attempt_id_);
    }
  }
  environment_.dispatcher->Release(*placement_, charged_);
  charged_ = GroupLoad();
  attempt_id_ = 0;
  placement_.reset();
}

void GenerateCall::Fail(const absl::Status& status, bool drop_pending) {
  if (ending_) return;
  ending_ = true;
  end_status_ = status;
  ReleaseAttempt(/*cancel=*/true);
  if (drop_pending && relay_.has_value()) relay_->DropPending();
  Flush();
}

void GenerateCall::Flush() {
  if (finish_called_) return;
  if (write_in_flight_) {
    if (ending_) Linger();
    return;
  }
  if (relay_.has_value() && relay_->has_pending()) {
    if (!started_sent_) {
      started_sent_ = true;
      v1::Started& started = *response_.mutable_started();
      started.set_request_id(request_name_);
      started.mutable_prompt_token_ids()->Add(request_.prompt_token_ids.begin(), request_.prompt_token_ids.end());
      started.set_seed(request_.sampling.seed);
      started.set_numerics_id(numerics_id_);
      started.set_model(model_->name);
      write_in_flight_ = true;
      // Without a buffer hint: a write that is held back is not done either, and nothing would follow to push it out.
      StartWrite(&response_);
      return;
    }
    relay_->TakeNext(&event_);
    ToProto(event_, numerics_id_, &response_);
    if (ending_ && !relay_->has_pending() && end_status_.ok()) {
      finish_called_ = true;
      StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      write_in_flight_ = true;
      StartWrite(&response_);
    }
    return;
  }
  if (ending_) {
    finish_called_ = true;
    Finish(ToGrpcStatus(end_status_));
  }
}

void GenerateCall::Linger() {
  if (linger_ != nullptr) return;
  linger_ = std::make_unique<grpc::Alarm>();
  linger_->Set(std::chrono::system_clock::now() + kLingerMax,
               // Emptied when it runs: the alarm belongs to the call, which must not belong to the alarm.
               [holder = std::make_shared<std::shared_ptr<GenerateCall>>(shared_from_this())](bool expired) {
                 const std::shared_ptr<GenerateCall> call = std::move(*holder);
                 MutexLock lock(call->mu_);
                 if (expired && !call->done_) call->context_->TryCancel();
               });
}

void GenerateCall::OnWriteDone(bool ok) {
  MutexLock lock(mu_);
  write_in_flight_ = false;
  if (!ok) {
    // The client is gone; OnCancel says so too, maybe later.
    if (relay_.has_value()) relay_->DropPending();
    Fail(absl::CancelledError("the client is gone"), /*drop_pending=*/true);
  }
  Flush();
}

void GenerateCall::OnCancel() {
  {
    const absl::Status status = context_->deadline() <= std::chrono::system_clock::now()
                                    ? absl::DeadlineExceededError("the client's deadline has passed")
                                    : absl::CancelledError("the client cancelled the call");
    MutexLock lock(mu_);
    // Of a call that was ending anyway, what waits will not be read.
    if (relay_.has_value()) relay_->DropPending();
    if (ending_ && !finish_called_ && end_status_.ok()) end_status_ = status;
    Fail(status, /*drop_pending=*/true);
    Flush();
  }
  environment_.dispatcher->Withdraw(this);
}

void GenerateCall::OnDone() {
  std::shared_ptr<GenerateCall> self;
  MutexLock lock(mu_);
  self = std::move(self_);
  done_ = true;
  if (linger_ != nullptr) linger_->Cancel();
  environment_.metrics->RequestEnded(end_status_.code(), environment_.clock->Now() - arrival_);
  environment_.metrics->SetRunning(environment_.calls->num_open() - 1);
  // The last use of what calls share.
  environment_.calls->Leave();
}

}  // namespace outrider::router
