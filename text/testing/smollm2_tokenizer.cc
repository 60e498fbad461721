#include "text/testing/smollm2_tokenizer.h"

#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider::text {

std::string ReadTestdata(absl::string_view name) {
  std::ifstream file(absl::StrCat("text/testdata/", name), std::ios::binary);
  CHECK(file.good());
  std::ostringstream contents;
  contents << file.rdbuf();
  return contents.str();
}

TokenizerDefinition SmolLm2Definition() {
  constexpr int kNumControl = 17;
  TokenizerDefinition definition;
  definition.model = "gpt2";
  definition.pre = "smollm";
  // Control tokens and bytes, an empty line, the merges; what a merge makes is the next token.
  std::istringstream lines(ReadTestdata("smollm2_vocabulary.txt"));
  std::string line;
  while (std::getline(lines, line) && !line.empty()) definition.tokens.push_back(line);
  while (std::getline(lines, line)) {
    const size_t space = line.find(' ');
    CHECK(space != std::string::npos);
    definition.tokens.push_back(line.substr(0, space) + line.substr(space + 1));
    definition.merges.push_back(std::move(line));
  }
  definition.types.assign(definition.tokens.size(), TokenType::kNormal);
  for (int id = 0; id < kNumControl; ++id) definition.types[id] = TokenType::kControl;
  definition.bos_id = 1;
  definition.eos_id = 2;
  definition.unk_id = 0;
  definition.pad_id = 2;
  definition.chat_template = ReadTestdata("smollm2_chat_template.jinja");
  return definition;
}

std::unique_ptr<Tokenizer> MakeSmolLm2Tokenizer() {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = MakeTokenizer(SmolLm2Definition());
  CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

}  // namespace outrider::text
