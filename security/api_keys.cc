#include "security/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cctype>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

constexpr absl::string_view kDigestPrefix = "sha256:";
constexpr absl::string_view kKeyPrefix = "or-";
constexpr size_t kNameMax = 64;

struct Limit {
  const char* name;
  uint64_t KeyLimits::*value;
};
constexpr Limit kLimits[] = {{"requests_per_minute", &KeyLimits::requests_per_minute},
                             {"tokens_per_minute", &KeyLimits::tokens_per_minute},
                             {"max_concurrent_requests", &KeyLimits::max_concurrent_requests}};

absl::Status Wrong(const std::string& place, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(place, ": ", what));
}

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= kNameMax && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  });
}

std::string NameError(absl::string_view name) {
  return absl::StrCat("'", name.substr(0, kNameMax), "' is no name of a key: letters, digits and -_. , at most ",
                      kNameMax);
}

std::string ToHex(const KeyDigest& digest) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

absl::Status ReadDigest(const std::string& place, absl::string_view word, KeyDigest& digest) {
  const bool is_hex = std::all_of(word.begin(), word.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
  if (!is_hex || word.size() != 2 * digest.size()) {
    return Wrong(place, absl::StrCat(kDigestPrefix,
                                     " is followed by 64 hexadecimal digits; `outrider key NAME` draws a "
                                     "key and prints its line"));
  }
  const std::string bytes = absl::HexStringToBytes(std::string(word));
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return absl::OkStatus();
}

absl::Status ReadLimit(const std::string& place, absl::string_view word, KeyLimits& limits) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(word, absl::MaxSplits('=', 1));
  for (const Limit& limit : kLimits) {
    if (parts.first != limit.name) continue;
    if (limits.*limit.value != 0) return Wrong(place, absl::StrCat(limit.name, " is set twice; keep one"));
    if (!absl::SimpleAtoi(parts.second, &(limits.*limit.value)) || limits.*limit.value == 0) {
      return Wrong(place, absl::StrCat(limit.name, " = '", parts.second,
                                       "' is no whole number above 0; leave it out for no limit"));
    }
    return absl::OkStatus();
  }
  return Wrong(place, absl::StrCat("'", word,
                                   "' is no limit; there are requests_per_minute=N, tokens_per_minute=N and "
                                   "max_concurrent_requests=N"));
}

absl::StatusOr<ApiKey> ReadLine(const std::string& place, const std::vector<absl::string_view>& words) {
  ApiKey key;
  if (!IsName(words[0])) return Wrong(place, NameError(words[0]));
  key.name = std::string(words[0]);
  absl::string_view digest = words.size() > 1 ? words[1] : "";
  if (!absl::ConsumePrefix(&digest, kDigestPrefix)) {
    return Wrong(place, "expected NAME sha256:HEX; `outrider key NAME` draws a key and prints its line");
  }
  RETURN_IF_ERROR(ReadDigest(place, digest, key.digest));
  for (size_t i = 2; i < words.size(); ++i) RETURN_IF_ERROR(ReadLimit(place, words[i], key.limits));
  return key;
}

}  // namespace

absl::StatusOr<ApiKeys> ApiKeys::Parse(const std::string& place, absl::string_view text) {
  ApiKeys keys;
  absl::flat_hash_set<std::string> names, digests;
  int line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::string where = absl::StrCat(place, ":", ++line_number);
    line = line.substr(0, line.find('#'));
    const std::vector<absl::string_view> words = absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty()) continue;
    ASSIGN_OR_RETURN(ApiKey key, ReadLine(where, words));
    if (!names.insert(key.name).second) {
      return Wrong(where, absl::StrCat("there is a key '", key.name, "' above already; names differ"));
    }
    if (!digests.insert(ToHex(key.digest)).second) {
      return Wrong(where, absl::StrCat("'", key.name, "' is the key of a name above; draw another"));
    }
    if (keys.keys_.size() == kMaxKeys) return Wrong(where, absl::StrCat("more than ", kMaxKeys, " keys"));
    keys.keys_.push_back(std::move(key));
  }
  if (keys.keys_.empty()) {
    return Wrong(place, "holds no key, so nobody could use the API; `outrider key NAME >> FILE` adds one");
  }
  return keys;
}

const ApiKey* ApiKeys::Find(absl::string_view presented) const {
  const KeyDigest digest = DigestOf(presented);
  // Every key is compared, and nothing branches on the outcomes.
  size_t found = keys_.size();
  for (size_t i = 0; i < keys_.size(); ++i) {
    const size_t same = static_cast<size_t>(CRYPTO_memcmp(keys_[i].digest.data(), digest.data(), digest.size()) == 0);
    found = same * i + (1 - same) * found;
  }
  return found == keys_.size() ? nullptr : &keys_[found];
}

KeyDigest DigestOf(absl::string_view key) {
  KeyDigest digest;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

absl::StatusOr<NewApiKey> MakeApiKey(const std::string& name, const KeyLimits& limits,
                                     const std::array<uint8_t, 32>& random_bytes) {
  if (!IsName(name)) return absl::InvalidArgumentError(NameError(name));
  NewApiKey made;
  made.key = absl::StrCat(kKeyPrefix, ToHex(random_bytes));
  made.line = absl::StrCat(name, " ", kDigestPrefix, ToHex(DigestOf(made.key)));
  for (const Limit& limit : kLimits) {
    if (limits.*limit.value != 0) absl::StrAppend(&made.line, " ", limit.name, "=", limits.*limit.value);
  }
  return made;
}

}  // namespace outrider
