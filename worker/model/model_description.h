// What `outrider inspect` says of a model.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "text/tokenizer_definition.h"
#include "worker/model/load_format.h"
#include "worker/model/model_config.h"

namespace outrider {

struct TensorDescription {
  std::string name;
  std::string dtype;  // "Q4_1", also those that this build can not compute with
  std::string shape;  // as the format's users write it: the contiguous dimension is first in GGUF, last in safetensors
  int64_t bytes = 0;
};

struct DtypeTotal {
  std::string dtype;
  int num_tensors = 0;
  int64_t num_parameters = 0;
  int64_t bytes = 0;
};

struct RankMemory {
  int tensor_parallel_size = 0;
  int64_t weight_bytes_max = 0;        // of the rank with the most
  int64_t kv_bytes_per_token_max = 0;  // F16
};

struct ModelDescription {
  std::string format;  // "GGUF v3", "Hugging Face"
  int64_t file_bytes = 0;
  std::string architecture;
  std::string name;
  int64_t num_parameters = 0;
  std::vector<TensorDescription> tensors;                     // in file order
  std::vector<DtypeTotal> dtypes;                             // by bytes, most first
  std::vector<std::pair<std::string, std::string>> metadata;  // in file order, long values shortened
  text::TokenizerDefinition tokenizer;                        // no tokens: there is none, or
  std::string tokenizer_not_known;                            // of a kind that this build does not know: which
  // OK and `config`, `memory` filled in if this build can serve the model; else the reason.
  absl::Status servable;
  ModelConfig config;
  std::vector<RankMemory> memory;  // tensor_parallel_size 1, 2, ... up to 8 as far as the heads allow
};

// Reads metadata only. Errors: those of OpenCheckpoint. A model that is sound but of an unknown architecture or dtype
// is described; `servable` says why it can not run.
absl::StatusOr<ModelDescription> DescribeModel(const std::string& path, LoadFormat format = LoadFormat::kAuto);

}  // namespace outrider
