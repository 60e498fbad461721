// The calls of a simulated router: what router/generate_call does with gRPC, done with events.
#include <algorithm>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "base/status_macros.h"
#include "proto/target.pb.h"
#include "router/proto_conversions.h"
#include "router/request_validation.h"
#include "router/retry_policy.h"
#include "tests/simulation/fake_model.h"
#include "tests/simulation/router_state.h"
#include "tests/simulation/scenario.pb.h"
#include "tests/simulation/simulated_target.h"

namespace outrider::simulation {
namespace {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

}  // namespace

void SimulatedRouter::Accept(StreamPtr stream) {
  stream->on_message = [this, stream](const Message& message) {
    const auto& client_call = static_cast<const ClientCall&>(*message);
    const r::CallId id = ++life_->last_id;
    const TimePoint now = world_.queue.now();
    v1::GenerateRequest parsed;
    CHECK(parsed.ParseFromString(client_call.request()));
    const int priority = parsed.priority();
    std::optional<TimePoint> deadline;
    if (client_call.has_deadline_ms()) deadline = now + std::chrono::milliseconds(client_call.deadline_ms());
    const auto call = std::make_shared<Call>(
        id,
        r::RequestLifecycle::Options{.request_name = absl::StrCat("req-", process_.life, "-", id),
                                     .arrival = now,
                                     .deadline = deadline,
                                     .priority = priority,
                                     .max_stream_buffer_bytes = options_.max_stream_buffer_bytes},
        stream);
    call->message = std::move(parsed);
    life_->calls[id] = call;
    const auto with_call = [this, id, call](auto&& what) {
      if (!life_->calls.contains(id)) return;
      r::Commands commands;
      what(commands);
      Do(*call, std::move(commands));
    };
    stream->on_written = [call, with_call](bool ok) {
      with_call([&](r::Commands& commands) { call->lifecycle.OnWriteDone(ok, commands); });
    };
    const auto gone = [this, call, with_call] {
      with_call([&](r::Commands& commands) { call->lifecycle.OnClientGone(world_.queue.now(), commands); });
    };
    stream->on_closed = [gone](const absl::Status&) { gone(); };
    if (deadline.has_value()) world_.queue.At(*deadline, &process_, gone);
    Arrive(*call);
  };
}

void SimulatedRouter::Arrive(Call& call) {
  absl::Status status;
  if (life_->draining) status = absl::UnavailableError("this router is shutting down; ask another, or again later");
  if (status.ok()) {
    call.input = r::ViewOf(call.message);
    status = r::CheckInput(call.input);
  }
  int64_t num_tokens_estimate = 0;
  if (status.ok()) {
    num_tokens_estimate = r::EstimateTokens(call.input);
    if (life_->model_ready) status = Prepare(call);
  }
  r::Commands commands;
  if (status.ok()) {
    call.lifecycle.OnArrived(num_tokens_estimate, commands);
  } else {
    ++totals_.num_refusals;
    call.lifecycle.OnRefused(status, commands);
  }
  Do(call, std::move(commands));
}

absl::Status SimulatedRouter::Prepare(Call& call) {
  const std::vector<TokenId> end_token_ids = {kEndToken};
  const int max_model_len = life_->queue.max_model_len();
  const r::ModelBounds bounds{.vocab_size = kVocabSize,
                              .max_model_len = max_model_len > 0 ? max_model_len : 128,
                              .end_token_ids = end_token_ids};
  ASSIGN_OR_RETURN(
      r::ResolvedRequest request,
      r::ResolveRequest(call.input, {call.input.prompt_token_ids.begin(), call.input.prompt_token_ids.end()}, bounds,
                        call.input.seed.has_value() ? 0 : random_.Next()));
  call.lifecycle.Prepare(std::move(request),
                         {.key = {.model = kModelName, .tokenizer_fingerprint = kTokenizerFingerprint},
                          .name = kModelName,
                          .tokenizer = options_.tokenizer});
  return absl::OkStatus();
}

// As router/generate_call.cc, GenerateCall::Do.
void SimulatedRouter::Do(Call& call, r::Commands commands) {
  const std::shared_ptr<Call> kept = life_->calls.at(call.id);
  std::optional<r::RouteCall> route;
  bool withdraw = false;
  for (size_t i = 0; i < commands.size(); ++i) {
    r::Command command = std::move(commands[i]);
    std::visit(
        Overloaded{
            [&](r::RouteCall& wanted) { route = std::move(wanted); },
            [&](const r::WithdrawCall&) { withdraw = true; },
            [&](const r::SubmitAttempt& submit) {
              if (!Submit(call, submit)) call.lifecycle.OnSubmitRefused(world_.queue.now(), commands);
            },
            [&](const r::CancelAttempt& cancel) {
              call.past_attempt_id = std::exchange(call.attempt_id, 0);
              call.link->Cancel(cancel.attempt_id);
            },
            [&](const r::ForgetAttempt& forget) {
              call.past_attempt_id = std::exchange(call.attempt_id, 0);
              call.link->Forget(forget.attempt_id);
            },
            [&](const r::StopLane& stop) { call.link->StopAt(stop.attempt_id, stop.lane, stop.num_output_tokens); },
            [&](const r::ReleaseLoad& release) {
              const bool keeps = world_.sabotage == Sabotage::kChargeNotReleased && call.lifecycle.ending() &&
                                 !call.lifecycle.end_status().ok();
              if (!keeps) {
                life_->queue.Release(call.lifecycle.group(), release.load, release.served_in, world_.queue.now());
              }
            },
            [&](const r::HoldGroup&) { life_->queue.Hold(call.lifecycle.group()); },
            [&](const r::WriteStarted&) {
              const auto response = std::make_shared<v1::GenerateResponse>();
              v1::Started& started = *response->mutable_started();
              const r::ResolvedRequest& request = call.lifecycle.request();
              started.set_request_id(call.lifecycle.request_name());
              started.mutable_prompt_token_ids()->Add(request.prompt_token_ids.begin(), request.prompt_token_ids.end());
              started.set_seed(request.sampling.seed);
              started.set_numerics_id(call.lifecycle.numerics_id());
              call.stream->Send(response);
            },
            [&](const r::WriteEvent& write) {
              const auto response = std::make_shared<v1::GenerateResponse>();
              r::ToProto(call.lifecycle.event(), call.lifecycle.numerics_id(), response.get());
              if (write.last && world_.sabotage == Sabotage::kEndsTwice && call.stream->has_room_for_two()) {
                call.stream->Send(std::make_shared<v1::GenerateResponse>(*response));
              }
              call.stream->Send(response);
              if (write.last) call.stream->Close();
            },
            [&](const r::FinishCall& finish) { call.stream->Close(finish.status); },
            [&](const r::SetTimer& timer) {
              world_.queue.After(timer.after, &process_, [this, kept] {
                if (!life_->calls.contains(kept->id)) return;
                r::Commands more;
                kept->lifecycle.OnTimer(more);
                Do(*kept, std::move(more));
              });
            },
            [&](const r::CutClient&) {
              call.stream->Close(absl::CancelledError("the client does not read"));
              call.lifecycle.OnClientGone(world_.queue.now(), commands);
            },
            [&](const r::Report& report) {
              totals_.num_replays += report.kind == r::Report::Kind::kReplayed;
              totals_.num_stale_events += report.kind == r::Report::Kind::kStaleEvent;
              totals_.num_hand_overs += report.kind == r::Report::Kind::kHandedOver;
              totals_.num_cuts += report.kind == r::Report::Kind::kStreamCut;
              if (report.kind == r::Report::Kind::kProtocolBroken) {
                world_.Fail("a group broke the protocol: ", report.status.message());
              }
            },
        },
        command);
  }
  if (route.has_value()) Route(call, *std::move(route));
  if (life_ == nullptr) return;
  if ((withdraw || (route.has_value() && call.lifecycle.ending())) &&
      life_->queue.Withdraw(call.id, world_.queue.now())) {
    call.waits = false;
  }
  if (call.lifecycle.finished()) Ended(call.id);
  CheckBounds();
  Kick();
}

bool SimulatedRouter::Submit(Call& call, const r::SubmitAttempt& command) {
  v1::Submit submit = r::ToSubmit(call.lifecycle.request(), call.lifecycle.relay());
  submit.set_request_id(command.attempt_id);
  submit.set_attempt(command.attempt);
  if (const auto deadline = call.lifecycle.deadline()) {
    submit.set_deadline_ms(static_cast<uint32_t>(std::max<int64_t>(
        1, std::chrono::duration_cast<std::chrono::milliseconds>(*deadline - world_.queue.now()).count())));
  }
  if (world_.sabotage == Sabotage::kReplaysWithoutDelivered) {
    for (v1::Lane& lane : *submit.mutable_lanes()) lane.clear_output_token_ids();
  }
  call.shifted.clear();
  if (world_.sabotage == Sabotage::kPenaltyCountsLost && submit.lanes_size() == 1) {
    v1::Lane& lane = *submit.mutable_lanes(0);
    call.shifted[lane.lane()] = {lane.output_token_ids().begin(), lane.output_token_ids().end()};
    submit.mutable_prompt_token_ids()->MergeFrom(lane.output_token_ids());
    submit.mutable_params()->set_max_tokens(submit.params().max_tokens() -
                                            static_cast<uint32_t>(lane.output_token_ids_size()));
    lane.clear_output_token_ids();
  }
  if (!call.link->Submit(std::move(submit), call.id)) return false;
  call.attempt_id = command.attempt_id;
  world_.Say(process_, "attempt",
             {{"call", static_cast<int64_t>(call.id)},
              {"attempt", static_cast<int64_t>(command.attempt_id)},
              {"number", command.attempt}});
  if (++call.num_submits - call.num_hand_overs > static_cast<int>(r::kMaxAttempts)) {
    world_.Fail("call ", call.id, " was sent to groups ", call.num_submits, " times, ", call.num_hand_overs,
                " of them since the one before drained; at most ", r::kMaxAttempts, " besides are allowed");
  }
  return true;
}
void SimulatedRouter::OnTargetEvent(uint64_t call_id, google::protobuf::Message& message) {
  const auto found = life_->calls.find(call_id);
  if (found == life_->calls.end()) return;
  const std::shared_ptr<Call> call = found->second;
  auto& event = static_cast<v1::TargetEvent&>(message);
  const TimePoint now = world_.queue.now();
  const uint64_t attempt_id = event.request_id();
  const auto shifted = call->shifted.find(event.lane());
  const uint32_t shift = shifted == call->shifted.end() ? 0 : static_cast<uint32_t>(shifted->second.size());
  r::Commands commands;
  if (event.has_tokens()) {
    const v1::Tokens& tokens = event.tokens();
    const r::GenerateRelay& relay = call->lifecycle.relay();
    if (!relay.ended(event.lane()) &&
        tokens.first_output_index() + shift < relay.output_token_ids(event.lane()).size()) {
      world_.Fail("call ", call_id, " gets output token ", tokens.first_output_index(), " of lane ", event.lane(),
                  " again; ", relay.output_token_ids(event.lane()).size(), " were delivered");
    }
    world_.Say(process_, "tokens",
               {{"call", static_cast<int64_t>(call_id)},
                {"lane", event.lane()},
                {"first", tokens.first_output_index() + shift},
                {"count", tokens.token_ids_size()}});
    call->lifecycle.OnTokens(attempt_id, event.lane(), tokens.first_output_index() + shift,
                             absl::MakeConstSpan(tokens.token_ids().data(), tokens.token_ids_size()),
                             r::FromProto(tokens.logprobs()), now, commands, tokens.num_accepted());
  } else if (event.has_prompt_logprobs()) {
    call->lifecycle.OnPromptLogprobs(attempt_id, event.lane(), event.prompt_logprobs().first_position(),
                                     r::FromProto(event.prompt_logprobs().logprobs()), commands);
  } else if (event.has_finished()) {
    const v1::LaneFinished& finished = event.finished();
    const absl::StatusOr<r::EndReason> reason = r::FromProto(finished.finish_reason());
    CHECK(reason.ok());
    call->lifecycle.OnLaneFinished(attempt_id, event.lane(), *reason, r::FromProto(finished.usage()),
                                   finished.queue_ms(), now, commands);
  } else {
    const absl::Status status = r::FromProto(event.failed());
    if (absl::IsInternal(status)) world_.Fail("a lane failed: ", status.message());
    call->lifecycle.OnLaneFailed(attempt_id, status, now, commands);
  }
  Do(*call, std::move(commands));
}

void SimulatedRouter::OnHandOver(uint64_t call_id, uint64_t attempt_id) {
  const auto found = life_->calls.find(call_id);
  if (found == life_->calls.end()) return;
  const std::shared_ptr<Call> call = found->second;
  r::Commands commands;
  call->lifecycle.OnHandOver(attempt_id, world_.queue.now(), commands);
  Do(*call, std::move(commands));
}

void SimulatedRouter::OnTargetLost(uint64_t call_id, uint64_t attempt_id, const absl::Status& status) {
  const auto found = life_->calls.find(call_id);
  if (found == life_->calls.end()) return;
  const std::shared_ptr<Call> call = found->second;
  r::Commands commands;
  if (world_.sabotage == Sabotage::kRetriesWithoutBound) {
    call->lifecycle.OnSubmitRefused(world_.queue.now(), commands);
  } else {
    call->lifecycle.OnTargetLost(attempt_id, status, world_.queue.now(), commands);
  }
  Do(*call, std::move(commands));
}

void SimulatedRouter::Ended(uint64_t call_id) {
  const auto call = life_->calls.find(call_id);
  if (call == life_->calls.end()) return;
  const absl::Status& status = call->second->lifecycle.end_status();
  world_.Say(process_, "ended",
             {{"call", static_cast<int64_t>(call_id)}, {"code", static_cast<int64_t>(status.code())}});
  if (!ended_.emplace(call->second->lifecycle.request_name(), status).second) {
    world_.Fail("call ", call_id, " ended twice");
  }
  life_->queue.Withdraw(call_id, world_.queue.now());  // one that the router ended may wait
  if (call->second->stream->is_open()) life_->closing.push_back(call->second->stream);
  life_->calls.erase(call);
  ExitIfDrained();
}

}  // namespace outrider::simulation
