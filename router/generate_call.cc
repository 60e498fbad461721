#include "router/generate_call.h"

#include <sys/random.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "router/proto_conversions.h"
#include "router/request_validation.h"

namespace outrider::router {
namespace {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

// A seed from the operating system's source of randomness. Not by a std::random_device, which asks the processor what
// it is whenever one is made: 20 us where a hypervisor answers.
uint64_t DrawSeed() {
  uint64_t seed = 0;
  CHECK(::getrandom(&seed, sizeof(seed), 0) == sizeof(seed));  // so few bytes come whole, getrandom(2)
  return seed;
}

// ms until `deadline`, at least 1; 0 if there is none.
uint32_t DeadlineMs(std::optional<TimePoint> deadline, TimePoint now) {
  if (!deadline.has_value()) return 0;
  return static_cast<uint32_t>(
      std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::milliseconds>(*deadline - now).count()));
}

}  // namespace

std::shared_ptr<GenerateCall> GenerateCall::Make(const CallEnvironment& environment, ClientStream* stream,
                                                 std::optional<TimePoint> deadline, v1::GenerateRequest message,
                                                 const std::optional<TraceContext>& trace) {
  const std::shared_ptr<GenerateCall> call(
      new GenerateCall(environment, stream, deadline, std::move(message), trace, environment.calls->NextId()));
  MutexLock lock(call->mu_);
  call->self_ = call;
  return call;
}

GenerateCall::GenerateCall(const CallEnvironment& environment, ClientStream* stream, std::optional<TimePoint> deadline,
                           v1::GenerateRequest message, const std::optional<TraceContext>& trace, CallId call_id)
    : RoutedCall(call_id),
      environment_(environment),
      stream_(stream),
      message_(std::move(message)),
      arrival_(environment.clock->Now()),
      request_name_(environment.calls->NameOf(call_id)),
      trace_context_(environment.tracer != nullptr ? environment.tracer->Enter(trace) : trace),
      trace_id_(trace_context_.has_value() ? ToHex(trace_context_->trace) : ""),
      lifecycle_({.request_name = request_name_,
                  .arrival = arrival_,
                  .deadline = deadline,
                  .priority = message_.priority(),
                  .max_stream_buffer_bytes = environment.max_stream_buffer_bytes}) {
  if (environment.tracer == nullptr || !trace_context_->sampled) return;
  MutexLock lock(mu_);
  trace_ = std::make_unique<RequestTrace>(environment.tracer, *trace_context_, message_.messages_size() > 0, arrival_,
                                          WallClock(arrival_, std::chrono::system_clock::now()));
}

GenerateCall::~GenerateCall() = default;

void GenerateCall::Arrive(absl::StatusOr<ApiAccess::Grant> granted) {
  absl::Status status = granted.status();
  AfterLock after;
  {
    MutexLock lock(mu_);
    const absl::Status entered = environment_.calls->Enter(call_id(), weak_from_this());
    if (granted.ok()) grant_ = *std::move(granted);
    if (status.ok()) status = entered;
    environment_.metrics->SetRunning(environment_.calls->num_open());
    if (status.ok()) {
      input_ = ViewOf(message_);
      status = CheckInput(input_);
    }
    int64_t num_tokens_estimate = 0;
    if (status.ok()) {
      num_tokens_estimate = EstimateTokens(input_);
      if (std::shared_ptr<const ServedModel> model = environment_.dispatcher->model(); model != nullptr) {
        const int max_model_len = environment_.dispatcher->MaxModelLen(*model);
        status = PrepareLocked(std::move(model), max_model_len);
      }
    }
    Commands commands;
    if (status.ok()) {
      lifecycle_.OnArrived(num_tokens_estimate, commands);
    } else {
      lifecycle_.OnRefused(status, commands);
    }
    after = Do(std::move(commands));
  }
  Do(std::move(after));
}

