#include "worker/step/step_result.h"

namespace outrider {

uint64_t HashIds(const std::vector<SpanResult>& spans) {
  uint64_t hash = 14695981039346656037ull;
  const auto mix = [&hash](uint64_t value) {
    for (int byte = 0; byte < 8; ++byte) {
      hash ^= (value >> (8 * byte)) & 0xff;
      hash *= 1099511628211ull;
    }
  };
  for (const SpanResult& span : spans) {
    mix(span.sequence.value);
    mix(static_cast<uint64_t>(span.num_accepted));
    mix(span.tokens.size());
    for (const TokenId token : span.tokens) mix(static_cast<uint64_t>(token));
  }
  return hash;
}

}  // namespace outrider
