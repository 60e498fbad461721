#include "worker/model/cpu_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/activation/silu_mul.h"
#include "kernels/attention/append_kv.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/common/dtype.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/matmul_reference.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "worker/model/host_buffer.h"
#include "worker/model/kernel_status.h"
#include "worker/model/profiled_ops.h"  // KindOf
#include "worker/model/sharded_sampling.h"

namespace outrider {
namespace {

using kernels::KernelError;

ShardBest BestOf(const float* logits, const IndexRange& vocab) {
  const int size = static_cast<int>(vocab.size());
  const int32_t best = kernels::ArgMax(logits, size);
  if (best >= 0) return {logits[best], static_cast<TokenId>(vocab.first + best)};
  // All minus infinity is sound in a shard as long as another rank has more.
  const bool all_lowest = std::all_of(logits, logits + size, [](float v) { return v == ShardBest{}.value; });
  return {ShardBest{}.value, all_lowest ? static_cast<TokenId>(vocab.first) : -1};
}

class CpuOps final : public Ops, private ShardLogits {
 public:
  explicit CpuOps(const CpuOpsOptions& options)
      : options_(options),
        config_(*options.config),
        shard_(options.plan->ranks[options.rank]),
        weights_(*options.weights),
        pool_(*options.pool),
        reference_(options.numerics == Numerics::kReference),
        world_size_(static_cast<int>(options.plan->ranks.size())),
        hidden_size_(config_.hidden_size),
        q_size_(shard_.heads.size() * config_.head_dim),
        kv_size_(shard_.kv_heads.size() * config_.head_dim),
        intermediate_size_(shard_.intermediate.size()) {
    if (world_size_ > 1) {
      sharded_.emplace(*options.plan, options.rank, config_.vocab_size, *options.communicator, pool_);
    }
  }

  absl::Status Init() {
    const int64_t rows = options_.max_step_tokens;
    RETURN_IF_ERROR(Make(rows, hidden_size_, "hidden states", &activations_.hidden));
    RETURN_IF_ERROR(Make(rows, q_size_ + 2 * kv_size_, "q, k and v", &activations_.qkv));
    RETURN_IF_ERROR(Make(rows, q_size_, "attention outputs", &activations_.attention));
    RETURN_IF_ERROR(Make(rows, intermediate_size_, "feed-forward states", &activations_.gated));
    RETURN_IF_ERROR(Make(rows, shard_.vocab.size(), "logits", &activations_.logits));
    RETURN_IF_ERROR(Make(rows, intermediate_size_, "feed-forward states", &up_));
    RETURN_IF_ERROR(Make(rows, hidden_size_, "normed states", &normed_));
    RETURN_IF_ERROR(Make(rows, hidden_size_, "partial sums", &partial_));
    const kernels::KvLayout layout =
        MakeKvLayout(config_, shard_, options_.numerics, options_.num_kv_blocks, options_.block_size);
    if (layout.Check() != KernelError::kOk) {
      return absl::InvalidArgumentError(absl::StrCat(
          "KV blocks of ", layout.block_size, " positions, ", layout.num_kv_heads, " heads of ", layout.head_dim, ": ",
          kernels::KernelErrorName(layout.Check()), "; the block size is a power of two up to 256"));
    }
    ASSIGN_OR_RETURN(kv_, KvStorage::Create(layout, config_.num_layers));
    RETURN_IF_ERROR(
        KernelStatus(kernels::RopeTable::Create(config_.rope, options_.max_positions, &rope_table_), "rope table"));
    const int64_t widest = std::max<int64_t>({hidden_size_, q_size_, intermediate_size_});
    RETURN_IF_ERROR(KernelStatus(gemm_workspace_.Reserve(rows, widest), "product workspace"));
    if (options_.profile) clock_.emplace();
    return absl::OkStatus();
  }

  const Activations& activations() const override { return activations_; }

  absl::Status Embed(const StepInputs& inputs, const Activation& hidden) override {
    const kernels::EmbeddingArgs args{.dtype = weights_.embedding_dtype,
                                      .table = weights_.embedding,
                                      .vocab_size = config_.vocab_size,
                                      .hidden_size = config_.hidden_size,
                                      .token_ids = inputs.token_ids,
                                      .out = Floats(hidden),
                                      .out_stride = hidden.stride,
                                      .num_rows = inputs.num_rows};
    return KernelStatus(reference_ ? kernels::EmbeddingReference(args) : kernels::Embedding(args, pool_), "embedding");
  }

