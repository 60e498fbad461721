// A GGUF file as a Checkpoint: models of the architectures llama, qwen2 and qwen3 (model_config.h).
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/model/checkpoint.h"
#include "worker/model/gguf.h"

namespace outrider {

// Errors: those of GgufFile::Open. A file that is sound but can not be served is opened; config() says why.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path);

// The same over a file that was read.
std::unique_ptr<Checkpoint> MakeGgufCheckpoint(std::unique_ptr<GgufFile> file);

}  // namespace outrider
