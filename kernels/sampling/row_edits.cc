#include "kernels/sampling/row_edits.h"

#include <algorithm>
#include <limits>
#include <span>

namespace outrider::kernels {

float EditedLogit(const Penalties& penalties, const RowEdit& edit, float logit) {
  if (edit.has_bias != 0) logit += edit.bias;
  if (edit.is_masked != 0) logit = -std::numeric_limits<float>::infinity();
  return edit.is_penalized != 0 ? Penalized(penalties, logit, edit.output_count) : logit;
}

bool RowEditor::Append(const SamplingRow& row, int vocab_size, std::vector<RowEdit>* edits) {
  const size_t first = edits->size();
  if (Collect(row, vocab_size, first, edits)) return true;
  edits->resize(first);
  return false;
}

bool RowEditor::Collect(const SamplingRow& row, int vocab_size, size_t first, std::vector<RowEdit>* edits) {
  if (row.allowed_tokens != nullptr) return false;
  const auto in_vocabulary = [&](int32_t id) { return id >= 0 && id < vocab_size; };
  const bool penalizes = HasPenalties(row);
  const TokenCounts* const counts = penalizes ? row.counts : nullptr;
  // The counts' tokens in their order, then others in the order of others_.
  std::span<const TokenCounts::Entry> counted;
  if (counts != nullptr) counted = counts->entries();
  for (const TokenCounts::Entry& entry : counted) {
    edits->push_back({.token_id = entry.token_id, .output_count = entry.output_count, .is_penalized = 1});
  }
  if (!others_.entries().empty()) others_.Clear();
  const auto edit_of = [&](int32_t id) -> RowEdit& {
    if (const TokenCounts::Entry* entry = counts != nullptr ? counts->Find(id) : nullptr; entry != nullptr) {
      return (*edits)[first + static_cast<size_t>(entry - counted.data())];
    }
    if (const TokenCounts::Entry* other = others_.Find(id); other != nullptr) {
      return (*edits)[first + counted.size() + static_cast<size_t>(other - others_.entries().data())];
    }
    others_.AddPromptToken(id);
    edits->push_back({.token_id = id});
    return edits->back();
  };
  for (const auto& [id, bias] : row.bias) {
    if (!in_vocabulary(id)) continue;
    RowEdit& edit = edit_of(id);
    if (edit.has_bias != 0) return false;  // two roundings
    edit.has_bias = 1;
    edit.bias = bias;
  }
  for (const int32_t id : row.masked_ids) {
    if (in_vocabulary(id)) edit_of(id).is_masked = 1;
  }
  for (const int32_t id : row.extra_tokens) {
    if (!penalizes || !in_vocabulary(id)) continue;
    RowEdit& edit = edit_of(id);
    edit.is_penalized = 1;
    ++edit.output_count;
  }
  const auto changes_nothing = [&](const RowEdit& edit) {
    const bool is_penalized = edit.is_penalized != 0 && (row.repetition_penalty != 1.0f || edit.output_count > 0);
    return !in_vocabulary(edit.token_id) || (edit.has_bias == 0 && edit.is_masked == 0 && !is_penalized);
  };
  edits->erase(std::remove_if(edits->begin() + static_cast<ptrdiff_t>(first), edits->end(), changes_nothing),
               edits->end());
  return edits->size() - first <= static_cast<size_t>(RowEditsMax(vocab_size));
}

}  // namespace outrider::kernels
