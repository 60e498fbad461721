#include "worker/rpc/proto_conversions.h"

#include <limits>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/speculation/draft_session.h"  // kMaxPathTokens
#include "worker/step/draft_offer.h"           // kMaxLookahead

namespace outrider {
namespace {

std::vector<TokenId> Ids(const google::protobuf::RepeatedField<int32_t>& ids) { return {ids.begin(), ids.end()}; }

absl::StatusOr<int> IntFromWire(uint32_t value, absl::string_view name) {
  if (value > static_cast<uint32_t>(std::numeric_limits<int>::max())) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, ", too great"));
  }
  return static_cast<int>(value);
}

}  // namespace

absl::StatusOr<SamplingParams> ParamsFromProto(const v1::SamplingParams& proto, uint32_t lane) {
  SamplingParams params;
  params.temperature = proto.temperature();
  params.top_p = proto.top_p();
  ASSIGN_OR_RETURN(params.top_k, IntFromWire(proto.top_k(), "top_k"));
  params.min_p = proto.min_p();
  params.repetition_penalty = proto.repetition_penalty();
  params.presence_penalty = proto.presence_penalty();
  params.frequency_penalty = proto.frequency_penalty();
  if (proto.logit_bias_size() > kMaxLogitBias) {
    return absl::InvalidArgumentError(
        absl::StrCat("logit_bias has ", proto.logit_bias_size(), " entries; at most ", kMaxLogitBias));
  }
  for (const v1::LogitBias& bias : proto.logit_bias()) params.logit_bias.emplace_back(bias.token_id(), bias.bias());
  ASSIGN_OR_RETURN(params.max_tokens, IntFromWire(proto.max_tokens(), "max_tokens"));
  ASSIGN_OR_RETURN(params.min_tokens, IntFromWire(proto.min_tokens(), "min_tokens"));
  params.end_token_ids = Ids(proto.end_token_ids());
  params.stop_token_ids = Ids(proto.stop_token_ids());
  params.seed = proto.seed();
  params.lane = lane;
  params.num_logprobs = proto.num_logprobs();
  if (proto.has_num_prompt_logprobs()) {
    ASSIGN_OR_RETURN(params.num_prompt_logprobs, IntFromWire(proto.num_prompt_logprobs(), "num_prompt_logprobs"));
  }
  switch (proto.acceptance()) {
    case v1::ACCEPTANCE_COUPLED:
      params.acceptance = Acceptance::kCoupled;
      break;
    case v1::ACCEPTANCE_REJECTION:
      params.acceptance = Acceptance::kRejection;
      break;
    default:
      return absl::InvalidArgumentError(absl::StrCat("acceptance is ", static_cast<int>(proto.acceptance()),
                                                     "; 0 (coupled) and 1 (rejection) are known"));
  }
  return params;
}

void ParamsToProto(const SamplingParams& params, v1::SamplingParams* proto) {
  proto->set_temperature(params.temperature);
  proto->set_top_p(params.top_p);
  proto->set_top_k(static_cast<uint32_t>(params.top_k));
  proto->set_min_p(params.min_p);
  proto->set_repetition_penalty(params.repetition_penalty);
  proto->set_presence_penalty(params.presence_penalty);
  proto->set_frequency_penalty(params.frequency_penalty);
  for (const auto& [token, bias] : params.logit_bias) {
    v1::LogitBias* const entry = proto->add_logit_bias();
    entry->set_token_id(token);
    entry->set_bias(bias);
  }
  proto->set_max_tokens(static_cast<uint32_t>(params.max_tokens));
  proto->set_min_tokens(static_cast<uint32_t>(params.min_tokens));
  proto->mutable_end_token_ids()->Add(params.end_token_ids.begin(), params.end_token_ids.end());
  proto->mutable_stop_token_ids()->Add(params.stop_token_ids.begin(), params.stop_token_ids.end());
  proto->set_seed(params.seed);
  proto->set_num_logprobs(params.num_logprobs);
  if (params.num_prompt_logprobs >= 0) {
    proto->set_num_prompt_logprobs(static_cast<uint32_t>(params.num_prompt_logprobs));
  }
  proto->set_acceptance(params.acceptance == Acceptance::kCoupled ? v1::ACCEPTANCE_COUPLED : v1::ACCEPTANCE_REJECTION);
}

