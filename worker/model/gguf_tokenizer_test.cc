// The tokenizer of Qwen's GGUF files: the ids that the Hugging Face folder gives, which are those of Hugging Face's
// tokenizers (text/testdata).
#include "worker/model/gguf_tokenizer.h"

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "text/hf_tokenizer.h"
#include "text/tokenizer.h"
#include "worker/model/testing/gguf_writer.h"

namespace outrider {
namespace {

using Json = nlohmann::json;
using text::TokenizerDefinition;
using text::TokenType;

std::string ReadTestdata(const std::string& name) {
  std::ifstream file("text/testdata/" + name);
  EXPECT_TRUE(file.good()) << name;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TokenizerDefinition OfFolder() {
  auto definition =
      text::ReadHuggingFaceTokenizer(ReadTestdata("qwen3_tokenizer.json"), ReadTestdata("qwen3_tokenizer_config.json"));
  EXPECT_TRUE(definition.ok()) << definition.status();
  definition->chat_template = ReadTestdata("qwen3_chat_template.jinja");
  return *std::move(definition);
}

// The values of the keys that llama.cpp's converter writes for tokenizer.json (conversion/base.py, get_vocab_base and
// _set_vocab_gpt2; gguf-py/gguf/vocab.py, SpecialVocab), bos from config.json of Qwen 3.
TokenizerDefinition AsConverted() {
  const Json file = Json::parse(ReadTestdata("qwen3_tokenizer.json"));
  TokenizerDefinition definition;
  definition.model = "gpt2";
  definition.pre = "qwen2";
  std::map<int, std::pair<std::string, TokenType>> tokens;
  for (const auto& [token, id] : file["model"]["vocab"].items()) tokens[id] = {token, TokenType::kNormal};
  for (const Json& added : file["added_tokens"]) {
    tokens[added["id"]] = {added["content"], added["special"] ? TokenType::kControl : TokenType::kUserDefined};
  }
  for (int id = 0; id <= tokens.rbegin()->first; ++id) {
    const auto found = tokens.find(id);
    definition.tokens.push_back(found == tokens.end() ? absl::StrCat("[PAD", id, "]") : found->second.first);
    definition.types.push_back(found == tokens.end() ? TokenType::kUnused : found->second.second);
  }
  for (const Json& merge : file["model"]["merges"]) {
    definition.merges.push_back(merge.is_string()
                                    ? merge.get<std::string>()
                                    : absl::StrCat(merge[0].get<std::string>(), " ", merge[1].get<std::string>()));
  }
  definition.bos_id = 151643;  // <|endoftext|>
  definition.eos_id = 151645;  // <|im_end|>
  definition.pad_id = 151643;
  definition.chat_template = ReadTestdata("qwen3_chat_template.jinja");
  return definition;
}

absl::StatusOr<TokenizerDefinition> ThroughAFile(const TokenizerDefinition& definition) {
  GgufWriter writer;
  writer.String("general.architecture", "qwen3");
  WriteTokenizer(definition, writer);
  const std::string bytes = writer.Finish();
  const auto file =
      GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "qwen.gguf");
  if (!file.ok()) return file.status();
  return TokenizerFromGguf(**file);
}

std::unique_ptr<text::Tokenizer> MustMake(const absl::StatusOr<TokenizerDefinition>& definition) {
  EXPECT_TRUE(definition.ok()) << definition.status();
  auto tokenizer = text::MakeTokenizer(*definition);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

// 299 texts of many scripts, numbers, white space, code and special tokens, and their ids.
Json Encodings() { return Json::parse(ReadTestdata("qwen3_encodings.json")); }

int CountWrong(const text::Tokenizer& tokenizer) {
  int num_wrong = 0;
  for (const Json& encoding : Encodings()) {
    const auto ids = encoding[1].get<std::vector<TokenId>>();
    num_wrong += tokenizer.Encode(encoding[0].get<std::string>(), {.add_special = true, .parse_special = true}) != ids;
  }
  return num_wrong;
}

TEST(QwenGgufTokenizer, EncodesAsTheFolderDoes) {
  const auto of_folder = MustMake(OfFolder());
  const auto of_file = MustMake(ThroughAFile(AsConverted()));
  EXPECT_EQ(CountWrong(*of_file), 0);
  std::vector<std::string> texts = {"",
                                    " ",
                                    "\n\n\t  x\r\n",
                                    "12345678901234567890 3.14159 1e-5",
                                    "don't WE'LL they'Re",
                                    "e\xcc\x81 \xe2\x84\xab caf\xc3\xa9",  // composed by form C
                                    "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x92\xbb \xe4\xbd\xa0\xe5\xa5\xbd",
                                    "broken \xff\xc3 utf-8",
                                    "<|im_start|>user\nhi<|im_end|>\n<think>\n</think><tool_call>",
                                    "<|im_start|<|endoftext|>"};
  for (const Json& encoding : Encodings()) texts.push_back(encoding[0]);
  for (const std::string& text : texts) {
    for (const bool parse_special : {false, true}) {
      const auto ids = of_folder->Encode(text, {.add_special = true, .parse_special = parse_special});
      EXPECT_EQ(of_file->Encode(text, {.add_special = true, .parse_special = parse_special}), ids) << text;
      EXPECT_EQ(of_file->Decode(ids, false), of_folder->Decode(ids, false));
      EXPECT_EQ(of_file->Decode(ids, true), of_folder->Decode(ids, true));
    }
  }
}

// So a draft model from a file fits a target model from a folder.
TEST(QwenGgufTokenizer, IsTheSameVocabularyAsTheFolder) {
  const auto of_folder = MustMake(OfFolder());
  const auto of_file = MustMake(ThroughAFile(AsConverted()));
  EXPECT_EQ(of_file->fingerprint(), of_folder->fingerprint());
  EXPECT_EQ(of_file->end_of_generation_ids(), (std::vector<TokenId>{151643, 151645}));
  EXPECT_EQ(of_folder->end_of_generation_ids(), of_file->end_of_generation_ids());
  EXPECT_EQ(of_file->definition().chat_template, of_folder->definition().chat_template);
  EXPECT_FALSE(of_file->definition().bos_id.has_value());
  EXPECT_FALSE(of_file->definition().add_bos);
}

TEST(QwenGgufTokenizer, KeepsABosThatIsAdded) {
  TokenizerDefinition definition = AsConverted();
  definition.add_bos = true;
  const auto tokenizer = MustMake(ThroughAFile(definition));
  EXPECT_EQ(tokenizer->Encode("", {.add_special = true}), (std::vector<TokenId>{151643}));
}

TEST(QwenGgufTokenizer, WrongDefinitionsAreFound) {
  const auto wrong = [](auto change) {
    TokenizerDefinition definition = AsConverted();
    change(definition);
    return CountWrong(*MustMake(ThroughAFile(definition)));
  };
  EXPECT_EQ(wrong([](TokenizerDefinition&) {}), 0);
  for (const char* pre : {"llama-bpe", "default", "gpt-2", "deepseek-r1-qwen"}) {  // the last: all but form C
    const int num_wrong = wrong([&](TokenizerDefinition& d) { d.pre = pre; });
    std::printf("%s: %d of 299 texts differ\n", pre, num_wrong);
    EXPECT_GT(num_wrong, 0) << pre;
  }
  EXPECT_GT(wrong([](TokenizerDefinition& d) { std::fill(d.types.begin(), d.types.end(), TokenType::kNormal); }), 0);
  EXPECT_GT(wrong([](TokenizerDefinition& d) { std::reverse(d.merges.begin(), d.merges.end()); }), 0);
  EXPECT_GT(wrong([](TokenizerDefinition& d) { d.add_bos = true; }), 0);
}

TEST(QwenGgufTokenizer, NamesAnUnknownPreTokenizer) {
  TokenizerDefinition definition = AsConverted();
  definition.pre = "qwen9";
  const auto read = ThroughAFile(definition);
  ASSERT_TRUE(read.ok()) << read.status();
  const absl::Status status = text::MakeTokenizer(*read).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "\"qwen9\"")) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "qwen2")) << status;
}

}  // namespace
}  // namespace outrider
