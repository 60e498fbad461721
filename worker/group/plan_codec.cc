#include "worker/group/plan_codec.h"

#include <algorithm>
#include <climits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

absl::Status Bad(absl::string_view field, uint64_t value, absl::string_view rule) {
  return absl::InvalidArgumentError(absl::StrCat("step plan: ", field, " = ", value, " ", rule));
}

// *out = value, which must be at most `limit` (INT_MAX where a limit of 0 means that none is known).
absl::Status ToInt(absl::string_view field, uint64_t value, int64_t limit, int* out) {
  const uint64_t bound = limit > 0 ? static_cast<uint64_t>(limit) : INT_MAX;
  if (value > bound) return Bad(field, value, absl::StrCat("is beyond ", bound));
  *out = static_cast<int>(value);
  return absl::OkStatus();
}

void ParamsToProto(const SamplingParams& params, v1::SamplingParams* out) {
  out->set_temperature(params.temperature);
  out->set_top_p(params.top_p);
  out->set_top_k(static_cast<uint32_t>(params.top_k));
  out->set_min_p(params.min_p);
  out->set_repetition_penalty(params.repetition_penalty);
  out->set_presence_penalty(params.presence_penalty);
  out->set_frequency_penalty(params.frequency_penalty);
  for (const auto& [id, bias] : params.logit_bias) {
    v1::LogitBias* entry = out->add_logit_bias();
    entry->set_token_id(id);
    entry->set_bias(bias);
  }
  out->set_max_tokens(static_cast<uint32_t>(params.max_tokens));
  out->set_min_tokens(static_cast<uint32_t>(params.min_tokens));
  out->mutable_end_token_ids()->Add(params.end_token_ids.begin(), params.end_token_ids.end());
  out->mutable_stop_token_ids()->Add(params.stop_token_ids.begin(), params.stop_token_ids.end());
  out->set_seed(params.seed);
  out->set_num_logprobs(params.num_logprobs);
  if (params.num_prompt_logprobs >= 0) out->set_num_prompt_logprobs(static_cast<uint32_t>(params.num_prompt_logprobs));
  out->set_acceptance(params.acceptance == Acceptance::kRejection ? v1::ACCEPTANCE_REJECTION : v1::ACCEPTANCE_COUPLED);
}

absl::Status ParamsFromProto(const v1::SamplingParams& params, int vocab_size, SamplingParams* out) {
  out->temperature = params.temperature();
  out->top_p = params.top_p();
  RETURN_IF_ERROR(ToInt("top_k", params.top_k(), 0, &out->top_k));
  out->min_p = params.min_p();
  out->repetition_penalty = params.repetition_penalty();
  out->presence_penalty = params.presence_penalty();
  out->frequency_penalty = params.frequency_penalty();
  out->logit_bias.clear();
  for (const v1::LogitBias& entry : params.logit_bias()) out->logit_bias.emplace_back(entry.token_id(), entry.bias());
  RETURN_IF_ERROR(ToInt("max_tokens", params.max_tokens(), 0, &out->max_tokens));
  RETURN_IF_ERROR(ToInt("min_tokens", params.min_tokens(), 0, &out->min_tokens));
  out->end_token_ids.assign(params.end_token_ids().begin(), params.end_token_ids().end());
  out->stop_token_ids.assign(params.stop_token_ids().begin(), params.stop_token_ids().end());
  out->seed = params.seed();
  out->num_logprobs = params.num_logprobs();
  out->num_prompt_logprobs = -1;
  if (params.has_num_prompt_logprobs()) {
    RETURN_IF_ERROR(ToInt("num_prompt_logprobs", params.num_prompt_logprobs(), 0, &out->num_prompt_logprobs));
  }
  if (params.acceptance() != v1::ACCEPTANCE_COUPLED && params.acceptance() != v1::ACCEPTANCE_REJECTION) {
    return Bad("acceptance", static_cast<uint64_t>(params.acceptance()), "is unknown");
  }
  out->acceptance = params.acceptance() == v1::ACCEPTANCE_REJECTION ? Acceptance::kRejection : Acceptance::kCoupled;
  return Validate(*out, vocab_size > 0 ? vocab_size : INT_MAX);
}

}  // namespace

