// API keys: who may use the API, and how much of it.
//
// The file has a line a key, of words between blanks; # begins a comment. `outrider key NAME` draws a key and prints
// its line. Keys themselves are in no file: they are 256 random bits, so that their SHA-256 gives nothing away.
//
//   NAME sha256:HEX [requests_per_minute=N] [tokens_per_minute=N] [max_concurrent_requests=N]
//
// Thread safety: const methods and functions.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace outrider {

// 0: no limit.
struct KeyLimits {
  uint64_t requests_per_minute = 0;
  uint64_t tokens_per_minute = 0;  // of prompts and outputs
  uint64_t max_concurrent_requests = 0;
  bool operator==(const KeyLimits& other) const {
    return requests_per_minute == other.requests_per_minute && tokens_per_minute == other.tokens_per_minute &&
           max_concurrent_requests == other.max_concurrent_requests;
  }
};

using KeyDigest = std::array<uint8_t, 32>;

struct ApiKey {
  std::string name;  // letters, digits and -_. ; at most 64
  KeyDigest digest{};
  KeyLimits limits;
};

class ApiKeys {
 public:
  static constexpr size_t kMaxKeys = 10'000;

  // `text` of a file. INVALID_ARGUMENT naming `place`:line for a line that is none, a name or key that is there twice,
  // a file without keys or with more than kMaxKeys.
  static absl::StatusOr<ApiKeys> Parse(const std::string& place, absl::string_view text);

  // The key that `presented` is, or null. Takes as long whichever it is, and whether it is one.
  const ApiKey* Find(absl::string_view presented) const;
  const std::vector<ApiKey>& keys() const { return keys_; }

 private:
  std::vector<ApiKey> keys_;
};

KeyDigest DigestOf(absl::string_view key);

struct NewApiKey {
  std::string key;   // what the client sends
  std::string line;  // what the file gets, without an end of line
};
// INVALID_ARGUMENT if `name` is no name.
absl::StatusOr<NewApiKey> MakeApiKey(const std::string& name, const KeyLimits& limits,
                                     const std::array<uint8_t, 32>& random_bytes);

}  // namespace outrider
