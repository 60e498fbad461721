#include "worker/model/open_checkpoint.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "worker/model/gguf_checkpoint.h"
#include "worker/model/hf_checkpoint.h"

namespace outrider {

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path, LoadFormat format) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return OpenHuggingFaceCheckpoint(path, format);
  if (format == LoadFormat::kDummy) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": load_format is dummy, which takes a folder with a config.json; this is none"));
  }
  return OpenGgufCheckpoint(path);
}

}  // namespace outrider
