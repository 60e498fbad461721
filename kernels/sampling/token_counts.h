// TokenCounts: which tokens a sequence holds and how often its output has each. What penalties look at.
//
// Grows by the number of distinct tokens. Adding and finding a token take constant time; a row's penalties take time in
// proportion to the distinct tokens, not to the vocabulary.
//
// Thread safety: as a standard container.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace outrider::kernels {

class TokenCounts {
 public:
  struct Entry {
    int32_t token_id = 0;
    int32_t output_count = 0;  // occurrences in the output; 0: only the prompt has it
  };

  void AddPromptToken(int32_t token_id) { FindOrAdd(token_id); }
  void AddOutputToken(int32_t token_id) { ++FindOrAdd(token_id).output_count; }
  void Clear();

  // Null if neither prompt nor output has it.
  const Entry* Find(int32_t token_id) const;
  // Distinct tokens of prompt and output, in order of first addition.
  std::span<const Entry> entries() const { return entries_; }

 private:
  Entry& FindOrAdd(int32_t token_id);
  size_t SlotOf(int32_t token_id) const;
  void Grow();

  std::vector<Entry> entries_;
  std::vector<int32_t> slots_;  // open addressing, a power of two: index into entries_, -1 when free
};

}  // namespace outrider::kernels
