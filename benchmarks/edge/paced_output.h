// What a request of the benchmark asks of the fake engine and of the bare server: its prompt's first two ids say how
// often it wants tokens, and how many at a time. The first come at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/ids.h"

namespace outrider::edge {

struct OutputPace {
  int interval_ms = 10;  // 1 to 255
  int num_tokens = 1;    // a step, 1 to 255
};

// `num_prompt_tokens` >= 2.
inline std::vector<TokenId> PromptOf(const OutputPace& pace, int num_prompt_tokens) {
  std::vector<TokenId> prompt(num_prompt_tokens, 'p');
  prompt[0] = pace.interval_ms;
  prompt[1] = pace.num_tokens;
  return prompt;
}

template <typename Ids>
OutputPace PaceOf(const Ids& prompt) {
  if (prompt.size() < 2) return {};
  return {.interval_ms = std::clamp<int>(prompt[0], 1, 255), .num_tokens = std::clamp<int>(prompt[1], 1, 255)};
}

// The token at this place of every output: 'a' to 'z', again and again.
inline TokenId OutputToken(uint32_t index) { return static_cast<TokenId>('a' + index % 26); }

}  // namespace outrider::edge
