// Opens a model by its path: a GGUF file, or a folder in Hugging Face's layout.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/model/checkpoint.h"

namespace outrider {

// Errors: those of OpenGgufCheckpoint and OpenHuggingFaceCheckpoint.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path);

}  // namespace outrider
