// Objects of JSON from files that are not trusted: config.json, safetensors headers, indexes.
//
// Thread safety: pure, but for reading the file.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace outrider {

// `text` as an object whose keys are all different, at every depth. Errors name `path` and `what` ("the header"):
// DATA_LOSS if it is no such object (truncated files end here), INVALID_ARGUMENT for a key that is there twice.
absl::StatusOr<nlohmann::json> ParseJsonObject(const std::string& path, absl::string_view what, absl::string_view text);

// The same for a whole file of at most `bytes_max`. NOT_FOUND if there is none, INVALID_ARGUMENT if it is larger.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, size_t bytes_max);

// All of a file of at most `bytes_max`; errors as above.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t bytes_max);

// Text from a file as an error shows it: quoted, at most 128 bytes of it.
std::string Shown(absl::string_view text);

}  // namespace outrider
