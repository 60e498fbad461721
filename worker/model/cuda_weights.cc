#include "worker/model/cuda_weights.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/attention/device_attention.h"
#include "worker/model/kernel_status.h"

namespace outrider {
namespace {

using kernels::DeviceMatrix;
using kernels::IndexRange;
using kernels::MatrixSource;

// Rows of matrices that are converted and sent at once.
constexpr int64_t kStagingBytes = int64_t{32} << 20;

// Converts matrices to bf16 in pinned memory, sends them, and has the GPU pack them; one chunk is converted while
// another is on its way.
class Uploader final : public MatrixSink {
 public:
  Uploader(const ModelConfig& config, const RankShard& shard, kernels::ThreadPool& pool, CudaWeightsOnDevice& weights)
      : config_(config), shard_(shard), pool_(pool), weights_(weights) {}
  ~Uploader() override {
    for (Stage& stage : stages_) {
      if (stage.sent != nullptr) cudaEventDestroy(stage.sent);
    }
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  absl::Status Init() {
    RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "loading stream"));
    for (Stage& stage : stages_) {
      ASSIGN_OR_RETURN(stage.host, CudaMemory::Allocate(CudaMemoryKind::kPinned, kStagingBytes, "staging"));
      ASSIGN_OR_RETURN(stage.device, CudaMemory::Allocate(CudaMemoryKind::kDevice, kStagingBytes, "staging"));
      RETURN_IF_ERROR(CudaStatus(cudaEventCreateWithFlags(&stage.sent, cudaEventDisableTiming), "loading event"));
    }
    return absl::OkStatus();
  }

  absl::Status Put(const MatrixPlace& place, const MatrixSource& source, IndexRange rows, IndexRange columns,
                   absl::string_view what) override {
    kernels::PackDeviceMatrixArgs args;
    const int64_t q_rows = shard_.heads.size() * config_.head_dim, kv_rows = shard_.kv_heads.size() * config_.head_dim;
    CudaLayerWeights* const layer = place.layer >= 0 ? &weights_.layers[place.layer] : nullptr;
    switch (place.kind) {
      case MatrixKind::kQ:
        args.matrix = layer->qkv;
        break;
      case MatrixKind::kK:
        args.matrix = layer->qkv;
        args.first_feature = q_rows;
        break;
      case MatrixKind::kV:
        args.matrix = layer->qkv;
        args.first_feature = q_rows + kv_rows;
        break;
      case MatrixKind::kAttentionOutput:
        args.matrix = layer->attention_output;
        break;
      case MatrixKind::kGate:
      case MatrixKind::kUp:
        args.matrix = layer->gate_up;
        args.interleave = true;
        args.interleave_second = place.kind == MatrixKind::kUp;
        break;
      case MatrixKind::kDown:
        args.matrix = layer->down;
        break;
      case MatrixKind::kHead:
        args.matrix = weights_.head;
        break;
      case MatrixKind::kEmbedding:
        if (weights_.embedding.data == weights_.head.data) return absl::OkStatus();
        args.matrix = weights_.embedding;
        break;
    }
    return Send(source, rows, columns, what, args);
  }

  absl::Status Finish() { return CudaStatus(cudaStreamSynchronize(stream_), "loading weights"); }

 private:
  struct Stage {
    CudaMemory host, device;
    cudaEvent_t sent = nullptr;
  };

  absl::Status Send(const MatrixSource& source, IndexRange rows, IndexRange columns, absl::string_view what,
                    kernels::PackDeviceMatrixArgs args) {
    const int64_t num_columns = columns.size();
    const int64_t rows_at_once = std::max<int64_t>(1, kStagingBytes / (num_columns * 2));
    const int64_t first_feature = args.first_feature;
    for (int64_t first = rows.first; first < rows.end; first += rows_at_once) {
      Stage& stage = stages_[next_++ % 2];
      RETURN_IF_ERROR(CudaStatus(cudaEventSynchronize(stage.sent), what));
      const int64_t end = std::min(first + rows_at_once, rows.end);
      uint16_t* const to = stage.host.data<uint16_t>();
      const int64_t row_bytes = kernels::RowBytes(source.dtype, source.in_features);
      pool_.ParallelForRange(end - first, 16, [&](int64_t begin, int64_t stop) {
        std::vector<float> row(static_cast<size_t>(source.in_features));
        for (int64_t r = begin; r < stop; ++r) {
          // Whole rows: a slice may begin within a quantised block. The shapes were checked, so this does not fail.
          (void)kernels::DequantizeRow(source.dtype,
                                       static_cast<const std::byte*>(source.data) + (first + r) * row_bytes,
                                       source.in_features, row.data());
          for (int64_t k = 0; k < num_columns; ++k) {
            to[r * num_columns + k] = kernels::F32ToBF16(row[static_cast<size_t>(columns.first + k)]);
          }
        }
      });
      args.rows = stage.device.data<uint16_t>();
      args.num_rows = end - first;
      args.first_feature = first_feature + first - rows.first;
      RETURN_IF_ERROR(
          CudaStatus(cudaMemcpyAsync(stage.device.data(), to, static_cast<size_t>(args.num_rows * num_columns * 2),
                                     cudaMemcpyHostToDevice, stream_),
                     what));
      RETURN_IF_ERROR(KernelStatus(kernels::PackDeviceMatrix(args, stream_), what));
      RETURN_IF_ERROR(CudaStatus(cudaEventRecord(stage.sent, stream_), what));
    }
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  const RankShard& shard_;
  kernels::ThreadPool& pool_;
  CudaWeightsOnDevice& weights_;
  cudaStream_t stream_ = nullptr;
  Stage stages_[2];
  uint64_t next_ = 0;
};

// What the kernels have code for.
absl::Status CheckShapes(const ModelConfig& config, const RankShard& shard, absl::string_view path) {
  const kernels::DeviceKvLayout layout{.num_kv_heads = static_cast<int>(shard.kv_heads.size()),
                                       .head_dim = config.head_dim};
  if (layout.Check() != kernels::KernelError::kOk) {
    return absl::UnimplementedError(absl::StrCat(path, ": heads of ", config.head_dim,
                                                 " elements; GPUs compute with 16, 32, 64 and 128; use device cpu"));
  }
  if (config.attention_output_bias || config.feed_forward_bias) {
    return absl::UnimplementedError(
        absl::StrCat(path,
                     ": biases of the attention output or the feed-forward are not computed on GPUs; use device "
                     "cpu"));
  }
  if (config.hidden_size % 8 != 0 || shard.intermediate.size() % 16 != 0) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": hidden_size ", config.hidden_size, " and ", shard.intermediate.size(),
                     " intermediate features; GPUs want multiples of 8 and 16; use device cpu"));
  }
  return absl::OkStatus();
}

