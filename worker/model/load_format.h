// Where a model's weights come from.
#pragma once

#include <cstdint>

namespace outrider {

enum class LoadFormat : uint8_t {
  kAuto,   // the files: a GGUF file, or a folder in Hugging Face's layout
  kDummy,  // seeded random numbers in the shapes of a folder's config.json, which needs no other file
};

}  // namespace outrider
