#include "router/vllm_engine_messages.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace outrider::router {
namespace {

absl::Status NotOffered(const char* field, const char* instead) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is not offered", instead));
}

absl::Status CheckOffered(const vllm::GenerateRequest& request) {
  const vllm::SamplingParams& sampling = request.sampling_params();
  if (request.has_kv_transfer_params())
    return NotOffered("kv_transfer_params", "; prompts are computed where they run");
  if (request.has_mm_inputs()) return NotOffered("mm_inputs", "; this model reads text alone");
  if (sampling.constraint_case() != vllm::SamplingParams::CONSTRAINT_NOT_SET) {
    return NotOffered("sampling_params.constraint", " yet; leave it out, or check the answer");
  }
  if (sampling.has_prompt_logprobs()) return NotOffered("sampling_params.prompt_logprobs", "; leave it out");
  if (sampling.has_truncate_prompt_tokens()) {
    return NotOffered("sampling_params.truncate_prompt_tokens", "; cut the prompt before it is sent");
  }
  if (sampling.has_logprobs() && sampling.logprobs() < 0) {
    return absl::InvalidArgumentError(absl::StrCat("sampling_params.logprobs = ", sampling.logprobs(),
                                                   " is not within 0 to 20; those of the whole vocabulary are not "
                                                   "offered"));
  }
  return absl::OkStatus();
}

void CopyLogprobs(const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& logprobs,
                  const google::protobuf::RepeatedField<int32_t>& token_ids, vllm::OutputLogProbs* out) {
  for (int i = 0; i < std::min(logprobs.size(), token_ids.size()); ++i) {
    out->add_token_logprobs(logprobs[i].logprob());
    out->add_token_ids(static_cast<uint32_t>(token_ids[i]));
    vllm::TopLogProbs* const top = out->add_top_logprobs();
    for (const v1::TokenLogprob& alternative : logprobs[i].top()) {
      top->add_values(alternative.logprob());
      top->add_token_ids(static_cast<uint32_t>(alternative.token_id()));
    }
  }
}

}  // namespace

absl::StatusOr<v1::GenerateRequest> FromVllm(const vllm::GenerateRequest& request) {
  if (const absl::Status offered = CheckOffered(request); !offered.ok()) return offered;
  v1::GenerateRequest ours;
  switch (request.input_case()) {
    case vllm::GenerateRequest::kTokenized:
      // Beyond int they become negative, which the router refuses as no token's.
      for (const uint32_t id : request.tokenized().input_ids()) ours.add_prompt_token_ids(static_cast<int32_t>(id));
      break;
    case vllm::GenerateRequest::kText:
      ours.set_prompt(request.text());
      break;
    case vllm::GenerateRequest::INPUT_NOT_SET:
      return absl::InvalidArgumentError("give the prompt: tokenized or text");
  }
  const vllm::SamplingParams& sampling = request.sampling_params();
  ours.set_temperature(sampling.has_temperature() ? sampling.temperature() : 1);
  ours.set_top_p(sampling.top_p() == 0 ? 1 : sampling.top_p());
  ours.set_top_k(sampling.top_k());
  ours.set_min_p(sampling.min_p());
  ours.set_frequency_penalty(sampling.frequency_penalty());
  ours.set_presence_penalty(sampling.presence_penalty());
  ours.set_repetition_penalty(sampling.repetition_penalty() == 0 ? 1 : sampling.repetition_penalty());
  if (sampling.has_max_tokens()) ours.set_max_tokens(sampling.max_tokens());
  ours.set_min_tokens(sampling.min_tokens());
  *ours.mutable_stop() = sampling.stop();
  for (const uint32_t id : sampling.stop_token_ids()) ours.add_stop_token_ids(static_cast<int32_t>(id));
  ours.set_ignore_eos(sampling.ignore_eos());
  ours.set_n(std::max<uint32_t>(1, sampling.n()));
  if (sampling.has_logprobs()) ours.set_num_logprobs(sampling.logprobs());
  if (sampling.has_seed()) ours.set_seed(static_cast<uint64_t>(sampling.seed()));
  for (const auto& [token_id, bias] : sampling.logit_bias()) {
    v1::LogitBias* const one = ours.add_logit_bias();
    one->set_token_id(token_id);
    one->set_bias(bias);
  }
  // Maps have no order, and requests are equal only if their fields are.
  std::sort(ours.mutable_logit_bias()->begin(), ours.mutable_logit_bias()->end(),
            [](const v1::LogitBias& a, const v1::LogitBias& b) { return a.token_id() < b.token_id(); });
  return ours;
}

