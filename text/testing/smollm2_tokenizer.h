// The real tokenizer of SmolLM2-135M-Instruct for tests, without a model file: what its GGUF file says, read from
// text/testdata (Apache-2.0, HuggingFaceTB).
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "text/tokenizer.h"
#include "text/tokenizer_definition.h"

namespace outrider::text {

// 49152 tokens: 17 control tokens, 235 bytes (21 of the 256 are missing), then one a merge in order. With chat
// template.
TokenizerDefinition SmolLm2Definition();
std::unique_ptr<Tokenizer> MakeSmolLm2Tokenizer();

// The file text/testdata/NAME; dies when it can not be read. The test's `data` has to name it.
std::string ReadTestdata(absl::string_view name);

}  // namespace outrider::text
