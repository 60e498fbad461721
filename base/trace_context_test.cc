#include "base/trace_context.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <regex>

namespace outrider {
namespace {

// The example of the standard.
constexpr char kExample[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(Traceparent, ReadsTheExampleOfTheStandard) {
  const auto context = ParseTraceparent(kExample);
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->trace.high, 0x4bf92f3577b34da6u);
  EXPECT_EQ(context->trace.low, 0xa3ce929d0e0e4736u);
  EXPECT_EQ(context->span, 0x00f067aa0ba902b7u);
  EXPECT_TRUE(context->sampled);
  EXPECT_EQ(FormatTraceparent(*context), kExample);
  EXPECT_EQ(ToHex(context->trace), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(SpanIdToHex(context->span), "00f067aa0ba902b7");
}

TEST(Traceparent, SamplesByTheLastBitOfItsFlags) {
  const auto with_flags = [](const std::string& flags) {
    return ParseTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-" + flags);
  };
  EXPECT_FALSE(with_flags("00")->sampled);
  EXPECT_FALSE(with_flags("02")->sampled);  // random trace id, of level 2
  EXPECT_TRUE(with_flags("03")->sampled);
  EXPECT_TRUE(with_flags("ff")->sampled);
  EXPECT_FALSE(with_flags("0x").has_value());
}

TEST(Traceparent, ReadsLaterVersionsByTheFieldsItKnows) {
  const std::string fields = "-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  EXPECT_TRUE(ParseTraceparent("cc" + fields).has_value());
  EXPECT_TRUE(ParseTraceparent("cc" + fields + "-what-the-future-will-be-like").has_value());
  EXPECT_TRUE(ParseTraceparent("01" + fields + "-").has_value());
  EXPECT_FALSE(ParseTraceparent("cc" + fields + ".what-the-future-will-not-be-like").has_value());
  EXPECT_FALSE(ParseTraceparent("00" + fields + "-more").has_value());
  EXPECT_FALSE(ParseTraceparent("00" + fields + "-").has_value());
  EXPECT_FALSE(ParseTraceparent("ff" + fields).has_value());
}

TEST(Traceparent, IsAbsentWhereItIsNone) {
  for (const std::string value : {
           "",
           "00",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
           "0X-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
           " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
           "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01,00-4bf92f3577b34da6a3ce929d0e0e4736-"
           "00f067aa0ba902b7-"
           "01",
       }) {
    EXPECT_FALSE(ParseTraceparent(value).has_value()) << value;
  }
  std::string with_zero = kExample;
  with_zero[20] = '\0';
  EXPECT_FALSE(ParseTraceparent(with_zero).has_value());
  EXPECT_FALSE(ParseTraceparent(std::string(1 << 20, '0')).has_value());
}

// Changed at random, it is taken exactly where a pattern written from the standard takes it, and read the same.
TEST(Traceparent, AgreesWithThePatternOfTheStandard) {
  const char* const given = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  SCOPED_TRACE(testing::Message() << "OUTRIDER_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  const std::regex pattern("(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[^]*)?");
  const std::string alphabet = "0123456789abcdef--fF00gG. \x01\xff";
  int num_taken = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string value = kExample;
    for (uint64_t changes = random() % 3; changes > 0; --changes) {
      const char c = alphabet[random() % alphabet.size()];
      const size_t at = random() % value.size();
      switch (random() % 8) {
        case 0:
          value.insert(at, 1, c);
          break;
        case 1:
          value.erase(at, 1);
          break;
        case 2:
          value += c;
          break;
        default:
          value[at] = c;
      }
    }
    std::smatch match;
    const bool expected = std::regex_match(value, match, pattern) && !(match[1].str() == "00" && match[5].matched);
    const auto context = ParseTraceparent(value);
    ASSERT_EQ(context.has_value(), expected) << value;
    if (!expected) continue;
    ++num_taken;
    EXPECT_EQ(ToHex(context->trace), match[2].str());
    EXPECT_EQ(SpanIdToHex(context->span), match[3].str());
    EXPECT_EQ(context->sampled, std::stoi(match[4].str(), nullptr, 16) % 2 == 1);
  }
  EXPECT_GT(num_taken, 1000);
}

}  // namespace
}  // namespace outrider