void PlanCodec::Encode(const StepPlan& plan, std::string* bytes) {
  message_.Clear();
  message_.set_step(plan.step.value);
  for (const SequenceStart& start : plan.starts) {
    v1::SequenceStart* out = message_.add_starts();
    out->set_sequence(start.sequence.value);
    out->mutable_prompt_token_ids()->Add(start.prompt.begin(), start.prompt.end());
    out->mutable_output_token_ids()->Add(start.output.begin(), start.output.end());
    ParamsToProto(start.params, out->mutable_params());
    out->set_lane(start.params.lane);
  }
  for (const SequenceId id : plan.ends) message_.add_ends(id.value);
  for (const Span& span : plan.spans) {
    v1::Span* out = message_.add_spans();
    out->set_sequence(span.sequence.value);
    out->set_predecessor(span.predecessor.value);
    out->set_first_position(static_cast<uint32_t>(span.first_position));
    out->set_num_committed_tokens(static_cast<uint32_t>(span.num_committed_tokens));
    out->set_samples(span.samples);
    out->set_lookahead(static_cast<uint32_t>(span.lookahead));
    for (const DraftPath& path : span.paths) {
      v1::SpanPath* out_path = out->add_paths();
      out_path->set_base_position(static_cast<uint32_t>(path.base_position));
      out_path->mutable_token_ids()->Add(path.tokens.begin(), path.tokens.end());
    }
    out->set_first_block_index(static_cast<uint32_t>(span.first_block_index));
    out->mutable_blocks()->Add(span.blocks.begin(), span.blocks.end());
  }
  CHECK(message_.AppendToString(bytes));
}

absl::Status PlanCodec::Decode(absl::string_view bytes, StepPlan* plan) {
  if (!message_.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::InvalidArgumentError(absl::StrCat("step plan: ", bytes.size(), " bytes do not parse"));
  }
  if (message_.step() == 0) return Bad("step", 0, "names no step");
  plan->step = StepId(message_.step());
  if (message_.spans_size() > kMaxPlanSpans || message_.starts_size() > kMaxPlanSpans) {
    return Bad("spans and starts", static_cast<uint64_t>(message_.spans_size()) + message_.starts_size(),
               absl::StrCat("are beyond ", kMaxPlanSpans, " each"));
  }
  plan->starts.resize(static_cast<size_t>(message_.starts_size()));
  for (int i = 0; i < message_.starts_size(); ++i) {
    RETURN_IF_ERROR(DecodeStart(message_.starts(i), &plan->starts[i]));
  }
  plan->ends.clear();
  for (const uint64_t id : message_.ends()) {
    if (id == 0) return Bad("ends", id, "names no sequence");
    plan->ends.emplace_back(id);
  }
  plan->spans.resize(static_cast<size_t>(message_.spans_size()));
  named_.clear();
  for (int i = 0; i < message_.spans_size(); ++i) {
    RETURN_IF_ERROR(DecodeSpan(message_.spans(i), &plan->spans[i]));
    named_.push_back(message_.spans(i).sequence());
  }
  std::sort(named_.begin(), named_.end());
  if (const auto twice = std::adjacent_find(named_.begin(), named_.end()); twice != named_.end()) {
    return Bad("spans.sequence", *twice, "has two spans");
  }
  return absl::OkStatus();
}

absl::Status PlanCodec::CheckToken(TokenId token, absl::string_view what) const {
  if (token >= 0 && (limits_.vocab_size == 0 || token < limits_.vocab_size)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("step plan: ", what, " holds ", token, ", no token of a vocabulary of ", limits_.vocab_size));
}

