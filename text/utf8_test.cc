#include "text/utf8.h"

#include <string>

#include "gtest/gtest.h"
#include "text/testing/random_text.h"
#include "text/testing/seed.h"

namespace outrider::text {
namespace {

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_EQ(FirstInvalidUtf8(""), std::nullopt);
  EXPECT_EQ(FirstInvalidUtf8("plain ascii, longer than eight bytes"), std::nullopt);
  EXPECT_EQ(FirstInvalidUtf8("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"), std::nullopt);
  EXPECT_EQ(FirstInvalidUtf8("0123456789\xFF"), 10u);
  EXPECT_EQ(FirstInvalidUtf8("ab\x80"), 2u);
  EXPECT_EQ(FirstInvalidUtf8(absl::string_view("a\0b\xC3", 4)), 3u);
}

TEST(Utf8, RefusesOverlongSurrogatesAndWhatIsAboveTheLastCodePoint) {
  EXPECT_EQ(FirstInvalidUtf8("a\xC0\x80"), 1u);
  EXPECT_EQ(FirstInvalidUtf8("a\xC1\xBF"), 1u);
  EXPECT_EQ(FirstInvalidUtf8("a\xE0\x9F\xBF"), 1u);
  EXPECT_EQ(FirstInvalidUtf8("a\xED\xA0\x80"), 1u);
  EXPECT_EQ(FirstInvalidUtf8("a\xF0\x8F\xBF\xBF"), 1u);
  EXPECT_EQ(FirstInvalidUtf8("a\xF4\x90\x80\x80"), 1u);
  EXPECT_EQ(FirstInvalidUtf8("a\xF5\x80\x80\x80"), 1u);
  EXPECT_EQ(FirstInvalidUtf8("\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF"), std::nullopt);
}

TEST(Utf8, DecodesWhatItAppendsForEveryCodePoint) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    std::string text;
    AppendUtf8(c, &text);
    const Utf8Step step = DecodeUtf8(text);
    ASSERT_EQ(step.kind, Utf8Step::Kind::kCharacter);
    ASSERT_EQ(step.num_bytes, text.size());
    ASSERT_EQ(step.code_point, c >= 0xD800 && c <= 0xDFFF ? 0xFFFD : c);
  }
}

// Expected values: bytes.decode("utf-8", errors="replace") of CPython 3.11; U+FFFD written as '?'.
TEST(Utf8, ReplacesAsPythonDoes) {
  const auto replaced = [](absl::string_view bytes) {
    std::string out = ReplaceInvalidUtf8(bytes);
    for (size_t at; (at = out.find("\xEF\xBF\xBD")) != std::string::npos;) out.replace(at, 3, "?");
    return out;
  };
  EXPECT_EQ(replaced("a\xFFz"), "a?z");
  EXPECT_EQ(replaced("\xE2\x82z"), "?z");
  EXPECT_EQ(replaced("\xE2\x82"), "?");
  EXPECT_EQ(replaced("\xE2\x82\xE2\x82\xAC"), "?\xE2\x82\xAC");
  EXPECT_EQ(replaced("\xF0\x9F\x98z\xF0\x9Fz\xF0z"), "?z?z?z");
  EXPECT_EQ(replaced("\xC0\x80"), "??");
  EXPECT_EQ(replaced("\xED\xA0\x80"), "???");
  EXPECT_EQ(replaced("\xF4\x90\x80\x80"), "????");
  EXPECT_EQ(replaced("\xE0\x80\x80"), "???");
  EXPECT_EQ(replaced("\xF0\x80\x80\x80"), "????");
}

TEST(Utf8, WhatIsReplacedIsValidAndValidTextIsUnchanged) {
  std::mt19937_64 random(TestSeed(1));
  for (int i = 0; i < 2000; ++i) {
    EXPECT_TRUE(IsValidUtf8(ReplaceInvalidUtf8(RandomBytes(random, random() % 64))));
    const std::string text = RandomUnicode(random, random() % 32);
    EXPECT_EQ(ReplaceInvalidUtf8(text), text);
  }
}

}  // namespace
}  // namespace outrider::text
