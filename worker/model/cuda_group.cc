#include "worker/model/cuda_group.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "kernels/sampling/device_argmax.h"
#include "worker/model/cuda_step_sizes.h"
#include "worker/model/kernel_status.h"

namespace outrider {

CudaGroup::CudaGroup(const CudaOpsOptions& options)
    : options_(options),
      vocab_(options.plan->ranks[options.rank].vocab),
      sampling_(*options.plan, options.rank, options.config->vocab_size, *options.communicator, *options.pool) {}

absl::StatusOr<std::unique_ptr<CudaGroup>> CudaGroup::Create(const CudaOpsOptions& options) {
  std::unique_ptr<CudaGroup> group(new CudaGroup(options));
  const int hidden_size = options.config->hidden_size;
  const int64_t rows = options.max_step_tokens, stride = CudaStrideOf(hidden_size);
  const auto allocate = [](CudaMemoryKind kind, int64_t bytes, const char* what, CudaMemory* memory) -> absl::Status {
    ASSIGN_OR_RETURN(*memory, CudaMemory::Allocate(kind, bytes, what));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(
      allocate(CudaMemoryKind::kDevice, rows * stride * 2, "parts of sums over ranks", &group->part_memory_));
  group->part_ = {.data = group->part_memory_.data(), .stride = stride, .num_columns = hidden_size};
  RETURN_IF_ERROR(allocate(CudaMemoryKind::kDevice, rows * 8, "chosen ids", &group->best_));
  RETURN_IF_ERROR(allocate(CudaMemoryKind::kPinned, rows * 8, "chosen ids", &group->best_host_));
  ASSIGN_OR_RETURN(group->all_reduce_, CudaAllReduce::Create({.communicator = options.communicator,
                                                              .device_index = options.device_index,
                                                              .size = hidden_size,
                                                              .rows_max = options.max_step_tokens,
                                                              .transport = options.transport}));
  return group;
}

absl::Status CudaGroup::SumAndNorm(int num_rows, const Activation& hidden, const float* norm_weight,
                                   const Activation& normed, cudaStream_t stream) {
  return all_reduce_->Sum({.part = static_cast<const uint16_t*>(part_.data),
                           .part_stride = part_.stride,
                           .hidden = static_cast<float*>(hidden.data),
                           .hidden_stride = hidden.stride,
                           .norm_weight = norm_weight,
                           .normed = static_cast<uint16_t*>(normed.data),
                           .normed_stride = normed.stride,
                           .num_rows = num_rows,
                           .size = options_.config->hidden_size,
                           .epsilon = options_.config->rms_norm_epsilon},
                          stream);
}

absl::Status CudaGroup::SampleVerify(std::span<const kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                                     StepLogits logits, std::span<kernels::VerifiedSpan> results) {
  step_ = std::move(logits);
  return sampling_.SampleVerify(spans, first_logit_rows, *this, results);
}

absl::Status CudaGroup::Best(std::span<const int> rows, std::span<ShardBest> best) {
  RETURN_IF_ERROR(KernelStatus(kernels::DeviceArgMax({.logits = static_cast<const float*>(step_.logits.data),
                                                      .logits_stride = step_.logits.stride,
                                                      .num_rows = step_.num_rows,
                                                      .vocab_size = step_.logits.num_columns,
                                                      .token_ids = best_.data<int32_t>(),
                                                      .best_logits = best_.data<float>() + step_.num_rows},
                                                     step_.stream),
                               "greedy choice"));
  RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(best_host_.data(), best_.data(), static_cast<size_t>(step_.num_rows) * 8,
                                             cudaMemcpyDeviceToHost, step_.stream),
                             "reading chosen ids"));
  RETURN_IF_ERROR(Wait(step_.stream));
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t id = best_host_.data<int32_t>()[rows[i]];
    const float value = best_host_.data<float>()[step_.num_rows + rows[i]];
    // All minus infinity is sound in a part as long as another rank has more.
    const bool all_lowest = value == ShardBest{}.value;
    best[i] = {.value = value,
               .token_id = id < 0 && !all_lowest ? -1 : static_cast<TokenId>(vocab_.first + std::max(id, 0))};
  }
  return absl::OkStatus();
}

absl::StatusOr<ShardLogits::Rows> CudaGroup::All() {
  ASSIGN_OR_RETURN(const float* const rows, step_.host_rows());
  return Rows{rows, step_.logits.stride};
}

}  // namespace outrider
