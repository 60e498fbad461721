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
            "tokenizer.json: model BPE with \"byte_fallback\" is not supported");
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