absl::Status PlanCodec::DecodeStart(const v1::SequenceStart& start, SequenceStart* out) const {
  if (start.sequence() == 0) return Bad("starts.sequence", 0, "names no sequence");
  out->sequence = SequenceId(start.sequence());
  if (start.prompt_token_ids().empty()) return Bad("starts.sequence", start.sequence(), "has an empty prompt");
  const int64_t num_tokens = int64_t{start.prompt_token_ids_size()} + start.output_token_ids_size();
  if (limits_.max_model_len > 0 && num_tokens > limits_.max_model_len) {
    return Bad("starts.sequence", start.sequence(),
               absl::StrCat("has ", num_tokens, " tokens, the context ", limits_.max_model_len));
  }
  for (const TokenId token : start.prompt_token_ids()) RETURN_IF_ERROR(CheckToken(token, "prompt_token_ids"));
  for (const TokenId token : start.output_token_ids()) RETURN_IF_ERROR(CheckToken(token, "output_token_ids"));
  out->prompt.assign(start.prompt_token_ids().begin(), start.prompt_token_ids().end());
  out->output.assign(start.output_token_ids().begin(), start.output_token_ids().end());
  RETURN_IF_ERROR(ParamsFromProto(start.params(), limits_.vocab_size, &out->params));
  out->params.lane = start.lane();
  return absl::OkStatus();
}

absl::Status PlanCodec::DecodeSpan(const v1::Span& span, Span* out) const {
  const int64_t positions = limits_.max_model_len;
  if (span.sequence() == 0) return Bad("spans.sequence", 0, "names no sequence");
  out->sequence = SequenceId(span.sequence());
  out->predecessor = StepId(span.predecessor());
  RETURN_IF_ERROR(ToInt("spans.first_position", span.first_position(), positions, &out->first_position));
  RETURN_IF_ERROR(
      ToInt("spans.num_committed_tokens", span.num_committed_tokens(), positions, &out->num_committed_tokens));
  if (span.num_committed_tokens() == 0) return Bad("spans.num_committed_tokens", 0, "computes nothing");
  if (span.predecessor() != 0 && span.num_committed_tokens() != 1) {
    return Bad("spans.num_committed_tokens", span.num_committed_tokens(), "with a predecessor; it must be 1");
  }
  out->samples = span.samples();
  RETURN_IF_ERROR(ToInt("spans.lookahead", span.lookahead(), kMaxPlanDraftTokens, &out->lookahead));
  if (span.lookahead() > 0 && !span.samples()) return Bad("spans.lookahead", span.lookahead(), "without sampling");
  if (span.paths_size() > kMaxPlanPaths) {
    return Bad("spans.paths", static_cast<uint64_t>(span.paths_size()), absl::StrCat("are beyond ", kMaxPlanPaths));
  }
  out->paths.resize(static_cast<size_t>(span.paths_size()));
  for (int i = 0; i < span.paths_size(); ++i) {
    const v1::SpanPath& path = span.paths(i);
    RETURN_IF_ERROR(ToInt("spans.paths.base_position", path.base_position(), positions, &out->paths[i].base_position));
    if (path.token_ids_size() > kMaxPlanDraftTokens) {
      return Bad("spans.paths.token_ids", static_cast<uint64_t>(path.token_ids_size()),
                 absl::StrCat("are beyond ", kMaxPlanDraftTokens));
    }
    for (const TokenId token : path.token_ids()) RETURN_IF_ERROR(CheckToken(token, "spans.paths.token_ids"));
    out->paths[i].tokens.assign(path.token_ids().begin(), path.token_ids().end());
  }
  RETURN_IF_ERROR(ToInt("spans.first_block_index", span.first_block_index(), 0, &out->first_block_index));
  for (const BlockId block : span.blocks()) {
    if (block < 0 || (limits_.num_kv_blocks > 0 && block >= limits_.num_kv_blocks)) {
      return absl::InvalidArgumentError(
          absl::StrCat("step plan: spans.blocks holds ", block, ", no block of ", limits_.num_kv_blocks));
    }
  }
  out->blocks.assign(span.blocks().begin(), span.blocks().end());
  return absl::OkStatus();
}

}  // namespace outrider