absl::StatusOr<Request> RequestFromProto(const v1::Submit& proto, TimePoint received) {
  if (proto.request_id() == 0) return absl::InvalidArgumentError("request_id is 0");
  if (proto.lanes().empty()) return absl::InvalidArgumentError("a request without lanes");
  if (proto.lookahead() < Request::kAutoLookahead || proto.lookahead() > kMaxLookahead) {
    return absl::InvalidArgumentError(
        absl::StrCat("lookahead is ", proto.lookahead(), "; it may be -1 (auto) or 0 to ", kMaxLookahead));
  }
  if (proto.priority() < -Request::kPriorityMax || proto.priority() > Request::kPriorityMax) {
    return absl::InvalidArgumentError(absl::StrCat("priority is ", proto.priority(), "; it may be ",
                                                   -Request::kPriorityMax, " to ", Request::kPriorityMax));
  }
  Request request;
  request.prompt = Ids(proto.prompt_token_ids());
  ASSIGN_OR_RETURN(request.params, ParamsFromProto(proto.params(), /*lane=*/0));
  for (const v1::Lane& lane : proto.lanes()) {
    request.lanes.push_back({.lane = lane.lane(), .output = Ids(lane.output_token_ids())});
  }
  if (proto.deadline_ms() != 0) request.deadline = received + std::chrono::milliseconds(proto.deadline_ms());
  request.draft = proto.draft();
  request.lookahead = proto.lookahead();
  request.priority = proto.priority();
  request.prefix_salt = proto.prefix_salt();
  request.prediction = Ids(proto.prediction_token_ids());
  return request;
}

std::optional<TraceContext> TraceFromProto(const v1::TraceContext& trace) {
  TraceContext context{
      .trace = {trace.trace_id_high(), trace.trace_id_low()}, .span = trace.span_id(), .sampled = trace.sampled()};
  if (!context.trace) return std::nullopt;
  return context;
}

std::optional<TraceContext> TraceFromProto(const v1::Submit& proto) {
  if (!proto.has_trace()) return std::nullopt;
  return TraceFromProto(proto.trace());
}

void LaneEventToProto(const LaneEvent& event, v1::TargetEvent* proto) {
  proto->set_request_id(event.id.request.value);
  proto->set_lane(event.id.lane);
  if (const auto* tokens = std::get_if<TokensEvent>(&event.event)) {
    v1::Tokens* const out = proto->mutable_tokens();
    out->set_first_output_index(static_cast<uint32_t>(tokens->first_output_index));
    out->mutable_token_ids()->Add(tokens->tokens.begin(), tokens->tokens.end());
    for (const TokenLogprobs& logprobs : tokens->logprobs) LogprobsToProto(logprobs, out->add_logprobs());
    out->set_num_accepted(static_cast<uint32_t>(tokens->num_accepted));
  } else if (const auto* prompt = std::get_if<PromptLogprobsEvent>(&event.event)) {
    v1::PromptLogprobs* const out = proto->mutable_prompt_logprobs();
    out->set_first_position(static_cast<uint32_t>(prompt->first_position));
    for (const TokenLogprobs& logprobs : prompt->logprobs) LogprobsToProto(logprobs, out->add_logprobs());
  } else if (const auto* finished = std::get_if<FinishedEvent>(&event.event)) {
    proto->mutable_finished()->set_finish_reason(FinishReasonToProto(finished->reason));
    UsageToProto(finished->usage, proto->mutable_finished()->mutable_usage());
    proto->mutable_finished()->set_queue_ms(finished->queue_ms);
  } else if (const auto* failed = std::get_if<FailedEvent>(&event.event)) {
    proto->mutable_failed()->set_code(static_cast<uint32_t>(failed->status.code()));
    proto->mutable_failed()->set_message(std::string(failed->status.message()));
    UsageToProto(failed->usage, proto->mutable_failed()->mutable_usage());
  }
}

