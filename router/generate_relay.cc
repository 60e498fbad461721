#include "router/generate_relay.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider::router {
namespace {

// Bytes of an id, of a logprob entry and of an origin on the wire, at most: what the buffer's bound counts.
constexpr size_t kIdBytes = 4;
constexpr size_t kLogprobBytes = 12;
constexpr size_t kOriginBytes = 8;

bool Contains(const std::vector<TokenId>& ids, TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

size_t PendingBytes(const ClientEvent& event) {
  size_t num_bytes = event.token_ids.size() * kIdBytes + event.text.size() + event.origins.size() * kOriginBytes;
  for (const RelayedLogprobs& logprobs : event.logprobs) num_bytes += kLogprobBytes * (1 + logprobs.top.size());
  return num_bytes;
}

}  // namespace

GenerateRelay::GenerateRelay(const ResolvedRequest* request, const text::Tokenizer* tokenizer, TimePoint arrival,
                             size_t max_buffer_bytes)
    : request_(request), tokenizer_(tokenizer), arrival_(arrival), max_buffer_bytes_(max_buffer_bytes) {
  // A stop string ends nothing before min_tokens: matches that earlier tokens complete do not count.
  const uint32_t min_tokens = request->sampling.min_tokens;
  absl::StatusOr<text::StopMatcher> stop_matcher =
      text::StopMatcher::Create(request->stop, /*num_pushes_ignored=*/min_tokens > 0 ? min_tokens - 1 : 0);
  CHECK(stop_matcher.ok());
  lanes_.reserve(request->num_choices);
  for (uint32_t i = 0; i < request->num_choices; ++i) {
    lanes_.push_back({.output_token_ids = {},
                      .decoder = text::IncrementalDecoder(tokenizer, request->skip_special_tokens),
                      .stop_matcher = *stop_matcher,
                      .stop_string = {},
                      .pending = {.choice_index = i}});
  }
}

bool GenerateRelay::IsEnding(TokenId id) const {
  return Contains(request_->sampling.end_token_ids, id) || Contains(request_->sampling.stop_token_ids, id);
}

void GenerateRelay::NotePending(Lane& lane) {
  if (lane.has_pending) return;
  lane.has_pending = true;
  ++num_pending_lanes_;
}

void GenerateRelay::AppendText(Lane& lane, absl::string_view text) {
  if (text.empty()) return;
  lane.pending.text.append(text.data(), text.size());
  pending_bytes_ += text.size();
  NotePending(lane);
}

void GenerateRelay::StopString(Lane& lane, size_t stop_index) {
  lane.state = LaneState::kStopping;
  lane.stop_string = request_->stop[stop_index];
  if (request_->include_stop_in_text) AppendText(lane, lane.stop_string);
}

void GenerateRelay::TakeToken(Lane& lane, TokenId id, bool draft) {
  lane.output_token_ids.push_back(id);
  lane.pending.token_ids.push_back(id);
  pending_bytes_ += kIdBytes;
  ++num_output_tokens_;
  NotePending(lane);
  const bool has_text = tokenizer_ != nullptr && !IsEnding(id);
  const std::string text = has_text ? lane.decoder.Push(id) : std::string();
  if (request_->return_token_origins) {
    lane.pending.origins.push_back({.draft = draft, .text_bytes = static_cast<uint32_t>(text.size())});
    pending_bytes_ += kOriginBytes;
  }
  if (!has_text) return;
  const text::StopMatcher::Result result = lane.stop_matcher.Push(text);
  AppendText(lane, result.text);
  if (result.match.has_value()) StopString(lane, result.match->stop_index);
}

GenerateRelay::TokensOutcome GenerateRelay::OnTokens(uint32_t lane_index, uint32_t first_output_index,
                                                     absl::Span<const TokenId> token_ids,
                                                     std::vector<RelayedLogprobs> logprobs, TimePoint now,
                                                     uint32_t num_accepted) {
  TokensOutcome outcome;
  const auto fail = [&](const std::string& message) {
    outcome.status = absl::InternalError(absl::StrCat("the target group broke the protocol: ", message));
    return outcome;
  };
  if (lane_index >= lanes_.size()) return fail(absl::StrCat("tokens of lane ", lane_index, " of ", lanes_.size()));
  Lane& lane = lanes_[lane_index];
  if (lane.state == LaneState::kStopping) return outcome;  // sent before the group knew of the stop
  if (lane.state == LaneState::kEnded) return fail(absl::StrCat("tokens of lane ", lane_index, " after its end"));
  const uint64_t num_known = lane.output_token_ids.size();
  if (first_output_index > num_known) {
    return fail(absl::StrCat("lane ", lane_index, " continues at output token ", first_output_index, ", but ",
                             num_known, " are known"));
  }
  if (!prompt_logprobs_done() && !token_ids.empty()) {
    return fail(absl::StrCat("tokens before logprobs of the prompt from position ", next_prompt_position_, " on"));
  }
  const bool wants_logprobs = request_->sampling.num_logprobs >= 0;
  if (wants_logprobs && logprobs.size() != token_ids.size()) {
    return fail(absl::StrCat(logprobs.size(), " logprobs for ", token_ids.size(), " tokens"));
  }
  if (num_accepted > token_ids.size()) {
    return fail(absl::StrCat(num_accepted, " accepted draft tokens among ", token_ids.size(), " tokens"));
  }
  const size_t num_repeated = std::min<size_t>(num_known - first_output_index, token_ids.size());
  for (size_t i = 0; i < num_repeated; ++i) {
    if (token_ids[i] != lane.output_token_ids[first_output_index + i]) {
      return fail(absl::StrCat("lane ", lane_index, " repeats output token ", first_output_index + i, " as id ",
                               token_ids[i], ", but ", lane.output_token_ids[first_output_index + i],
                               " was delivered"));
    }
  }
  for (size_t i = num_repeated; i < token_ids.size() && lane.state == LaneState::kRunning; ++i) {
    if (lane.output_token_ids.size() >= request_->sampling.max_tokens) {
      return fail(absl::StrCat("lane ", lane_index, " has more than max_tokens = ", request_->sampling.max_tokens));
    }
    if (wants_logprobs) {
      pending_bytes_ += kLogprobBytes * (1 + logprobs[i].top.size());
      lane.pending.logprobs.push_back(std::move(logprobs[i]));
    }
    TakeToken(lane, token_ids[i], /*draft=*/i < num_accepted);
    ++outcome.num_taken;
  }
  if (outcome.num_taken == 0) return outcome;
  if (num_known == 0) {
    lane.first_token_at = now;
  } else {
    outcome.gap = now - lane.last_token_at;
  }
  lane.last_token_at = now;
  if (lane.state == LaneState::kStopping) outcome.stop_at = static_cast<uint32_t>(lane.output_token_ids.size());
  if (pending_bytes_ > max_buffer_bytes_) {
    outcome.status = absl::ResourceExhaustedError(
        absl::StrCat("the client does not read: ", pending_bytes_,
                     " bytes wait for it (max_stream_buffer_bytes = ", max_buffer_bytes_, "); the stream is cut"));
  }
  return outcome;
}

absl::Status GenerateRelay::OnPromptLogprobs(uint32_t lane_index, uint32_t first_position,
                                             std::vector<RelayedLogprobs> logprobs) {
  const size_t num_positions = request_->prompt_token_ids.size();
  if (lane_index >= lanes_.size() || request_->sampling.num_prompt_logprobs < 0 || first_position == 0 ||
      first_position > next_prompt_position_ || logprobs.size() > num_positions ||
      first_position + logprobs.size() > num_positions) {
    return absl::InternalError(absl::StrCat("the target group broke the protocol: ", logprobs.size(),
                                            " logprobs of the prompt from position ", first_position, " in lane ",
                                            lane_index, "; asked for are those from ", next_prompt_position_, " to ",
                                            request_->sampling.num_prompt_logprobs < 0 ? 0 : num_positions));
  }
  const size_t num_repeated = std::min(next_prompt_position_ - first_position, logprobs.size());
  next_prompt_position_ += logprobs.size() - num_repeated;
  prompt_logprobs_.insert(prompt_logprobs_.end(), std::make_move_iterator(logprobs.begin() + num_repeated),
                          std::make_move_iterator(logprobs.end()));
  return absl::OkStatus();
}

absl::Status GenerateRelay::OnFinished(uint32_t lane_index, EndReason reason, const LaneUsage& usage, double queue_ms,
                                       TimePoint now) {
  if (lane_index >= lanes_.size() || lanes_[lane_index].state == LaneState::kEnded) {
    return absl::InternalError(
        absl::StrCat("the target group broke the protocol: a second end of lane ", lane_index, " of ", lanes_.size()));
  }
  Lane& lane = lanes_[lane_index];
  if (lane.state == LaneState::kRunning && reason != EndReason::kCancelled &&
      usage.output_tokens > lane.output_token_ids.size()) {
    return absl::InternalError(absl::StrCat("the target group broke the protocol: lane ", lane_index, " ended with ",
                                            usage.output_tokens, " output tokens, but ", lane.output_token_ids.size(),
                                            " came"));
  }
  End(lane, reason, usage, queue_ms, now);
  return absl::OkStatus();
}

void GenerateRelay::End(Lane& lane, EndReason reason, LaneUsage usage, double queue_ms, TimePoint now) {
  if (lane.state == LaneState::kRunning && tokenizer_ != nullptr) {
    // What the decoder and the matcher held back comes out now.
    const text::StopMatcher::Result tail = lane.stop_matcher.PushTail(lane.decoder.Flush());
    AppendText(lane, tail.text);
    if (tail.match.has_value()) {
      StopString(lane, tail.match->stop_index);
    } else {
      AppendText(lane, lane.stop_matcher.Flush());
    }
  }
  if (lane.state == LaneState::kStopping) reason = EndReason::kStopString;
  // The client's count is what it got, wherever the group had come to.
  usage.output_tokens = static_cast<uint32_t>(lane.output_token_ids.size());
  usage.prompt_tokens = static_cast<uint32_t>(request_->prompt_token_ids.size());
  // A replay finds output in the prefix cache too, which was never the client's to pay for.
  usage.cached_tokens = std::min(usage.cached_tokens, usage.prompt_tokens);
  RelayTiming timing;
  timing.total = ToMillis(now - arrival_);
  timing.queue = (sent_at_.has_value() ? ToMillis(*sent_at_ - arrival_) : 0) + std::max(0.0, queue_ms);
  if (!lane.output_token_ids.empty()) {
    timing.first_token = ToMillis(lane.first_token_at - arrival_);
    timing.decode = ToMillis(lane.last_token_at - lane.first_token_at);
    // A replay's wait is not the first step's.
    timing.queue = std::min(timing.queue, timing.first_token);
  }
  lane.pending.end =
      ClientEvent::End{.reason = reason, .stop_string = lane.stop_string, .usage = usage, .timing = timing};
  lane.state = LaneState::kEnded;
  ++num_ended_;
  NotePending(lane);
}

void GenerateRelay::OnAttemptLost(TimePoint now) {
  for (Lane& lane : lanes_) {
    const std::vector<TokenId>& ids = lane.output_token_ids;
    const ResolvedSampling& sampling = request_->sampling;
    if (lane.state == LaneState::kStopping) {
      End(lane, EndReason::kStopString, LaneUsage(), 0, now);
    } else if (lane.state == LaneState::kRunning && !ids.empty()) {
      if (Contains(sampling.end_token_ids, ids.back())) {
        End(lane, EndReason::kEndToken, LaneUsage(), 0, now);
      } else if (Contains(sampling.stop_token_ids, ids.back())) {
        End(lane, EndReason::kStopToken, LaneUsage(), 0, now);
      } else if (ids.size() >= sampling.max_tokens) {
        End(lane, EndReason::kLength, LaneUsage(), 0, now);
      }
    }
  }
}

void GenerateRelay::OnAttemptSent(TimePoint now) {
  if (!sent_at_.has_value()) sent_at_ = now;
}

bool GenerateRelay::TakeNext(ClientEvent* event) {
  event->prompt_logprobs.clear();
  if (!prompt_logprobs_.empty()) {
    event->end.reset();
    event->first_prompt_position = static_cast<uint32_t>(next_prompt_position_ - prompt_logprobs_.size());
    event->prompt_logprobs.swap(prompt_logprobs_);
    return true;
  }
  if (num_pending_lanes_ == 0) return false;
  while (!lanes_[next_lane_].has_pending) next_lane_ = (next_lane_ + 1) % lanes_.size();
  Lane& lane = lanes_[next_lane_];
  ClientEvent& pending = lane.pending;
  event->choice_index = pending.choice_index;
  event->token_ids.clear();
  event->text.clear();
  event->logprobs.clear();
  event->origins.clear();
  event->end.reset();
  if (!pending.token_ids.empty() || !pending.text.empty()) {
    pending_bytes_ -= PendingBytes(pending);
    std::swap(event->token_ids, pending.token_ids);
    std::swap(event->text, pending.text);
    std::swap(event->logprobs, pending.logprobs);
    std::swap(event->origins, pending.origins);
    if (pending.end.has_value()) return true;
  } else {
    std::swap(event->end, pending.end);
  }
  lane.has_pending = false;
  --num_pending_lanes_;
  next_lane_ = (next_lane_ + 1) % lanes_.size();
  return true;
}

void GenerateRelay::DropPending() {
  for (Lane& lane : lanes_) {
    lane.pending = {.choice_index = lane.pending.choice_index};
    lane.has_pending = false;
  }
  prompt_logprobs_.clear();
  num_pending_lanes_ = 0;
  pending_bytes_ = 0;
}

std::vector<uint32_t> GenerateRelay::LanesToRun() const {
  std::vector<uint32_t> lanes;
  for (uint32_t i = 0; i < lanes_.size(); ++i) {
    if (lanes_[i].state == LaneState::kRunning) lanes.push_back(i);
  }
  return lanes;
}

}  // namespace outrider::router
