// Weights: the tensors of one rank, in the form that its numerics compute with.
//
//   invariant  matrices packed in their own dtype for the fast products; only a column slice that would cut through
//              quantised blocks is stored as fp32
//   reference  matrices dequantised to fp32, whole precision kept
// Norm weights and biases are fp32 in both. The embedding table stays in the mapped file on every rank.
//
// Thread safety: constant once loaded.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/common/dtype.h"
#include "kernels/gemm/matmul_reference.h"
#include "kernels/gemm/packed_matrix.h"
#include "worker/model/checkpoint.h"
#include "worker/model/model_config.h"
#include "worker/model/shard_plan.h"

namespace outrider {

enum class Numerics : uint8_t { kInvariant, kReference };
// "invariant" or "reference".
const char* NumericsName(Numerics numerics);

// One matrix in one of its two forms, and its bias (empty: none).
struct LinearWeight {
  kernels::PackedMatrix packed;        // invariant
  kernels::ReferenceMatrix reference;  // reference
  std::vector<float> bias;             // [out_features] or empty
  int64_t out_features() const { return packed.empty() ? reference.out_features() : packed.out_features(); }
};

struct LayerWeights {
  std::vector<float> attention_norm;     // [hidden_size]
  std::vector<float> q_norm, k_norm;     // [head_dim] or empty: none
  LinearWeight q;                        // [heads of the rank * head_dim, hidden_size]
  LinearWeight k, v;                     // [KV heads of the rank * head_dim, hidden_size]
  LinearWeight attention_output;         // [hidden_size, heads of the rank * head_dim]
  std::vector<float> feed_forward_norm;  // [hidden_size]
  LinearWeight gate, up;                 // [intermediate of the rank, hidden_size]
  LinearWeight down;                     // [hidden_size, intermediate of the rank]
};

struct Weights {
  std::unique_ptr<kernels::WeightArena> arena;  // first: outlives the matrices in it
  // Rows of the embedding table, in the file.
  kernels::DType embedding_dtype = kernels::DType::kF32;
  const void* embedding = nullptr;  // [vocab_size, hidden_size]
  std::vector<LayerWeights> layers;
  std::vector<float> output_norm;  // [hidden_size]
  LinearWeight head;               // [vocabulary rows of the rank, hidden_size]
  int64_t bytes = 0;               // of this rank's matrices and norms
};

// The matrices of a model, where a device keeps them itself.
enum class MatrixKind : uint8_t { kQ, kK, kV, kAttentionOutput, kGate, kUp, kDown, kHead, kEmbedding };
struct MatrixPlace {
  MatrixKind kind = MatrixKind::kHead;
  int layer = -1;  // -1: of no layer
};
class MatrixSink {
 public:
  virtual ~MatrixSink() = default;
  // Takes source[rows, columns), this rank's part. `what` names file and tensor.
  virtual absl::Status Put(const MatrixPlace& place, const kernels::MatrixSource& source, IndexRange rows,
                           IndexRange columns, absl::string_view what) = 0;
};

// Reads a rank's tensors from `checkpoint`, which must outlive the result. Logs progress about once a second. Biases of
// products that end in a sum over ranks are the first rank's: they are added once.
// Errors name file and tensor: INVALID_ARGUMENT if one is missing, of another shape than `config` asks for, or holds
// values that are not finite where that is cheap to see (norms, biases); UNIMPLEMENTED for a dtype this build has no
// code for, or a tensor that the forward pass does not know; RESOURCE_EXHAUSTED. With a `sink` matrices go there, the
// embedding table (all of it) too, and the result has the vectors only; errors of the sink are passed on.
absl::StatusOr<std::unique_ptr<Weights>> LoadWeights(const Checkpoint& checkpoint, const ModelConfig& config,
                                                     const RankShard& shard, Numerics numerics,
                                                     MatrixSink* sink = nullptr);

}  // namespace outrider