int64_t BytesOf(int64_t out_features, int64_t in_features) {
  return DeviceMatrix{.out_features = out_features, .in_features = in_features}.bytes();
}

}  // namespace

absl::Status CudaWeightsOnDevice::Add(int64_t out_features, int64_t in_features, absl::string_view what,
                                      DeviceMatrix* matrix) {
  *matrix = {.out_features = out_features, .in_features = in_features};
  ASSIGN_OR_RETURN(CudaMemory memory, CudaMemory::Allocate(CudaMemoryKind::kDevice, matrix->bytes(), what));
  matrix->data = memory.data();
  bytes_ += matrix->bytes();
  memory_.push_back(std::move(memory));
  return absl::OkStatus();
}

absl::StatusOr<CudaLoadResult> LoadCudaWeights(const CudaLoadOptions& options) {
  const ModelConfig& config = *options.config;
  const RankShard& shard = *options.shard;
  RETURN_IF_ERROR(CheckCuda(options.device_index));
  RETURN_IF_ERROR(CheckShapes(config, shard, options.checkpoint->path()));
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(options.device_index), "choosing the GPU"));

  const int64_t hidden = config.hidden_size;
  const int64_t q_features = shard.heads.size() * config.head_dim;
  const int64_t qkv_features = q_features + 2 * shard.kv_heads.size() * config.head_dim;
  const int64_t intermediate = shard.intermediate.size();
  // A rank that holds the whole head needs no second copy of it to look rows up.
  const bool shared = config.tied_embedding && shard.vocab.size() == config.vocab_size;
  const int64_t layer_bytes = BytesOf(qkv_features, hidden) + BytesOf(hidden, q_features) +
                              BytesOf(2 * intermediate, hidden) + BytesOf(hidden, intermediate);
  const int64_t head_bytes = BytesOf(shard.vocab.size(), hidden);
  const int64_t embedding_bytes = shared ? 0 : BytesOf(config.vocab_size, hidden);
  const int64_t needed = layer_bytes * config.num_layers + head_bytes + embedding_bytes;
  size_t free_bytes = 0, total_bytes = 0;
  RETURN_IF_ERROR(CudaStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "reading the GPU's memory"));
  if (needed > static_cast<int64_t>(free_bytes)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(options.checkpoint->path(), " does not fit GPU ", options.device_index, ": ", config.num_layers,
                     " layers of ", layer_bytes >> 20, " MiB, head ", head_bytes >> 20, " MiB, embedding ",
                     embedding_bytes >> 20, " MiB are ", needed >> 20, " MiB in bf16; ", free_bytes >> 20, " of ",
                     total_bytes >> 20, " MiB are free. Free the GPU of other processes, or use a larger one"));
  }

  auto matrices = std::make_unique<CudaWeightsOnDevice>();
  matrices->layers.resize(config.num_layers);
  for (CudaLayerWeights& layer : matrices->layers) {
    RETURN_IF_ERROR(matrices->Add(qkv_features, hidden, "q, k and v", &layer.qkv));
    RETURN_IF_ERROR(matrices->Add(hidden, q_features, "attention output", &layer.attention_output));
    RETURN_IF_ERROR(matrices->Add(2 * intermediate, hidden, "gate and up", &layer.gate_up));
    RETURN_IF_ERROR(matrices->Add(hidden, intermediate, "down projection", &layer.down));
  }
  RETURN_IF_ERROR(matrices->Add(shard.vocab.size(), hidden, "head", &matrices->head));
  matrices->embedding = matrices->head;
  if (!shared) RETURN_IF_ERROR(matrices->Add(config.vocab_size, hidden, "embedding", &matrices->embedding));

  Uploader uploader(config, shard, *options.pool, *matrices);
  RETURN_IF_ERROR(uploader.Init());
  CudaLoadResult result;
  ASSIGN_OR_RETURN(result.vectors, LoadWeights(*options.checkpoint, config, shard, Numerics::kInvariant, &uploader));
  RETURN_IF_ERROR(uploader.Finish());
  result.vectors->bytes += matrices->bytes();
  result.matrices = std::move(matrices);
  return result;
}

}  // namespace outrider
