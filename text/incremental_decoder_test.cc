#include "text/incremental_decoder.h"

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "text/byte_alphabet.h"
#include "text/testing/random_text.h"
#include "text/testing/seed.h"
#include "text/testing/smollm2_tokenizer.h"
#include "text/utf8.h"

namespace outrider::text {
namespace {

// 256 single bytes, then a control token (256) and "é" with the first two bytes of "€" (257).
std::unique_ptr<Tokenizer> MakeByteTokenizer() {
  TokenizerDefinition definition;
  definition.model = "gpt2";
  definition.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) definition.tokens.emplace_back(ByteToAlphabet(static_cast<uint8_t>(byte)));
  definition.tokens.push_back("<|end|>");
  definition.tokens.push_back(BytesToAlphabet("\xC3\xA9\xE2\x82"));
  definition.types.assign(258, TokenType::kNormal);
  definition.types[256] = TokenType::kControl;
  return *MakeTokenizer(definition);
}

TEST(IncrementalDecoder, HoldsACharacterBackUntilItIsWhole) {
  const auto tokenizer = MakeByteTokenizer();
  IncrementalDecoder decoder(tokenizer.get(), true);
  EXPECT_EQ(decoder.Push('a'), "a");
  EXPECT_EQ(decoder.Push(0xE2), "");
  EXPECT_TRUE(decoder.has_pending());
  EXPECT_EQ(decoder.Push(0x82), "");
  EXPECT_EQ(decoder.Push(0xAC), "\xE2\x82\xAC");
  EXPECT_FALSE(decoder.has_pending());
  EXPECT_EQ(decoder.Push(257), "\xC3\xA9");
  EXPECT_EQ(decoder.Push(0xAC), "\xE2\x82\xAC");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST(IncrementalDecoder, ReplacesWhatCanNotBecomeACharacter) {
  const auto tokenizer = MakeByteTokenizer();
  IncrementalDecoder decoder(tokenizer.get(), true);
  EXPECT_EQ(decoder.Push(0xFF), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.Push(0xE2), "");
  EXPECT_EQ(decoder.Push('z'), "\xEF\xBF\xBDz");
  EXPECT_EQ(decoder.Push(0xF0), "");
  EXPECT_EQ(decoder.Push(0x9F), "");
  EXPECT_EQ(decoder.Flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST(IncrementalDecoder, SkipsSpecialTokensWhenAsked) {
  const auto tokenizer = MakeByteTokenizer();
  IncrementalDecoder skipping(tokenizer.get(), true);
  IncrementalDecoder showing(tokenizer.get(), false);
  EXPECT_EQ(skipping.Push(256), "");
  EXPECT_EQ(showing.Push(256), "<|end|>");
}

TEST(IncrementalDecoder, IdsOutsideTheVocabularyGiveNothing) {
  const auto tokenizer = MakeByteTokenizer();
  IncrementalDecoder decoder(tokenizer.get(), true);
  EXPECT_EQ(decoder.Push(-1), "");
  EXPECT_EQ(decoder.Push(258), "");
  EXPECT_EQ(decoder.Push(2147483647), "");
}

TEST(IncrementalDecoder, ACopyIsASnapshot) {
  const auto tokenizer = MakeByteTokenizer();
  IncrementalDecoder decoder(tokenizer.get(), true);
  decoder.Push(0xE2);
  decoder.Push(0x82);
  IncrementalDecoder copy = decoder;
  EXPECT_EQ(decoder.Push(0xAC), "\xE2\x82\xAC");
  EXPECT_EQ(copy.Push('x'), "\xEF\xBF\xBDx");
}

TEST(IncrementalDecoder, AnySplitGivesTheTextOfAllBytesTogether) {
  std::mt19937_64 random(TestSeed(2));
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = i % 2 == 0 ? RandomBytes(random, random() % 40) : RandomUnicode(random, random() % 20);
    if (i % 3 == 0 && !bytes.empty()) bytes[random() % bytes.size()] ^= 0x40;
    Utf8Assembler assembler;
    std::string out;
    for (size_t at = 0; at < bytes.size();) {
      const size_t n = std::min<size_t>(1 + random() % 5, bytes.size() - at);
      std::string piece;
      assembler.Push(absl::string_view(bytes).substr(at, n), &piece);
      ASSERT_TRUE(IsValidUtf8(piece));
      ASSERT_LE(assembler.num_pending_bytes(), 3);
      out += piece;
      at += n;
    }
    assembler.Flush(&out);
    ASSERT_EQ(out, ReplaceInvalidUtf8(bytes));
  }
}

TEST(IncrementalDecoder, AgreesWithDecodeOnRandomTokensOfARealVocabulary) {
  const auto tokenizer = MakeSmolLm2Tokenizer();
  std::mt19937_64 random(TestSeed(3));
  for (int i = 0; i < 300; ++i) {
    std::vector<TokenId> ids;
    for (int n = random() % 50; n > 0; --n) ids.push_back(static_cast<TokenId>(random() % tokenizer->vocab_size()));
    for (const bool skips : {false, true}) {
      IncrementalDecoder decoder(tokenizer.get(), skips);
      std::string out;
      for (const TokenId id : ids) out += decoder.Push(id);
      out += decoder.Flush();
      ASSERT_EQ(out, tokenizer->Decode(ids, skips));
    }
  }
}

}  // namespace
}  // namespace outrider::text
