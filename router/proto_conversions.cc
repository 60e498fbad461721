#include "router/proto_conversions.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "router/request_validation.h"

namespace outrider::router {
namespace {

// ms to the microsecond: what is beyond it is noise, and long when printed.
double WholeMicros(double ms) { return std::round(ms * 1000) / 1000; }

int ToInt(uint32_t value) { return static_cast<int>(std::min<uint32_t>(value, std::numeric_limits<int>::max())); }

int64_t ToInt64(uint64_t value) {
  // Sums of many stay far from the edge.
  return static_cast<int64_t>(std::min<uint64_t>(value, uint64_t{1} << 50));
}

absl::Span<const TokenId> SpanOf(const google::protobuf::RepeatedField<int32_t>& ids) {
  return absl::MakeConstSpan(ids.data(), ids.size());
}

void Append(const std::vector<TokenId>& ids, google::protobuf::RepeatedField<int32_t>* out) {
  out->Reserve(out->size() + static_cast<int>(ids.size()));
  out->Add(ids.begin(), ids.end());
}

v1::FinishReason ToProto(EndReason reason) {
  switch (reason) {
    case EndReason::kEndToken:
      return v1::FINISH_REASON_END_TOKEN;
    case EndReason::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case EndReason::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case EndReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case EndReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void ToProto(const LaneUsage& usage, v1::Usage* out) {
  out->set_prompt_tokens(usage.prompt_tokens);
  out->set_output_tokens(usage.output_tokens);
  out->set_cached_tokens(usage.cached_tokens);
  out->set_rounds(usage.rounds);
  out->set_plain_steps(usage.plain_steps);
  out->set_draft_tokens(usage.draft_tokens);
  out->set_accepted_tokens(usage.accepted_tokens);
  out->mutable_rounds_by_accepted()->Assign(usage.rounds_by_accepted.begin(), usage.rounds_by_accepted.end());
  out->set_prediction_tokens(usage.prediction_tokens);
  out->set_accepted_prediction_tokens(usage.accepted_prediction_tokens);
}

void ToProto(const RelayedLogprobs& logprobs, v1::TokenLogprobs* out) {
  out->set_logprob(logprobs.logprob);
  out->set_rank(logprobs.rank);
  for (const auto& [token_id, logprob] : logprobs.top) {
    v1::TokenLogprob& entry = *out->add_top();
    entry.set_token_id(token_id);
    entry.set_logprob(logprob);
  }
}

WorkerIdentity IdentityOf(const v1::HeartbeatRequest& request) {
  return {.id = request.worker_id(),
          .incarnation = request.incarnation(),
          .address = request.address(),
          .draining = request.draining()};
}

}  // namespace

std::vector<RequestInput::ChatMessage> ViewOf(const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) {
  std::vector<RequestInput::ChatMessage> views;
  views.reserve(messages.size());
  for (const v1::ChatMessage& message : messages) views.push_back({message.role(), message.content()});
  return views;
}

RequestInput ViewOf(const v1::GenerateRequest& request) {
  RequestInput input;
  if (request.has_prompt()) input.prompt = request.prompt();
  input.messages = ViewOf(request.messages());
  input.prompt_token_ids = SpanOf(request.prompt_token_ids());
  if (request.has_max_tokens()) input.max_tokens = request.max_tokens();
  if (request.has_min_tokens()) input.min_tokens = request.min_tokens();
  if (request.has_temperature()) input.temperature = request.temperature();
  if (request.has_top_p()) input.top_p = request.top_p();
  if (request.has_top_k()) input.top_k = request.top_k();
  if (request.has_min_p()) input.min_p = request.min_p();
  if (request.has_repetition_penalty()) input.repetition_penalty = request.repetition_penalty();
  if (request.has_presence_penalty()) input.presence_penalty = request.presence_penalty();
  if (request.has_frequency_penalty()) input.frequency_penalty = request.frequency_penalty();
  input.logit_bias.reserve(request.logit_bias_size());
  for (const v1::LogitBias& bias : request.logit_bias()) input.logit_bias.emplace_back(bias.token_id(), bias.bias());
  if (request.has_seed()) input.seed = request.seed();
  for (const std::string& stop : request.stop()) input.stop.emplace_back(stop);
  input.stop_token_ids = SpanOf(request.stop_token_ids());
  if (request.has_ignore_eos()) input.ignore_eos = request.ignore_eos();
  if (request.has_n()) input.num_choices = request.n();
  if (request.has_num_logprobs()) input.num_logprobs = request.num_logprobs();
  if (request.has_draft()) input.draft = request.draft();
  if (request.has_lookahead()) input.lookahead = request.lookahead();
  if (request.has_acceptance()) input.acceptance = static_cast<int32_t>(request.acceptance());
  input.priority = request.priority();
  input.return_token_origins = request.return_token_origins();
  if (request.has_skip_special_tokens()) input.skip_special_tokens = request.skip_special_tokens();
  if (request.has_include_stop_in_text()) input.include_stop_in_text = request.include_stop_in_text();
  if (request.has_add_special_tokens()) input.add_special_tokens = request.add_special_tokens();
  if (request.has_add_generation_prompt()) input.chat.add_generation_prompt = request.add_generation_prompt();
  if (request.has_continue_final_message()) input.chat.continue_final_message = request.continue_final_message();
  if (request.has_chat_template_kwargs()) input.chat.template_kwargs = request.chat_template_kwargs();
  if (request.has_cache_salt()) input.cache_salt = request.cache_salt();
  if (request.has_prompt_logprobs()) input.num_prompt_logprobs = request.prompt_logprobs();
  if (request.has_prediction()) input.prediction = request.prediction();
  return input;
}

void ToProto(const TraceContext& context, v1::TraceContext* proto) {
  proto->set_trace_id_high(context.trace.high);
  proto->set_trace_id_low(context.trace.low);
  proto->set_span_id(context.span);
  proto->set_sampled(context.sampled);
}

v1::Submit ToSubmit(const ResolvedRequest& request, const GenerateRelay& relay) {
  v1::Submit submit;
  Append(request.prompt_token_ids, submit.mutable_prompt_token_ids());
  const ResolvedSampling& sampling = request.sampling;
  v1::SamplingParams& params = *submit.mutable_params();
  params.set_temperature(sampling.temperature);
  params.set_top_p(sampling.top_p);
  params.set_top_k(sampling.top_k);
  params.set_min_p(sampling.min_p);
  params.set_repetition_penalty(sampling.repetition_penalty);
  params.set_presence_penalty(sampling.presence_penalty);
  params.set_frequency_penalty(sampling.frequency_penalty);
  for (const auto& [token_id, bias] : sampling.logit_bias) {
    v1::LogitBias& entry = *params.add_logit_bias();
    entry.set_token_id(token_id);
    entry.set_bias(bias);
  }
  params.set_max_tokens(sampling.max_tokens);
  params.set_min_tokens(sampling.min_tokens);
  Append(sampling.end_token_ids, params.mutable_end_token_ids());
  Append(sampling.stop_token_ids, params.mutable_stop_token_ids());
  params.set_seed(sampling.seed);
  params.set_num_logprobs(sampling.num_logprobs);
  // What an earlier attempt told of the prompt is not asked for again, unless some of it is lacking.
  if (sampling.num_prompt_logprobs >= 0 && !relay.prompt_logprobs_done()) {
    params.set_num_prompt_logprobs(static_cast<uint32_t>(sampling.num_prompt_logprobs));
  }
  params.set_acceptance(static_cast<v1::Acceptance>(sampling.acceptance));
  for (const uint32_t index : relay.LanesToRun()) {
    v1::Lane& lane = *submit.add_lanes();
    lane.set_lane(index);
    Append(relay.output_token_ids(index), lane.mutable_output_token_ids());
  }
  Append(request.prediction_token_ids, submit.mutable_prediction_token_ids());
  submit.set_draft(request.draft);
  submit.set_lookahead(request.lookahead);
  submit.set_priority(request.priority);
  submit.set_prefix_salt(request.prefix_salt);
  return submit;
}

void ToProto(ClientEvent& event, const std::string& numerics_id, v1::GenerateResponse* response) {
  if (event.end.has_value()) {
    const ClientEvent::End& end = *event.end;
    v1::Finished& finished = *response->mutable_finished();
    finished.set_choice_index(event.choice_index);
    finished.set_finish_reason(ToProto(end.reason));
    finished.set_stop_string(end.stop_string);
    ToProto(end.usage, finished.mutable_usage());
    finished.mutable_timing_ms()->set_queue(WholeMicros(end.timing.queue));
    finished.mutable_timing_ms()->set_first_token(WholeMicros(end.timing.first_token));
    finished.mutable_timing_ms()->set_decode(WholeMicros(end.timing.decode));
    finished.mutable_timing_ms()->set_total(WholeMicros(end.timing.total));
    finished.set_numerics_id(numerics_id);
    return;
  }
  if (!event.prompt_logprobs.empty()) {
    v1::PromptLogprobs& prompt = *response->mutable_prompt_logprobs();
    prompt.Clear();
    prompt.set_first_position(event.first_prompt_position);
    for (const RelayedLogprobs& token : event.prompt_logprobs) ToProto(token, prompt.add_logprobs());
    event.prompt_logprobs.clear();
    return;
  }
  v1::Delta& delta = *response->mutable_delta();
  delta.Clear();
  delta.set_choice_index(event.choice_index);
  Append(event.token_ids, delta.mutable_token_ids());
  delta.mutable_text()->swap(event.text);
  for (const RelayedLogprobs& token : event.logprobs) ToProto(token, delta.add_logprobs());
  for (const TokenOrigin& origin : event.origins) {
    v1::TokenOrigin& out = *delta.add_origins();
    out.set_draft(origin.draft);
    out.set_text_bytes(origin.text_bytes);
  }
}

std::vector<RelayedLogprobs> FromProto(const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& logprobs) {
  std::vector<RelayedLogprobs> result;
  result.reserve(logprobs.size());
  for (const v1::TokenLogprobs& token : logprobs) {
    RelayedLogprobs& entry = result.emplace_back();
    entry.logprob = token.logprob();
    entry.rank = token.rank();
    entry.top.reserve(token.top_size());
    for (const v1::TokenLogprob& top : token.top()) entry.top.emplace_back(top.token_id(), top.logprob());
  }
  return result;
}

LaneUsage FromProto(const v1::Usage& usage) {
  LaneUsage out{.prompt_tokens = usage.prompt_tokens(),
                .output_tokens = usage.output_tokens(),
                .cached_tokens = usage.cached_tokens(),
                .rounds = usage.rounds(),
                .plain_steps = usage.plain_steps(),
                .draft_tokens = usage.draft_tokens(),
                .accepted_tokens = usage.accepted_tokens(),
                .prediction_tokens = usage.prediction_tokens(),
                .accepted_prediction_tokens = usage.accepted_prediction_tokens()};
  uint64_t num_rounds = 0, num_accepted = 0;
  for (int i = 0; i < usage.rounds_by_accepted_size() && i <= kMaxLookahead; ++i) {
    num_rounds += usage.rounds_by_accepted(i);
    num_accepted += uint64_t{usage.rounds_by_accepted(i)} * static_cast<uint64_t>(i);
  }
  if (num_rounds == usage.rounds() && num_accepted == usage.accepted_tokens() &&
      usage.rounds_by_accepted_size() <= kMaxLookahead + 1) {
    out.rounds_by_accepted.assign(usage.rounds_by_accepted().begin(), usage.rounds_by_accepted().end());
  }
  return out;
}

absl::StatusOr<EndReason> FromProto(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_END_TOKEN:
      return EndReason::kEndToken;
    case v1::FINISH_REASON_STOP_TOKEN:
      return EndReason::kStopToken;
    case v1::FINISH_REASON_STOP_STRING:
      return EndReason::kStopString;
    case v1::FINISH_REASON_LENGTH:
      return EndReason::kLength;
    case v1::FINISH_REASON_CANCELLED:
      return EndReason::kCancelled;
    default:
      return absl::InternalError(absl::StrCat("the target group broke the protocol: finish reason ",
                                              static_cast<int>(reason), " does not exist"));
  }
}

absl::Status FromProto(const v1::LaneFailed& failed) {
  constexpr uint32_t kLastCode = static_cast<uint32_t>(absl::StatusCode::kUnauthenticated);
  const absl::StatusCode code = failed.code() == 0 || failed.code() > kLastCode
                                    ? absl::StatusCode::kInternal
                                    : static_cast<absl::StatusCode>(failed.code());
  return absl::Status(code, failed.message());
}

namespace {

// As many entries as there is room for; what an older or a wrong group sends beyond is left out.
template <size_t N>
void CopyCounts(const google::protobuf::RepeatedField<uint64_t>& from, std::array<int64_t, N>& to) {
  const size_t count = std::min(N, static_cast<size_t>(from.size()));
  for (size_t i = 0; i < count; ++i) to[i] = ToInt64(from[static_cast<int>(i)]);
}

EngineTotals FromProto(const v1::EngineTotals& totals) {
  EngineTotals out;
  out.num_preemptions = ToInt64(totals.preemptions());
  out.num_rounds = ToInt64(totals.rounds());
  out.num_hidden_rounds = ToInt64(totals.hidden_rounds());
  out.num_committed_tokens = ToInt64(totals.committed_tokens());
  CopyCounts(totals.draft_tokens(), out.draft_tokens);
  CopyCounts(totals.accepted_tokens(), out.accepted_tokens);
  out.num_step_tokens = ToInt64(totals.step_tokens());
  CopyCounts(totals.steps_by_tokens(), out.steps_by_tokens);
  return out;
}

}  // namespace

GroupReport ToGroupReport(const v1::HeartbeatRequest& request) {
  const v1::TargetGroupStatus& status = request.target_group();
  std::vector<DraftLinkView> links;
  for (const v1::DraftLinkStatus& link : status.draft_links()) {
    if (links.size() >= kMaxDraftLinks) break;
    links.push_back({.worker_id = link.worker_id(),
                     .incarnation = link.incarnation(),
                     .round_trip_ms = static_cast<double>(link.round_trip_ms())});
  }
  return {.who = IdentityOf(request),
          .model = {.model = status.model(), .tokenizer_fingerprint = status.tokenizer_fingerprint()},
          .numerics_id = status.numerics_id(),
          .epoch = status.epoch(),
          .max_model_len = ToInt(status.max_model_len()),
          .max_sequences = ToInt(status.max_sequences()),
          .serving = status.serving(),
          .load = {.num_lanes = int64_t{status.sequences_running()} + status.sequences_waiting(),
                   .num_tokens = ToInt64(status.outstanding_tokens())},
          .usage = {.sequences_running = ToInt(status.sequences_running()),
                    .sequences_waiting = ToInt(status.sequences_waiting()),
                    .kv_cache_used_ratio = status.kv_cache_used_ratio(),
                    .block_size = ToInt(status.block_size()),
                    .num_kv_blocks = ToInt(status.num_kv_blocks()),
                    .num_ranks = ToInt(status.num_ranks()),
                    .totals = FromProto(status.totals())},
          .draft_links = std::move(links)};
}

DraftWorkerReport ToDraftWorkerReport(const v1::HeartbeatRequest& request) {
  const v1::DraftWorkerStatus& status = request.draft_worker();
  return {.who = IdentityOf(request),
          .model = status.model(),
          .tokenizer_fingerprint = status.tokenizer_fingerprint(),
          .max_sequences = ToInt(status.max_sequences()),
          .num_sequences = ToInt(status.sequences()),
          .num_queued_tokens = ToInt(status.queued_tokens()),
          .tokens_per_second = static_cast<double>(status.tokens_per_second())};
}

absl::StatusOr<text::TokenizerDefinition> FromProto(v1::TokenizerDefinition&& definition) {
  text::TokenizerDefinition result;
  const std::string& types = definition.token_types();
  if (!types.empty() && types.size() != static_cast<size_t>(definition.tokens_size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tokenizer has ", definition.tokens_size(), " tokens, but ", types.size(), " token types"));
  }
  result.model = std::move(*definition.mutable_kind());
  result.pre = std::move(*definition.mutable_pre_tokenizer());
  result.tokens.reserve(definition.tokens_size());
  for (std::string& token : *definition.mutable_tokens()) result.tokens.push_back(std::move(token));
  result.types.reserve(types.size());
  for (const char type : types) result.types.push_back(static_cast<text::TokenType>(static_cast<uint8_t>(type)));
  result.scores.assign(definition.scores().begin(), definition.scores().end());
  result.merges.reserve(definition.merges_size());
  for (std::string& merge : *definition.mutable_merges()) result.merges.push_back(std::move(merge));
  if (definition.has_bos_id()) result.bos_id = definition.bos_id();
  if (definition.has_eos_id()) result.eos_id = definition.eos_id();
  if (definition.has_eot_id()) result.eot_id = definition.eot_id();
  if (definition.has_eom_id()) result.eom_id = definition.eom_id();
  if (definition.has_unk_id()) result.unk_id = definition.unk_id();
  if (definition.has_pad_id()) result.pad_id = definition.pad_id();
  result.add_bos = definition.add_bos();
  result.add_eos = definition.add_eos();
  result.add_space_prefix = definition.add_space_prefix();
  result.ignore_merges = definition.ignore_merges();
  result.chat_template = std::move(*definition.mutable_chat_template());
  return result;
}

}  // namespace outrider::router
