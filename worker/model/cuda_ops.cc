// The operations of the transformer on one GPU.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/attention/device_attention.h"
#include "kernels/embedding/device_embedding.h"
#include "kernels/gemm/device_gemm.h"
#include "kernels/norm/device_head_norm.h"
#include "kernels/norm/device_rms_norm.h"
#include "kernels/rope/rope.h"
#include "worker/model/cuda_backend.h"
#include "worker/model/cuda_graph_cache.h"
#include "worker/model/cuda_group.h"
#include "worker/model/cuda_memory.h"
#include "worker/model/cuda_op_clock.h"
#include "worker/model/cuda_sampling.h"
#include "worker/model/cuda_step_sizes.h"
#include "worker/model/cuda_weights.h"
#include "worker/model/kernel_status.h"
#include "worker/model/profiled_ops.h"  // KindOf

namespace outrider {
namespace {

using kernels::DeviceEpilogue;
using kernels::DeviceMatrix;

// Steps of more rows keep the GPU busy longer than the host takes to launch them.
constexpr int kGraphRowsMax = 64;
// In errors.
constexpr char kQkvName[] = "q, k and v";
constexpr char kGateUpName[] = "gate and up projection";

class CudaOps final : public Ops {
 public:
  explicit CudaOps(const CudaOpsOptions& options)
      : options_(options),
        sizes_(options),
        config_(*options.config),
        shard_(options.plan->ranks[options.rank]),
        vectors_(*options.vectors),
        matrices_(static_cast<const CudaWeightsOnDevice&>(*options.matrices)),
        sampling_(options.config->vocab_size, *options.pool) {}

  ~CudaOps() override {
    if (stream_ != nullptr) {
      cudaStreamSynchronize(stream_);
      cudaStreamDestroy(stream_);
    }
    if (uploaded_ != nullptr) cudaEventDestroy(uploaded_);
  }

  absl::Status Init() {
    if (sizes_.kv_layout.Check() != kernels::KernelError::kOk) {
      return absl::InvalidArgumentError(absl::StrCat("KV blocks of ", options_.block_size, " positions, heads of ",
                                                     config_.head_dim,
                                                     " elements; the block size is a power of two, 16 to 256"));
    }
    RETURN_IF_ERROR(UseGpu());
    RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"));
    RETURN_IF_ERROR(CudaStatus(cudaEventCreateWithFlags(&uploaded_, cudaEventDisableTiming), "event"));
    int num_multiprocessors = 0;
    RETURN_IF_ERROR(
        CudaStatus(cudaDeviceGetAttribute(&num_multiprocessors, cudaDevAttrMultiProcessorCount, options_.device_index),
                   "reading the GPU"));
    num_multiprocessors_ = num_multiprocessors;

    RETURN_IF_ERROR(Make(config_.hidden_size, 4, "hidden states", &activations_.hidden));
    RETURN_IF_ERROR(Make(sizes_.q + 2 * sizes_.kv, 2, "q, k and v", &activations_.qkv));
    RETURN_IF_ERROR(Make(sizes_.q, 2, "attention outputs", &activations_.attention));
    RETURN_IF_ERROR(Make(sizes_.intermediate, 2, "feed-forward states", &activations_.gated));
    RETURN_IF_ERROR(Make(shard_.vocab.size(), 4, "logits", &activations_.logits));
    RETURN_IF_ERROR(Make(config_.hidden_size, 2, "normed states", &normed_));

    RETURN_IF_ERROR(MakeVectors());
    RETURN_IF_ERROR(MakeRopeTable());
    ASSIGN_OR_RETURN(upload_host_, CudaMemory::Allocate(CudaMemoryKind::kPinned, sizes_.upload_bytes(), "step inputs"));
    ASSIGN_OR_RETURN(upload_, CudaMemory::Allocate(CudaMemoryKind::kDevice, sizes_.upload_bytes(), "step inputs"));
    ASSIGN_OR_RETURN(workspace_,
                     CudaMemory::Allocate(CudaMemoryKind::kDevice, sizes_.workspace_bytes(), "attention workspace"));
    if (sizes_.num_ranks == 1) RETURN_IF_ERROR(sampling_.Init(sizes_.rows));
    const int64_t kv_bytes = sizes_.kv_layout.bytes();  // keys or values of a layer
    ASSIGN_OR_RETURN(kv_, CudaMemory::Allocate(CudaMemoryKind::kDevice, 2 * kv_bytes * config_.num_layers,
                                               absl::StrCat(options_.num_kv_blocks, " KV blocks")));
    if (options_.profile) clock_.emplace(stream_);
    return sizes_.num_ranks > 1 ? JoinGroup() : absl::OkStatus();
  }

