// GgufWriter makes GGUF files for tests; TinyModel makes whole models of some hundred kilobytes from a seed.
//
//   GgufWriter writer;
//   writer.String("general.architecture", "llama");
//   writer.Tensor("token_embd.weight", {64, 320}, DType::kQ8_0, values);
//   const std::string file = writer.Finish();
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/common/dtype.h"
#include "text/tokenizer_definition.h"
#include "worker/model/gguf.h"

namespace outrider {

class GgufWriter {
 public:
  explicit GgufWriter(uint32_t version = 3, uint32_t alignment = 32) : version_(version), alignment_(alignment) {}

  // Metadata. Keys are not checked: a test may write any nonsense, also one twice.
  void Uint32(absl::string_view key, uint32_t value);
  void Int64(absl::string_view key, int64_t value);
  void Float32(absl::string_view key, float value);
  void Bool(absl::string_view key, bool value);
  void String(absl::string_view key, absl::string_view value);
  void Strings(absl::string_view key, absl::Span<const std::string> values);
  void Int32s(absl::string_view key, absl::Span<const int32_t> values);
  void Float32s(absl::string_view key, absl::Span<const float> values);
  // A value in the file's own encoding.
  void Raw(absl::string_view key, GgufType type, absl::string_view bytes);

  // Encodes `values`, dims[0] * dims[1] * ... of them. dims[0] is contiguous.
  void Tensor(absl::string_view name, absl::Span<const int64_t> dims, kernels::DType dtype,
              absl::Span<const float> values);
  // Any claim over any bytes.
  void RawTensor(absl::string_view name, absl::Span<const int64_t> dims, uint32_t ggml_type, std::string bytes);

  // Header, metadata, tensors. `interesting` (may be null) gets the offset of every field, in order: where a
  // truncation or a flipped bit tells most.
  std::string Finish(std::vector<size_t>* interesting = nullptr) const;

 private:
  struct TensorEntry {
    std::string name;
    std::vector<int64_t> dims;
    uint32_t ggml_type;
    std::string bytes;
  };
  const uint32_t version_;
  const uint32_t alignment_;
  std::vector<std::pair<std::string, std::string>> entries_;  // key, type and value as stored
  std::vector<TensorEntry> tensors_;
};

// The tokenizer.* keys of a definition.
void WriteTokenizer(const text::TokenizerDefinition& definition, GgufWriter& writer);

struct TinyModelOptions {
  uint64_t seed = 1;
  std::string name = "tiny";
  int num_layers = 2;
  int hidden_size = 64;
  int intermediate_size = 96;
  int num_heads = 9;
  int num_kv_heads = 3;
  int head_dim = 32;
  int max_positions = 512;
  bool tied = false;
  bool attention_bias = false;
  kernels::DType dtype = kernels::DType::kQ4_1;            // of matrices
  kernels::DType embedding_dtype = kernels::DType::kQ8_0;  // and of the head
  enum class Rope { kNone, kLinear, kFactors, kYarn } rope = Rope::kNone;
  // Byte-level, with merges and the control tokens <|endoftext|> 0, <|im_start|> 1, <|im_end|> 2 (the end token).
  bool tokenizer = true;
  int vocab_size = 320;  // at least 300 with a tokenizer
};

// A Llama model of random weights in GGUF. Equal options give equal bytes. Its logits have a standard deviation of
// about 3, so that greedy choices are seldom near ties.
GgufWriter TinyModel(const TinyModelOptions& options);

// Of TinyModel with a tokenizer: `vocab_size` tokens.
text::TokenizerDefinition TinyTokenizer(int vocab_size);

// Writes `bytes` to a new file below the test's temporary folder and returns its path; aborts if it can not.
std::string WriteTestFile(absl::string_view name, absl::string_view bytes);
// The same for TinyModel(options).
std::string WriteTinyModel(const TinyModelOptions& options);

}  // namespace outrider
