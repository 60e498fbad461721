#include "text/stop_matcher.h"

#include <algorithm>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "text/testing/seed.h"

namespace outrider::text {
namespace {

StopMatcher Make(const std::vector<std::string>& stops) { return *StopMatcher::Create(stops); }

TEST(StopMatcher, WithoutStopStringsEverythingPasses) {
  StopMatcher matcher = Make({});
  EXPECT_EQ(matcher.Push("anything").text, "anything");
  EXPECT_EQ(matcher.num_held_bytes(), 0u);
  StopMatcher none;
  EXPECT_EQ(none.Push("x").text, "x");
}

TEST(StopMatcher, MatchesInsideOneToken) {
  StopMatcher matcher = Make({"END"});
  const StopMatcher::Result result = matcher.Push("abcENDdef");
  EXPECT_EQ(result.text, "abc");
  ASSERT_TRUE(result.match.has_value());
  EXPECT_EQ(result.match->stop_index, 0u);
  EXPECT_EQ(result.match->token_index, 0u);
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.Push("more").text, "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, MatchesAcrossTokensAndTellsWhichOneCompletedIt) {
  StopMatcher matcher = Make({"\n\nUser:"});
  EXPECT_EQ(matcher.Push("Hello\n").text, "Hello");
  EXPECT_EQ(matcher.Push("").text, "");
  EXPECT_EQ(matcher.Push("\nUs").text, "");
  EXPECT_EQ(matcher.num_held_bytes(), 4u);
  const StopMatcher::Result result = matcher.Push("er: hi");
  EXPECT_EQ(result.text, "");
  ASSERT_TRUE(result.match.has_value());
  EXPECT_EQ(result.match->token_index, 3u);
}

TEST(StopMatcher, GivesBackWhatTurnsOutNotToBeAStopString) {
  StopMatcher matcher = Make({"abc"});
  EXPECT_EQ(matcher.Push("xab").text, "x");
  EXPECT_EQ(matcher.Push("ab").text, "ab");
  EXPECT_EQ(matcher.Push("d").text, "abd");
  EXPECT_EQ(matcher.Push("ab").text, "");
  EXPECT_EQ(matcher.Flush(), "ab");
}

TEST(StopMatcher, TheFirstToEndWinsAndOfThoseTheLongest) {
  StopMatcher first = Make({"abcd", "bc"});
  StopMatcher::Result result = first.Push("xabcd");
  EXPECT_EQ(result.text, "xa");
  EXPECT_EQ(result.match->stop_index, 1u);
  StopMatcher longest = Make({"c", "abc", "bc"});
  result = longest.Push("xabc");
  EXPECT_EQ(result.text, "x");
  EXPECT_EQ(result.match->stop_index, 1u);
}

TEST(StopMatcher, ATailBelongsToTheLastToken) {
  StopMatcher matcher = Make({"b\xEF\xBF\xBD"});
  matcher.Push("a");
  matcher.Push("b");
  const StopMatcher::Result result = matcher.PushTail("\xEF\xBF\xBD");
  ASSERT_TRUE(result.match.has_value());
  EXPECT_EQ(result.match->token_index, 1u);
}

TEST(StopMatcher, ACopyIsASnapshot) {
  StopMatcher matcher = Make({"stop"});
  matcher.Push("st");
  StopMatcher copy = matcher;
  EXPECT_TRUE(matcher.Push("op").match.has_value());
  EXPECT_EQ(copy.Push("ay").text, "stay");
}

TEST(StopMatcher, NeverCutsACharacter) {
  StopMatcher matcher = Make({"\xE2\x82\xAC\xE2\x82\xAC"});
  EXPECT_EQ(matcher.Push("a\xE2\x82\xAC").text, "a");
  // "₭" shares two bytes with "€".
  EXPECT_EQ(matcher.Push("\xE2\x82\xAD").text, "\xE2\x82\xAC\xE2\x82\xAD");
}

TEST(StopMatcher, RefusesWhatIsOutOfBoundsNamingIt) {
  const auto message = [](const std::vector<std::string>& stops) {
    const absl::Status status = ValidateStopStrings(stops);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_LT(status.message().size(), 200u);
    return std::string(status.message());
  };
  EXPECT_EQ(message(std::vector<std::string>(17, "x")), "stop has 17 strings; at most 16 are allowed");
  EXPECT_EQ(message({"a", std::string(1 << 20, 'x')}), "stop[1] is 1048576 bytes; at most 4096 are allowed");
  EXPECT_EQ(message({""}), "stop[0] is empty");
  EXPECT_EQ(message({"ok\xFF"}), "stop[0] is not UTF-8 at byte 2");
  EXPECT_TRUE(ValidateStopStrings(std::vector<std::string>(16, std::string(4096, 'x'))).ok());
  EXPECT_FALSE(StopMatcher::Create(std::vector<std::string>{""}).ok());
}

// All of the text so far, searched anew at every byte.
struct Reference {
  std::vector<std::string> stops;
  std::string text;
  std::optional<size_t> end;  // of the match
  size_t stop_index = 0;

