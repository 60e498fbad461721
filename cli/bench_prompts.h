// The requests of a serving benchmark: synthetic, from a file in the layout of ShareGPT, or from JSONL. Pure but for
// reading files; tokens are counted by whoever is asked.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/inference.pb.h"

namespace outrider {

struct RandomPrompts {
  int input_len = 1024;
  int output_len = 128;
  double range_ratio = 0;  // lengths are even over [len * (1 - ratio), len * (1 + ratio)]
  int prefix_len = 0;      // ids that all begin with, besides input_len
};

// Ids drawn by `seed` from [0, vocab_size) without `excluded`; the ends of text are ignored. INVALID_ARGUMENT naming
// the flag that is out of range.
absl::StatusOr<std::vector<v1::GenerateRequest>> MakeRandomPrompts(const RandomPrompts& options, int num_prompts,
                                                                   uint32_t vocab_size,
                                                                   const std::vector<int32_t>& excluded, uint64_t seed,
                                                                   const v1::GenerateRequest& defaults);

// Tokens of a text.
using CountTokens = std::function<absl::StatusOr<int>(const std::string&)>;

// [{"conversations": [{"from", "value"}, ...]}, ...]: the first turn is the prompt; the second says how long an answer
// may be, unless `output_len` > 0 does. In an order by `seed`, without conversations that `vllm bench serve` leaves out
// too: of fewer than two turns, prompts of fewer than 4 or more than 1024 tokens, answers of fewer than 4, more than
// 2048 together. Taken again from the front where there are fewer than num_prompts.
absl::StatusOr<std::vector<v1::GenerateRequest>> ShareGptPrompts(const std::string& json, int num_prompts,
                                                                 int output_len, uint64_t seed,
                                                                 const CountTokens& count_tokens,
                                                                 const v1::GenerateRequest& defaults);

// Lines as of `outrider generate --input`; "output_tokens" says max_tokens as in vLLM's files. Lines that say neither
// take `output_len`. Taken again from the front where there are fewer than num_prompts.
absl::StatusOr<std::vector<v1::GenerateRequest>> JsonlPrompts(const std::string& path, int num_prompts, int output_len,
                                                              const v1::GenerateRequest& defaults);

}  // namespace outrider
