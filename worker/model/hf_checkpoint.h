// A Hugging Face directory as a Checkpoint: config.json, model.safetensors or the shards of
// model.safetensors.index.json, and where they are there tokenizer.json with tokenizer_config.json and its chat
// template (or chat_template.jinja), and generation_config.json.
//
// The files may be symbolic links, as in the hub's cache. Weights are mapped, not copied.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/model/checkpoint.h"
#include "worker/model/load_format.h"

namespace outrider {

inline constexpr size_t kMaxConfigJsonBytes = size_t{1} << 20;  // published ones have some kilobytes

// Errors: NOT_FOUND if config.json or the weights are not there, those of SafetensorsSet, INVALID_ARGUMENT or DATA_LOSS
// naming file and key for JSON that is damaged. A checkpoint that is sound but can not be served is opened; config()
// says why.
//
// kDummy looks for no weights: they are random bf16 numbers by tensor name, of the deviation that config.json calls
// initializer_range, norms 1; the same whatever the number of ranks. RESOURCE_EXHAUSTED without memory for them.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenHuggingFaceCheckpoint(const std::string& folder,
                                                                      LoadFormat format = LoadFormat::kAuto);

// What the layout of Hugging Face checkpoints calls a tensor, `model.layers.3.self_attn.q_proj.weight`.
std::string HuggingFaceTensorName(TensorRole role, int layer);

// tokenizer.json and its companions in `folder` for a vocabulary of `vocab_size`; ids beyond the tokenizer's become
// unused tokens. Without tokens if there is no tokenizer.json.
absl::StatusOr<text::TokenizerDefinition> ReadTokenizerFolder(const std::string& folder, int vocab_size);

}  // namespace outrider
