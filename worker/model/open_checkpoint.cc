#include "worker/model/open_checkpoint.h"

#include <filesystem>

#include "worker/model/gguf_checkpoint.h"
#include "worker/model/hf_checkpoint.h"

namespace outrider {

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) ? OpenHuggingFaceCheckpoint(path) : OpenGgufCheckpoint(path);
}

}  // namespace outrider