void UsageToProto(const Usage& usage, v1::Usage* proto) {
  proto->set_prompt_tokens(static_cast<uint32_t>(usage.prompt_tokens));
  proto->set_output_tokens(static_cast<uint32_t>(usage.output_tokens));
  proto->set_cached_tokens(static_cast<uint32_t>(usage.cached_tokens));
  proto->set_rounds(static_cast<uint32_t>(usage.rounds));
  proto->set_plain_steps(static_cast<uint32_t>(usage.plain_steps));
  proto->set_draft_tokens(static_cast<uint32_t>(usage.draft_tokens));
  proto->set_accepted_tokens(static_cast<uint32_t>(usage.accepted_tokens));
  proto->set_prediction_tokens(static_cast<uint32_t>(usage.prediction_tokens));
  proto->set_accepted_prediction_tokens(static_cast<uint32_t>(usage.accepted_prediction_tokens));
  if (usage.rounds == 0) return;
  for (int i = 0; i <= usage.longest_draft; ++i) proto->add_rounds_by_accepted(usage.rounds_by_accepted[i]);
}

v1::FinishReason FinishReasonToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndToken:
      return v1::FINISH_REASON_END_TOKEN;
    case FinishReason::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case FinishReason::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void LogprobsToProto(const TokenLogprobs& logprobs, v1::TokenLogprobs* proto) {
  proto->set_logprob(logprobs.logprob);
  proto->set_rank(static_cast<uint32_t>(logprobs.rank));
  for (const auto& [token, logprob] : logprobs.top) {
    v1::TokenLogprob* const entry = proto->add_top();
    entry->set_token_id(token);
    entry->set_logprob(logprob);
  }
}

void TokenizerToProto(const text::TokenizerDefinition& definition, v1::TokenizerDefinition* proto) {
  proto->set_kind(definition.model);
  proto->set_pre_tokenizer(definition.pre);
  for (const std::string& token : definition.tokens) proto->add_tokens(token);
  std::string* const types = proto->mutable_token_types();
  for (text::TokenType type : definition.types) types->push_back(static_cast<char>(type));
  proto->mutable_scores()->Add(definition.scores.begin(), definition.scores.end());
  for (const std::string& merge : definition.merges) proto->add_merges(merge);
  if (definition.bos_id) proto->set_bos_id(*definition.bos_id);
  if (definition.eos_id) proto->set_eos_id(*definition.eos_id);
  if (definition.eot_id) proto->set_eot_id(*definition.eot_id);
  if (definition.eom_id) proto->set_eom_id(*definition.eom_id);
  if (definition.unk_id) proto->set_unk_id(*definition.unk_id);
  if (definition.pad_id) proto->set_pad_id(*definition.pad_id);
  proto->set_add_bos(definition.add_bos);
  proto->set_add_eos(definition.add_eos);
  proto->set_add_space_prefix(definition.add_space_prefix);
  proto->set_ignore_merges(definition.ignore_merges);
  proto->set_chat_template(definition.chat_template);
}

std::optional<DraftCommand> DraftCommandFromProto(const v1::DraftCommand& proto) {
  DraftCommand command{.sequence = proto.sequence(), .epoch = proto.epoch()};
  switch (proto.command_case()) {
    case v1::DraftCommand::kOpen: {
      auto params = ParamsFromProto(proto.open().params(), proto.open().lane());
      if (!params.ok()) return std::nullopt;
      command.command = DraftOpen{.prompt = Ids(proto.open().prompt_token_ids()),
                                  .output = Ids(proto.open().output_token_ids()),
                                  .params = *std::move(params),
                                  .lookahead = proto.open().lookahead()};
      if (proto.open().has_trace()) {
        auto& open = std::get<DraftOpen>(command.command);
        open.trace = TraceFromProto(proto.open().trace());
        if (open.trace.has_value() && !open.trace->sampled) open.trace.reset();
      }
      return command;
    }
    case v1::DraftCommand::kCommit:
      command.command = DraftCommit{.first_position = proto.commit().first_position(),
                                    .tokens = Ids(proto.commit().token_ids()),
                                    .lookahead = proto.commit().lookahead()};
      return command;
    case v1::DraftCommand::kClose:
      command.command = DraftClose{};
      return command;
    case v1::DraftCommand::COMMAND_NOT_SET:
      break;
  }
  return std::nullopt;
}