  const Activations& activations() const override { return activations_; }

  absl::Status Embed(const StepInputs& inputs, const Activation& hidden) override {
    RETURN_IF_ERROR(UseGpu());
    RETURN_IF_ERROR(Upload(inputs));
    mode_ = CudaGraphCache::Mode::kEager;
    if (inputs.num_rows <= kGraphRowsMax && !options_.reverse_sum_order &&
        (group_ == nullptr || group_->capturable())) {
      RETURN_IF_ERROR(graphs_.Begin({inputs.num_rows, inputs.num_logit_rows, attention_plan_.num_narrow(),
                                     static_cast<int32_t>(attention_plan_.tiles().size()), attention_plan_.key(),
                                     clock_.has_value() && clock_->active()},
                                    stream_, &mode_));
    }
    if (clock_.has_value()) clock_->set_replayed(IsReplayed());
    if (IsReplayed()) return absl::OkStatus();
    return KernelStatus(kernels::DeviceEmbedding({.table = matrices_.embedding,
                                                  .token_ids = token_ids_,
                                                  .out = static_cast<float*>(hidden.data),
                                                  .out_stride = hidden.stride,
                                                  .num_rows = inputs.num_rows},
                                                 stream_),
                        "embedding");
  }

  absl::Status NormQkv(int layer, const StepInputs& inputs, const Activation& hidden, const Activation& qkv) override {
    if (IsReplayed()) return absl::OkStatus();
    const DeviceMatrix& matrix = matrices_.layers[layer].qkv;
    const LayerVectors& vectors = layer_vectors_[layer];
    // Later layers' rows were normed by the sum that ended the one before.
    if (group_ != nullptr && layer > 0) {
      return Multiply(matrix, normed_, inputs.num_rows, qkv, DeviceEpilogue::kStoreBf16, vectors.qkv_bias, kQkvName);
    }
    return NormMultiply(matrix, {.x = hidden, .num_rows = inputs.num_rows, .weight = vectors.attention_norm}, qkv,
                        DeviceEpilogue::kStoreBf16, vectors.qkv_bias, kQkvName);
  }

