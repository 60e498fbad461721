// Stop strings in a growing text, across token boundaries and inside tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace outrider::text {

// Bounds on a request's stop strings, as inference.proto states them. They bound the text held back too.
inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 4096;

// INVALID_ARGUMENT naming the bound and the value: more than kMaxStopStrings, one that is empty, longer than
// kMaxStopStringBytes or not UTF-8. Never quotes the string itself.
absl::Status ValidateStopStrings(absl::Span<const std::string> stop_strings);

// Follows one text. Push is called once a token, with what that token added to the text (maybe nothing), so a match
// tells which token completed it.
//
// The match is the one that ends first; of several that end at the same byte, the longest. Matching is
// Knuth-Morris-Pratt for each string: O(bytes of text * number of stop strings), whatever the strings look like.
//
// Copying is a snapshot (the tables are shared). Thread safety: none; copies are independent.
class StopMatcher {
 public:
  struct Match {
    size_t stop_index;     // into the list given to Create
    uint64_t token_index;  // of the Push that completed it, from 0
  };
  struct Result {
    std::string text;            // may be sent: no stop string can begin in it any more
    std::optional<Match> match;  // then `text` is all that stood before the stop string, and the matcher is done
  };

  // Matches nothing and holds nothing back.
  StopMatcher() = default;
  // Stop strings that the first `num_pushes_ignored` pushes complete do not match: their text goes on.
  // Errors: those of ValidateStopStrings.
  static absl::StatusOr<StopMatcher> Create(absl::Span<const std::string> stop_strings,
                                            uint64_t num_pushes_ignored = 0);

  // The text that can be sent now. Whole characters if every `text` is. After a match further calls give nothing.
  Result Push(absl::string_view text);
  // Like Push, for more text of the token pushed last: what the decoder's Flush gives.
  Result PushTail(absl::string_view text);
  // The end of the text, after any PushTail: what was held back.
  std::string Flush();

  bool matched() const { return matched_; }
  // Bytes that may be the beginning of a stop string; below kMaxStopStringBytes.
  size_t num_held_bytes() const { return held_.size(); }

 private:
  struct Pattern {
    std::string bytes;
    std::vector<uint32_t> border;  // [bytes.size()], of each prefix the longest proper border
  };
  Result Advance(absl::string_view text);

  std::shared_ptr<const std::vector<Pattern>> patterns_;
  std::vector<uint32_t> matched_bytes_;  // by pattern: how much of it is a suffix of the text
  std::string held_;                     // the text's last max(matched_bytes_) bytes
  uint64_t num_pushes_ = 0;
  uint64_t num_pushes_ignored_ = 0;
  bool matched_ = false;
};

}  // namespace outrider::text
