#include "kernels/sampling/row_processing.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace outrider::kernels {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

void ApplyPenalties(const SamplingRow& row, int vocab_size, float* logits) {
  const Penalties penalties = PenaltiesOf(row);
  const auto in_vocabulary = [&](int32_t id) { return id >= 0 && id < vocab_size; };
  // A draft token's penalty replaces the one of its committed count, so its logit is put aside first.
  struct Extra {
    int32_t token_id;
    int count;
    float logit;
  };
  std::vector<Extra> extras;
  for (const int32_t id : row.extra_tokens) {
    if (!in_vocabulary(id)) continue;
    const auto known = std::find_if(extras.begin(), extras.end(), [id](const Extra& e) { return e.token_id == id; });
    if (known == extras.end()) {
      extras.push_back({id, 1, logits[id]});
    } else {
      ++known->count;
    }
  }
  if (row.counts != nullptr) {
    for (const TokenCounts::Entry& entry : row.counts->entries()) {
      if (!in_vocabulary(entry.token_id)) continue;
      logits[entry.token_id] = Penalized(penalties, logits[entry.token_id], entry.output_count);
    }
  }
  for (const Extra& extra : extras) {
    const TokenCounts::Entry* entry = row.counts != nullptr ? row.counts->Find(extra.token_id) : nullptr;
    logits[extra.token_id] =
        Penalized(penalties, extra.logit, extra.count + (entry != nullptr ? entry->output_count : 0));
  }
}

void ApplyAllowedTokens(const uint32_t* allowed_tokens, int vocab_size, float* logits) {
  for (int first = 0; first < vocab_size; first += 32) {
    uint32_t forbidden = ~allowed_tokens[first / 32];
    for (; forbidden != 0; forbidden &= forbidden - 1) {
      const int id = first + __builtin_ctz(forbidden);
      if (id < vocab_size) logits[id] = kNone;
    }
  }
}

}  // namespace

bool HasPenalties(const SamplingRow& row) {
  return row.repetition_penalty != 1.0f || row.presence_penalty != 0.0f || row.frequency_penalty != 0.0f;
}

bool ChangesLogits(const SamplingRow& row) {
  return !row.bias.empty() || !row.masked_ids.empty() || row.allowed_tokens != nullptr ||
         (HasPenalties(row) && (row.counts != nullptr || !row.extra_tokens.empty()));
}

Penalties PenaltiesOf(const SamplingRow& row) {
  return {row.repetition_penalty, row.presence_penalty, row.frequency_penalty};
}

float Penalized(const Penalties& penalties, float logit, int output_count) {
  if (penalties.repetition != 1.0f) {
    logit = logit > 0 ? logit / penalties.repetition : logit * penalties.repetition;
  }
  if (output_count > 0) {
    logit -= penalties.presence;
    logit -= penalties.frequency * static_cast<float>(output_count);
  }
  return logit;
}

const float* ProcessedLogits(const SamplingRow& row, const float* raw, int vocab_size, SamplingScratch& scratch) {
  if (!ChangesLogits(row)) return raw;
  float* const logits = scratch.logits(vocab_size).data();
  std::copy_n(raw, vocab_size, logits);
  for (const auto& [id, bias] : row.bias) {
    if (id >= 0 && id < vocab_size) logits[id] += bias;
  }
  for (const int32_t id : row.masked_ids) {
    if (id >= 0 && id < vocab_size) logits[id] = kNone;
  }
  if (row.allowed_tokens != nullptr) ApplyAllowedTokens(row.allowed_tokens, vocab_size, logits);
  if (HasPenalties(row)) ApplyPenalties(row, vocab_size, logits);
  return logits;
}

}  // namespace outrider::kernels
