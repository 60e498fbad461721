#include "text/hf_tokenizer.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"  // kMaxVocabSize

namespace outrider::text {
namespace {

using Json = nlohmann::json;

// The member `name`, or null where there is none or `json` is no object.
const Json& Member(const Json& json, const char* name) {
  static const Json* const null = new Json(nullptr);
  if (!json.is_object()) return *null;
  const auto found = json.find(name);
  return found == json.end() ? *null : *found;
}

std::string StringOr(const Json& json, const char* fallback) {
  return json.is_string() ? json.get<std::string>() : std::string(fallback);
}

bool BoolOr(const Json& json, bool fallback) { return json.is_boolean() ? json.get<bool>() : fallback; }

// "<s>" or {"content": "<s>", ...}.
std::string TokenName(const Json& json) { return StringOr(json.is_object() ? Member(json, "content") : json, ""); }

absl::StatusOr<Json> ParseObject(absl::string_view what, absl::string_view text) {
  if (text.size() > kMaxTokenizerJsonBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is ", text.size(), " bytes; at most ", kMaxTokenizerJsonBytes, " are allowed"));
  }
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(what, " is no JSON object"));
  return json;
}

absl::Status Unsupported(absl::string_view part, absl::string_view kind) {
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.json: ", part, " \"", kind.substr(0, 200), "\" is not supported"));
}

// The patterns a pre-tokenizer (or a sequence of them) splits by.
absl::StatusOr<std::vector<std::string>> SplitPatterns(const Json& pre_tokenizer) {
  std::vector<Json> stages = {pre_tokenizer};
  if (Member(pre_tokenizer, "type") == "Sequence") {
    const Json& list = Member(pre_tokenizer, "pretokenizers");
    if (!list.is_array()) return absl::InvalidArgumentError("tokenizer.json: pre_tokenizer sequence has no list");
    stages.assign(list.begin(), list.end());
  }
  std::vector<std::string> patterns;
  bool is_byte_level = false;
  for (const Json& stage : stages) {
    const std::string type = StringOr(Member(stage, "type"), "null");
    if (type == "Split") {
      if (StringOr(Member(stage, "behavior"), "") != "Isolated" || BoolOr(Member(stage, "invert"), false)) {
        return Unsupported("pre_tokenizer Split with behavior", StringOr(Member(stage, "behavior"), ""));
      }
      const Json& regex = Member(Member(stage, "pattern"), "Regex");
      if (!regex.is_string()) return Unsupported("pre_tokenizer Split by", "String");
      patterns.push_back(regex.get<std::string>());
    } else if (type == "Digits") {
      if (!BoolOr(Member(stage, "individual_digits"), false)) return Unsupported("pre_tokenizer", "Digits in runs");
      patterns.push_back(R"(\p{N})");
    } else if (type == "ByteLevel") {
      if (BoolOr(Member(stage, "add_prefix_space"), false)) return Unsupported("pre_tokenizer", "add_prefix_space");
      is_byte_level = true;
      if (BoolOr(Member(stage, "use_regex"), true)) patterns.push_back(Gpt2SplitPattern());
    } else {
      return Unsupported("pre_tokenizer", type);
    }
  }
  if (!is_byte_level) return Unsupported("pre_tokenizer without", "ByteLevel");
  return patterns;
}

absl::Status ReadPreTokenizer(const Json& json, TokenizerDefinition* definition) {
  const Json& normalizer = Member(json, "normalizer");
  bool nfc = false;
  if (!normalizer.is_null()) {
    std::vector<Json> stages = {normalizer};
    if (Member(normalizer, "type") == "Sequence" && Member(normalizer, "normalizers").is_array()) {
      stages.assign(Member(normalizer, "normalizers").begin(), Member(normalizer, "normalizers").end());
    }
    for (const Json& stage : stages) {
      if (Member(stage, "type") != "NFC") return Unsupported("normalizer", StringOr(Member(stage, "type"), "null"));
      nfc = true;
    }
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> patterns, SplitPatterns(Member(json, "pre_tokenizer")));
  // Some names imply that whole words are taken, which the file says for itself: those first where it says so.
  const std::vector<std::string> names = PreTokenizersByPatterns(patterns, nfc);
  for (const bool implies : {true, false}) {
    if (implies && !definition->ignore_merges) continue;
    const auto name = std::find_if(names.begin(), names.end(),
                                   [&](const std::string& n) { return ImpliesIgnoreMerges(n) == implies; });
    if (name == names.end()) continue;
    definition->pre = *name;
    return absl::OkStatus();
  }
  return Unsupported("pre_tokenizer with the pattern", patterns.empty() ? "" : patterns[0]);
}