  absl::Status RopeAppendAttend(int layer, const StepInputs& inputs, const Activation& qkv,
                                const Activation& out) override {
    if (IsReplayed()) return absl::OkStatus();
    uint8_t* const keys = kv_.data<uint8_t>() + 2 * layer * sizes_.kv_layout.bytes();
    uint8_t* const values = keys + sizes_.kv_layout.bytes();
    if (const LayerVectors& vectors = layer_vectors_[layer]; vectors.q_norm != nullptr) {
      RETURN_IF_ERROR(KernelStatus(kernels::DeviceHeadNorm({.qk = static_cast<uint16_t*>(qkv.data),
                                                            .stride = qkv.stride,
                                                            .num_rows = inputs.num_rows,
                                                            .num_q_heads = static_cast<int>(shard_.heads.size()),
                                                            .num_k_heads = static_cast<int>(shard_.kv_heads.size()),
                                                            .head_dim = config_.head_dim,
                                                            .q_weight = vectors.q_norm,
                                                            .k_weight = vectors.k_norm,
                                                            .epsilon = config_.rms_norm_epsilon},
                                                           stream_),
                                   "norm of heads"));
    }
    const kernels::DeviceRopeAppendArgs rope{.qkv = static_cast<uint16_t*>(qkv.data),
                                             .qkv_stride = qkv.stride,
                                             .num_rows = inputs.num_rows,
                                             .num_heads = static_cast<int>(shard_.heads.size()),
                                             .positions = positions_,
                                             .kv_slots = kv_slots_,
                                             .cos_sin = cos_sin_.data<float>(),
                                             .rotary_dim = config_.rope.rotary_dim,
                                             .interleaved = config_.rope.layout == kernels::RopeLayout::kInterleaved,
                                             .layout = sizes_.kv_layout,
                                             .k_storage = keys,
                                             .v_storage = values};
    return KernelStatus(
        kernels::DeviceRopeAppendAttend(rope,
                                        {.q = static_cast<const uint16_t*>(qkv.data),
                                         .out = static_cast<uint16_t*>(out.data),
                                         .q_stride = qkv.stride,
                                         .out_stride = out.stride,
                                         .num_heads = static_cast<int>(shard_.heads.size()),
                                         .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
                                         .sliding_window = config_.window(layer),
                                         .layout = sizes_.kv_layout,
                                         .k_storage = keys,
                                         .v_storage = values,
                                         .tiles = tiles_,
                                         .block_tables = block_tables_,
                                         .plan = &attention_plan_,
                                         .workspace = workspace_.data(),
                                         .num_partials_max = kCudaPartialsMax},
                                        stream_),
        "rope, append to KV and attention");
  }

  absl::Status ProjectReduceAdd(int layer, Projection projection, const StepInputs& inputs, const Activation& in,
                                const Activation& hidden) override {
    if (IsReplayed()) {
      return group_ != nullptr && clock_.has_value() ? clock_->Mark(KindOf(projection)) : absl::OkStatus();
    }
    const CudaLayerWeights& w = matrices_.layers[layer];
    const bool is_output = projection == Projection::kAttentionOutput;
    const DeviceMatrix& matrix = is_output ? w.attention_output : w.down;
    const char* const what = is_output ? "attention output" : "down projection";
    if (group_ == nullptr) {
      RETURN_IF_ERROR(Multiply(matrix, in, inputs.num_rows, hidden, DeviceEpilogue::kAddF32, nullptr, what));
    } else {
      RETURN_IF_ERROR(Multiply(matrix, in, inputs.num_rows, group_->part(), DeviceEpilogue::kStoreBf16, nullptr, what));
      if (clock_.has_value()) RETURN_IF_ERROR(clock_->Mark(KindOf(projection)));
      // The norm that comes next; the head's is of some rows only.
      const float* const norm = is_output                        ? layer_vectors_[layer].feed_forward_norm
                                : layer + 1 < config_.num_layers ? layer_vectors_[layer + 1].attention_norm
                                                                 : nullptr;
      RETURN_IF_ERROR(group_->SumAndNorm(inputs.num_rows, hidden, norm, normed_, stream_));
    }
    return options_.reverse_sum_order && inputs.num_rows > 1 ? Disturb(inputs.num_rows, hidden) : absl::OkStatus();
  }

  absl::Status NormGateUpSilu(int layer, const StepInputs& inputs, const Activation& hidden,
                              const Activation& gated) override {
    if (IsReplayed()) return absl::OkStatus();
    const DeviceMatrix& matrix = matrices_.layers[layer].gate_up;
    if (group_ != nullptr) {
      return Multiply(matrix, normed_, inputs.num_rows, gated, DeviceEpilogue::kSiluMul, nullptr, kGateUpName);
    }
    const float* const weight = layer_vectors_[layer].feed_forward_norm;
    return NormMultiply(matrix, {.x = hidden, .num_rows = inputs.num_rows, .weight = weight}, gated,
                        DeviceEpilogue::kSiluMul, nullptr, kGateUpName);
  }

