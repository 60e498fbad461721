#include "worker/sequence/sequence.h"

#include <algorithm>

#include "base/status_macros.h"
#include "worker/sequence/stop_condition.h"

namespace outrider {
namespace {

SamplingParams ParamsOf(const Request& request, const RequestLane& lane) {
  SamplingParams params = request.params;
  params.lane = lane.lane;
  // The lanes' prompt is one: the first tells of it.
  if (!request.lanes.empty() && lane.lane != request.lanes.front().lane) params.num_prompt_logprobs = -1;
  return params;
}

}  // namespace

Sequence::Sequence(SequenceId id, const Request& request, const RequestLane& lane)
    : id_(id),
      num_prompt_tokens_(static_cast<int>(request.prompt.size())),
      params_(ParamsOf(request, lane)),
      may_draft_(request.draft),
      lookahead_(request.lookahead),
      prediction_(request.prediction),
      trace_(request.trace) {
  CHECK(num_prompt_tokens_ > 0);
  tokens_.reserve(request.prompt.size() + params_.max_tokens);
  tokens_.insert(tokens_.end(), request.prompt.begin(), request.prompt.end());
  tokens_.insert(tokens_.end(), lane.output.begin(), lane.output.end());
}

std::optional<FinishReason> Sequence::Append(TokenId token) {
  tokens_.push_back(token);
  return StopsAt(token, num_output_tokens(), params_);
}

std::optional<FinishReason> Sequence::EndedFromStart() const {
  if (num_output_tokens() == 0) return std::nullopt;
  return StopsAt(tokens_.back(), num_output_tokens(), params_);
}

void Sequence::CutOutput(int num_output_tokens) {
  CHECK(num_output_tokens >= 0 && num_output_tokens <= this->num_output_tokens());
  tokens_.resize(num_prompt_tokens_ + num_output_tokens);
  num_computed_tokens_ = std::min(num_computed_tokens_, num_tokens());
}

void Sequence::SetComputed(int num_computed_tokens) {
  CHECK(num_computed_tokens >= 0 && num_computed_tokens <= num_tokens());
  num_computed_tokens_ = num_computed_tokens;
}

}  // namespace outrider