absl::StatusOr<RoutingNeeds> GenerateCall::Prepare(std::shared_ptr<const ServedModel> model, int max_model_len) {
  MutexLock lock(mu_);
  if (lifecycle_.ending()) return absl::CancelledError("the call has ended");
  RETURN_IF_ERROR(PrepareLocked(std::move(model), max_model_len));
  return lifecycle_.Needs();
}

absl::Status GenerateCall::PrepareLocked(std::shared_ptr<const ServedModel> model, int max_model_len) {
  const ModelBounds bounds{.vocab_size = model->vocab_size,
                           .max_model_len = max_model_len,
                           .end_token_ids = model->end_token_ids,
                           .defaults = model->sampling_defaults};
  std::vector<TokenId> prompt_token_ids;
  if (input_.prompt.has_value()) {
    RETURN_IF_ERROR(CheckPromptBytes(input_.prompt->size(), model->token_bytes_max, bounds));
    ASSIGN_OR_RETURN(prompt_token_ids, model->Encode(*input_.prompt, input_.add_special_tokens.value_or(true)));
  } else if (!input_.messages.empty()) {
    ASSIGN_OR_RETURN(const std::string rendered, model->RenderChat(input_.messages, input_.chat));
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
  ASSIGN_OR_RETURN(ResolvedRequest request, ResolveRequest(input_, std::move(prompt_token_ids), bounds, drawn_seed));
  if (input_.prediction.has_value() && model->tokenizer != nullptr) {
    // No more tokens of it than the context has are of use, and so no more bytes.
    const size_t num_bytes_max = static_cast<size_t>(max_model_len) * model->token_bytes_max;
    absl::string_view prediction = input_.prediction->substr(0, num_bytes_max);
    while (prediction.size() < input_.prediction->size() && !prediction.empty() &&
           (static_cast<uint8_t>((*input_.prediction)[prediction.size()]) & 0xc0) == 0x80) {
      prediction.remove_suffix(1);
    }
    ASSIGN_OR_RETURN(request.prediction_token_ids, model->Encode(prediction, /*add_special_tokens=*/false));
    if (request.prediction_token_ids.size() > static_cast<size_t>(max_model_len)) {
      request.prediction_token_ids.resize(static_cast<size_t>(max_model_len));
    }
  }
  model_ = std::move(model);
  lifecycle_.Prepare(std::move(request),
                     {.key = model_->key, .name = model_->name, .tokenizer = model_->tokenizer.get()});
  return absl::OkStatus();
}

void GenerateCall::Start(Placement placement) {
  NoteAdmitted();
  AfterLock after;
  {
    MutexLock lock(mu_);
    client_ = std::move(placement.client);
    Commands commands;
    lifecycle_.OnStart(std::move(placement.group), environment_.calls->NextId(), environment_.clock->Now(), commands);
    after = Do(std::move(commands));
  }
  Do(std::move(after));
}

void GenerateCall::Refuse(const absl::Status& status) {
  MutexLock lock(mu_);
  Commands commands;
  lifecycle_.OnRefused(status, commands);
  Do(std::move(commands));
}

void GenerateCall::EndWith(const absl::Status& status) {
  AfterLock after;
  {
    MutexLock lock(mu_);
    Commands commands;
    lifecycle_.OnShutdown(status, commands);
    after = Do(std::move(commands));
  }
  Do(std::move(after));
}

std::string GenerateCall::key_name() {
  MutexLock lock(mu_);
  return grant_.key_name();
}

void GenerateCall::OnTargetEvent(v1::TargetEvent& event) {
  AfterLock after;
  {
    MutexLock lock(mu_);
    const TimePoint now = environment_.clock->Now();
    const uint64_t attempt_id = event.request_id();
    Commands commands;
    switch (event.event_case()) {
      case v1::TargetEvent::kTokens: {
        const v1::Tokens& tokens = event.tokens();
        lifecycle_.OnTokens(attempt_id, event.lane(), tokens.first_output_index(),
                            absl::MakeConstSpan(tokens.token_ids().data(), tokens.token_ids_size()),
                            FromProto(tokens.logprobs()), now, commands, tokens.num_accepted());
        break;
      }
      case v1::TargetEvent::kPromptLogprobs:
        lifecycle_.OnPromptLogprobs(attempt_id, event.lane(), event.prompt_logprobs().first_position(),
                                    FromProto(event.prompt_logprobs().logprobs()), commands);
        break;
      case v1::TargetEvent::kFinished: {
        const v1::LaneFinished& finished = event.finished();
        if (const absl::StatusOr<EndReason> reason = FromProto(finished.finish_reason()); reason.ok()) {
          lifecycle_.OnLaneFinished(attempt_id, event.lane(), *reason, FromProto(finished.usage()), finished.queue_ms(),
                                    now, commands);
        } else {
          lifecycle_.OnProtocolBroken(attempt_id, reason.status(), commands);
        }
        break;
      }
      case v1::TargetEvent::kFailed:
        lifecycle_.OnLaneFailed(attempt_id, FromProto(event.failed()), now, commands);
        break;
      case v1::TargetEvent::EVENT_NOT_SET:
        lifecycle_.OnProtocolBroken(
            attempt_id, absl::InternalError("the target group broke the protocol: an empty event"), commands);
        break;
    }
    after = Do(std::move(commands));
  }
  Do(std::move(after));
}

void GenerateCall::OnTargetLost(uint64_t request_id, const absl::Status& status) {
  AfterLock after;
  {
    MutexLock lock(mu_);
    Commands commands;
    lifecycle_.OnTargetLost(request_id, status, environment_.clock->Now(), commands);
    after = Do(std::move(commands));
  }
  Do(std::move(after));
}

void GenerateCall::OnHandOver(uint64_t request_id) {
  AfterLock after;
  {
    MutexLock lock(mu_);
    Commands commands;
    lifecycle_.OnHandOver(request_id, environment_.clock->Now(), commands);
    after = Do(std::move(commands));
  }
  Do(std::move(after));
}

void GenerateCall::NoteAdmitted() {
  if (admitted_.exchange(true)) return;
  environment_.request_log->Accepted(request_name_, trace_id_);
}

GenerateCall::AfterLock GenerateCall::Do(Commands commands) {
  AfterLock after;
  // Commands that follow from carrying these out are appended, so by index.
  for (size_t i = 0; i < commands.size(); ++i) {
    Command command = std::move(commands[i]);
    std::visit(
        Overloaded{
            [&](RouteCall& route) { after.route = std::move(route); },
            [&](const WithdrawCall&) { after.withdraw = true; },
            [&](const SubmitAttempt& submit) ABSL_NO_THREAD_SAFETY_ANALYSIS {
              if (Submit(submit)) return;
              const TimePoint now = environment_.clock->Now();
              if (trace_ != nullptr) {
                trace_->OnAttemptFailed(absl::UnavailableError("the stream to the group is down"), now);
              }
              lifecycle_.OnSubmitRefused(now, commands);
            },
            [&](const CancelAttempt& cancel) ABSL_NO_THREAD_SAFETY_ANALYSIS { client_->Cancel(cancel.attempt_id); },
            [&](const ForgetAttempt& forget) ABSL_NO_THREAD_SAFETY_ANALYSIS { client_->Forget(forget.attempt_id); },
            [&](const StopLane& stop)
                ABSL_NO_THREAD_SAFETY_ANALYSIS { client_->StopAt(stop.attempt_id, stop.lane, stop.num_output_tokens); },
            [&](const ReleaseLoad& release) ABSL_NO_THREAD_SAFETY_ANALYSIS {
              environment_.dispatcher->Release(lifecycle_.group(), release.load, release.served_in);
            },
            [&](const HoldGroup&) ABSL_NO_THREAD_SAFETY_ANALYSIS { environment_.dispatcher->Hold(lifecycle_.group()); },
            [&](const WriteStarted&) ABSL_NO_THREAD_SAFETY_ANALYSIS { WriteStart(); },
            [&](const WriteEvent& write) ABSL_NO_THREAD_SAFETY_ANALYSIS { Write(write); },
            [&](const FinishCall& finish) { stream_->Finish(finish.status); },
            [&](const SetTimer& timer) ABSL_NO_THREAD_SAFETY_ANALYSIS { StartTimer(timer.after); },
            [&](const CutClient&) { stream_->Cut(); },
            [&](const Report& report) ABSL_NO_THREAD_SAFETY_ANALYSIS { Tell(report); },
        },
        command);
    if (trace_ != nullptr) Trace(command);
  }
  return after;
}

void GenerateCall::Do(AfterLock after) {
  if (after.route.has_value()) {
    const bool admitted = environment_.dispatcher->Route(shared_from_this(), std::move(after.route->request));
    if (admitted) NoteAdmitted();
    // A cancel that came in between found nothing to withdraw.
    MutexLock lock(mu_);
    after.withdraw |= lifecycle_.ending();
  }
  if (after.withdraw) environment_.dispatcher->Withdraw(*this);
}

bool GenerateCall::Submit(const SubmitAttempt& command) {
  v1::Submit submit = ToSubmit(lifecycle_.request(), lifecycle_.relay());
  submit.set_request_id(command.attempt_id);
  submit.set_attempt(command.attempt);
  submit.set_deadline_ms(DeadlineMs(lifecycle_.deadline(), environment_.clock->Now()));
  if (trace_context_.has_value()) {
    TraceContext told = *trace_context_;
    if (trace_ != nullptr) {
      told = trace_->OnAttempt(command.attempt, command.attempt_id, lifecycle_.group(), environment_.clock->Now());
    }
    ToProto(told, submit.mutable_trace());
  }
  return client_->Submit(std::move(submit), shared_from_this());
}

void GenerateCall::WriteStart() {
  response_.Clear();
  v1::Started& started = *response_.mutable_started();
  const ResolvedRequest& request = lifecycle_.request();
  started.set_request_id(lifecycle_.request_name());
  started.mutable_prompt_token_ids()->Add(request.prompt_token_ids.begin(), request.prompt_token_ids.end());
  started.set_seed(request.sampling.seed);
  started.set_numerics_id(lifecycle_.numerics_id());
  started.set_model(lifecycle_.model().name);
  stream_->Write(response_, /*last=*/false);
}

void GenerateCall::Write(const WriteEvent& command) {
  if (const auto& end = lifecycle_.event().end) {
    const ResolvedRequest& request = lifecycle_.request();
    environment_.metrics->ChoiceEnded(*end, request.sampling.max_tokens, static_cast<int>(request.num_choices));
    if (trace_ != nullptr) trace_->OnChoiceEnded(*end);
  }
  ToProto(lifecycle_.event(), lifecycle_.numerics_id(), &response_);
  stream_->Write(response_, command.last);
}

void GenerateCall::Tell(const Report& report) {
  RouterMetrics& metrics = *environment_.metrics;
  switch (report.kind) {
    case Report::Kind::kDispatched:
      metrics.RequestDispatched(report.duration, report.count);
      if (lifecycle_.num_attempts() == 1) grant_.Charge(report.count);
      return;
    case Report::Kind::kReplayed:
      metrics.AttemptReplayed();
      return;
    case Report::Kind::kAttemptLost:
      metrics.AttemptLost();
      return;
    case Report::Kind::kHandedOver:
      metrics.AttemptHandedOver();
      return;
    case Report::Kind::kOutputTokens:
      metrics.OutputTokens(static_cast<int>(report.count));
      grant_.Charge(report.count);
      return;
    case Report::Kind::kFirstToken:
      metrics.FirstToken(report.duration);
      return;
    case Report::Kind::kMoreTokens:
      metrics.MoreTokens(report.duration, static_cast<int>(report.count));
      return;
    case Report::Kind::kStreamCut:
      metrics.StreamCut();
      return;
    case Report::Kind::kStaleEvent:
      metrics.StaleEvents(StaleReason::kAttempt, static_cast<int>(report.count));
      return;
    case Report::Kind::kProtocolBroken:
      Log(LogLevel::kError, report.status.message(),
          {{"request_id", lifecycle_.request_name()}, {"trace_id", trace_id_}, {"group", lifecycle_.group().group_id}});
      return;
  }
}

void GenerateCall::Trace(const Command& command) {
  const TimePoint now = environment_.clock->Now();
  if (std::holds_alternative<RouteCall>(command)) {
    trace_->OnQueued(now);
  } else if (std::holds_alternative<CancelAttempt>(command) || std::holds_alternative<ForgetAttempt>(command)) {
    trace_->OnAttemptEnded(now);
  } else if (const auto* const report = std::get_if<Report>(&command)) {
    if (report->kind == Report::Kind::kFirstToken) trace_->OnFirstToken(report->duration);
    if (report->kind == Report::Kind::kAttemptLost) trace_->OnAttemptFailed(report->status, now);
  }
}

void GenerateCall::EndTrace() {
  RequestTrace::Summary summary{.status = lifecycle_.end_status(), .request_name = request_name_};
  if (lifecycle_.prepared()) {
    summary.model = lifecycle_.model().name;
    summary.numerics_id = lifecycle_.numerics_id();
    summary.request = &lifecycle_.request();
    summary.num_output_tokens = lifecycle_.relay().num_output_tokens();
    summary.num_attempts = lifecycle_.num_attempts();
  }
  trace_->End(summary, environment_.clock->Now());
  trace_.reset();
}

void GenerateCall::StartTimer(Duration after) {
  timer_ = std::make_unique<grpc::Alarm>();
  timer_->Set(std::chrono::system_clock::now() + std::chrono::duration_cast<std::chrono::system_clock::duration>(after),
              // Emptied when it runs: the alarm belongs to the call, which must not belong to the alarm.
              [holder = std::make_shared<std::shared_ptr<GenerateCall>>(shared_from_this())](bool expired) {
                const std::shared_ptr<GenerateCall> call = std::move(*holder);
                MutexLock lock(call->mu_);
                if (!expired || call->done_) return;
                Commands commands;
                call->lifecycle_.OnTimer(commands);
                call->Do(std::move(commands));
              });
}

void GenerateCall::OnWriteDone(bool ok) {
  MutexLock lock(mu_);
  Commands commands;
  lifecycle_.OnWriteDone(ok, commands);
  Do(std::move(commands));
}

void GenerateCall::OnClientGone() {
  AfterLock after;
  {
    MutexLock lock(mu_);
    Commands commands;
    lifecycle_.OnClientGone(environment_.clock->Now(), commands);
    after = Do(std::move(commands));
  }
  Do(std::move(after));
}

void GenerateCall::OnDone() {
  std::shared_ptr<GenerateCall> self;
  MutexLock lock(mu_);
  self = std::move(self_);
  done_ = true;
  if (timer_ != nullptr) timer_->Cancel();
  if (admitted_.load()) {
    environment_.request_log->Ended(
        request_name_, {.trace_id = trace_id_,
                        .status = lifecycle_.end_status(),
                        .num_attempts = lifecycle_.num_attempts(),
                        .num_output_tokens = lifecycle_.prepared() ? lifecycle_.relay().num_output_tokens() : 0,
                        .total = environment_.clock->Now() - arrival_});
  }
  if (trace_ != nullptr) EndTrace();
  environment_.metrics->RequestEnded(lifecycle_.end_status().code(), environment_.clock->Now() - arrival_);
  environment_.metrics->SetRunning(environment_.calls->num_open() - 1);
  client_.reset();  // with its hold on the channel: see CallGate
  grant_ = ApiAccess::Grant();
  // The last use of what calls share.
  environment_.calls->Leave(call_id());
}

}  // namespace outrider::router