  absl::Status NormHead(const StepInputs& inputs, const Activation& hidden, const Activation& logits) override {
    num_logit_rows_ = inputs.num_logit_rows;
    if (inputs.num_logit_rows > 0 && !IsReplayed()) {
      RETURN_IF_ERROR(NormMultiply(
          matrices_.head,
          {.x = hidden, .num_rows = inputs.num_logit_rows, .row_indices = logit_rows_, .weight = output_norm_}, logits,
          DeviceEpilogue::kStoreF32, nullptr, "head"));
    }
    is_graph_ = mode_ != CudaGraphCache::Mode::kEager;
    if (!is_graph_) return absl::OkStatus();
    RETURN_IF_ERROR(graphs_.End(stream_));
    if (clock_.has_value()) clock_->set_replayed(false);
    return absl::OkStatus();
  }

  OpClock* op_clock() override { return clock_.has_value() ? &*clock_ : nullptr; }
  int num_launches() const override { return is_graph_ ? graphs_.num_kernels() : 0; }

  absl::Status SampleVerify(std::span<kernels::VerifySpan> spans, std::span<const int> first_logit_rows,
                            std::span<kernels::VerifiedSpan> results) override {
    RETURN_IF_ERROR(UseGpu());
    if (group_ != nullptr) {
      return group_->SampleVerify(spans, first_logit_rows,
                                  {.logits = activations_.logits,
                                   .num_rows = num_logit_rows_,
                                   .stream = stream_,
                                   .host_rows = [this] { return HostLogits(num_logit_rows_); }},
                                  results);
    }
    return sampling_.SampleVerify(spans, first_logit_rows,
                                  {.logits = activations_.logits,
                                   .num_rows = num_logit_rows_,
                                   .stream = stream_,
                                   .host_rows = [this] { return HostLogits(num_logit_rows_); }},
                                  results);
  }

  absl::StatusOr<const float*> HostLogits(int num_rows) override {
    RETURN_IF_ERROR(UseGpu());
    const int64_t bytes = num_rows * activations_.logits.stride * 4;
    if (bytes > logits_host_.bytes()) {
      // Twice what is asked for now, so that it grows seldom.
      ASSIGN_OR_RETURN(logits_host_, CudaMemory::Allocate(
                                         CudaMemoryKind::kPinned,
                                         std::min(2 * bytes, sizes_.rows * activations_.logits.stride * 4), "logits"));
    }
    RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(logits_host_.data(), activations_.logits.data,
                                               static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
                               "reading logits"));
    RETURN_IF_ERROR(Wait());
    return logits_host_.data<float>();
  }

 private:
  struct LayerVectors {
    const float* attention_norm;
    const float* feed_forward_norm;
    const float* qkv_bias;         // null: none
    const float *q_norm, *k_norm;  // null: none
  };

  // The step's operations are in a graph that is started at its end.
  bool IsReplayed() const { return mode_ == CudaGraphCache::Mode::kReplay; }

  absl::Status JoinGroup() {
    ASSIGN_OR_RETURN(group_, CudaGroup::Create(options_));
    return absl::OkStatus();
  }

  // All that was queued has been computed, and no sum went without a rank.
  absl::Status Wait() {
    return group_ != nullptr ? group_->Wait(stream_) : CudaStatus(cudaStreamSynchronize(stream_), "step");
  }

  // The runtime's current GPU is a thread's own.
  absl::Status UseGpu() const { return CudaStatus(cudaSetDevice(options_.device_index), "choosing the GPU"); }

