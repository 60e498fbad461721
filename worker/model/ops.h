// Ops: the operations of the transformer on one rank, coarse and few, so that a fused kernel is an op. The forward pass
// (transformer.h) is written once against it; backends are CpuOps (fast or reference kernels) and CudaOps.
//
// Ops owns the rank's activations and KV storage and knows its weights, KV blocks and peers. Activations passed in are
// those of activations(), or views into them.
//
// Exactness: a row's results depend on nothing but the row: not on other rows, their number, its index, or threads.
//
// Thread safety: none; one thread runs a step. Errors: INTERNAL if a kernel refuses its arguments, those of the
// communicator, RESOURCE_EXHAUSTED.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/ids.h"
#include "kernels/attention/kv_layout.h"
#include "kernels/sampling/verify_draft.h"
#include "worker/model/activations.h"
#include "worker/model/op_clock.h"

namespace outrider {

// What a step computes. Rows are in span order, positions of a span ascending. Every pointer outlives the step.
struct StepInputs {
  int num_rows = 0;
  const TokenId* token_ids = nullptr;  // [num_rows]
  const int32_t* positions = nullptr;  // [num_rows]
  // Rows and blocks of each span. K and V of the rows in `append_spans` are written before `attention_spans` are read;
  // the two are equal.
  std::span<const kernels::AttentionSpan> append_spans;
  std::span<const kernels::AttentionSpan> attention_spans;
  // Rows that go through the head, ascending: logits row i is of step row logit_rows[i].
  const int32_t* logit_rows = nullptr;  // [num_logit_rows]
  int num_logit_rows = 0;
};

// The two products of a layer that end in a sum over ranks.
enum class Projection : uint8_t { kAttentionOutput, kDown };

class Ops {
 public:
  virtual ~Ops() = default;

  virtual const Activations& activations() const = 0;

  // hidden[r] = embedding row of token_ids[r]
  virtual absl::Status Embed(const StepInputs& inputs, const Activation& hidden) = 0;

  // q, k, v = W_qkv * RmsNorm(hidden) + bias
  virtual absl::Status NormQkv(int layer, const StepInputs& inputs, const Activation& hidden,
                               const Activation& qkv) = 0;

  // Norms each head of q and k where the model does, turns them by their positions, writes k and v into their blocks,
  // and out = attention of q over the positions of its sequence up to its own, or the last of them that the layer's
  // window holds.
  virtual absl::Status RopeAppendAttend(int layer, const StepInputs& inputs, const Activation& qkv,
                                        const Activation& out) = 0;

  // hidden += sum over ranks, in rank order, of W * in
  virtual absl::Status ProjectReduceAdd(int layer, Projection projection, const StepInputs& inputs,
                                        const Activation& in, const Activation& hidden) = 0;

  // gated = silu(W_gate * n) * (W_up * n), n = RmsNorm(hidden)
  virtual absl::Status NormGateUpSilu(int layer, const StepInputs& inputs, const Activation& hidden,
                                      const Activation& gated) = 0;

  // logits[i] = W_head * RmsNorm(hidden[logit_rows[i]]): this rank's rows of the vocabulary.
  virtual absl::Status NormHead(const StepInputs& inputs, const Activation& hidden, const Activation& logits) = 0;

  // Target tokens and accepted drafts of spans whose logits NormHead left in activations().logits. A span's
  // draft_ids.size() + 1 rows begin at row first_logit_rows[i]; its `logits` and `logits_stride` are filled in here.
  // Equal on every rank.
  virtual absl::Status SampleVerify(std::span<kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                                    std::span<kernels::VerifiedSpan> results) = 0;

  // The first `num_rows` rows of activations().logits as fp32 in host memory, rows activations().logits.stride apart;
  // valid until the next call of any operation. For tests and tools: a device copies them.
  virtual absl::StatusOr<const float*> HostLogits(int num_rows) = 0;

  // Null unless made for a profile.
  virtual OpClock* op_clock() { return nullptr; }
  // Kernels in the graph of the last step; 0 if it was none, and on a CPU.
  virtual int num_launches() const { return 0; }
};

}  // namespace outrider
