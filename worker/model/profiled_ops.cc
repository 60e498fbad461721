#include "worker/model/profiled_ops.h"

#include "base/status_macros.h"

namespace outrider {

absl::Status ProfiledOps::Embed(const StepInputs& inputs, const Activation& hidden) {
  RETURN_IF_ERROR(ops_->op_clock()->Begin());
  RETURN_IF_ERROR(ops_->Embed(inputs, hidden));
  return Mark(OpKind::kEmbed);
}

absl::Status ProfiledOps::NormQkv(int layer, const StepInputs& inputs, const Activation& hidden,
                                  const Activation& qkv) {
  RETURN_IF_ERROR(ops_->NormQkv(layer, inputs, hidden, qkv));
  return Mark(OpKind::kQkv);
}

absl::Status ProfiledOps::RopeAppendAttend(int layer, const StepInputs& inputs, const Activation& qkv,
                                           const Activation& out) {
  RETURN_IF_ERROR(ops_->RopeAppendAttend(layer, inputs, qkv, out));
  return Mark(OpKind::kAttention);
}

absl::Status ProfiledOps::ProjectReduceAdd(int layer, Projection projection, const StepInputs& inputs,
                                           const Activation& in, const Activation& hidden) {
  RETURN_IF_ERROR(ops_->ProjectReduceAdd(layer, projection, inputs, in, hidden));
  return Mark(world_size_ > 1 ? OpKind::kAllReduce : KindOf(projection));
}

absl::Status ProfiledOps::NormGateUpSilu(int layer, const StepInputs& inputs, const Activation& hidden,
                                         const Activation& gated) {
  RETURN_IF_ERROR(ops_->NormGateUpSilu(layer, inputs, hidden, gated));
  return Mark(OpKind::kGateUp);
}

absl::Status ProfiledOps::NormHead(const StepInputs& inputs, const Activation& hidden, const Activation& logits) {
  RETURN_IF_ERROR(ops_->NormHead(inputs, hidden, logits));
  return Mark(OpKind::kHead);
}

absl::Status ProfiledOps::SampleVerify(std::span<kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                                       std::span<kernels::VerifiedSpan> results) {
  RETURN_IF_ERROR(ops_->SampleVerify(spans, first_logit_rows, results));
  return Mark(OpKind::kSample);
}

}  // namespace outrider