  absl::Status Make(int64_t columns, int64_t element_bytes, const char* what, Activation* out) {
    const int64_t stride = CudaStrideOf(columns);
    ASSIGN_OR_RETURN(CudaMemory memory,
                     CudaMemory::Allocate(CudaMemoryKind::kDevice, sizes_.rows * stride * element_bytes, what));
    *out = {.data = memory.data(), .stride = stride, .num_columns = static_cast<int>(columns)};
    buffers_.push_back(std::move(memory));
    return absl::OkStatus();
  }

  // Norm weights and biases, one after the other.
  absl::Status MakeVectors() {
    std::vector<float> values;
    std::vector<std::pair<size_t, const float**>> places;
    const auto add = [&](const std::vector<float>& vector) {
      values.insert(values.end(), vector.begin(), vector.end());
    };
    const auto begin = [&](const float** place) {
      values.resize((values.size() + 3) / 4 * 4);
      places.emplace_back(values.size(), place);
    };
    layer_vectors_.resize(vectors_.layers.size());
    for (size_t i = 0; i < vectors_.layers.size(); ++i) {
      const LayerWeights& layer = vectors_.layers[i];
      begin(&layer_vectors_[i].attention_norm);
      add(layer.attention_norm);
      begin(&layer_vectors_[i].feed_forward_norm);
      add(layer.feed_forward_norm);
      layer_vectors_[i].qkv_bias = layer_vectors_[i].q_norm = layer_vectors_[i].k_norm = nullptr;
      if (!layer.q_norm.empty()) {
        begin(&layer_vectors_[i].q_norm);
        add(layer.q_norm);
        begin(&layer_vectors_[i].k_norm);
        add(layer.k_norm);
      }
      if (layer.q.bias.empty()) continue;
      begin(&layer_vectors_[i].qkv_bias);
      add(layer.q.bias);
      add(layer.k.bias);
      add(layer.v.bias);
    }
    begin(&output_norm_);
    add(vectors_.output_norm);
    ASSIGN_OR_RETURN(vector_memory_, Sent(values, "norm weights and biases"));
    for (const auto& [offset, place] : places) *place = vector_memory_.data<float>() + offset;
    return absl::OkStatus();
  }

  absl::Status MakeRopeTable() {
    kernels::RopeTable table;
    RETURN_IF_ERROR(
        KernelStatus(kernels::RopeTable::Create(config_.rope, options_.max_positions, &table), "rope table"));
    const int rotary_dim = config_.rope.rotary_dim;
    std::vector<float> values(static_cast<size_t>(sizes_.cos_sin));
    for (int position = 0; position < options_.max_positions; ++position) {
      float* const row = values.data() + int64_t{position} * rotary_dim;
      table.CosSin(position, row, row + rotary_dim / 2);
    }
    ASSIGN_OR_RETURN(cos_sin_, Sent(values, "rope table"));
    return absl::OkStatus();
  }

  static absl::StatusOr<CudaMemory> Sent(const std::vector<float>& values, const char* what) {
    const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(float));
    ASSIGN_OR_RETURN(CudaMemory memory, CudaMemory::Allocate(CudaMemoryKind::kDevice, bytes, what));
    RETURN_IF_ERROR(
        CudaStatus(cudaMemcpy(memory.data(), values.data(), static_cast<size_t>(bytes), cudaMemcpyHostToDevice), what));
    return memory;
  }

