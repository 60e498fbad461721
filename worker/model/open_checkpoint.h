// Opens a model by its path: a GGUF file, or a folder in Hugging Face's layout.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/model/checkpoint.h"
#include "worker/model/load_format.h"

namespace outrider {

// Errors: those of OpenGgufCheckpoint and OpenHuggingFaceCheckpoint; INVALID_ARGUMENT for dummy weights of a path that
// is no folder.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path,
                                                           LoadFormat format = LoadFormat::kAuto);

}  // namespace outrider
