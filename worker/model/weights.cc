#include "worker/model/weights.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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
  Loader(const GgufFile& file, Numerics numerics, int64_t total_bytes, MatrixSink* sink)
      : file_(file), numerics_(numerics), total_bytes_(total_bytes), sink_(sink), last_log_(Clock::now()) {}

  absl::StatusOr<const GgufTensor*> Find(const std::string& name, absl::Span<const int64_t> dims) {
    const GgufTensor* tensor = file_.FindTensor(name);
    if (tensor == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": tensor '", name, "' is missing"));
    }
    bool fits = true;
    for (int d = 0; d < 4; ++d) fits = fits && tensor->dims[d] == (d < dims.size() ? dims[d] : 1);
    if (!fits) {
      return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": tensor '", name, "' has shape ",
                                                     tensor->ShapeString(), "; the metadata asks for [",
                                                     absl::StrJoin(dims, ", "), "]"));
    }
    used_.insert(tensor->name);
    return tensor;
  }

  // A tensor that the forward pass does not know would change what the model says: UNIMPLEMENTED naming it.
  absl::Status CheckAllUsed() const {
    for (const GgufTensor& tensor : file_.tensors()) {
      // Read with the configuration.
      if (used_.contains(tensor.name) || tensor.name == "rope_freqs.weight") continue;
      return absl::UnimplementedError(absl::StrCat(file_.path(), ": tensor '", tensor.name,
                                                   "' is none that this build knows in a model of its architecture"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<DType> DtypeOf(const GgufTensor& tensor) const {
    DType dtype;
    if (kernels::DTypeFromGgml(tensor.type.id, &dtype)) return dtype;
    return absl::UnimplementedError(absl::StrCat(file_.path(), ": tensor '", tensor.name, "' has dtype ",
                                                 tensor.type.name,
                                                 "; this build computes with F32, F16, BF16, Q8_0, Q4_0 and Q4_1"));
  }

  // A vector as fp32, [first, end) of `size`.
  absl::Status Vector(const std::string& name, int64_t size, IndexRange range, std::vector<float>* out) {
    ASSIGN_OR_RETURN(const GgufTensor* tensor, Find(name, {size}));
    ASSIGN_OR_RETURN(const DType dtype, DtypeOf(*tensor));
    std::vector<float> values(size);
    RETURN_IF_ERROR(Checked(kernels::DequantizeRow(dtype, tensor->data, size, values.data()), *tensor));
    for (int64_t i = 0; i < size; ++i) {
      if (!std::isfinite(values[i])) {
        return absl::InvalidArgumentError(
            absl::StrCat(file_.path(), ": tensor '", name, "' holds ", values[i], " at ", i, "; the file is damaged"));
      }
    }
    out->assign(values.begin() + range.first, values.begin() + range.end);
    bytes_ += static_cast<int64_t>(out->size() * sizeof(float));
    Progress(tensor->bytes);
    return absl::OkStatus();
  }
  absl::Status Vector(const std::string& name, int64_t size, std::vector<float>* out) {
    return Vector(name, size, {0, size}, out);
  }

  // Rows and columns of the matrix [out_features, in_features].
  absl::Status Matrix(const MatrixPlace& place, const std::string& name, int64_t out_features, int64_t in_features,
                      IndexRange rows, IndexRange columns, LinearWeight* out) {
    ASSIGN_OR_RETURN(const GgufTensor* tensor, Find(name, {in_features, out_features}));
    ASSIGN_OR_RETURN(const DType dtype, DtypeOf(*tensor));
    const MatrixSource source{
        .dtype = dtype, .data = tensor->data, .out_features = out_features, .in_features = in_features};
    if (sink_ != nullptr) {
      RETURN_IF_ERROR(Put(place, source, rows, columns, *tensor));
    } else if (numerics_ == Numerics::kReference) {
      RETURN_IF_ERROR(Checked(kernels::ReferenceMatrix::Make(source, rows, columns, &out->reference), *tensor));
      bytes_ += rows.size() * columns.size() * static_cast<int64_t>(sizeof(float));
    } else {
      const bool cuts_blocks = IsQuantized(dtype) && (columns.first % kernels::kQuantBlockSize != 0 ||
                                                      columns.end % kernels::kQuantBlockSize != 0);
      const kernels::PackedMatrix::Options options{.as_f32 = cuts_blocks, .arena = arena_.get()};
      RETURN_IF_ERROR(Checked(kernels::PackedMatrix::Pack(source, rows, columns, options, &out->packed), *tensor));
      bytes_ += out->packed.packed_bytes();
    }
    Progress(tensor->bytes);
    return absl::OkStatus();
  }

  absl::Status Put(const MatrixPlace& place, const MatrixSource& source, IndexRange rows, IndexRange columns,
                   const GgufTensor& tensor) {
    if (source.in_features % kernels::BlockSize(source.dtype) != 0) {
      return Checked(KernelError::kInvalidShape, tensor);
    }
    return sink_->Put(place, source, rows, columns, absl::StrCat(file_.path(), ": tensor '", tensor.name, "'"));
  }

  int64_t bytes() const { return bytes_; }
  std::unique_ptr<kernels::WeightArena> TakeArena() { return std::move(arena_); }

 private:
  using Clock = std::chrono::steady_clock;

  absl::Status Checked(KernelError error, const GgufTensor& tensor) const {
    if (error == KernelError::kOk) return absl::OkStatus();
    const std::string message = absl::StrCat(file_.path(), ": tensor '", tensor.name, "' (", tensor.type.name, " ",
                                             tensor.ShapeString(), "): ", kernels::KernelErrorName(error));
    return error == KernelError::kOutOfMemory ? absl::ResourceExhaustedError(message)
                                              : absl::InvalidArgumentError(message);
  }

  void Progress(int64_t bytes) {
    done_bytes_ += bytes;
    const Clock::time_point now = Clock::now();
    if (now - last_log_ < std::chrono::seconds(1)) return;
    last_log_ = now;
    LogInfo("loading ", file_.path(), ": ", done_bytes_ * 100 / std::max<int64_t>(total_bytes_, 1), " %");
  }

  const GgufFile& file_;
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

absl::StatusOr<std::unique_ptr<Weights>> LoadWeights(const GgufFile& file, const ModelConfig& config,
                                                     const RankShard& shard, Numerics numerics, MatrixSink* sink) {
  int64_t total_bytes = 0;
  for (const GgufTensor& tensor : file.tensors()) total_bytes += tensor.bytes;
  Loader loader(file, numerics, total_bytes, sink);
  auto weights = std::make_unique<Weights>();

  const int64_t hidden = config.hidden_size;
  const int64_t head_dim = config.head_dim;
  const int64_t q_features = config.num_heads * head_dim;
  const int64_t kv_features = config.num_kv_heads * head_dim;
  const IndexRange all_hidden{0, hidden};
  const IndexRange q_rows{shard.heads.first * head_dim, shard.heads.end * head_dim};
  const IndexRange kv_rows{shard.kv_heads.first * head_dim, shard.kv_heads.end * head_dim};

  ASSIGN_OR_RETURN(const GgufTensor* embedding, loader.Find("token_embd.weight", {hidden, config.vocab_size}));
  ASSIGN_OR_RETURN(weights->embedding_dtype, loader.DtypeOf(*embedding));
  weights->embedding = embedding->data;
  if (sink != nullptr) {
    const MatrixSource table{.dtype = weights->embedding_dtype,
                             .data = embedding->data,
                             .out_features = config.vocab_size,
                             .in_features = hidden};
    RETURN_IF_ERROR(
        loader.Put({.kind = MatrixKind::kEmbedding}, table, {0, config.vocab_size}, all_hidden, *embedding));
  }

  weights->layers.resize(config.num_layers);
  for (int i = 0; i < config.num_layers; ++i) {
    LayerWeights& layer = weights->layers[i];
    const std::string blk = absl::StrCat("blk.", i, ".");
    RETURN_IF_ERROR(loader.Vector(blk + "attn_norm.weight", hidden, &layer.attention_norm));
    RETURN_IF_ERROR(
        loader.Matrix({MatrixKind::kQ, i}, blk + "attn_q.weight", q_features, hidden, q_rows, all_hidden, &layer.q));
    RETURN_IF_ERROR(
        loader.Matrix({MatrixKind::kK, i}, blk + "attn_k.weight", kv_features, hidden, kv_rows, all_hidden, &layer.k));
    RETURN_IF_ERROR(
        loader.Matrix({MatrixKind::kV, i}, blk + "attn_v.weight", kv_features, hidden, kv_rows, all_hidden, &layer.v));
    if (config.attention_bias) {
      RETURN_IF_ERROR(loader.Vector(blk + "attn_q.bias", q_features, q_rows, &layer.q.bias));
      RETURN_IF_ERROR(loader.Vector(blk + "attn_k.bias", kv_features, kv_rows, &layer.k.bias));
      RETURN_IF_ERROR(loader.Vector(blk + "attn_v.bias", kv_features, kv_rows, &layer.v.bias));
    }
    RETURN_IF_ERROR(loader.Matrix({MatrixKind::kAttentionOutput, i}, blk + "attn_output.weight", hidden, q_features,
                                  all_hidden, q_rows, &layer.attention_output));
    RETURN_IF_ERROR(loader.Vector(blk + "ffn_norm.weight", hidden, &layer.feed_forward_norm));
    RETURN_IF_ERROR(loader.Matrix({MatrixKind::kGate, i}, blk + "ffn_gate.weight", config.intermediate_size, hidden,
                                  shard.intermediate, all_hidden, &layer.gate));
    RETURN_IF_ERROR(loader.Matrix({MatrixKind::kUp, i}, blk + "ffn_up.weight", config.intermediate_size, hidden,
                                  shard.intermediate, all_hidden, &layer.up));
    RETURN_IF_ERROR(loader.Matrix({MatrixKind::kDown, i}, blk + "ffn_down.weight", hidden, config.intermediate_size,
                                  all_hidden, shard.intermediate, &layer.down));
  }
  RETURN_IF_ERROR(loader.Vector("output_norm.weight", hidden, &weights->output_norm));
  RETURN_IF_ERROR(loader.Matrix({MatrixKind::kHead}, config.tied_embedding ? "token_embd.weight" : "output.weight",
                                config.vocab_size, hidden, shard.vocab, all_hidden, &weights->head));
  RETURN_IF_ERROR(loader.CheckAllUsed());
  weights->bytes = loader.bytes();
  weights->arena = loader.TakeArena();
  return weights;
}

}  // namespace outrider