  void Run() {
    for (size_t i = 1; i <= text.size() && !end.has_value(); ++i) {
      size_t longest = 0;
      for (size_t s = 0; s < stops.size(); ++s) {
        const std::string& stop = stops[s];
        if (stop.size() <= i && text.compare(i - stop.size(), stop.size(), stop) == 0 && stop.size() > longest) {
          longest = stop.size();
          stop_index = s;
          end = i;
        }
      }
    }
  }
};

TEST(StopMatcher, AgreesWithSearchingTheWholeText) {
  std::mt19937_64 random(TestSeed(4));
  for (int round = 0; round < 5000; ++round) {
    const int alphabet = 1 + static_cast<int>(random() % 3);
    const auto word = [&](size_t max) {
      std::string out;
      for (size_t n = 1 + random() % max; n > 0; --n) out.push_back(static_cast<char>('a' + random() % alphabet));
      return out;
    };
    Reference reference;
    for (size_t n = 1 + random() % 4; n > 0; --n) reference.stops.push_back(word(8));
    std::vector<std::string> tokens;
    for (size_t n = random() % 12; n > 0; --n) tokens.push_back(random() % 5 == 0 ? "" : word(5));
    for (const std::string& token : tokens) reference.text += token;
    reference.Run();

    StopMatcher matcher = Make(reference.stops);
    std::string sent;
    std::optional<StopMatcher::Match> match;
    std::string seen;
    for (const std::string& token : tokens) {
      const StopMatcher::Result result = matcher.Push(token);
      seen += token;
      sent += result.text;
      if (result.match.has_value()) {
        match = result.match;
        break;
      }
      // Nothing is held back that could have been sent: what is held begins some stop string.
      ASSERT_EQ(sent.size() + matcher.num_held_bytes(), seen.size());
      const std::string held = seen.substr(sent.size());
      ASSERT_TRUE(held.empty() || std::any_of(reference.stops.begin(), reference.stops.end(), [&](const auto& stop) {
                    return stop.compare(0, held.size(), held) == 0;
                  }));
    }
    ASSERT_EQ(match.has_value(), reference.end.has_value());
    if (!match.has_value()) {
      ASSERT_EQ(sent + matcher.Flush(), reference.text);
      continue;
    }
    ASSERT_EQ(match->stop_index, reference.stop_index);
    ASSERT_EQ(sent, reference.text.substr(0, *reference.end - reference.stops[match->stop_index].size()));
    size_t end = 0;
    size_t index = 0;
    while (end + tokens[index].size() < *reference.end) end += tokens[index++].size();
    ASSERT_EQ(match->token_index, index);
  }
}

TEST(StopMatcher, LongPeriodicStopStringsTakeLinearTime) {
  // A quadratic matcher would compare 16 * 4096 * 2^18 bytes.
  std::vector<std::string> stops;
  for (int i = 0; i < 16; ++i) stops.push_back(std::string(4090, 'a') + "b" + std::string(i % 5, 'c'));
  StopMatcher matcher = Make(stops);
  const std::clock_t begin = std::clock();
  size_t sent = 0;
  for (int i = 0; i < (1 << 16); ++i) sent += matcher.Push("aaaa").text.size();
  EXPECT_EQ(sent + matcher.num_held_bytes(), size_t{1} << 18);
  EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 10);
}

}  // namespace
}  // namespace outrider::text