  // Everything that the step's kernels are told, in one copy.
  absl::Status Upload(const StepInputs& inputs) {
    // The copy of the step before may still be under way.
    RETURN_IF_ERROR(CudaStatus(cudaEventSynchronize(uploaded_), "step inputs"));
    block_table_offsets_.clear();
    uint8_t* const host = upload_host_.data<uint8_t>();
    uint8_t* const device = upload_.data<uint8_t>();
    int64_t used = 0;
    // Room for `count` elements of T on both sides.
    const auto place = [&]<typename T>(int64_t count, const T** on_device) {
      used = (used + alignof(T) - 1) / alignof(T) * alignof(T);
      T* const at = reinterpret_cast<T*>(host + used);
      *on_device = reinterpret_cast<const T*>(device + used);
      used += count * static_cast<int64_t>(sizeof(T));
      CHECK(used <= upload_host_.bytes());
      return at;
    };
    const size_t row_bytes = static_cast<size_t>(inputs.num_rows) * sizeof(int32_t);
    std::memcpy(place(inputs.num_rows, &token_ids_), inputs.token_ids, row_bytes);
    std::memcpy(place(inputs.num_rows, &positions_), inputs.positions, row_bytes);
    if (inputs.num_logit_rows > 0) {
      std::memcpy(place(inputs.num_logit_rows, &logit_rows_), inputs.logit_rows,
                  static_cast<size_t>(inputs.num_logit_rows) * sizeof(int32_t));
    }
    const int block_size = options_.block_size;
    int32_t* const slots = place(inputs.num_rows, &kv_slots_);
    std::fill_n(slots, inputs.num_rows, -1);
    for (const kernels::AttentionSpan& span : inputs.append_spans) {
      for (int r = 0; r < span.num_rows; ++r) {
        const int position = span.first_position + r;
        slots[span.first_row + r] = span.block_table[position / block_size] * block_size + position % block_size;
      }
    }
    int32_t num_entries = 0;
    const auto num_blocks_of = [&](const kernels::AttentionSpan& span) {
      return (span.first_position + span.num_rows + block_size - 1) / block_size;
    };
    for (const kernels::AttentionSpan& span : inputs.attention_spans) {
      block_table_offsets_.push_back(num_entries);
      num_entries += num_blocks_of(span);
    }
    attention_plan_.Make(inputs.attention_spans, block_table_offsets_, static_cast<int>(shard_.heads.size()),
                         static_cast<int>(shard_.kv_heads.size()), num_multiprocessors_, kCudaPartialsMax);
    const std::span<const kernels::DeviceAttentionTile> tiles = attention_plan_.tiles();
    std::copy(tiles.begin(), tiles.end(), place(static_cast<int64_t>(tiles.size()), &tiles_));
    // Last: their number is no part of a step's shape (CudaGraphCache).
    int32_t* const tables = place(num_entries, &block_tables_);
    for (size_t i = 0; i < inputs.attention_spans.size(); ++i) {
      const kernels::AttentionSpan& span = inputs.attention_spans[i];
      std::copy_n(span.block_table, num_blocks_of(span), tables + block_table_offsets_[i]);
    }
    RETURN_IF_ERROR(CudaStatus(
        cudaMemcpyAsync(device, host, static_cast<size_t>(used), cudaMemcpyHostToDevice, stream_), "step inputs"));
    return CudaStatus(cudaEventRecord(uploaded_, stream_), "step inputs");
  }

  // Rows of the residual stream that a product takes normed.
  struct RowsToNorm {
    Activation x;
    int num_rows;
    const int32_t* row_indices = nullptr;
    const float* weight;
  };
  // out = w * RmsNorm of rows. Few rows are normed within the product, others into normed_ first: the same bits.
  absl::Status NormMultiply(const DeviceMatrix& w, const RowsToNorm& rows, const Activation& out,
                            DeviceEpilogue epilogue, const float* bias, const char* what) {
    const float* const x = static_cast<const float*>(rows.x.data);
    if (kernels::NormsRows(w, rows.num_rows)) {
      return KernelStatus(kernels::DeviceMatMul({.w = w,
                                                 .norm = {.x = x,
                                                          .row_indices = rows.row_indices,
                                                          .weight = rows.weight,
                                                          .x_stride = rows.x.stride,
                                                          .epsilon = config_.rms_norm_epsilon},
                                                 .num_rows = rows.num_rows,
                                                 .out = out.data,
                                                 .out_stride = out.stride,
                                                 .bias = bias,
                                                 .epilogue = epilogue},
                                                stream_),
                          what);
    }
    RETURN_IF_ERROR(KernelStatus(kernels::DeviceRmsNorm({.x = x,
                                                         .row_indices = rows.row_indices,
                                                         .weight = rows.weight,
                                                         .out = static_cast<uint16_t*>(normed_.data),
                                                         .x_stride = rows.x.stride,
                                                         .out_stride = normed_.stride,
                                                         .num_rows = rows.num_rows,
                                                         .size = config_.hidden_size,
                                                         .epsilon = config_.rms_norm_epsilon},
                                                        stream_),
                                 "norm"));
    return Multiply(w, normed_, rows.num_rows, out, epilogue, bias, what);
  }

