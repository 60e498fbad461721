// ProfiledOps: the operations of another Ops, each marked on its clock (op_clock.h).
#pragma once

#include <memory>
#include <utility>

#include "worker/model/op_clock.h"
#include "worker/model/ops.h"

namespace outrider {

class ProfiledOps final : public Ops {
 public:
  // REQUIRES: ops->op_clock() != nullptr. Where sums over ranks follow a product, `ops` marks the product itself.
  ProfiledOps(std::unique_ptr<Ops> ops, int world_size) : ops_(std::move(ops)), world_size_(world_size) {}

  const Activations& activations() const override { return ops_->activations(); }
  OpClock* op_clock() override { return ops_->op_clock(); }
  int num_launches() const override { return ops_->num_launches(); }

  absl::Status Embed(const StepInputs& inputs, const Activation& hidden) override;
  absl::Status NormQkv(int layer, const StepInputs& inputs, const Activation& hidden, const Activation& qkv) override;
  absl::Status RopeAppendAttend(int layer, const StepInputs& inputs, const Activation& qkv,
                                const Activation& out) override;
  absl::Status ProjectReduceAdd(int layer, Projection projection, const StepInputs& inputs, const Activation& in,
                                const Activation& hidden) override;
  absl::Status NormGateUpSilu(int layer, const StepInputs& inputs, const Activation& hidden,
                              const Activation& gated) override;
  absl::Status NormHead(const StepInputs& inputs, const Activation& hidden, const Activation& logits) override;
  absl::Status SampleVerify(std::span<kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                            std::span<kernels::VerifiedSpan> results) override;
  absl::StatusOr<const float*> HostLogits(int num_rows) override { return ops_->HostLogits(num_rows); }

 private:
  absl::Status Mark(OpKind kind) { return ops_->op_clock()->Mark(kind); }

  const std::unique_ptr<Ops> ops_;
  const int world_size_;
};

// The kind of a product that ends in a sum over ranks.
constexpr OpKind KindOf(Projection projection) {
  return projection == Projection::kAttentionOutput ? OpKind::kAttentionOutput : OpKind::kDown;
}

}  // namespace outrider
