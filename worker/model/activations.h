// Activations: the buffers of a step, made once for the largest step, so that a step allocates nothing.
#pragma once

#include <cstdint>

namespace outrider {

// A row-major activation [rows, num_columns] in the memory and the element type of the Ops that made it (CPU: fp32;
// GPU: hidden and logits fp32, the others bf16).
struct Activation {
  void* data = nullptr;
  int64_t stride = 0;   // elements between rows
  int num_columns = 0;  // of this rank
};

struct Activations {
  Activation hidden;     // [max_step_tokens, hidden_size], the residual stream
  Activation qkv;        // [max_step_tokens, (heads + 2 * KV heads of the rank) * head_dim]: q, k, v side by side
  Activation attention;  // [max_step_tokens, heads of the rank * head_dim]
  Activation gated;      // [max_step_tokens, intermediate of the rank]
  Activation logits;     // [max_step_tokens, vocabulary rows of the rank]
};

}  // namespace outrider
