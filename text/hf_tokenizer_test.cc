#include "text/hf_tokenizer.h"

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "text/testing/seed.h"
#include "text/testing/smollm2_tokenizer.h"  // ReadTestdata
#include "text/tokenizer.h"

namespace outrider::text {
namespace {

using Json = nlohmann::json;

absl::StatusOr<TokenizerDefinition> ReadModel(const std::string& name) {
  return ReadHuggingFaceTokenizer(ReadTestdata(absl::StrCat(name, "_tokenizer.json")),
                                  ReadTestdata(absl::StrCat(name, "_tokenizer_config.json")));
}

// Ids by Hugging Face tokenizers 0.23.3; the vocabularies are cut to what the texts need:
// testdata/make_hf_tokenizers.py.
void ExpectSameEncodings(const std::string& name) {
  const auto definition = ReadModel(name);
  ASSERT_TRUE(definition.ok()) << definition.status();
  const auto tokenizer = MakeTokenizer(*definition);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const Json encodings = Json::parse(ReadTestdata(absl::StrCat(name, "_encodings.json")));
  ASSERT_EQ(encodings.size(), 299u);
  for (const Json& encoding : encodings) {
    const std::string text = encoding[0];
    const auto ids = encoding[1].get<std::vector<TokenId>>();
    const std::string decoded = encoding[2].is_null() ? text : encoding[2].get<std::string>();
    const std::string decoded_skip = encoding[3].is_null() ? decoded : encoding[3].get<std::string>();
    EXPECT_EQ((*tokenizer)->Encode(text, {.parse_special = true}), ids) << text;
    EXPECT_EQ((*tokenizer)->Decode(ids, false), decoded);
    EXPECT_EQ((*tokenizer)->Decode(ids, true), decoded_skip);
  }
}

TEST(HuggingFaceTokenizer, EncodesAsLlama3) { ExpectSameEncodings("llama3"); }
TEST(HuggingFaceTokenizer, EncodesAsQwen3) { ExpectSameEncodings("qwen3"); }
// BPE with byte fallback, spaces as "▁".
TEST(HuggingFaceTokenizer, EncodesAsGemma3) { ExpectSameEncodings("gemma3"); }

TEST(HuggingFaceTokenizer, ReadsPreTokenizerAndSpecialTokens) {
  const auto llama3 = *ReadModel("llama3");
  EXPECT_EQ(llama3.pre, "llama-bpe");
  EXPECT_EQ(llama3.bos_id, 128000);
  EXPECT_EQ(llama3.eos_id, 128001);
  EXPECT_EQ(llama3.types[128000], TokenType::kControl);
  EXPECT_EQ((*MakeTokenizer(llama3))->end_of_generation_ids(), (std::vector<TokenId>{128001, 128009}));
  const auto qwen3 = *ReadModel("qwen3");
  EXPECT_EQ(qwen3.pre, "qwen2");
  EXPECT_FALSE(qwen3.bos_id.has_value());
  EXPECT_EQ(qwen3.eos_id, 151645);
  EXPECT_EQ(qwen3.types[151657], TokenType::kUserDefined);  // <tool_call>
}

// A file of the smallest kind.
Json SmallFile() {
  return Json::parse(R"({
    "added_tokens": [{"id": 4, "content": "<s>", "special": true}, {"id": 6, "content": "<u>", "special": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": ["a b"]}})");
}

TEST(HuggingFaceTokenizer, AddsWhatThePostProcessorAdds) {
  const auto definition = ReadHuggingFaceTokenizer(SmallFile().dump(), "");
  ASSERT_TRUE(definition.ok()) << definition.status();
  EXPECT_EQ(definition->pre, "gpt-2");
  EXPECT_TRUE(definition->add_bos);
  EXPECT_FALSE(definition->add_eos);
  EXPECT_EQ(definition->types[5], TokenType::kUnused);  // the gap
  const auto tokenizer = *MakeTokenizer(*definition);
  EXPECT_EQ(tokenizer->Encode("ab b<u>", {.add_special = true}), (std::vector<TokenId>{4, 2, 3, 1, 6}));
}

// As Llama 2 and Mistral are converted: Prepend and Replace, or Metaspace.
Json SmallSentencePieceFile() {
  Json file = Json::parse(R"({
    "added_tokens": [{"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null,
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]},
    "model": {"type": "BPE", "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>",
      "vocab": {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "<0xC3>": 3, "<0xA9>": 4, "▁": 5, "a": 6, "b": 7, "ab": 8, "▁a": 9,
                "▁ab": 10, "▁▁": 11},
      "merges": ["a b", "▁ ab", "▁ a", "▁ ▁"]}})");
  return file;
}

std::unique_ptr<Tokenizer> SmallSentencePiece(const Json& file) {
  auto definition = ReadHuggingFaceTokenizer(file.dump(), "");
  EXPECT_TRUE(definition.ok()) << definition.status();
  auto tokenizer = MakeTokenizer(*std::move(definition));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(HuggingFaceTokenizer, PutsASpaceBeforeEveryPieceAsLlama2) {
  const auto tokenizer = SmallSentencePiece(SmallSentencePieceFile());
  using Ids = std::vector<TokenId>;
  EXPECT_EQ(tokenizer->Encode("ab a", {.add_special = true}), (Ids{1, 10, 9}));
  EXPECT_EQ(tokenizer->Encode(" ab"), (Ids{5, 10}));  // the first merge of "▁▁ab" is "a b", then "▁ ab"
  EXPECT_EQ(tokenizer->Encode("a<s>a", {.parse_special = true}), (Ids{9, 1, 9}));
  EXPECT_EQ(tokenizer->Encode(""), Ids{});
  // A character that is missing: its bytes, or once the unknown token for a run of those whose bytes are missing too.
  EXPECT_EQ(tokenizer->Encode("aé\n"), (Ids{9, 3, 4, 2}));
  EXPECT_EQ(tokenizer->Encode("a中文b"), (Ids{9, 0, 7}));
  EXPECT_EQ(tokenizer->Encode("a\xff"), (Ids{9, 0}));
  // The space before the text is no part of it.
  EXPECT_EQ(tokenizer->Decode(Ids{10, 9}, false), "ab a");
  EXPECT_EQ(tokenizer->Decode(Ids{9, 3, 4, 2}, false), "aé\n");
  EXPECT_EQ(tokenizer->TokenBytes(10), " ab");
  EXPECT_EQ(tokenizer->TokenBytes(2), "\n");
  EXPECT_EQ(tokenizer->FindToken("\n"), 2);
}

TEST(HuggingFaceTokenizer, PutsASpaceWhereMetaspaceSays) {
  Json file = SmallSentencePieceFile();
  file["normalizer"] = nullptr;
  file["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}, {"split", false}};
  using Ids = std::vector<TokenId>;
  EXPECT_EQ(SmallSentencePiece(file)->Encode("a<s>a", {.parse_special = true}), (Ids{9, 1, 6}));
  EXPECT_EQ(SmallSentencePiece(file)->Encode("<s>a", {.parse_special = true}), (Ids{1, 6}));
  EXPECT_EQ(SmallSentencePiece(file)->Encode(" a"), (Ids{9}));
  file["pre_tokenizer"]["prepend_scheme"] = "always";
  EXPECT_EQ(SmallSentencePiece(file)->Encode("<s>a<s> a", {.parse_special = true}), (Ids{1, 9, 1, 9}));
  file["pre_tokenizer"]["prepend_scheme"] = "never";
  EXPECT_EQ(SmallSentencePiece(file)->Encode("a a"), (Ids{6, 9}));
  EXPECT_EQ(SmallSentencePiece(file)->Decode(Ids{9}, false), " a");
  file["pre_tokenizer"]["split"] = true;
  EXPECT_EQ(ReadHuggingFaceTokenizer(file.dump(), "").status().message(),
            "tokenizer.json: pre_tokenizer Metaspace with \"split\" is not supported");
}

// GGUF files have scores in place of merges: the same ids.
TEST(HuggingFaceTokenizer, ScoresStandForMerges) {
  TokenizerDefinition definition = *ReadHuggingFaceTokenizer(SmallSentencePieceFile().dump(), "");
  const auto by_merges = MakeTokenizer(definition);
  definition.merges.clear();
  definition.scores = {0, 0, 0, 0, 0, -10, -11, -12, -1, -3, -2, -4};
  const auto by_scores = MakeTokenizer(definition);
  ASSERT_TRUE(by_scores.ok()) << by_scores.status();
  EXPECT_NE((*by_scores)->fingerprint(), (*by_merges)->fingerprint());
  std::mt19937_64 random(TestSeed(13));
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (size_t n = random() % 12; n > 0; --n) text += "ab \n"[random() % 4];
    EXPECT_EQ((*by_scores)->Encode(text), (*by_merges)->Encode(text)) << text;
  }
}

TEST(HuggingFaceTokenizer, TakesTheDefaultOfSeveralTemplates) {
  const auto definition = ReadHuggingFaceTokenizer(
      SmallFile().dump(),
      R"({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}],
          "eos_token": {"content": "<s>"}})");
  ASSERT_TRUE(definition.ok()) << definition.status();
  EXPECT_EQ(definition->chat_template, "D");
  EXPECT_EQ(definition->eos_id, 4);
}

TEST(HuggingFaceTokenizer, NamesWhatItDoesNotSupport) {
  const auto error = [](auto change) {
    Json file = SmallFile();
    change(file);
    const auto result = ReadHuggingFaceTokenizer(file.dump(), "");
    EXPECT_FALSE(result.ok());
    return std::string(result.status().message());
  };
  EXPECT_EQ(error([](Json& f) { f["model"]["type"] = "Unigram"; }),
            "tokenizer.json: model \"Unigram\" is not supported");
  EXPECT_EQ(error([](Json& f) { f["model"]["byte_fallback"] = true; }),
            "tokenizer.json: pre_tokenizer of BPE with byte_fallback \"ByteLevel\" is not supported");
  EXPECT_EQ(error([](Json& f) {
              f["normalizer"] = {{"type", "Lowercase"}};
            }),
            "tokenizer.json: normalizer \"Lowercase\" is not supported");
  EXPECT_EQ(error([](Json& f) {
              f["pre_tokenizer"] = {{"type", "Metaspace"}};
            }),
            "tokenizer.json: pre_tokenizer \"Metaspace\" is not supported");
  EXPECT_EQ(error([](Json& f) { f["pre_tokenizer"]["add_prefix_space"] = true; }),
            "tokenizer.json: pre_tokenizer \"add_prefix_space\" is not supported");
  EXPECT_EQ(error([](Json& f) { f["added_tokens"][0]["lstrip"] = true; }),
            "tokenizer.json: added token with \"lstrip\" is not supported");
}

TEST(HuggingFaceTokenizer, RefusesWhatIsNoSuchFile) {
  const auto error = [](auto change) {
    Json file = SmallFile();
    change(file);
    const auto result = ReadHuggingFaceTokenizer(file.dump(), "");
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(result.status().message());
  };
  EXPECT_EQ(error([](Json& f) { f["model"]["vocab"]["c"] = 2; }), "tokenizer.json: two tokens have the id 2");
  EXPECT_EQ(error([](Json& f) { f["model"]["vocab"]["c"] = 4000000000; }),
            "tokenizer.json: a token's id is not below 1048576");
  EXPECT_EQ(error([](Json& f) { f["model"]["vocab"]["c"] = -1; }), "tokenizer.json: a token's id is not below 1048576");
  EXPECT_EQ(error([](Json& f) { f["model"]["merges"].push_back(5); }), "tokenizer.json: merge 1 is not two tokens");
  EXPECT_EQ(error([](Json& f) { f["post_processor"]["single"][0]["SpecialToken"]["id"] = "<z>"; }),
            "bos_token \"<z>\" is not in the vocabulary of tokenizer.json");
  EXPECT_FALSE(ReadHuggingFaceTokenizer("", "").ok());
  EXPECT_FALSE(ReadHuggingFaceTokenizer("[1]", "").ok());
  EXPECT_FALSE(ReadHuggingFaceTokenizer(SmallFile().dump(), "{").ok());
}

TEST(HuggingFaceTokenizer, TruncatedAndChangedFilesNeitherCrashNorPassUnchecked) {
  std::mt19937_64 random(TestSeed(12));
  const std::string file = SmallFile().dump();
  for (int i = 0; i < 3000; ++i) {
    std::string changed = file.substr(0, random() % 3 == 0 ? random() % file.size() : file.size());
    for (size_t n = random() % 4; n > 0 && !changed.empty(); --n) {
      changed[random() % changed.size()] = static_cast<char>(32 + random() % 95);
    }
    auto definition = ReadHuggingFaceTokenizer(changed, "");
    if (!definition.ok()) continue;
    const auto tokenizer = MakeTokenizer(*std::move(definition));
    if (tokenizer.ok()) (*tokenizer)->Encode("ab<s>", {.add_special = true, .parse_special = true});
  }
}

}  // namespace
}  // namespace outrider::text