// How spaces become "▁" before BPE with byte fallback: by normalisers, or by Metaspace.
absl::Status ReadSpaces(const Json& json, TokenizerDefinition* definition) {
  constexpr char kSpace[] = "\xe2\x96\x81";
  const auto stages_of = [](const Json& part, const char* list) {
    std::vector<Json> stages;
    if (part.is_null()) return stages;
    if (Member(part, "type") == "Sequence" && Member(part, list).is_array()) {
      stages.assign(Member(part, list).begin(), Member(part, list).end());
    } else {
      stages.push_back(part);
    }
    return stages;
  };
  bool replaces = false, prepends = false;
  for (const Json& stage : stages_of(Member(json, "normalizer"), "normalizers")) {
    const std::string type = StringOr(Member(stage, "type"), "null");
    if (type == "Prepend" && Member(stage, "prepend") == kSpace && !replaces) {
      prepends = true;
    } else if (type == "Replace" && Member(Member(stage, "pattern"), "String") == " " &&
               Member(stage, "content") == kSpace) {
      replaces = true;
    } else {
      return Unsupported("normalizer of BPE with byte_fallback", type);
    }
  }
  definition->add_space_prefix = prepends;
  for (const Json& stage : stages_of(Member(json, "pre_tokenizer"), "pretokenizers")) {
    const std::string type = StringOr(Member(stage, "type"), "null");
    // Splits at spaces, of which the normaliser leaves none.
    if (type == "Split" && replaces && Member(Member(stage, "pattern"), "String") == " ") continue;
    if (type != "Metaspace" || Member(stage, "replacement") != kSpace || replaces) {
      return Unsupported("pre_tokenizer of BPE with byte_fallback", type);
    }
    if (BoolOr(Member(stage, "split"), true)) return Unsupported("pre_tokenizer Metaspace with", "split");
    const std::string scheme =
        StringOr(Member(stage, "prepend_scheme"), BoolOr(Member(stage, "add_prefix_space"), true) ? "always" : "never");
    if (scheme != "first" && scheme != "always" && scheme != "never") {
      return Unsupported("pre_tokenizer Metaspace with prepend_scheme", scheme);
    }
    replaces = true;
    definition->add_space_prefix = scheme != "never";
    definition->pre = scheme == "first" ? "metaspace-first" : "metaspace";
  }
  if (!replaces) return Unsupported("BPE with byte_fallback but without", kSpace);
  return absl::OkStatus();
}

bool IsByteToken(const std::string& token) {
  return token.size() == 6 && token.compare(0, 3, "<0x") == 0 && std::isxdigit(static_cast<unsigned char>(token[3])) &&
         std::isxdigit(static_cast<unsigned char>(token[4])) && token[5] == '>';
}

absl::Status ReadVocabulary(const Json& json, TokenizerDefinition* definition) {
  const auto place = [&](const Json& id, std::string token, TokenType type) -> absl::Status {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxVocabSize) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: a token's id is not below ", kMaxVocabSize));
    }
    const size_t index = id.get<size_t>();
    if (index >= definition->tokens.size()) {
      definition->tokens.resize(index + 1);
      definition->types.resize(index + 1, TokenType::kUnused);
    }
    std::string& entry = definition->tokens[index];
    // Added tokens may be in the vocabulary too, under the same id.
    const bool is_added = type == TokenType::kControl || type == TokenType::kUserDefined;
    if (!entry.empty() && (!is_added || entry != token)) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: two tokens have the id ", index));
    }
    entry = std::move(token);
    definition->types[index] = type;
    return absl::OkStatus();
  };
  const Json& vocab = Member(Member(json, "model"), "vocab");
  if (!vocab.is_object()) return absl::InvalidArgumentError("tokenizer.json: model.vocab is no object");
  const bool has_bytes = definition->model == "llama";
  for (const auto& [token, id] : vocab.items()) {
    RETURN_IF_ERROR(place(id, token, has_bytes && IsByteToken(token) ? TokenType::kByte : TokenType::kNormal));
  }
  const Json& added = Member(json, "added_tokens");
  if (added.is_array()) {
    for (const Json& token : added) {
      for (const char* kind : {"lstrip", "rstrip", "single_word"}) {
        if (BoolOr(Member(token, kind), false)) return Unsupported("added token with", kind);
      }
      const bool is_special = BoolOr(Member(token, "special"), false);
      RETURN_IF_ERROR(place(Member(token, "id"), StringOr(Member(token, "content"), ""),
                            is_special ? TokenType::kControl : TokenType::kUserDefined));
    }
  }
  for (size_t id = 0; id < definition->tokens.size(); ++id) {
    if (definition->tokens[id].empty()) definition->tokens[id] = absl::StrCat("[PAD", id, "]");
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(const Json& merges, TokenizerDefinition* definition) {
  if (!merges.is_array()) return absl::InvalidArgumentError("tokenizer.json: model.merges is no list");
  for (const Json& merge : merges) {
    // "a b", or since 2024 ["a", "b"].
    if (merge.is_string()) {
      definition->merges.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      definition->merges.push_back(
          absl::StrCat(merge[0].get_ref<const std::string&>(), " ", merge[1].get_ref<const std::string&>()));
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.json: merge ", definition->merges.size(), " is not two tokens"));
    }
  }
  return absl::OkStatus();
}

// The id of a token by its name; nothing for no name.
absl::StatusOr<std::optional<TokenId>> FindId(const TokenizerDefinition& definition, absl::string_view role,
                                              const std::string& name) {
  if (name.empty()) return std::optional<TokenId>();
  // Special tokens are few and mostly last.
  const auto found = std::find(definition.tokens.rbegin(), definition.tokens.rend(), name);
  if (found == definition.tokens.rend()) {
    return absl::InvalidArgumentError(
        absl::StrCat(role, " \"", name.substr(0, 100), "\" is not in the vocabulary of tokenizer.json"));
  }
  return std::optional<TokenId>(static_cast<TokenId>(definition.tokens.rend() - found - 1));
}

// What post-processors add around a text: the names of the special tokens before and after it.
void ReadPostProcessor(const Json& processor, std::string* before, std::string* after) {
  if (Member(processor, "type") == "Sequence" && Member(processor, "processors").is_array()) {
    for (const Json& stage : Member(processor, "processors")) ReadPostProcessor(stage, before, after);
    return;
  }
  if (Member(processor, "type") != "TemplateProcessing" || !Member(processor, "single").is_array()) return;
  bool passed_text = false;
  for (const Json& item : Member(processor, "single")) {
    if (item.contains("Sequence")) passed_text = true;
    const std::string name = StringOr(Member(Member(item, "SpecialToken"), "id"), "");
    if (!name.empty()) (passed_text ? *after : *before) = name;
  }
}

}  // namespace

