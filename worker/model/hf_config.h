// config.json and generation_config.json of Hugging Face checkpoints.
//
// Keys have the names and defaults of transformers, older spellings included (rope_theta and rope_scaling beside
// rope_parameters, `type` beside rope_type). What would change the arithmetic and is not known here is refused by name;
// other keys are of no matter.
//
// Thread safety: pure functions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "worker/model/checkpoint.h"
#include "worker/model/model_config.h"

namespace outrider {

// The architecture that config.json names; empty if it names none.
std::string HuggingFaceArchitecture(const nlohmann::json& config);

// `path` stands for the file in errors. INVALID_ARGUMENT for missing or impossible values, UNIMPLEMENTED for an
// architecture, quantisation, activation or rope type that this build does not know; each names file, key and value.
absl::StatusOr<ModelConfig> ModelConfigFromHuggingFace(const std::string& path, const nlohmann::json& config);

// `generation` is null where there is no generation_config.json; then the end tokens are those of config.json.
// INVALID_ARGUMENT naming file, key and value for what can not be.
absl::StatusOr<GenerationDefaults> GenerationDefaultsFromHuggingFace(const std::string& folder,
                                                                     const nlohmann::json& config,
                                                                     const nlohmann::json& generation);

}  // namespace outrider
