#include "text/bpe_tokenizer.h"

#include <cstdio>
#include <ctime>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "text/byte_alphabet.h"
#include "text/testing/random_text.h"
#include "text/testing/seed.h"
#include "text/testing/smollm2_tokenizer.h"

namespace outrider::text {
namespace {

// BPE as the papers tell it: over and over, find the best pair anywhere in the word and merge its leftmost occurrence.
class SlowBpe {
 public:
  explicit SlowBpe(const TokenizerDefinition& definition)
      : pre_tokenizer_(*PreTokenizer::Make(definition.pre)),
        ignore_merges_(definition.ignore_merges || ImpliesIgnoreMerges(definition.pre)) {
    for (size_t id = 0; id < definition.tokens.size(); ++id) ids_[definition.tokens[id]] = static_cast<TokenId>(id);
    for (size_t i = 0; i < definition.merges.size(); ++i) {
      const std::string& merge = definition.merges[i];
      const size_t space = merge.find(' ');
      ranks_[{merge.substr(0, space), merge.substr(space + 1)}] = i;
    }
  }

  std::vector<TokenId> Encode(const std::string& text) const {
    std::vector<TokenId> ids;
    const std::string normalized = pre_tokenizer_->Normalize(text);
    std::vector<absl::string_view> words;
    pre_tokenizer_->Split(normalized, &words);
    for (const absl::string_view word : words) {
      if (ignore_merges_ && ids_.count(BytesToAlphabet(word)) > 0) {
        ids.push_back(ids_.at(BytesToAlphabet(word)));
        continue;
      }
      std::vector<std::string> symbols;
      for (const char byte : word) {
        const std::string symbol(ByteToAlphabet(static_cast<uint8_t>(byte)));
        if (ids_.count(symbol) > 0) symbols.push_back(symbol);
      }
      while (true) {
        size_t best = 0;
        size_t best_rank = ranks_.size();
        for (size_t i = 0; i + 1 < symbols.size(); ++i) {
          const auto rank = ranks_.find({symbols[i], symbols[i + 1]});
          if (rank != ranks_.end() && rank->second < best_rank) {
            best = i;
            best_rank = rank->second;
          }
        }
        if (best_rank == ranks_.size()) break;
        symbols[best] += symbols[best + 1];
        symbols.erase(symbols.begin() + best + 1);
      }
      for (const std::string& symbol : symbols) ids.push_back(ids_.at(symbol));
    }
    return ids;
  }

