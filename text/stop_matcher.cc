#include "text/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/utf8.h"

namespace outrider::text {

absl::Status ValidateStopStrings(absl::Span<const std::string> stop_strings) {
  if (stop_strings.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop has ", stop_strings.size(), " strings; at most ", kMaxStopStrings, " are allowed"));
  }
  for (size_t i = 0; i < stop_strings.size(); ++i) {
    const std::string& stop = stop_strings[i];
    if (stop.empty()) return absl::InvalidArgumentError(absl::StrCat("stop[", i, "] is empty"));
    if (stop.size() > kMaxStopStringBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop[", i, "] is ", stop.size(), " bytes; at most ", kMaxStopStringBytes, " are allowed"));
    }
    if (const std::optional<size_t> offset = FirstInvalidUtf8(stop)) {
      return absl::InvalidArgumentError(absl::StrCat("stop[", i, "] is not UTF-8 at byte ", *offset));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StopMatcher> StopMatcher::Create(absl::Span<const std::string> stop_strings,
                                                uint64_t num_pushes_ignored) {
  RETURN_IF_ERROR(ValidateStopStrings(stop_strings));
  StopMatcher matcher;
  matcher.num_pushes_ignored_ = num_pushes_ignored;
  if (stop_strings.empty()) return matcher;
  auto patterns = std::make_shared<std::vector<Pattern>>();
  for (const std::string& stop : stop_strings) {
    Pattern pattern{stop, std::vector<uint32_t>(stop.size(), 0)};
    for (size_t i = 1; i < stop.size(); ++i) {
      uint32_t length = pattern.border[i - 1];
      while (length > 0 && stop[i] != stop[length]) length = pattern.border[length - 1];
      pattern.border[i] = stop[i] == stop[length] ? length + 1 : 0;
    }
    patterns->push_back(std::move(pattern));
  }
  matcher.matched_bytes_.assign(patterns->size(), 0);
  matcher.patterns_ = std::move(patterns);
  return matcher;
}

StopMatcher::Result StopMatcher::Push(absl::string_view text) {
  ++num_pushes_;
  return Advance(text);
}

StopMatcher::Result StopMatcher::PushTail(absl::string_view text) { return Advance(text); }

StopMatcher::Result StopMatcher::Advance(absl::string_view text) {
  Result result;
  if (matched_) return result;
  if (patterns_ == nullptr) {
    result.text.assign(text.data(), text.size());
    return result;
  }
  const std::vector<Pattern>& patterns = *patterns_;
  const bool ignored = num_pushes_ <= num_pushes_ignored_;
  for (size_t i = 0; i < text.size(); ++i) {
    const char byte = text[i];
    size_t longest = 0;
    size_t stop_index = 0;
    for (size_t p = 0; p < patterns.size(); ++p) {
      const Pattern& pattern = patterns[p];
      uint32_t length = matched_bytes_[p];
      while (length > 0 && byte != pattern.bytes[length]) length = pattern.border[length - 1];
      if (byte == pattern.bytes[length]) ++length;
      if (ignored && length == pattern.bytes.size()) length = pattern.border[length - 1];
      matched_bytes_[p] = length;
      if (length == pattern.bytes.size() && length > longest) {
        longest = length;
        stop_index = p;
      }
    }
    if (longest > 0) {
      // The text not sent yet is held_ and then text[0, i]; the stop string is its end.
      result.text = std::move(held_);
      result.text.append(text.data(), i + 1);
      result.text.resize(result.text.size() - longest);
      result.match = Match{stop_index, num_pushes_ > 0 ? num_pushes_ - 1 : 0};
      matched_ = true;
      held_.clear();
      return result;
    }
  }
  const size_t num_held = *std::max_element(matched_bytes_.begin(), matched_bytes_.end());
  // Two cases so that a long stop string arriving in small pieces is not copied again with each of them.
  if (num_held >= held_.size() + text.size()) {
    held_.append(text.data(), text.size());
    return result;
  }
  result.text = std::move(held_);
  result.text.append(text.data(), text.size());
  held_.assign(result.text, result.text.size() - num_held, num_held);
  result.text.resize(result.text.size() - num_held);
  return result;
}

std::string StopMatcher::Flush() {
  std::fill(matched_bytes_.begin(), matched_bytes_.end(), 0);
  return std::exchange(held_, std::string());
}

}  // namespace outrider::text
