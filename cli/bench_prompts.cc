#include "cli/bench_prompts.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cli/generate_requests.h"

namespace outrider {
namespace {

using Json = nlohmann::json;

// Of `vllm bench serve` (is_valid_sequence): shorter or longer ones say little of serving.
constexpr int kTokensMin = 4;
constexpr int kPromptTokensMax = 1024;
constexpr int kTotalTokensMax = 2048;
constexpr int kMaxTokens = 1 << 24;

absl::Status CheckRange(const char* flag, int value, int low, int high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, " is out of range; it takes ", low, " to ", high));
}

int DrawLength(int length, double ratio, std::mt19937_64& random) {
  const int low = static_cast<int>(std::floor(length * (1 - ratio)));
  const int high = static_cast<int>(std::ceil(length * (1 + ratio)));
  return std::uniform_int_distribution<int>(std::max(1, low), std::max(1, high))(random);
}

// As many as asked for, from the front again where there are fewer.
std::vector<v1::GenerateRequest> Cycle(std::vector<v1::GenerateRequest> requests, int num_prompts) {
  const size_t count = requests.size();
  requests.reserve(static_cast<size_t>(num_prompts));
  if (static_cast<int>(count) > num_prompts) requests.resize(static_cast<size_t>(num_prompts));
  for (size_t i = 0; static_cast<int>(requests.size()) < num_prompts; ++i) {
    v1::GenerateRequest again = requests[i % count];
    requests.push_back(std::move(again));
  }
  return requests;
}

std::string Turn(const Json& turns, size_t index) {
  const Json& turn = turns[index];
  return turn.is_object() && turn.contains("value") && turn["value"].is_string() ? turn["value"].get<std::string>()
                                                                                 : std::string();
}

}  // namespace

absl::StatusOr<std::vector<v1::GenerateRequest>> MakeRandomPrompts(const RandomPrompts& options, int num_prompts,
                                                                   uint32_t vocab_size,
                                                                   const std::vector<int32_t>& excluded, uint64_t seed,
                                                                   const v1::GenerateRequest& defaults) {
  RETURN_IF_ERROR(CheckRange("--random-input-len", options.input_len, 1, kMaxTokens));
  RETURN_IF_ERROR(CheckRange("--random-output-len", options.output_len, 1, kMaxTokens));
  RETURN_IF_ERROR(CheckRange("--random-prefix-len", options.prefix_len, 0, kMaxTokens));
  if (!(options.range_ratio >= 0 && options.range_ratio < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--random-range-ratio ", options.range_ratio, " is out of range; it takes 0 to less than 1"));
  }
  const std::set<int32_t> no(excluded.begin(), excluded.end());
  std::vector<int32_t> ids;
  for (uint32_t id = 0; id < vocab_size; ++id) {
    if (no.count(static_cast<int32_t>(id)) == 0) ids.push_back(static_cast<int32_t>(id));
  }
  if (ids.empty()) return absl::InvalidArgumentError("the model has no vocabulary to draw prompts from");
  std::mt19937_64 random(seed);
  const auto draw = [&] { return ids[std::uniform_int_distribution<size_t>(0, ids.size() - 1)(random)]; };
  std::vector<int32_t> prefix;
  for (int i = 0; i < options.prefix_len; ++i) prefix.push_back(draw());
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < num_prompts; ++i) {
    v1::GenerateRequest request = defaults;
    const int input_len = DrawLength(options.input_len, options.range_ratio, random);
    const int output_len = DrawLength(options.output_len, options.range_ratio, random);
    request.mutable_prompt_token_ids()->Add(prefix.begin(), prefix.end());
    for (int t = 0; t < input_len; ++t) request.add_prompt_token_ids(draw());
    request.set_max_tokens(static_cast<uint32_t>(output_len));
    request.set_ignore_eos(true);
    requests.push_back(std::move(request));
  }
  return requests;
}

absl::StatusOr<std::vector<v1::GenerateRequest>> ShareGptPrompts(const std::string& json, int num_prompts,
                                                                 int output_len, uint64_t seed,
                                                                 const CountTokens& count_tokens,
                                                                 const v1::GenerateRequest& defaults) {
  Json data = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!data.is_array()) {
    return absl::InvalidArgumentError("--dataset-path: no JSON array of conversations, as ShareGPT's files are");
  }
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const Json& entry : data) {
    if (!entry.is_object() || !entry.contains("conversations")) continue;
    const Json& turns = entry["conversations"];
    if (turns.is_array() && turns.size() >= 2) pairs.emplace_back(Turn(turns, 0), Turn(turns, 1));
  }
  data = nullptr;
  std::mt19937_64 random(seed);
  std::shuffle(pairs.begin(), pairs.end(), random);
  std::vector<v1::GenerateRequest> requests;
  for (const auto& [prompt, answer] : pairs) {
    if (static_cast<int>(requests.size()) == num_prompts) break;
    ASSIGN_OR_RETURN(const int prompt_len, count_tokens(prompt));
    int answer_len = output_len;
    if (output_len <= 0) {
      ASSIGN_OR_RETURN(answer_len, count_tokens(answer));
    }
    if (prompt_len < kTokensMin || prompt_len > kPromptTokensMax || (output_len <= 0 && answer_len < kTokensMin) ||
        prompt_len + answer_len > kTotalTokensMax) {
      continue;
    }
    v1::GenerateRequest request = defaults;
    request.set_prompt(prompt);
    request.set_max_tokens(static_cast<uint32_t>(answer_len));
    requests.push_back(std::move(request));
  }
  if (requests.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--dataset-path: none of ", pairs.size(),
                                                   " conversations has a prompt of 4 to 1024 tokens and an answer"));
  }
  return Cycle(std::move(requests), num_prompts);
}

absl::StatusOr<std::vector<v1::GenerateRequest>> JsonlPrompts(const std::string& path, int num_prompts, int output_len,
                                                              const v1::GenerateRequest& defaults) {
  ASSIGN_OR_RETURN(std::vector<v1::GenerateRequest> requests,
                   ReadRequests(path, defaults, {{"output_tokens", "max_tokens"}}));
  for (v1::GenerateRequest& request : requests) {
    if (!request.has_max_tokens() && output_len > 0) request.set_max_tokens(static_cast<uint32_t>(output_len));
  }
  return Cycle(std::move(requests), num_prompts);
}

}  // namespace outrider
