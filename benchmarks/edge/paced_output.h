// What a request of the benchmark asks of the fake engine and of the bare server: its prompt's first ids say how often
// it wants tokens, how many at a time, and which. The first come at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/ids.h"

namespace outrider::edge {

struct OutputPace {
  int interval_ms = 10;  // 1 to 255
  int num_tokens = 1;    // a step, 1 to 255
  bool long_tokens = false;
};

// The ids of the byte tokenizer (router/testing/byte_tokenizer.h), then one of 1,000 letters: to flood readers with
// text at the cost of few tokens.
inline constexpr TokenId kLongToken = 260;
inline constexpr int kVocabSize = 261;
inline constexpr int kLongTokenBytes = 1000;

// `num_prompt_tokens` >= 3.
inline std::vector<TokenId> PromptOf(const OutputPace& pace, int num_prompt_tokens) {
  std::vector<TokenId> prompt(num_prompt_tokens, 'p');
  prompt[0] = pace.interval_ms;
  prompt[1] = pace.num_tokens;
  prompt[2] = pace.long_tokens ? 1 : 0;
  return prompt;
}

template <typename Ids>
OutputPace PaceOf(const Ids& prompt) {
  if (prompt.size() < 3) return {};
  return {.interval_ms = std::clamp<int>(prompt[0], 1, 255),
          .num_tokens = std::clamp<int>(prompt[1], 1, 255),
          .long_tokens = prompt[2] == 1};
}

// The token at this place of an output: 'a' to 'z', again and again.
inline TokenId OutputToken(const OutputPace& pace, uint32_t index) {
  return pace.long_tokens ? kLongToken : static_cast<TokenId>('a' + index % 26);
}

}  // namespace outrider::edge