absl::StatusOr<TokenizerDefinition> ReadHuggingFaceTokenizer(absl::string_view tokenizer_json,
                                                             absl::string_view tokenizer_config_json) {
  ASSIGN_OR_RETURN(const Json json, ParseObject("tokenizer.json", tokenizer_json));
  Json config = Json::object();
  if (!tokenizer_config_json.empty()) {
    ASSIGN_OR_RETURN(config, ParseObject("tokenizer_config.json", tokenizer_config_json));
  }
  const Json& model = Member(json, "model");
  if (Member(model, "type") != "BPE") return Unsupported("model", StringOr(Member(model, "type"), "null"));
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!StringOr(Member(model, affix), "").empty()) return Unsupported("model BPE with", affix);
  }

  TokenizerDefinition definition;
  const bool byte_fallback = BoolOr(Member(model, "byte_fallback"), false);
  definition.model = byte_fallback ? "llama" : "gpt2";
  definition.ignore_merges = BoolOr(Member(model, "ignore_merges"), false);
  if (byte_fallback && definition.ignore_merges)
    return Unsupported("model BPE with byte_fallback and", "ignore_merges");
  RETURN_IF_ERROR(byte_fallback ? ReadSpaces(json, &definition) : ReadPreTokenizer(json, &definition));
  RETURN_IF_ERROR(ReadVocabulary(json, &definition));
  RETURN_IF_ERROR(ReadMerges(Member(model, "merges"), &definition));

  std::string before;
  std::string after;
  ReadPostProcessor(Member(json, "post_processor"), &before, &after);
  const std::string bos = TokenName(Member(config, "bos_token"));
  const std::string eos = TokenName(Member(config, "eos_token"));
  ASSIGN_OR_RETURN(definition.bos_id, FindId(definition, "bos_token", before.empty() ? bos : before));
  ASSIGN_OR_RETURN(definition.eos_id, FindId(definition, "eos_token", after.empty() ? eos : after));
  std::string unk = TokenName(Member(config, "unk_token"));
  if (unk.empty() && byte_fallback) unk = StringOr(Member(model, "unk_token"), "");
  ASSIGN_OR_RETURN(definition.unk_id, FindId(definition, "unk_token", unk));
  ASSIGN_OR_RETURN(definition.pad_id, FindId(definition, "pad_token", TokenName(Member(config, "pad_token"))));
  definition.add_bos = !before.empty() || (BoolOr(Member(config, "add_bos_token"), false) && definition.bos_id);
  definition.add_eos = !after.empty() || (BoolOr(Member(config, "add_eos_token"), false) && definition.eos_id);

  // One template, or several by name.
  const Json& templates = Member(config, "chat_template");
  definition.chat_template = StringOr(templates, "");
  if (templates.is_array()) {
    for (const Json& entry : templates) {
      if (Member(entry, "name") == "default") definition.chat_template = StringOr(Member(entry, "template"), "");
    }
  }
  return definition;
}

}  // namespace outrider::text
