// The forward pass of the Llama family (Touvron et al., arXiv:2302.13971): pre-norm transformer (Vaswani et al.,
// arXiv:1706.03762) with RMSNorm, rotary positions, grouped KV heads and a SwiGLU feed-forward.
#pragma once

#include "absl/status/status.h"
#include "worker/model/ops.h"

namespace outrider {

// Runs `inputs` through `num_layers` layers and the head; logits are left in ops.activations().logits. K and V of every
// row are in its blocks afterwards. Errors: those of Ops.
absl::Status Forward(int num_layers, const StepInputs& inputs, Ops& ops);

}  // namespace outrider
