#include "router/generate_relay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "router/testing/byte_tokenizer.h"
#include "router/testing/test_random.h"

namespace outrider::router {
namespace {

using std::chrono::milliseconds;
constexpr TimePoint kStart{};
constexpr size_t kBigBuffer = 1 << 20;

const text::Tokenizer& Bytes() {
  static const std::unique_ptr<text::Tokenizer> tokenizer = MakeByteTokenizer();
  return *tokenizer;
}

ResolvedRequest Request(std::vector<std::string> stop = {}) {
  ResolvedRequest request;
  request.prompt_token_ids = {1, 2, 3};
  request.sampling.max_tokens = 100;
  request.sampling.end_token_ids = {kEndId};
  request.stop = std::move(stop);
  return request;
}

// What a client has seen of one choice.
struct Seen {
  std::vector<TokenId> ids;
  std::string text;
  std::vector<RelayedLogprobs> logprobs;
  std::vector<TokenOrigin> origins;
  std::optional<ClientEvent::End> end;
};

std::vector<Seen> TakeAll(GenerateRelay& relay, std::vector<Seen> seen = {}) {
  ClientEvent event;
  while (relay.TakeNext(&event)) {
    if (seen.size() <= event.choice_index) seen.resize(event.choice_index + 1);
    Seen& choice = seen[event.choice_index];
    EXPECT_FALSE(choice.end.has_value()) << "something after the end of choice " << event.choice_index;
    choice.ids.insert(choice.ids.end(), event.token_ids.begin(), event.token_ids.end());
    choice.text += event.text;
    choice.logprobs.insert(choice.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
    choice.origins.insert(choice.origins.end(), event.origins.begin(), event.origins.end());
    choice.end = event.end;
  }
  EXPECT_EQ(relay.pending_bytes(), 0);
  return seen;
}

std::vector<RelayedLogprobs> Logprobs(int first, int count) {
  std::vector<RelayedLogprobs> logprobs;
  for (int i = 0; i < count; ++i) logprobs.push_back({.logprob = -0.5f * static_cast<float>(first + i), .rank = 3});
  return logprobs;
}

TEST(GenerateRelay, RelaysLogprobsOfThePromptOnceAlsoAcrossAttempts) {
  ResolvedRequest request = Request();
  request.prompt_token_ids = {1, 2, 3, 4, 5, 6};
  request.sampling.num_prompt_logprobs = 0;
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  EXPECT_FALSE(relay.has_taken());
  EXPECT_TRUE(relay.OnPromptLogprobs(0, 1, Logprobs(1, 3)).ok());
  EXPECT_TRUE(relay.has_taken()) << "another group may have other bits";
  EXPECT_FALSE(relay.prompt_logprobs_done());
  ClientEvent event;
  ASSERT_TRUE(relay.TakeNext(&event));
  EXPECT_EQ(event.first_prompt_position, 1u);
  EXPECT_EQ(event.prompt_logprobs.size(), 3u);
  EXPECT_FALSE(relay.has_pending());
  // Elsewhere all of them are told again.
  relay.OnAttemptLost(kStart);
  EXPECT_TRUE(relay.OnPromptLogprobs(0, 1, Logprobs(1, 2)).ok());
  EXPECT_FALSE(relay.has_pending());
  EXPECT_FALSE(relay.OnTokens(0, 0, IdsOf("a"), {}, kStart).status.ok()) << "before the prompt's are complete";
  EXPECT_TRUE(relay.OnPromptLogprobs(0, 3, Logprobs(3, 3)).ok());
  EXPECT_TRUE(relay.prompt_logprobs_done());
  ASSERT_TRUE(relay.TakeNext(&event));
  EXPECT_EQ(event.first_prompt_position, 4u);
  ASSERT_EQ(event.prompt_logprobs.size(), 2u);
  EXPECT_EQ(event.prompt_logprobs[0].logprob, -2.0f);
  EXPECT_EQ(event.prompt_logprobs[0].rank, 3u);
  EXPECT_TRUE(relay.OnTokens(0, 0, IdsOf("a"), {}, kStart).status.ok());
  EXPECT_EQ(TakeAll(relay)[0].text, "a");
}

TEST(GenerateRelay, RefusesLogprobsOfThePromptThatNobodyAskedForOrThatDoNotFit) {
  ResolvedRequest request = Request();
  EXPECT_EQ(GenerateRelay(&request, &Bytes(), kStart, kBigBuffer).OnPromptLogprobs(0, 1, Logprobs(1, 1)).code(),
            absl::StatusCode::kInternal);
  request.sampling.num_prompt_logprobs = 0;
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  for (const auto& [lane, first, count] : {std::tuple(0u, 0u, 1), std::tuple(0u, 2u, 1), std::tuple(0u, 1u, 3),
                                           std::tuple(1u, 1u, 1), std::tuple(0u, 0xffffffffu, 1)}) {
    EXPECT_EQ(relay.OnPromptLogprobs(lane, first, Logprobs(1, count)).code(), absl::StatusCode::kInternal)
        << lane << " " << first << " " << count;
  }
  EXPECT_TRUE(relay.OnPromptLogprobs(0, 1, Logprobs(1, 2)).ok());
}

TEST(GenerateRelay, RelaysIdsAndTextAndOneEnd) {
  const ResolvedRequest request = Request();
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  relay.OnAttemptSent(kStart + milliseconds(10));
  const std::vector<TokenId> ids = IdsOf("hi");
  EXPECT_TRUE(relay.OnTokens(0, 0, ids, {}, kStart + milliseconds(30)).status.ok());
  EXPECT_TRUE(relay.OnTokens(0, 2, IdsOf("!"), {}, kStart + milliseconds(50)).status.ok());
  EXPECT_FALSE(relay.done());
  EXPECT_TRUE(relay
                  .OnFinished(0, EndReason::kLength, {.output_tokens = 3, .rounds = 2}, /*queue_ms=*/5,
                              kStart + milliseconds(60))
                  .ok());
  EXPECT_TRUE(relay.done());
  const std::vector<Seen> seen = TakeAll(relay);
  ASSERT_EQ(seen.size(), 1);
  EXPECT_EQ(seen[0].ids, IdsOf("hi!"));
  EXPECT_EQ(seen[0].text, "hi!");
  ASSERT_TRUE(seen[0].end.has_value());
  EXPECT_EQ(seen[0].end->reason, EndReason::kLength);
  EXPECT_EQ(seen[0].end->usage.output_tokens, 3);
  EXPECT_EQ(seen[0].end->usage.prompt_tokens, 3);
  EXPECT_EQ(seen[0].end->usage.rounds, 2);
  EXPECT_DOUBLE_EQ(seen[0].end->timing.queue, 15);
  EXPECT_DOUBLE_EQ(seen[0].end->timing.first_token, 30);
  EXPECT_DOUBLE_EQ(seen[0].end->timing.decode, 20);
  EXPECT_DOUBLE_EQ(seen[0].end->timing.total, 60);
}

TEST(GenerateRelay, LeavesTheEndTokenOutOfTheTextButNotOutOfTheIds) {
  ResolvedRequest request = Request();
  request.skip_special_tokens = false;
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  const std::vector<TokenId> ids = {'a', kStartId, kEndId};
  EXPECT_TRUE(relay.OnTokens(0, 0, ids, {}, kStart).status.ok());
  EXPECT_TRUE(relay.OnFinished(0, EndReason::kEndToken, {.output_tokens = 3}, 0, kStart).ok());
  const std::vector<Seen> seen = TakeAll(relay);
  EXPECT_EQ(seen[0].ids, ids);
  EXPECT_EQ(seen[0].text, "a<|start|>");
}

TEST(GenerateRelay, DropsRepeatedTokensAndRefusesGapsAndContradictions) {
  const ResolvedRequest request = Request();
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  EXPECT_TRUE(relay.OnTokens(0, 0, IdsOf("abcd"), {}, kStart).status.ok());
  EXPECT_EQ(relay.OnTokens(0, 0, IdsOf("ab"), {}, kStart).num_taken, 0);
  EXPECT_EQ(relay.OnTokens(0, 2, IdsOf("cde"), {}, kStart).num_taken, 1);
  EXPECT_EQ(relay.OnTokens(0, 6, IdsOf("g"), {}, kStart).status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(relay.OnTokens(0, 4, IdsOf("x"), {}, kStart).status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(relay.OnTokens(1, 0, IdsOf("x"), {}, kStart).status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(relay.OnFinished(0, EndReason::kLength, {.output_tokens = 6}, 0, kStart).code(),
            absl::StatusCode::kInternal);
  EXPECT_TRUE(relay.OnFinished(0, EndReason::kLength, {.output_tokens = 5}, 0, kStart).ok());
  EXPECT_FALSE(relay.OnFinished(0, EndReason::kLength, {.output_tokens = 5}, 0, kStart).ok());
  EXPECT_FALSE(relay.OnTokens(0, 5, IdsOf("f"), {}, kStart).status.ok());
  EXPECT_EQ(TakeAll(relay)[0].text, "abcde");
}

TEST(GenerateRelay, RefusesMoreThanMaxTokens) {
  ResolvedRequest request = Request();
  request.sampling.max_tokens = 2;
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  EXPECT_EQ(relay.OnTokens(0, 0, IdsOf("abc"), {}, kStart).status.code(), absl::StatusCode::kInternal);
}

TEST(GenerateRelay, StopsAtTheTokenThatCompletesAStopStringAndDropsTheRest) {
  const ResolvedRequest request = Request({"zz", "lo w"});
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  EXPECT_FALSE(relay.OnTokens(0, 0, IdsOf("hello"), {}, kStart).stop_at.has_value());
  std::vector<Seen> seen = TakeAll(relay);
  EXPECT_EQ(seen[0].text, "hel");
  const auto outcome = relay.OnTokens(0, 5, IdsOf(" world"), {}, kStart);
  EXPECT_EQ(outcome.stop_at, 7);
  EXPECT_EQ(outcome.num_taken, 2);
  EXPECT_EQ(relay.OnTokens(0, 11, IdsOf("!!"), {}, kStart).num_taken, 0);
  EXPECT_FALSE(relay.done());
  EXPECT_TRUE(relay.OnFinished(0, EndReason::kLength, {.output_tokens = 13, .plain_steps = 9}, 0, kStart).ok());
  seen = TakeAll(relay, seen);
  EXPECT_EQ(seen[0].ids, IdsOf("hello w"));
  EXPECT_EQ(seen[0].text, "hel");
  EXPECT_EQ(seen[0].end->reason, EndReason::kStopString);
  EXPECT_EQ(seen[0].end->stop_string, "lo w");
  EXPECT_EQ(seen[0].end->usage.output_tokens, 7);
  EXPECT_EQ(seen[0].end->usage.plain_steps, 9);
}

TEST(GenerateRelay, StopsNotBeforeMinTokens) {
  ResolvedRequest request = Request({"aa"});
  request.sampling.min_tokens = 3;
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  // "aa" is complete at tokens 2 (too early) and 3, overlapping.
  EXPECT_EQ(relay.OnTokens(0, 0, IdsOf("aaa"), {}, kStart).stop_at, 3);
  EXPECT_EQ(TakeAll(relay)[0].text, "a");
}

TEST(GenerateRelay, SendsHeldTextWhenTheChoiceEndsWithoutItsStopString) {
  const ResolvedRequest request = Request({"abcdef"});
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  EXPECT_TRUE(relay.OnTokens(0, 0, IdsOf("abcd\xc3"), {}, kStart).status.ok());
  std::vector<Seen> seen = TakeAll(relay);
  EXPECT_EQ(seen[0].text, "");
  EXPECT_TRUE(relay.OnFinished(0, EndReason::kLength, {.output_tokens = 5}, 0, kStart).ok());
  seen = TakeAll(relay, seen);
  EXPECT_EQ(seen[0].text, "abcd\xef\xbf\xbd");
}

TEST(GenerateRelay, KeepsChoicesApart) {
  ResolvedRequest request = Request({"x"});
  request.num_choices = 3;
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  EXPECT_TRUE(relay.OnTokens(2, 0, IdsOf("cc"), {}, kStart).status.ok());
  EXPECT_EQ(relay.OnTokens(0, 0, IdsOf("ax"), {}, kStart).stop_at, 2);
  EXPECT_TRUE(relay.OnTokens(1, 0, IdsOf("b"), {}, kStart).status.ok());
  EXPECT_TRUE(relay.OnFinished(1, EndReason::kCancelled, {.output_tokens = 1}, 0, kStart).ok());
  EXPECT_EQ(relay.LanesToRun(), std::vector<uint32_t>{2});
  EXPECT_TRUE(relay.OnFinished(0, EndReason::kStopString, {.output_tokens = 2}, 0, kStart).ok());
  EXPECT_TRUE(relay.OnFinished(2, EndReason::kLength, {.output_tokens = 2}, 0, kStart).ok());
  EXPECT_TRUE(relay.done());
  const std::vector<Seen> seen = TakeAll(relay);
  EXPECT_EQ(seen[0].text, "a");
  EXPECT_EQ(seen[1].text, "b");
  EXPECT_EQ(seen[2].text, "cc");
  EXPECT_EQ(seen[1].end->reason, EndReason::kCancelled);
}

TEST(GenerateRelay, RelaysLogprobsOneATokenAndOnlyOfNewTokens) {
  ResolvedRequest request = Request();
  request.sampling.num_logprobs = 1;
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  const auto logprobs = [](std::vector<float> values) {
    std::vector<RelayedLogprobs> result;
    for (const float value : values) result.push_back({.logprob = value, .top = {{7, value}}});
    return result;
  };
  EXPECT_TRUE(relay.OnTokens(0, 0, IdsOf("ab"), logprobs({-1, -2}), kStart).status.ok());
  EXPECT_TRUE(relay.OnTokens(0, 1, IdsOf("bc"), logprobs({-2, -3}), kStart).status.ok());
  EXPECT_FALSE(relay.OnTokens(0, 3, IdsOf("d"), {}, kStart).status.ok());
  const std::vector<Seen> seen = TakeAll(relay);
  ASSERT_EQ(seen[0].logprobs.size(), 3);
  EXPECT_EQ(seen[0].logprobs[2].logprob, -3);
}

TEST(GenerateRelay, TellsWhoProposedEachTokenAndHowMuchTextItAdded) {
  ResolvedRequest request = Request({"xyz"});
  request.return_token_origins = true;
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  // A character of two bytes is complete with its second; "x" is held back, which changes no token's text.
  std::vector<TokenId> ids = IdsOf("a\xc3\xa9x");
  ids.push_back(kEndId);
  EXPECT_TRUE(relay.OnTokens(0, 0, absl::MakeConstSpan(ids).first(3), {}, kStart, /*num_accepted=*/2).status.ok());
  // Of what comes again only what is new is told.
  EXPECT_TRUE(relay.OnTokens(0, 1, absl::MakeConstSpan(ids).subspan(1), {}, kStart, /*num_accepted=*/3).status.ok());
  EXPECT_TRUE(relay.OnFinished(0, EndReason::kEndToken, {.output_tokens = 5}, 0, kStart).ok());
  const std::vector<Seen> seen = TakeAll(relay);
  ASSERT_EQ(seen.size(), 1);
  EXPECT_EQ(seen[0].ids, ids);
  EXPECT_EQ(seen[0].text, "a\xc3\xa9x");
  const std::vector<TokenOrigin> expected = {{true, 1}, {true, 0}, {false, 2}, {true, 1}, {false, 0}};
  EXPECT_EQ(seen[0].origins, expected);
}

TEST(GenerateRelay, RefusesMoreAcceptedTokensThanTokens) {
  const ResolvedRequest request = Request();
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  EXPECT_EQ(relay.OnTokens(0, 0, IdsOf("ab"), {}, kStart, /*num_accepted=*/3).status.code(),
            absl::StatusCode::kInternal);
}

TEST(GenerateRelay, TellsNoOriginsUnasked) {
  const ResolvedRequest request = Request();
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  EXPECT_TRUE(relay.OnTokens(0, 0, IdsOf("ab"), {}, kStart, /*num_accepted=*/1).status.ok());
  EXPECT_TRUE(TakeAll(relay)[0].origins.empty());
}

TEST(GenerateRelay, CutsAStreamWhoseClientDoesNotRead) {
  const ResolvedRequest request = Request();
  GenerateRelay relay(&request, &Bytes(), kStart, /*max_buffer_bytes=*/50);
  EXPECT_TRUE(relay.OnTokens(0, 0, IdsOf("0123456789"), {}, kStart).status.ok());
  const absl::Status cut = relay.OnTokens(0, 10, IdsOf("x"), {}, kStart).status;
  EXPECT_EQ(cut.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(cut.message().find("max_stream_buffer_bytes = 50"), absl::string_view::npos) << cut.message();
  relay.DropPending();
  EXPECT_FALSE(relay.has_pending());
  EXPECT_EQ(relay.pending_bytes(), 0);
}

TEST(GenerateRelay, FinishesByItselfWhatOnlyLackedTheLostGroupsWord) {
  ResolvedRequest request = Request({"x"});
  request.num_choices = 4;
  request.sampling.max_tokens = 3;
  GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
  EXPECT_EQ(relay.OnTokens(0, 0, IdsOf("ax"), {}, kStart).stop_at, 2);
  EXPECT_TRUE(relay.OnTokens(1, 0, IdsOf("abc"), {}, kStart).status.ok());
  const std::vector<TokenId> ended = {'a', kEndId};
  EXPECT_TRUE(relay.OnTokens(2, 0, ended, {}, kStart).status.ok());
  EXPECT_TRUE(relay.OnTokens(3, 0, IdsOf("a"), {}, kStart).status.ok());
  relay.OnAttemptLost(kStart);
  EXPECT_EQ(relay.LanesToRun(), std::vector<uint32_t>{3});
  const std::vector<Seen> seen = TakeAll(relay);
  EXPECT_EQ(seen[0].end->reason, EndReason::kStopString);
  EXPECT_EQ(seen[1].end->reason, EndReason::kLength);
  EXPECT_EQ(seen[2].end->reason, EndReason::kEndToken);
  EXPECT_EQ(seen[1].end->usage.output_tokens, 3);
  EXPECT_FALSE(seen[3].end.has_value());
}

TEST(GenerateRelay, RelaysIdsOfAModelWithoutTokenizer) {
  const ResolvedRequest request = Request();
  GenerateRelay relay(&request, nullptr, kStart, kBigBuffer);
  EXPECT_TRUE(relay.OnTokens(0, 0, IdsOf("ab"), {}, kStart).status.ok());
  EXPECT_TRUE(relay.OnFinished(0, EndReason::kLength, {.output_tokens = 2}, 0, kStart).ok());
  const std::vector<Seen> seen = TakeAll(relay);
  EXPECT_EQ(seen[0].ids, IdsOf("ab"));
  EXPECT_EQ(seen[0].text, "");
}

// The slow obvious reference: text after each token, all stop strings looked for in it.
struct Expected {
  size_t num_ids;
  std::string text;
  bool stopped = false;
};
Expected Reference(const std::vector<TokenId>& ids, const std::vector<std::string>& stop, uint32_t min_tokens) {
  text::IncrementalDecoder decoder(&Bytes(), /*skip_special_tokens=*/true);
  std::string text;
  for (size_t k = 0; k < ids.size(); ++k) {
    const size_t old_size = text.size();
    text += decoder.Push(ids[k]);
    if (k + 1 < min_tokens) continue;
    for (size_t end = old_size + 1; end <= text.size(); ++end) {
      size_t longest = 0;
      for (const std::string& s : stop) {
        if (s.size() <= end && text.compare(end - s.size(), s.size(), s) == 0) longest = std::max(longest, s.size());
      }
      if (longest > 0) return {k + 1, text.substr(0, end - longest), true};
    }
  }
  return {ids.size(), text + decoder.Flush()};
}

TEST(GenerateRelay, AgreesWithTheReferenceHoweverTokensArriveAndGroupsAreLost) {
  std::mt19937_64 random(TestSeed());
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  const std::vector<TokenId> alphabet = {'a', 'b', 'c', kAbId, kAbcId, 0xE2, 0x82, 0xAC, kStartId};  // euro in bytes
  const std::vector<std::string> stops = {"a", "ab", "bca", "cc", "\xE2\x82\xAC", "b\xE2\x82\xAC", "aab", "cab"};
  for (int round = 0; round < 20000; ++round) {
    ResolvedRequest request = Request();
    request.sampling.min_tokens = below(4);
    for (int i = below(3); i > 0; --i) request.stop.push_back(stops[below(stops.size())]);
    std::vector<TokenId> ids;
    for (int i = 1 + below(12); i > 0; --i) ids.push_back(alphabet[below(alphabet.size())]);
    const Expected expected = Reference(ids, request.stop, request.sampling.min_tokens);

    GenerateRelay relay(&request, &Bytes(), kStart, kBigBuffer);
    std::vector<Seen> seen(1);
    std::optional<uint32_t> stop_at;
    size_t sent = 0;
    while (sent < ids.size() && !stop_at.has_value()) {
      if (below(8) == 0) {  // lost: the next group begins after what was delivered, or a little before
        relay.OnAttemptLost(kStart);
        sent = relay.output_token_ids(0).size();
        sent -= std::min<size_t>(sent, below(3));
      }
      const size_t count = std::min<size_t>(ids.size() - sent, 1 + below(4));
      const auto outcome =
          relay.OnTokens(0, static_cast<uint32_t>(sent), absl::MakeConstSpan(ids).subspan(sent, count), {}, kStart);
      ASSERT_TRUE(outcome.status.ok()) << outcome.status;
      stop_at = outcome.stop_at;
      sent += count;
      if (below(2) == 0) seen = TakeAll(relay, seen);
    }
    ASSERT_EQ(stop_at.has_value(), expected.stopped) << "round " << round;
    ASSERT_TRUE(
        relay.OnFinished(0, EndReason::kLength, {.output_tokens = static_cast<uint32_t>(expected.num_ids)}, 0, kStart)
            .ok());
    seen = TakeAll(relay, seen);
    ASSERT_EQ(seen[0].ids, std::vector<TokenId>(ids.begin(), ids.begin() + expected.num_ids)) << "round " << round;
    ASSERT_EQ(seen[0].text, expected.text) << "round " << round;
    ASSERT_EQ(seen[0].end->reason, expected.stopped ? EndReason::kStopString : EndReason::kLength);
  }
}

}  // namespace
}  // namespace outrider::router