 private:
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  bool ignore_merges_;
  std::map<std::string, TokenId> ids_;
  std::map<std::pair<std::string, std::string>, size_t> ranks_;
};

// A vocabulary of all bytes and random merges over few letters, so that merges meet and overlap often.
TokenizerDefinition RandomDefinition(std::mt19937_64& random, const std::string& pre) {
  TokenizerDefinition definition;
  definition.model = "gpt2";
  definition.pre = pre;
  for (int byte = 0; byte < 256; ++byte) definition.tokens.emplace_back(ByteToAlphabet(static_cast<uint8_t>(byte)));
  std::vector<std::string> parts;
  for (const char letter : std::string("abc 1\xC3\xA9\n")) {
    parts.emplace_back(ByteToAlphabet(static_cast<uint8_t>(letter)));
  }
  std::set<std::string> tokens(definition.tokens.begin(), definition.tokens.end());
  std::set<std::string> merges;
  for (int i = 0; i < 150; ++i) {
    const std::string left = parts[random() % parts.size()];
    const std::string right = parts[random() % parts.size()];
    const std::string merge = absl::StrCat(left, " ", right);
    if (left.size() + right.size() > 24 || !merges.insert(merge).second) continue;
    definition.merges.push_back(merge);
    // The same token may come of two merges.
    if (tokens.insert(left + right).second) {
      definition.tokens.push_back(left + right);
      parts.push_back(left + right);
    }
  }
  return definition;
}

TEST(BpeTokenizer, AgreesWithTheSlowAlgorithmOnRandomVocabularies) {
  std::mt19937_64 random(TestSeed(6));
  for (int round = 0; round < 150; ++round) {
    const std::string pre = std::vector<std::string>{"gpt-2", "smollm", "llama-bpe", "qwen2", "default"}[round % 5];
    const TokenizerDefinition definition = RandomDefinition(random, pre);
    const auto tokenizer = *MakeTokenizer(definition);
    const SlowBpe slow(definition);
    for (int i = 0; i < 30; ++i) {
      std::string text;
      for (size_t n = random() % 80; n > 0; --n) text.push_back("aaabbc  1\xC3\xA9\n'!"[random() % 14]);
      if (i % 10 == 0) text += RandomUnicode(random, 10);
      ASSERT_EQ(tokenizer->Encode(text), slow.Encode(text)) << "round " << round << ", text " << i;
    }
  }
}

TEST(BpeTokenizer, AgreesWithTheSlowAlgorithmOnARealVocabulary) {
  std::mt19937_64 random(TestSeed(7));
  const TokenizerDefinition definition = SmolLm2Definition();
  const auto tokenizer = *MakeTokenizer(definition);
  const SlowBpe slow(definition);
  for (int i = 0; i < 400; ++i) {
    std::string text;
    if (i % 2 == 0) {
      text = RandomUnicode(random, random() % 40) + RandomBytes(random, random() % 8);
    } else {
      // Pieces of tokens: text that looks like what the vocabulary was trained on.
      for (size_t n = random() % 12; n > 0; --n) {
        const absl::string_view bytes = tokenizer->TokenBytes(17 + static_cast<TokenId>(random() % 49000));
        text.append(bytes.data(), 1 + random() % bytes.size());
      }
    }
    ASSERT_EQ(tokenizer->Encode(text), slow.Encode(text)) << i;
  }
}

TEST(BpeTokenizer, DecodingWhatWasEncodedGivesTheTextBack) {
  std::mt19937_64 random(TestSeed(8));
  const auto tokenizer = *MakeTokenizer(RandomDefinition(random, "gpt-2"));
  for (int i = 0; i < 2000; ++i) {
    const std::string text = i % 2 == 0 ? RandomBytes(random, random() % 100) : RandomUnicode(random, random() % 50);
    std::string bytes;
    for (const TokenId id : tokenizer->Encode(text)) {
      const absl::string_view token = tokenizer->TokenBytes(id);
      bytes.append(token.data(), token.size());
    }
    ASSERT_EQ(bytes, text);
    if (i % 2 == 1) {
      ASSERT_EQ(tokenizer->Decode(tokenizer->Encode(text), true), text);
    }
  }
}

TEST(BpeTokenizer, BytesThatTheVocabularyLacksAreLeftOut) {
  const auto tokenizer = MakeSmolLm2Tokenizer();
  // 0x04 and 0xFF are among the 21 bytes SmolLM2 has no token for.
  EXPECT_EQ(tokenizer->Encode(absl::StrCat("a\x04\xFF", "b")),
            (std::vector<TokenId>{tokenizer->FindToken("a"), tokenizer->FindToken("b")}));
  EXPECT_TRUE(tokenizer->Encode("\x04").empty());
}

TEST(BpeTokenizer, TakesAWordWholeWhenMergesAreIgnored) {
  TokenizerDefinition definition;
  definition.model = "gpt2";
  definition.pre = "gpt-2";
  definition.tokens = {"a", "b", "c", "bc", "abc"};
  definition.merges = {"b c"};
  EXPECT_EQ((*MakeTokenizer(definition))->Encode("abc"), (std::vector<TokenId>{0, 3}));
  definition.ignore_merges = true;
  EXPECT_EQ((*MakeTokenizer(definition))->Encode("abc"), (std::vector<TokenId>{4}));
  definition.ignore_merges = false;
  definition.pre = "llama-bpe";
  EXPECT_EQ((*MakeTokenizer(definition))->Encode("abc"), (std::vector<TokenId>{4}));
}

// Prompts and ids of the reference run on SmolLM2-135M-Instruct (llama.cpp's tokenizer); the chat text is written out.
TEST(BpeTokenizer, EncodesTheChatPromptsOfTheReferenceRun) {
  const auto tokenizer = MakeSmolLm2Tokenizer();
  const auto prompts = nlohmann::json::parse(ReadTestdata("smollm2_prompts.json"));
  ASSERT_EQ(prompts.size(), 20u);
  for (const auto& prompt : prompts) {
    const std::string text = absl::StrCat(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n",
        prompt["prompt"].get<std::string>(), "<|im_end|>\n<|im_start|>assistant\n");
    const auto expected = prompt["prompt_token_ids"].get<std::vector<TokenId>>();
    EXPECT_EQ(tokenizer->Encode(text, {.parse_special = true}), expected) << prompt["prompt"];
    EXPECT_EQ(tokenizer->Decode(expected, false), text);
  }
}

TEST(BpeTokenizer, AMegabyteWithoutSpacesIsNotQuadratic) {
  const auto tokenizer = MakeSmolLm2Tokenizer();
  std::mt19937_64 random(TestSeed(9));
  std::string letters;
  while (letters.size() < size_t{1} << 20) letters.push_back(static_cast<char>('a' + random() % 26));
  for (const std::string& text : {std::string(size_t{1} << 20, 'a'), std::string(size_t{1} << 20, ' '), letters}) {
    const std::clock_t begin = std::clock();  // of this process: neighbours do not count
    EXPECT_FALSE(tokenizer->Encode(text).empty());
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    std::printf("%.3f s\n", seconds);
    // 0.2 to 0.4 s; merging by scanning takes hours. Sanitizers are given room.
    EXPECT_LT(seconds, 10);
  }
}

}  // namespace
}  // namespace outrider::text