  absl::Status NormQkv(int layer, const StepInputs& inputs, const Activation& hidden, const Activation& qkv) override {
    const LayerWeights& w = weights_.layers[layer];
    RETURN_IF_ERROR(Norm(inputs.num_rows, Floats(hidden), hidden.stride, w.attention_norm, Floats(normed_)));
    float* q = Floats(qkv);
    const Product products[] = {
        {&w.q, q, qkv.stride}, {&w.k, q + q_size_, qkv.stride}, {&w.v, q + q_size_ + kv_size_, qkv.stride}};
    return Multiply(products, Floats(normed_), normed_.stride, inputs.num_rows, "q, k and v");
  }

  absl::Status RopeAppendAttend(int layer, const StepInputs& inputs, const Activation& qkv,
                                const Activation& out) override {
    float* q = Floats(qkv);
    float* k = q + q_size_;
    float* v = k + kv_size_;
    const LayerWeights& w = weights_.layers[layer];
    if (!w.q_norm.empty()) {
      RETURN_IF_ERROR(HeadNorm(inputs.num_rows, q, qkv.stride, shard_.heads.size(), w.q_norm));
      RETURN_IF_ERROR(HeadNorm(inputs.num_rows, k, qkv.stride, shard_.kv_heads.size(), w.k_norm));
    }
    const kernels::RopeArgs rope{.x = q,  // k's heads follow q's
                                 .x_stride = qkv.stride,
                                 .positions = inputs.positions,
                                 .table = &rope_table_,
                                 .num_rows = inputs.num_rows,
                                 .num_heads = static_cast<int>(shard_.heads.size() + shard_.kv_heads.size()),
                                 .head_dim = config_.head_dim};
    RETURN_IF_ERROR(
        KernelStatus(reference_ ? kernels::RopeReference(config_.rope, rope) : kernels::Rope(rope, pool_), "rope"));
    const kernels::AppendKvArgs append{.k = k,
                                       .v = v,
                                       .k_stride = qkv.stride,
                                       .v_stride = qkv.stride,
                                       .layout = kv_.layout(),
                                       .k_storage = kv_.k(layer),
                                       .v_storage = kv_.v(layer),
                                       .spans = inputs.append_spans};
    RETURN_IF_ERROR(KernelStatus(reference_ ? kernels::AppendKvReference(append) : kernels::AppendKv(append, pool_),
                                 "append to KV"));
    const kernels::PagedAttentionArgs attention{
        .q = q,
        .out = Floats(out),
        .q_stride = qkv.stride,
        .out_stride = out.stride,
        .num_q_heads = static_cast<int>(shard_.heads.size()),
        .layout = kv_.layout(),
        .k_storage = kv_.k(layer),
        .v_storage = kv_.v(layer),
        .spans = inputs.attention_spans,
        .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim))),
        .sliding_window = config_.window(layer)};
    return KernelStatus(reference_ ? kernels::PagedAttentionReference(attention)
                                   : kernels::PagedAttention(attention, pool_, attention_workspace_),
                        "attention");
  }

  absl::Status ProjectReduceAdd(int layer, Projection projection, const StepInputs& inputs, const Activation& in,
                                const Activation& hidden) override {
    const LayerWeights& w = weights_.layers[layer];
    const LinearWeight& weight = projection == Projection::kAttentionOutput ? w.attention_output : w.down;
    const char* what = projection == Projection::kAttentionOutput ? "attention output" : "down projection";
    const bool disturbed = options_.reverse_sum_order && inputs.num_rows > 1;
    if (world_size_ == 1 && !reference_ && !disturbed) {
      const Product product{&weight, Floats(hidden), hidden.stride, kernels::Epilogue::kAdd};
      return Multiply({&product, 1}, Floats(in), in.stride, inputs.num_rows, what);
    }
    const Product product{&weight, Floats(partial_), partial_.stride};
    RETURN_IF_ERROR(Multiply({&product, 1}, Floats(in), in.stride, inputs.num_rows, what));
    if (world_size_ > 1) {
      if (clock_.has_value()) RETURN_IF_ERROR(clock_->Mark(KindOf(projection)));
      RETURN_IF_ERROR(
          options_.communicator->AllReduceSum(Floats(partial_), int64_t{inputs.num_rows} * partial_.stride));
    }
    const float* partial = Floats(partial_);
    pool_.ParallelForRange(inputs.num_rows, kRowsPerTask, [&](int64_t first, int64_t end) {
      for (int64_t row = first; row < end; ++row) {
        float* h = Floats(hidden) + row * hidden.stride;
        const float* p = partial + row * partial_.stride;
        for (int64_t i = 0; i < hidden_size_; ++i) h[i] += p[i];
        if (disturbed) {
          // Far more than another order of adding would do, so that it shows in ids and not only in bits.
          for (int64_t i = 0; i < hidden_size_; ++i) h[i] = kernels::BF16ToF32(kernels::F32ToBF16(h[i]));
        }
      }
    });
    return absl::OkStatus();
  }

  absl::Status NormGateUpSilu(int layer, const StepInputs& inputs, const Activation& hidden,
                              const Activation& gated) override {
    const LayerWeights& w = weights_.layers[layer];
    RETURN_IF_ERROR(Norm(inputs.num_rows, Floats(hidden), hidden.stride, w.feed_forward_norm, Floats(normed_)));
    const Product products[] = {{&w.gate, Floats(gated), gated.stride}, {&w.up, Floats(up_), up_.stride}};
    RETURN_IF_ERROR(Multiply(products, Floats(normed_), normed_.stride, inputs.num_rows, "gate and up projection"));
    const kernels::SiluMulArgs args{.gate = Floats(gated),
                                    .up = Floats(up_),
                                    .out = Floats(gated),
                                    .gate_stride = gated.stride,
                                    .up_stride = up_.stride,
                                    .out_stride = gated.stride,
                                    .num_rows = inputs.num_rows,
                                    .num_columns = static_cast<int>(intermediate_size_)};
    return KernelStatus(reference_ ? kernels::SiluMulReference(args) : kernels::SiluMul(args, pool_), "SiLU");
  }

  absl::Status NormHead(const StepInputs& inputs, const Activation& hidden, const Activation& logits) override {
    if (inputs.num_logit_rows == 0) return absl::OkStatus();
    float* rows = Floats(partial_);
    for (int i = 0; i < inputs.num_logit_rows; ++i) {
      std::memcpy(rows + i * partial_.stride, Floats(hidden) + inputs.logit_rows[i] * hidden.stride,
                  static_cast<size_t>(hidden_size_) * sizeof(float));
    }
    RETURN_IF_ERROR(Norm(inputs.num_logit_rows, rows, partial_.stride, weights_.output_norm, Floats(normed_)));
    const Product product{&weights_.head, Floats(logits), logits.stride};
    return Multiply({&product, 1}, Floats(normed_), normed_.stride, inputs.num_logit_rows, "head");
  }

  absl::StatusOr<const float*> HostLogits(int) override { return Floats(activations_.logits); }
  OpClock* op_clock() override { return clock_.has_value() ? &*clock_ : nullptr; }

  absl::Status SampleVerify(std::span<kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                            std::span<kernels::VerifiedSpan> results) override {
    if (sharded_.has_value()) return sharded_->SampleVerify(spans, first_logit_rows, *this, results);
    for (size_t i = 0; i < spans.size(); ++i) {
      spans[i].logits = LogitsRow(first_logit_rows[i]);
      spans[i].logits_stride = activations_.logits.stride;
    }
    return KernelStatus(kernels::VerifyDrafts(spans, config_.vocab_size, results, pool_, sampling_scratch_),
                        "sampling");
  }

 private:
  // Rows a task of element-wise work takes at least: some microseconds.
  static constexpr int64_t kRowsPerTask = 8;

  // out = weight * x + bias
  struct Product {
    const LinearWeight* weight;
    float* out;
    int64_t out_stride;
    kernels::Epilogue epilogue = kernels::Epilogue::kStore;
  };

  static float* Floats(const Activation& activation) { return static_cast<float*>(activation.data); }
  const float* LogitsRow(int row) const {
    return Floats(activations_.logits) + int64_t{row} * activations_.logits.stride;
  }

  absl::Status Make(int64_t rows, int64_t columns, const char* what, Activation* out) {
    const int64_t stride = (columns + 15) / 16 * 16;  // rows begin at cache lines
    ASSIGN_OR_RETURN(HostBuffer buffer,
                     HostBuffer::Allocate(rows * stride * static_cast<int64_t>(sizeof(float)), what));
    *out = {.data = buffer.data(), .stride = stride, .num_columns = static_cast<int>(columns)};
    buffers_.push_back(std::move(buffer));
    return absl::OkStatus();
  }

  absl::Status Norm(int num_rows, const float* x, int64_t x_stride, const std::vector<float>& weight, float* out) {
    const kernels::RmsNormArgs args{.x = x,
                                    .weight = weight.data(),
                                    .out = out,
                                    .x_stride = x_stride,
                                    .out_stride = normed_.stride,
                                    .num_rows = num_rows,
                                    .group_size = config_.hidden_size,
                                    .epsilon = config_.rms_norm_epsilon};
    return KernelStatus(reference_ ? kernels::RmsNormReference(args) : kernels::RmsNorm(args, pool_), "norm");
  }

  // Each head of x by itself, in place.
  absl::Status HeadNorm(int num_rows, float* x, int64_t stride, int64_t num_heads, const std::vector<float>& weight) {
    const kernels::RmsNormArgs args{.x = x,
                                    .weight = weight.data(),
                                    .out = x,
                                    .x_stride = stride,
                                    .out_stride = stride,
                                    .num_rows = num_rows,
                                    .num_groups = static_cast<int>(num_heads),
                                    .group_size = config_.head_dim,
                                    .epsilon = config_.rms_norm_epsilon};
    return KernelStatus(reference_ ? kernels::RmsNormReference(args) : kernels::RmsNorm(args, pool_), "norm of heads");
  }

  absl::Status Multiply(std::span<const Product> products, const float* x, int64_t x_stride, int num_rows,
                        const char* what) {
    if (!reference_) {
      kernels::MatMulPart parts[3];
      CHECK(products.size() <= std::size(parts));
      for (size_t i = 0; i < products.size(); ++i) {
        const Product& product = products[i];
        parts[i] = {.w = &product.weight->packed,
                    .out = product.out,
                    .out_stride = product.out_stride,
                    .bias = product.weight->bias.empty() ? nullptr : product.weight->bias.data(),
                    .epilogue = product.epilogue};
      }
      return KernelStatus(kernels::MatMul({parts, products.size()}, x, x_stride, num_rows, pool_, gemm_workspace_),
                          what);
    }
    for (const Product& product : products) {
      RETURN_IF_ERROR(KernelStatus(kernels::MatMulReference(product.weight->reference, x, x_stride, num_rows,
                                                            product.out, product.out_stride, pool_),
                                   what));
      const std::vector<float>& bias = product.weight->bias;
      for (int row = 0; row < num_rows; ++row) {
        for (size_t i = 0; i < bias.size(); ++i) product.out[row * product.out_stride + i] += bias[i];
      }
    }
    return absl::OkStatus();
  }

  absl::Status Best(std::span<const int> rows, std::span<ShardBest> best) override {
    pool_.ParallelFor(static_cast<int64_t>(rows.size()),
                      [&](int64_t i) { best[i] = BestOf(LogitsRow(rows[i]), shard_.vocab); });
    return absl::OkStatus();
  }
  absl::StatusOr<Rows> All() override { return Rows{LogitsRow(0), activations_.logits.stride}; }

  const CpuOpsOptions options_;
  const ModelConfig& config_;
  const RankShard& shard_;
  const Weights& weights_;
  kernels::ThreadPool& pool_;
  const bool reference_;
  const int world_size_;
  const int64_t hidden_size_;
  const int64_t q_size_;  // columns of q on this rank, likewise below
  const int64_t kv_size_;
  const int64_t intermediate_size_;

  std::vector<HostBuffer> buffers_;
  Activations activations_;
  Activation up_;       // [max_step_tokens, intermediate of the rank]
  Activation normed_;   // [max_step_tokens, hidden_size]
  Activation partial_;  // [max_step_tokens, hidden_size]
  KvStorage kv_;
  kernels::RopeTable rope_table_;
  kernels::GemmWorkspace gemm_workspace_;
  kernels::AttentionWorkspace attention_workspace_;
  std::vector<kernels::SamplingScratch> sampling_scratch_;
  std::optional<HostOpClock> clock_;  // of a profile

  std::optional<ShardedSampling> sharded_;  // more than one rank
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> CreateCpuOps(const CpuOpsOptions& options) {
  auto ops = std::make_unique<CpuOps>(options);
  RETURN_IF_ERROR(ops->Init());
  return std::unique_ptr<Ops>(std::move(ops));
}

}  // namespace outrider
