#include "worker/model/weights.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

using kernels::DType;
using kernels::KernelError;
using kernels::MatrixSource;

// Reads the tensors of one rank, one by one.
class Loader {
 public:
  Loader(const Checkpoint& checkpoint, const ModelConfig& config, Numerics numerics, int64_t total_bytes,
         MatrixSink* sink)
      : checkpoint_(checkpoint),
        config_(config),
        numerics_(numerics),
        total_bytes_(total_bytes),
        sink_(sink),
        last_log_(Clock::now()) {}

  absl::StatusOr<const CheckpointTensor*> Find(TensorRole role, int layer) {
    ASSIGN_OR_RETURN(const CheckpointTensor* tensor, checkpoint_.FindFor(config_, role, layer));
    used_.insert(tensor->name);
    return tensor;
  }

  absl::Status CheckAllUsed() const {
    for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
      if (!used_.contains(tensor.name)) RETURN_IF_ERROR(checkpoint_.MayIgnore(tensor));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<DType> DtypeOf(const CheckpointTensor& tensor) const {
    if (tensor.dtype.has_value()) return *tensor.dtype;
    return absl::UnimplementedError(absl::StrCat(What(tensor), " has dtype ", tensor.dtype_name,
                                                 "; this build computes with ", checkpoint_.KnownDtypes()));
  }

  // A part of a vector as fp32.
  absl::Status Vector(TensorRole role, int layer, IndexRange range, std::vector<float>* out) {
    ASSIGN_OR_RETURN(const CheckpointTensor* tensor, Find(role, layer));
    ASSIGN_OR_RETURN(const DType dtype, DtypeOf(*tensor));
    const int64_t size = tensor->shape[0];
    std::vector<float> values(size);
    RETURN_IF_ERROR(Checked(kernels::DequantizeRow(dtype, tensor->data, size, values.data()), *tensor));
    for (int64_t i = 0; i < size; ++i) {
      if (!std::isfinite(values[i])) {
        return absl::InvalidArgumentError(
            absl::StrCat(What(*tensor), " holds ", values[i], " at ", i, "; the file is damaged"));
      }
    }
    out->assign(values.begin() + range.first, values.begin() + range.end);
    bytes_ += static_cast<int64_t>(out->size() * sizeof(float));
    Progress(tensor->bytes);
    return absl::OkStatus();
  }
  // Rows and columns of a matrix.
  absl::Status Matrix(const MatrixPlace& place, TensorRole role, IndexRange rows, IndexRange columns,
                      LinearWeight* out) {
    ASSIGN_OR_RETURN(const CheckpointTensor* tensor, Find(role, place.layer));
    ASSIGN_OR_RETURN(const MatrixSource source, SourceOf(*tensor));
    if (sink_ != nullptr) {
      RETURN_IF_ERROR(Put(place, source, rows, columns, *tensor));
    } else if (numerics_ == Numerics::kReference) {
      RETURN_IF_ERROR(Checked(kernels::ReferenceMatrix::Make(source, rows, columns, &out->reference), *tensor));
      bytes_ += rows.size() * columns.size() * static_cast<int64_t>(sizeof(float));
    } else {
      const bool cuts_blocks = IsQuantized(source.dtype) && (columns.first % kernels::kQuantBlockSize != 0 ||
                                                             columns.end % kernels::kQuantBlockSize != 0);
      const kernels::PackedMatrix::Options options{.as_f32 = cuts_blocks, .arena = arena_.get()};
      RETURN_IF_ERROR(Checked(kernels::PackedMatrix::Pack(source, rows, columns, options, &out->packed), *tensor));
      bytes_ += out->packed.packed_bytes();
    }
    Progress(tensor->bytes);
    return absl::OkStatus();
  }

  absl::StatusOr<MatrixSource> SourceOf(const CheckpointTensor& tensor) const {
    ASSIGN_OR_RETURN(const DType dtype, DtypeOf(tensor));
    return MatrixSource{
        .dtype = dtype, .data = tensor.data, .out_features = tensor.shape[0], .in_features = tensor.shape[1]};
  }

  absl::Status Put(const MatrixPlace& place, const MatrixSource& source, IndexRange rows, IndexRange columns,
                   const CheckpointTensor& tensor) {
    if (source.in_features % kernels::BlockSize(source.dtype) != 0) {
      return Checked(KernelError::kInvalidShape, tensor);
    }
    return sink_->Put(place, source, rows, columns, What(tensor));
  }

  int64_t bytes() const { return bytes_; }
  std::unique_ptr<kernels::WeightArena> TakeArena() { return std::move(arena_); }

 private:
  using Clock = std::chrono::steady_clock;

  static std::string What(const CheckpointTensor& tensor) {
    return absl::StrCat(tensor.file, ": tensor '", tensor.name, "'");
  }

  absl::Status Checked(KernelError error, const CheckpointTensor& tensor) const {
    if (error == KernelError::kOk) return absl::OkStatus();
    const std::string message =
        absl::StrCat(What(tensor), " (", tensor.dtype_name, " ", checkpoint_.ShapeString(tensor.shape),
                     "): ", kernels::KernelErrorName(error));
    return error == KernelError::kOutOfMemory ? absl::ResourceExhaustedError(message)
                                              : absl::InvalidArgumentError(message);
  }

  void Progress(int64_t bytes) {
    done_bytes_ += bytes;
    const Clock::time_point now = Clock::now();
    if (now - last_log_ < std::chrono::seconds(1)) return;
    last_log_ = now;
    LogInfo("loading ", checkpoint_.path(), ": ", done_bytes_ * 100 / std::max<int64_t>(total_bytes_, 1), " %");
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const Numerics numerics_;
  const int64_t total_bytes_;
  MatrixSink* const sink_;
  Clock::time_point last_log_;
  int64_t done_bytes_ = 0;
  int64_t bytes_ = 0;
  absl::flat_hash_set<absl::string_view> used_;
  std::unique_ptr<kernels::WeightArena> arena_ = std::make_unique<kernels::WeightArena>();
};

}  // namespace

const char* NumericsName(Numerics numerics) { return numerics == Numerics::kReference ? "reference" : "invariant"; }

absl::StatusOr<std::unique_ptr<Weights>> LoadWeights(const Checkpoint& checkpoint, const ModelConfig& config,
                                                     const RankShard& shard, Numerics numerics, MatrixSink* sink) {
  int64_t total_bytes = 0;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) total_bytes += tensor.bytes;
  Loader loader(checkpoint, config, numerics, total_bytes, sink);
  auto weights = std::make_unique<Weights>();

