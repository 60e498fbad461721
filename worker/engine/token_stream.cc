#include "worker/engine/token_stream.h"

#include <iterator>
#include <utility>

namespace outrider {

TokenStream::TokenStream(int max_buffered_tokens, std::function<void()> on_ready)
    : max_buffered_tokens_(max_buffered_tokens), on_ready_(std::move(on_ready)) {}

bool TokenStream::Append(const LaneId& id, TokensEvent event) {
  const int num_tokens = static_cast<int>(event.tokens.size());
  {
    MutexLock lock(mu_);
    if (closed_ || num_tokens == 0) return true;
    const auto of_lane = buffered_.find(id);
    const int64_t waiting = of_lane == buffered_.end() ? 0 : of_lane->second;
    if (waiting + num_tokens > max_buffered_tokens_) return false;
    if (num_buffered_ + num_tokens > kLanesWorth * max_buffered_tokens_) return false;
    buffered_[id] += num_tokens;
    num_buffered_ += num_tokens;
  }
  appended_.push_back({id, std::move(event)});
  return true;
}

void TokenStream::Append(const LaneId& id, PromptLogprobsEvent event) { appended_.push_back({id, std::move(event)}); }

void TokenStream::Append(const LaneId& id, FinishedEvent event) { appended_.push_back({id, std::move(event)}); }

void TokenStream::Append(const LaneId& id, FailedEvent event) { appended_.push_back({id, std::move(event)}); }

void TokenStream::Flush() {
  if (appended_.empty()) return;
  bool was_empty;
  {
    MutexLock lock(mu_);
    if (closed_) {
      appended_.clear();
      return;
    }
    was_empty = ready_.empty();
    ready_.insert(ready_.end(), std::make_move_iterator(appended_.begin()), std::make_move_iterator(appended_.end()));
  }
  appended_.clear();
  if (was_empty) on_ready_();
}

std::vector<LaneEvent> TokenStream::Take() {
  MutexLock lock(mu_);
  for (const LaneEvent& event : ready_) {
    const auto* tokens = std::get_if<TokensEvent>(&event.event);
    const auto of_lane = buffered_.find(event.id);
    if (tokens == nullptr || of_lane == buffered_.end()) continue;
    of_lane->second -= static_cast<int>(tokens->tokens.size());
    num_buffered_ -= static_cast<int64_t>(tokens->tokens.size());
    if (of_lane->second == 0) buffered_.erase(of_lane);
  }
  return std::exchange(ready_, {});
}

void TokenStream::Close() {
  MutexLock lock(mu_);
  closed_ = true;
  ready_.clear();
  buffered_.clear();
  num_buffered_ = 0;
}

}  // namespace outrider
