// What llama.cpp's converter makes of a Hugging Face folder, for tests: the same model as a GGUF file.
//
// Written from the formats, not from the reader under test: names and shapes from ggml-org/llama.cpp,
// gguf-py/gguf/{constants,tensor_mapping}.py; that rows of Llama's q and k are permuted (HF pairs p with p + head_dim /
// 2, llama.cpp 2p with 2p + 1) and Qwen's are not, conversion/{llama,qwen}.py.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "kernels/common/dtype.h"
#include "text/tokenizer_definition.h"
#include "worker/model/testing/gguf_writer.h"

namespace outrider {

struct GgufConversionOptions {
  kernels::DType matrices = kernels::DType::kF32;        // vectors are F32, as the converter has them
  const text::TokenizerDefinition* tokenizer = nullptr;  // null: none
  // Plants a fault: gets a tensor's GGUF name, [rows] or [rows][columns] and its values, which it may change; false
  // leaves the tensor out.
  std::function<bool(const std::string& name, const std::vector<int64_t>& shape, std::vector<float>& values)> edit;
  std::set<std::string> keys_left_out;
  bool permute_qwen = false;  // as if it were a Llama
  double rope_base = 0;       // 0: the folder's
};

// LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM, their rope as it is or scaled linearly; aborts on others.
// Rows must be whole blocks of options.matrices.
GgufWriter GgufFromHuggingFace(const std::string& folder, const GgufConversionOptions& options);

// A new folder with the same configuration and all tensors in `dtype`; of a quantised dtype, matrices hold what its
// numbers stand for, in F32, and vectors are F32.
std::string HuggingFaceFolderIn(const std::string& folder, kernels::DType dtype);

}  // namespace outrider
