#include "worker/model/transformer.h"

#include "base/status_macros.h"

namespace outrider {

absl::Status Forward(int num_layers, const StepInputs& inputs, Ops& ops) {
  const Activations& a = ops.activations();
  // h = E[token]
  RETURN_IF_ERROR(ops.Embed(inputs, a.hidden));
  for (int layer = 0; layer < num_layers; ++layer) {
    // h = h + W_o * Attention(RoPE(W_qkv * norm(h)))
    RETURN_IF_ERROR(ops.NormQkv(layer, inputs, a.hidden, a.qkv));
    RETURN_IF_ERROR(ops.RopeAppendAttend(layer, inputs, a.qkv, a.attention));
    RETURN_IF_ERROR(ops.ProjectReduceAdd(layer, Projection::kAttentionOutput, inputs, a.attention, a.hidden));
    // h = h + W_down * (silu(W_gate * norm(h)) * (W_up * norm(h)))
    RETURN_IF_ERROR(ops.NormGateUpSilu(layer, inputs, a.hidden, a.gated));
    RETURN_IF_ERROR(ops.ProjectReduceAdd(layer, Projection::kDown, inputs, a.gated, a.hidden));
  }
  // logits = W_head * norm(h), only of the rows whose next token is chosen
  return ops.NormHead(inputs, a.hidden, a.logits);
}

}  // namespace outrider
