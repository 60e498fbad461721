#include "worker/model/gguf_tokenizer.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

absl::Status ReadId(const GgufFile& file, absl::string_view key, std::optional<TokenId>* id) {
  if (!file.Has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t value, file.GetInt(key));
  // 2^32 - 1 and -1 are how some converters write "none".
  if (value == -1 || value == 0xffffffff) return absl::OkStatus();
  if (value < 0 || value > 0x7fffffff) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": metadata key '", key, "' is ", value, ", not a token id"));
  }
  *id = static_cast<TokenId>(value);
  return absl::OkStatus();
}

absl::Status ReadStrings(const GgufFile& file, absl::string_view key, std::vector<std::string>* out) {
  if (!file.Has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<absl::string_view> values, file.GetStrings(key));
  out->reserve(values.size());
  for (const absl::string_view value : values) out->emplace_back(value);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<text::TokenizerDefinition> TokenizerFromGguf(const GgufFile& file) {
  text::TokenizerDefinition definition;
  if (!file.Has("tokenizer.ggml.model")) return definition;
  ASSIGN_OR_RETURN(const absl::string_view model, file.GetString("tokenizer.ggml.model"));
  definition.model = std::string(model);
  if (definition.model == "none") return text::TokenizerDefinition();
  ASSIGN_OR_RETURN(const absl::string_view pre, file.GetString("tokenizer.ggml.pre", ""));
  definition.pre = std::string(pre);
  RETURN_IF_ERROR(ReadStrings(file, "tokenizer.ggml.tokens", &definition.tokens));
  // Without merges every byte would be a token of its own: valid ids, and another text than the model was trained on.
  if (definition.model == "gpt2" && !file.Has("tokenizer.ggml.merges")) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": tokenizer model 'gpt2' needs metadata key 'tokenizer.ggml.merges', which is missing"));
  }
  RETURN_IF_ERROR(ReadStrings(file, "tokenizer.ggml.merges", &definition.merges));
  if (file.Has("tokenizer.ggml.token_type")) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> types, file.GetInts("tokenizer.ggml.token_type"));
    definition.types.reserve(types.size());
    for (size_t i = 0; i < types.size(); ++i) {
      if (types[i] < 1 || types[i] > 6) {
        return absl::InvalidArgumentError(absl::StrCat(file.path(), ": metadata key 'tokenizer.ggml.token_type' has ",
                                                       types[i], " at index ", i, "; types are 1 to 6"));
      }
      definition.types.push_back(static_cast<text::TokenType>(types[i]));
    }
  }
  if (file.Has("tokenizer.ggml.scores")) {
    ASSIGN_OR_RETURN(definition.scores, file.GetFloats("tokenizer.ggml.scores"));
  }
  RETURN_IF_ERROR(ReadId(file, "tokenizer.ggml.bos_token_id", &definition.bos_id));
  RETURN_IF_ERROR(ReadId(file, "tokenizer.ggml.eos_token_id", &definition.eos_id));
  RETURN_IF_ERROR(ReadId(file, "tokenizer.ggml.eot_token_id", &definition.eot_id));
  RETURN_IF_ERROR(ReadId(file, "tokenizer.ggml.eom_token_id", &definition.eom_id));
  RETURN_IF_ERROR(ReadId(file, "tokenizer.ggml.unknown_token_id", &definition.unk_id));
  RETURN_IF_ERROR(ReadId(file, "tokenizer.ggml.padding_token_id", &definition.pad_id));
  // Defaults of llama.cpp (src/llama-vocab.cpp, load) for files that leave these keys out.
  const bool sentencepiece = definition.model == "llama";
  const bool llama3 = definition.pre == "llama-bpe" || definition.pre == "llama3" || definition.pre == "llama-v3";
  ASSIGN_OR_RETURN(definition.add_bos, file.GetBool("tokenizer.ggml.add_bos_token", sentencepiece || llama3));
  // Qwen's tokenizers have no bos; llama.cpp's converter takes the id from config.json, where it names <|endoftext|>.
  // Without it a file is the same vocabulary as its Hugging Face folder, fingerprint included.
  if (definition.pre == "qwen2" && !definition.add_bos) definition.bos_id.reset();
  ASSIGN_OR_RETURN(definition.add_eos, file.GetBool("tokenizer.ggml.add_eos_token", false));
  ASSIGN_OR_RETURN(definition.add_space_prefix, file.GetBool("tokenizer.ggml.add_space_prefix", sentencepiece));
  ASSIGN_OR_RETURN(const absl::string_view chat_template, file.GetString("tokenizer.chat_template", ""));
  definition.chat_template = std::string(chat_template);
  return definition;
}

}  // namespace outrider