  absl::Status Multiply(const DeviceMatrix& w, const Activation& x, int num_rows, const Activation& out,
                        DeviceEpilogue epilogue, const float* bias, const char* what) {
    return KernelStatus(kernels::DeviceMatMul({.w = w,
                                               .x = static_cast<const uint16_t*>(x.data),
                                               .x_stride = x.stride,
                                               .num_rows = num_rows,
                                               .out = out.data,
                                               .out_stride = out.stride,
                                               .bias = bias,
                                               .epilogue = epilogue},
                                              stream_),
                        what);
  }

  // The planted fault: far more than another order of adding would do, so that it shows in ids.
  absl::Status Disturb(int num_rows, const Activation& hidden) {
    std::vector<float> values(static_cast<size_t>(num_rows * hidden.stride));
    const size_t bytes = values.size() * sizeof(float);
    RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream_), "planted fault"));
    RETURN_IF_ERROR(CudaStatus(cudaMemcpy(values.data(), hidden.data, bytes, cudaMemcpyDeviceToHost), "planted fault"));
    for (float& value : values) value = kernels::BF16ToF32(kernels::F32ToBF16(value));
    return CudaStatus(cudaMemcpy(hidden.data, values.data(), bytes, cudaMemcpyHostToDevice), "planted fault");
  }

  const CudaOpsOptions options_;
  const CudaStepSizes sizes_;
  const ModelConfig& config_;
  const RankShard& shard_;
  const Weights& vectors_;
  const CudaWeightsOnDevice& matrices_;
  int num_multiprocessors_ = 1;

  cudaStream_t stream_ = nullptr;
  cudaEvent_t uploaded_ = nullptr;
  std::vector<CudaMemory> buffers_;
  Activations activations_;
  Activation normed_;  // [max_step_tokens, hidden_size] bf16
  CudaMemory kv_;      // [layer][keys, values]
  CudaMemory cos_sin_;
  CudaMemory workspace_;
  CudaMemory vector_memory_;
  std::vector<LayerVectors> layer_vectors_;
  const float* output_norm_ = nullptr;

  // Of the step: where its inputs lie on the device.
  CudaMemory upload_host_, upload_;
  const int32_t* token_ids_ = nullptr;
  const int32_t* positions_ = nullptr;
  const int32_t* kv_slots_ = nullptr;
  const int32_t* logit_rows_ = nullptr;
  const int32_t* block_tables_ = nullptr;
  const kernels::DeviceAttentionTile* tiles_ = nullptr;
  kernels::DeviceAttentionPlan attention_plan_;
  std::vector<int32_t> block_table_offsets_;
  int num_logit_rows_ = 0;

  CudaGraphCache graphs_;
  CudaGraphCache::Mode mode_ = CudaGraphCache::Mode::kEager;  // of the step
  bool is_graph_ = false;                                     // the last step was
  std::optional<CudaOpClock> clock_;                          // of a profile

  std::unique_ptr<CudaGroup> group_;  // with several ranks
  CudaSampling sampling_;             // with one
  CudaMemory logits_host_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(const CudaOpsOptions& options) {
  auto ops = std::make_unique<CudaOps>(options);
  RETURN_IF_ERROR(ops->Init());
  return std::unique_ptr<Ops>(std::move(ops));
}

}  // namespace outrider
