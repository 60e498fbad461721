// Steps 1 to 3 of sample_row.h as a list: the tokens whose logits bias, masks and penalties change, and what becomes of
// each. A device applies it to a row that stays there (device_row_edits.h); EditedLogit is the reference.
//
// Thread safety: pure functions of their arguments; RowEditor: none.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/sampling/row_processing.h"
#include "kernels/sampling/sample_row.h"
#include "kernels/sampling/token_counts.h"

namespace outrider::kernels {

// In this order: + bias, minus infinity if masked, Penalized if penalised. Plain memory: it crosses to devices.
struct alignas(16) RowEdit {
  int32_t token_id = 0;
  float bias = 0;
  int32_t output_count = 0;
  uint8_t has_bias = 0;
  uint8_t is_masked = 0;
  uint8_t is_penalized = 0;
};

// A row whose edits are [first_edit, first_edit + num_edits) of a step's. Plain memory: it crosses to devices.
struct EditedRow {
  int32_t logits_row = 0;
  int32_t first_edit = 0;
  int32_t num_edits = 0;
  Penalties penalties;
};

// What the edit makes of the token's logit.
float EditedLogit(const Penalties& penalties, const RowEdit& edit, float logit);

// Edits of a row at most: half of what the row itself has in bytes, and 64 KB.
inline constexpr int kRowEditsMax = 4096;
constexpr int RowEditsMax(int vocab_size) { return vocab_size / 8 < kRowEditsMax ? vocab_size / 8 : kRowEditsMax; }

class RowEditor {
 public:
  // Appends the edits that make steps 1 to 3 of the row, no token twice. False, and nothing appended, if they are no
  // such list: allowed_tokens, a token with two biases, more than RowEditsMax. Takes time in proportion to the tokens
  // named.
  bool Append(const SamplingRow& row, int vocab_size, std::vector<RowEdit>* edits);

 private:
  bool Collect(const SamplingRow& row, int vocab_size, size_t first, std::vector<RowEdit>* edits);

  TokenCounts others_;  // tokens with edits that the row's counts have not
};

}  // namespace outrider::kernels