VllmAnswers::Choice& VllmAnswers::ChoiceOf(uint32_t index) {
  if (index >= choices_.size()) choices_.resize(index + 1);
  return choices_[index];
}

vllm::GenerateResponse VllmAnswers::Chunk(const v1::Delta& delta) {
  Choice& choice = ChoiceOf(delta.choice_index());
  vllm::GenerateResponse response;
  vllm::GenerateStreamChunk& chunk = *response.mutable_chunk();
  chunk.set_index(delta.choice_index());
  chunk.mutable_token_ids()->Add(delta.token_ids().begin(), delta.token_ids().end());
  chunk.set_prompt_tokens(num_prompt_tokens_);
  chunk.set_completion_tokens(static_cast<uint32_t>(choice.output_ids.size()));
  if (delta.logprobs_size() > 0) CopyLogprobs(delta.logprobs(), delta.token_ids(), chunk.mutable_output_logprobs());
  return response;
}

vllm::GenerateResponse VllmAnswers::Complete(const v1::Finished& finished) {
  Choice& choice = ChoiceOf(finished.choice_index());
  choice.finished = true;
  vllm::GenerateResponse response;
  vllm::GenerateComplete& complete = *response.mutable_complete();
  complete.set_index(finished.choice_index());
  complete.mutable_output_ids()->Add(choice.output_ids.begin(), choice.output_ids.end());
  complete.set_prompt_tokens(num_prompt_tokens_);
  complete.set_completion_tokens(static_cast<uint32_t>(choice.output_ids.size()));
  complete.set_cached_tokens(finished.usage().cached_tokens());
  if (choice.logprobs.token_ids_size() > 0) *complete.mutable_output_logprobs() = std::move(choice.logprobs);
  switch (finished.finish_reason()) {
    case v1::FINISH_REASON_STOP_TOKEN:
      if (!choice.output_ids.empty()) complete.set_matched_token_id(choice.output_ids.back());
      complete.set_finish_reason("stop");
      break;
    case v1::FINISH_REASON_STOP_STRING:
      complete.set_matched_stop_str(finished.stop_string());
      complete.set_finish_reason("stop");
      break;
    case v1::FINISH_REASON_END_TOKEN:
      complete.set_finish_reason("stop");
      break;
    case v1::FINISH_REASON_LENGTH:
      complete.set_finish_reason("length");
      break;
    default:
      complete.set_finish_reason("abort");
      break;
  }
  return response;
}

std::vector<vllm::GenerateResponse> VllmAnswers::Take(const v1::GenerateResponse& response) {
  std::vector<vllm::GenerateResponse> answers;
  switch (response.event_case()) {
    case v1::GenerateResponse::kStarted:
      num_prompt_tokens_ = static_cast<uint32_t>(response.started().prompt_token_ids_size());
      break;
    case v1::GenerateResponse::kDelta: {
      const v1::Delta& delta = response.delta();
      Choice& choice = ChoiceOf(delta.choice_index());
      choice.output_ids.insert(choice.output_ids.end(), delta.token_ids().begin(), delta.token_ids().end());
      CopyLogprobs(delta.logprobs(), delta.token_ids(), &choice.logprobs);
      if (stream_ && delta.token_ids_size() > 0) answers.push_back(Chunk(delta));
      break;
    }
    case v1::GenerateResponse::kFinished:
      answers.push_back(Complete(response.finished()));
      break;
    case v1::GenerateResponse::kPromptLogprobs:
    case v1::GenerateResponse::EVENT_NOT_SET:
      break;
  }
  return answers;
}

std::vector<vllm::GenerateResponse> VllmAnswers::Abort() {
  std::vector<vllm::GenerateResponse> answers;
  for (uint32_t index = 0; index < std::max<size_t>(1, choices_.size()); ++index) {
    if (ChoiceOf(index).finished) continue;
    v1::Finished finished;
    finished.set_choice_index(index);
    finished.set_finish_reason(v1::FINISH_REASON_CANCELLED);
    answers.push_back(Complete(finished));
  }
  return answers;
}

}  // namespace outrider::router
