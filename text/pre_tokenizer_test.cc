#include "text/pre_tokenizer.h"

#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "text/testing/random_text.h"
#include "text/testing/seed.h"

namespace outrider::text {
namespace {

std::vector<std::string> Split(absl::string_view name, absl::string_view text) {
  std::vector<absl::string_view> pieces;
  (*PreTokenizer::Make(name))->Split(text, &pieces);
  return std::vector<std::string>(pieces.begin(), pieces.end());
}

using Pieces = std::vector<std::string>;

TEST(PreTokenizer, Gpt2KeepsASpaceWithTheWordAfterIt) {
  EXPECT_EQ(Split("gpt-2", "Hello world, it's 123  x\n\n y"),
            (Pieces{"Hello", " world", ",", " it", "'s", " 123", " ", " x", "\n\n", " y"}));
  EXPECT_EQ(Split("gpt-2", ""), Pieces{});
}

TEST(PreTokenizer, SmolLmTakesDigitsOneByOne) {
  EXPECT_EQ(Split("smollm", "in 2024, \xD9\xA3"), (Pieces{"in", " ", "2", "0", "2", "4", ",", " ", "\xD9\xA3"}));
}

TEST(PreTokenizer, Llama3TakesDigitsByThreeAndContractionsInAnyCase) {
  EXPECT_EQ(Split("llama-bpe", "I'LL pay 12345!\n\n  ok"),
            (Pieces{"I", "'LL", " pay", " ", "123", "45", "!\n\n", " ", " ok"}));
}

TEST(PreTokenizer, Qwen2TakesDigitsOneByOneAndPunctuationWithTheWord) {
  EXPECT_EQ(Split("qwen2", "(abc) 42"), (Pieces{"(abc", ")", " ", "4", "2"}));
}

TEST(PreTokenizer, TekkenDividesAtACapital) {
  EXPECT_EQ(Split("tekken", "camelCase ABCdef"), (Pieces{"camel", "Case", " ABCdef"}));
}

TEST(PreTokenizer, UnicodeLettersAndSpacesCount) {
  EXPECT_EQ(Split("gpt-2", "\xC3\xA9t\xC3\xA9\xE3\x80\x80\xE6\x97\xA5\xE6\x9C\xAC"),
            (Pieces{"\xC3\xA9t\xC3\xA9", "\xE3\x80\x80", "\xE6\x97\xA5\xE6\x9C\xAC"}));
}

TEST(PreTokenizer, SpacesAreUnicodesAndNotPerls) {
  // U+180E, the Mongolian vowel separator, was a space until Unicode 6.3; U+0085 and U+2028 are.
  EXPECT_EQ(Split("gpt-2", "a\xE1\xA0\x8E!"), (Pieces{"a", "\xE1\xA0\x8E!"}));
  EXPECT_EQ(Split("gpt-2", "a\xC2\x85\xE2\x80\xA8"), (Pieces{"a", "\xC2\x85\xE2\x80\xA8"}));
}

TEST(PreTokenizer, BytesThatAreNotUtf8AreAPieceOfTheirOwn) {
  EXPECT_EQ(Split("gpt-2", "ab\xFF\xFE cd\xE2\x82"), (Pieces{"ab", "\xFF\xFE", " cd", "\xE2\x82"}));
  // The space before the bytes is at an end, so both belong together.
  EXPECT_EQ(Split("gpt-2", "a  \x80"), (Pieces{"a", "  ", "\x80"}));
}

TEST(PreTokenizer, ThePiecesTogetherAreTheText) {
  std::mt19937_64 random(TestSeed(5));
  for (const std::string& name : SupportedPreTokenizers()) {
    const auto pre_tokenizer = *PreTokenizer::Make(name);
    for (int i = 0; i < 200; ++i) {
      std::string text = RandomUnicode(random, random() % 60);
      if (i % 2 == 0) text += RandomBytes(random, random() % 10) + RandomUnicode(random, random() % 20);
      std::vector<absl::string_view> pieces;
      pre_tokenizer->Split(text, &pieces);
      ASSERT_EQ(absl::StrJoin(pieces, ""), text) << name;
      for (const absl::string_view piece : pieces) ASSERT_FALSE(piece.empty());
    }
  }
}

TEST(PreTokenizer, LongRunsOfOneKindTakeLinearTime) {
  // Quadratic patterns would take 10^10 steps, and the test's time limit.
  const size_t size = 1 << 17;
  for (const std::string& name : SupportedPreTokenizers()) {
    const auto pre_tokenizer = *PreTokenizer::Make(name);
    for (const std::string& unit :
         {std::string(" "), std::string("a"), std::string("A"), std::string("1"), std::string("!"), std::string("\n"),
          std::string(" \n"), std::string("\xE3\x80\x80"), std::string("\xE6\x97\xA5"), std::string("\xCC\x81"),
          std::string("\xFF")}) {
      std::string text;
      while (text.size() < size) text += unit;
      std::vector<absl::string_view> pieces;
      pre_tokenizer->Split(text + "x", &pieces);
      ASSERT_FALSE(pieces.empty());
    }
  }
}

TEST(PreTokenizer, QwenNormalisesToFormC) {
  const auto qwen = *PreTokenizer::Make("qwen2");
  EXPECT_TRUE(qwen->normalizes());
  EXPECT_EQ(qwen->Normalize("e\xCC\x81"), "\xC3\xA9");
  EXPECT_EQ(qwen->Normalize("e\xCC\x81\xFF"
                            "e\xCC\x81"),
            "\xC3\xA9\xFF\xC3\xA9");
  EXPECT_EQ(qwen->Normalize("\xE2\x84\xAB"), "\xC3\x85");  // the angstrom sign
  const auto gpt2 = *PreTokenizer::Make("gpt-2");
  EXPECT_FALSE(gpt2->normalizes());
  EXPECT_EQ(gpt2->Normalize("e\xCC\x81"), "e\xCC\x81");
}

TEST(PreTokenizer, IsFoundByItsPatterns) {
  EXPECT_EQ(PreTokenizersByPatterns({R"(\p{N})", Gpt2SplitPattern()}, false),
            (Pieces{"smollm", "codeshell", "command-r", "exaone", "refact", "starcoder"}));
  EXPECT_EQ(PreTokenizersByPatterns({"x+"}, false), Pieces{});
}

TEST(PreTokenizer, AnUnknownNameIsAnErrorThatListsTheKnownOnes) {
  const absl::Status status = PreTokenizer::Make("nosuch").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("nosuch"), absl::string_view::npos);
  EXPECT_NE(status.message().find("smollm"), absl::string_view::npos);
  EXPECT_TRUE(PreTokenizer::Make("").ok());
}

}  // namespace
}  // namespace outrider::text
