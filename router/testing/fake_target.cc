#include "router/testing/fake_target.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "router/testing/byte_tokenizer.h"
#include "text/tokenizer_definition.h"

namespace outrider::router {
namespace {

constexpr auto kHeartbeatInterval = std::chrono::milliseconds(30);
constexpr auto kAwaitMax = std::chrono::seconds(20);

void ToProto(const text::TokenizerDefinition& definition, v1::TokenizerDefinition* out) {
  out->set_kind(definition.model);
  out->set_pre_tokenizer(definition.pre);
  for (const std::string& token : definition.tokens) out->add_tokens(token);
  for (const text::TokenType type : definition.types) out->mutable_token_types()->push_back(static_cast<char>(type));
  for (const std::string& merge : definition.merges) out->add_merges(merge);
  if (definition.eos_id.has_value()) out->set_eos_id(*definition.eos_id);
  out->set_chat_template(definition.chat_template);
}

// 'a' to 'z', a hash of all tokens before.
TokenId HashToken(const std::vector<TokenId>& prompt, const std::vector<TokenId>& output, uint32_t lane) {
  uint64_t hash = 1469598103934665603ull + lane;
  for (const std::vector<TokenId>* ids : {&prompt, &output}) {
    for (const TokenId id : *ids) hash = (hash ^ static_cast<uint64_t>(id)) * 1099511628211ull;
  }
  return static_cast<TokenId>('a' + (hash >> 33) % 26);
}

bool Contains(const google::protobuf::RepeatedField<int32_t>& ids, TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

FakeTarget::FakeTarget(Options options) : options_(std::move(options)) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  CHECK(server_ != nullptr && port_ > 0);
  heartbeats_ = std::thread([this] { SendHeartbeats(); });
}

FakeTarget::~FakeTarget() { Stop(); }

void FakeTarget::Stop() {
  {
    MutexLock lock(mu_);
    if (stopped_) return;
    stopped_ = true;
    changed_.NotifyAll();
  }
  heartbeats_.join();
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

void FakeTarget::Permit(int num_steps) {
  MutexLock lock(mu_);
  num_permits_ += num_steps;
  changed_.NotifyAll();
}

void FakeTarget::BreakStreamNow() {
  MutexLock lock(mu_);
  break_now_ = true;
  changed_.NotifyAll();
}

bool FakeTarget::Await(const std::function<bool(const Received&)>& predicate) {
  const TimePoint deadline = std::chrono::steady_clock::now() + kAwaitMax;
  MutexLock lock(mu_);
  while (!predicate(received_)) {
    if (!changed_.WaitUntil(mu_, deadline)) return predicate(received_);
  }
  return true;
}

FakeTarget::Received FakeTarget::received() {
  MutexLock lock(mu_);
  return received_;
}

grpc::Status FakeTarget::GetModel(grpc::ServerContext*, const v1::GetModelRequest*, v1::ModelDescription* response) {
  response->set_name("tiny");
  response->set_architecture("fake");
  response->set_max_model_len(options_.max_model_len);
  response->set_vocab_size(kByteVocabSize);
  response->set_numerics_id(options_.numerics_id);
  response->set_numerics("reference");
  response->add_end_token_ids(kEndId);
  ToProto(ByteDefinition(), response->mutable_tokenizer());
  MutexLock lock(mu_);
  ++received_.num_model_fetches;
  changed_.NotifyAll();
  return grpc::Status::OK;
}

grpc::Status FakeTarget::Serve(grpc::ServerContext* context,
                               grpc::ServerReaderWriter<v1::TargetEvents, v1::TargetCommands>* stream) {
  Stream state;
  {
    MutexLock lock(mu_);
    ++received_.num_streams;
    changed_.NotifyAll();
  }
  std::thread steps([&] { RunSteps(context, stream, &state); });
  v1::TargetCommands commands;
  while (stream->Read(&commands)) {
    MutexLock lock(mu_);
    state.met = true;
    for (const v1::TargetCommand& command : commands.commands()) Apply(command, &state);
    changed_.NotifyAll();
  }
  {
    MutexLock lock(mu_);
    ++received_.num_streams_ended;
    state.closed = true;
    changed_.NotifyAll();
  }
  steps.join();
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the fake group broke the stream");
}

void FakeTarget::Apply(const v1::TargetCommand& command, Stream* state) {
  switch (command.command_case()) {
    case v1::TargetCommand::kSubmit: {
      const v1::Submit& submit = command.submit();
      received_.submits.push_back(submit);
      for (const v1::Lane& lane : submit.lanes()) {
        LaneState& made = state->lanes[{submit.request_id(), lane.lane()}];
        made.submit = submit;
        made.lane = lane.lane();
        made.prompt.assign(submit.prompt_token_ids().begin(), submit.prompt_token_ids().end());
        made.output.assign(lane.output_token_ids().begin(), lane.output_token_ids().end());
        made.num_given = made.output.size();
      }
      return;
    }
    case v1::TargetCommand::kCancel:
      received_.cancels.push_back(command.cancel());
      std::erase_if(state->lanes,
                    [&](const auto& entry) { return entry.first.first == command.cancel().request_id(); });
      return;
    case v1::TargetCommand::kStopAt: {
      received_.stop_ats.push_back(command.stop_at());
      const auto lane = state->lanes.find({command.stop_at().request_id(), command.stop_at().lane()});
      if (lane != state->lanes.end()) lane->second.stop_at = command.stop_at().num_output_tokens();
      return;
    }
    case v1::TargetCommand::COMMAND_NOT_SET:
      return;
  }
}

bool FakeTarget::Step(Stream* state, v1::TargetEvents* events) {
  for (auto it = state->lanes.begin(); it != state->lanes.end();) {
    LaneState& lane = it->second;
    const v1::SamplingParams& params = lane.submit.params();
    const auto add_event = [&]() -> v1::TargetEvent& {
      v1::TargetEvent& event = *events->add_events();
      event.set_request_id(lane.submit.request_id());
      event.set_lane(lane.lane);
      return event;
    };
    v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
    if (lane.stop_at > 0) {
      reason = v1::FINISH_REASON_STOP_STRING;
    } else if (options_.fail_code != 0 && lane.output.size() >= static_cast<size_t>(options_.fail_at_token)) {
      v1::LaneFailed& failed = *add_event().mutable_failed();
      failed.set_code(options_.fail_code);
      failed.set_message("the fake group refuses");
      it = state->lanes.erase(it);
      continue;
    } else {
      if (lane.output.size() == lane.num_given && lane.lane == lane.submit.lanes(0).lane() &&
          params.has_num_prompt_logprobs() && lane.prompt.size() > 1) {
        v1::PromptLogprobs& prompt = *add_event().mutable_prompt_logprobs();
        prompt.set_first_position(1);
        for (size_t i = 1; i < lane.prompt.size(); ++i) {
          v1::TokenLogprobs& token = *prompt.add_logprobs();
          token.set_logprob(-0.25f * static_cast<float>(i));
          token.set_rank(2);
          for (uint32_t j = 0; j < params.num_prompt_logprobs(); ++j) {
            v1::TokenLogprob& top = *token.add_top();
            top.set_token_id(j == 1 ? lane.prompt[i] : static_cast<TokenId>('A' + j));
            top.set_logprob(j == 1 ? token.logprob() : -0.125f * static_cast<float>(j + 1));
          }
        }
      }
      v1::Tokens& tokens = *add_event().mutable_tokens();
      tokens.set_first_output_index(static_cast<uint32_t>(lane.output.size()));
      for (int i = 0; i < options_.tokens_per_event && reason == v1::FINISH_REASON_UNSPECIFIED; ++i) {
        const TokenId id = options_.next_token ? options_.next_token(lane.prompt, lane.output, lane.lane)
                                               : HashToken(lane.prompt, lane.output, lane.lane);
        lane.output.push_back(id);
        tokens.add_token_ids(id);
        tokens.set_num_accepted(static_cast<uint32_t>(std::min(i + 1, options_.tokens_per_event - 1)));
        if (params.num_logprobs() >= 0) tokens.add_logprobs()->set_logprob(-0.5f);
        if (Contains(params.end_token_ids(), id)) {
          reason = v1::FINISH_REASON_END_TOKEN;
        } else if (Contains(params.stop_token_ids(), id)) {
          reason = v1::FINISH_REASON_STOP_TOKEN;
        } else if (lane.output.size() >= params.max_tokens()) {
          reason = v1::FINISH_REASON_LENGTH;
        }
      }
    }
    const int num_new = static_cast<int>(lane.output.size() - lane.num_given);
    if (options_.break_after_tokens >= 0 && num_new >= options_.break_after_tokens) {
      if (options_.break_after_tokens == 0) events->Clear();
      return false;
    }
    if (reason == v1::FINISH_REASON_UNSPECIFIED) {
      ++it;
      continue;
    }
    v1::LaneFinished& finished = *add_event().mutable_finished();
    finished.set_finish_reason(reason);
    finished.set_queue_ms(1);
    finished.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(lane.prompt.size()));
    finished.mutable_usage()->set_output_tokens(static_cast<uint32_t>(lane.output.size()));
    // As if half of a prediction were right.
    const uint32_t num_predicted = static_cast<uint32_t>(lane.submit.prediction_token_ids_size());
    finished.mutable_usage()->set_prediction_tokens(num_predicted);
    finished.mutable_usage()->set_accepted_prediction_tokens(num_predicted / 2);
    finished.mutable_usage()->set_plain_steps(static_cast<uint32_t>(lane.output.size()));
    it = state->lanes.erase(it);
  }
  return true;
}

void FakeTarget::RunSteps(grpc::ServerContext* context,
                          grpc::ServerReaderWriter<v1::TargetEvents, v1::TargetCommands>* stream, Stream* state) {
  {
    MutexLock lock(mu_);
    while (!stopped_ && !state->closed && !state->met) changed_.Wait(mu_);
  }
  stream->Write(v1::TargetEvents());  // the greeting
  while (true) {
    v1::TargetEvents events;
    bool go_on;
    {
      MutexLock lock(mu_);
      while (!stopped_ && !state->closed && !break_now_ &&
             (state->lanes.empty() || (options_.hold && num_permits_ == 0))) {
        changed_.Wait(mu_);
      }
      if (stopped_ || state->closed) break;
      if (options_.hold && num_permits_ > 0) --num_permits_;
      go_on = !break_now_ && Step(state, &events);
      break_now_ = false;
    }
    events.set_incarnation(options_.events_incarnation);
    if (events.events_size() > 0) stream->Write(events);
    if (!go_on) break;
  }
  context->TryCancel();
}

void FakeTarget::SendHeartbeats() {
  const auto stub =
      v1::Cluster::NewStub(grpc::CreateChannel(options_.router_address, grpc::InsecureChannelCredentials()));
  v1::HeartbeatRequest request;
  request.set_worker_id(options_.id);
  request.set_incarnation(options_.incarnation);
  request.set_address(absl::StrCat("127.0.0.1:", port_));
  v1::TargetGroupStatus& status = *request.mutable_target_group();
  status.set_epoch(1);
  status.set_model("tiny");
  status.set_numerics_id(options_.numerics_id);
  status.set_tokenizer_fingerprint(text::Fingerprint(ByteDefinition()));
  status.set_max_model_len(options_.max_model_len);
  status.set_max_sequences(options_.max_sequences);
  while (true) {
    status.set_serving(serving_);
    request.set_draining(draining_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    v1::HeartbeatResponse response;
    const bool silent = silent_;
    const grpc::Status result = silent ? grpc::Status::OK : stub->Heartbeat(&context, request, &response);
    MutexLock lock(mu_);
    if (!silent) {
      ++received_.num_heartbeats;
      received_.last_heartbeat = response;
      received_.last_heartbeat_status = result;
      changed_.NotifyAll();
    }
    const TimePoint next = std::chrono::steady_clock::now() + kHeartbeatInterval;
    while (!stopped_ && changed_.WaitUntil(mu_, next)) {
    }
    if (stopped_) return;
  }
}

grpc::Status SendDraftHeartbeat(const std::string& router_address, const std::string& id,
                                const std::string& tokenizer_fingerprint) {
  const auto stub = v1::Cluster::NewStub(grpc::CreateChannel(router_address, grpc::InsecureChannelCredentials()));
  v1::HeartbeatRequest request;
  request.set_worker_id(id);
  request.set_incarnation(3);
  request.set_address("127.0.0.1:1");
  request.mutable_draft_worker()->set_model("tiny-draft");
  request.mutable_draft_worker()->set_tokenizer_fingerprint(tokenizer_fingerprint);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  v1::HeartbeatResponse response;
  return stub->Heartbeat(&context, request, &response);
}

}  // namespace outrider::router