  const int64_t head_dim = config.head_dim;
  const IndexRange hidden{0, config.hidden_size};
  const IndexRange q{shard.heads.first * head_dim, shard.heads.end * head_dim};
  const IndexRange kv{shard.kv_heads.first * head_dim, shard.kv_heads.end * head_dim};
  const IndexRange head{0, head_dim};
  // No rank is without heads.
  const IndexRange hidden_of_first_rank = shard.heads.first == 0 ? hidden : IndexRange{0, 0};

  ASSIGN_OR_RETURN(const CheckpointTensor* embedding, loader.Find(TensorRole::kEmbedding, 0));
  ASSIGN_OR_RETURN(const MatrixSource table, loader.SourceOf(*embedding));
  weights->embedding_dtype = table.dtype;
  weights->embedding = table.data;
  if (sink != nullptr) {
    RETURN_IF_ERROR(loader.Put({.kind = MatrixKind::kEmbedding}, table, {0, config.vocab_size}, hidden, *embedding));
  }

  weights->layers.resize(config.num_layers);
  for (int i = 0; i < config.num_layers; ++i) {
    LayerWeights& layer = weights->layers[i];
    const auto matrix = [&](MatrixKind kind, TensorRole role, IndexRange rows, IndexRange columns, LinearWeight* out) {
      return loader.Matrix({kind, i}, role, rows, columns, out);
    };
    const auto vector = [&](TensorRole role, IndexRange range, std::vector<float>* out) {
      return loader.Vector(role, i, range, out);
    };
    RETURN_IF_ERROR(vector(TensorRole::kAttentionNorm, hidden, &layer.attention_norm));
    RETURN_IF_ERROR(matrix(MatrixKind::kQ, TensorRole::kQ, q, hidden, &layer.q));
    RETURN_IF_ERROR(matrix(MatrixKind::kK, TensorRole::kK, kv, hidden, &layer.k));
    RETURN_IF_ERROR(matrix(MatrixKind::kV, TensorRole::kV, kv, hidden, &layer.v));
    if (config.attention_bias) {
      RETURN_IF_ERROR(vector(TensorRole::kQBias, q, &layer.q.bias));
      RETURN_IF_ERROR(vector(TensorRole::kKBias, kv, &layer.k.bias));
      RETURN_IF_ERROR(vector(TensorRole::kVBias, kv, &layer.v.bias));
    }
    if (config.qk_norm) {
      RETURN_IF_ERROR(vector(TensorRole::kQNorm, head, &layer.q_norm));
      RETURN_IF_ERROR(vector(TensorRole::kKNorm, head, &layer.k_norm));
    }
    RETURN_IF_ERROR(
        matrix(MatrixKind::kAttentionOutput, TensorRole::kAttentionOutput, hidden, q, &layer.attention_output));
    if (config.attention_output_bias) {
      RETURN_IF_ERROR(vector(TensorRole::kAttentionOutputBias, hidden_of_first_rank, &layer.attention_output.bias));
    }
    RETURN_IF_ERROR(vector(TensorRole::kFeedForwardNorm, hidden, &layer.feed_forward_norm));
    RETURN_IF_ERROR(matrix(MatrixKind::kGate, TensorRole::kGate, shard.intermediate, hidden, &layer.gate));
    RETURN_IF_ERROR(matrix(MatrixKind::kUp, TensorRole::kUp, shard.intermediate, hidden, &layer.up));
    RETURN_IF_ERROR(matrix(MatrixKind::kDown, TensorRole::kDown, hidden, shard.intermediate, &layer.down));
    if (config.feed_forward_bias) {
      RETURN_IF_ERROR(vector(TensorRole::kGateBias, shard.intermediate, &layer.gate.bias));
      RETURN_IF_ERROR(vector(TensorRole::kUpBias, shard.intermediate, &layer.up.bias));
      RETURN_IF_ERROR(vector(TensorRole::kDownBias, hidden_of_first_rank, &layer.down.bias));
    }
  }
  RETURN_IF_ERROR(loader.Vector(TensorRole::kOutputNorm, 0, hidden, &weights->output_norm));
  RETURN_IF_ERROR(loader.Matrix({MatrixKind::kHead}, TensorRole::kHead, shard.vocab, hidden, &weights->head));
  RETURN_IF_ERROR(loader.CheckAllUsed());
  weights->bytes = loader.bytes();
  weights->arena = loader.TakeArena();
  return weights;
}

}  // namespace outrider
