#include "worker/speculation/draft_replay.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace outrider {
namespace {

// splitmix64 (Steele, Lea, Flood 2014), to [0, 1).
double Chance(uint64_t seed, uint64_t index) {
  uint64_t x = seed * 0x9e3779b97f4a7c15u + (index + 1) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return static_cast<double>(x >> 11) * 0x1.0p-53;
}

}  // namespace

absl::StatusOr<DraftReplay> DraftReplay::Parse(absl::string_view lines, const Options& options) {
  // Written so that NaN fails.
  if (!(options.acceptance >= 0 && options.acceptance <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("an acceptance of ", options.acceptance, "; it may be 0 to 1"));
  }
  DraftReplay replay(options);
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(lines, '\n')) {
    ++number;
    if (line.empty()) continue;
    const auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    const auto wrong = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, " of the recorded outputs ", what));
    };
    if (!json.is_object() || !json.contains("seed") || !json["seed"].is_number_unsigned() ||
        !json.contains("output_token_ids") || !json["output_token_ids"].is_array()) {
      return wrong("has no object with seed and output_token_ids");
    }
    std::vector<TokenId> ids;
    for (const auto& id : json["output_token_ids"]) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= options.vocab_size) {
        return wrong(absl::StrCat("has ", id.dump(), ", which is no id of a vocabulary of ", options.vocab_size));
      }
      ids.push_back(id.get<TokenId>());
    }
    if (!replay.outputs_.try_emplace(json["seed"].get<uint64_t>(), std::move(ids)).second) {
      return wrong(absl::StrCat("has seed ", json["seed"].get<uint64_t>(), " a second time"));
    }
  }
  return replay;
}

TokenId DraftReplay::TokenAt(const SamplingParams& params, int index, TokenId chosen) const {
  const auto found = outputs_.find(params.seed);
  if (found == outputs_.end() || index < 0 || index >= static_cast<int>(found->second.size())) return chosen;
  const TokenId recorded = found->second[static_cast<size_t>(index)];
  if (Chance(params.seed, static_cast<uint64_t>(index)) < options_.acceptance) return recorded;
  return (recorded + 1) % options_.vocab_size;
}

}  // namespace outrider