void ProposalToProto(const DraftProposal& proposal, v1::Proposal* proto) {
  proto->set_sequence(proposal.sequence);
  proto->set_epoch(proposal.epoch);
  proto->set_base_position(static_cast<uint32_t>(proposal.path.base_position));
  proto->add_paths()->mutable_token_ids()->Add(proposal.path.tokens.begin(), proposal.path.tokens.end());
}

void LoadToProto(const DrafterLoad& load, v1::DraftLoad* proto) {
  proto->set_sequences(static_cast<uint32_t>(load.num_sequences));
  proto->set_queued_tokens(static_cast<uint32_t>(load.num_queued_tokens));
  proto->set_tokens_per_second(load.tokens_per_second);
  proto->set_kv_used_ratio(load.kv_used_ratio);
}

void OpeningToProto(const DraftSource::Opening& opening, v1::DraftCommand* proto) {
  proto->set_sequence(opening.sequence.value);
  proto->set_epoch(opening.epoch);
  v1::OpenSequence* const open = proto->mutable_open();
  open->mutable_prompt_token_ids()->Add(opening.prompt.begin(), opening.prompt.end());
  open->mutable_output_token_ids()->Add(opening.output.begin(), opening.output.end());
  ParamsToProto(*opening.params, open->mutable_params());
  open->mutable_params()->clear_num_prompt_logprobs();  // the target's alone
  open->set_lane(opening.params->lane);
  if (opening.trace != nullptr) {
    v1::TraceContext* const trace = open->mutable_trace();
    trace->set_trace_id_high(opening.trace->trace.high);
    trace->set_trace_id_low(opening.trace->trace.low);
    trace->set_span_id(opening.trace->span);
    trace->set_sampled(opening.trace->sampled);
  }
  open->set_lookahead(static_cast<uint32_t>(opening.lookahead));
}

void AdvanceToProto(const DraftSource::Advance& advance, v1::DraftCommand* proto) {
  proto->set_sequence(advance.sequence.value);
  proto->set_epoch(advance.epoch);
  v1::Commit* const commit = proto->mutable_commit();
  commit->set_first_position(static_cast<uint32_t>(advance.first_position));
  commit->mutable_token_ids()->Add(advance.tokens.begin(), advance.tokens.end());
  commit->set_lookahead(static_cast<uint32_t>(advance.lookahead));
}

void ProposalsFromProto(const v1::Proposal& proto, std::vector<DraftSource::Proposal>& proposals) {
  const int base_position = IntFromWire(proto.base_position(), "base_position").value_or(-1);
  const auto add = [&](std::vector<TokenId> tokens) {
    proposals.push_back({.sequence = SequenceId(proto.sequence()),
                         .epoch = proto.epoch(),
                         .path = {.base_position = base_position, .tokens = std::move(tokens)}});
  };
  if (proto.paths().empty()) add({});
  // What is too long stays too long; the rest of it is not copied.
  constexpr int kTooLong = kMaxPathTokens + 1;
  for (const v1::DraftPath& path : proto.paths()) {
    const auto& ids = path.token_ids();
    add(std::vector<TokenId>(ids.begin(), ids.begin() + std::min(ids.size(), kTooLong)));
  }
}

void EngineTotalsToProto(const EngineTotals& totals, v1::EngineTotals* proto) {
  proto->set_preemptions(static_cast<uint64_t>(totals.num_preemptions));
  proto->set_rounds(static_cast<uint64_t>(totals.num_rounds));
  proto->set_hidden_rounds(static_cast<uint64_t>(totals.num_hidden_rounds));
  proto->set_committed_tokens(static_cast<uint64_t>(totals.num_committed_tokens));
  size_t num_positions = totals.draft_tokens.size();
  while (num_positions > 0 && totals.draft_tokens[num_positions - 1] == 0) --num_positions;
  for (size_t i = 0; i < num_positions; ++i) {
    proto->add_draft_tokens(static_cast<uint64_t>(totals.draft_tokens[i]));
    proto->add_accepted_tokens(static_cast<uint64_t>(totals.accepted_tokens[i]));
  }
  proto->set_step_tokens(static_cast<uint64_t>(totals.num_step_tokens));
  for (const int64_t count : totals.steps_by_tokens) proto->add_steps_by_tokens(static_cast<uint64_t>(count));
}

}  // namespace outrider
