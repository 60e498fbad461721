#include <gtest/gtest.h>

#include "worker/step/step_plan.h"
#include "worker/step/step_result.h"

namespace outrider {
namespace {

std::vector<TokenId> Draft(const DraftPath& path, const std::vector<TokenId>& committed) {
  const auto draft = UsableDraft(path, committed);
  return {draft.begin(), draft.end()};
}

TEST(UsableDraft, IsWhatFollowsTheCommittedTokensSinceItsBase) {
  const std::vector<TokenId> committed = {1, 2, 3};
  EXPECT_EQ(Draft({3, {7, 8}}, committed), (std::vector<TokenId>{7, 8}));
  EXPECT_EQ(Draft({2, {3, 8}}, committed), (std::vector<TokenId>{8}));
  EXPECT_EQ(Draft({0, {1, 2, 3, 9}}, committed), (std::vector<TokenId>{9}));
}

TEST(UsableDraft, IsEmptyForPathsThatDisagreeOrLieElsewhere) {
  const std::vector<TokenId> committed = {1, 2, 3};
  EXPECT_TRUE(Draft({2, {4, 8}}, committed).empty());  // another token was committed
  EXPECT_TRUE(Draft({4, {7, 8}}, committed).empty());  // beyond what is known
  EXPECT_TRUE(Draft({-1, {7, 8}}, committed).empty());
  EXPECT_TRUE(Draft({1, {2}}, committed).empty());  // shorter than what was committed since
  EXPECT_TRUE(Draft({2, {3}}, committed).empty());  // all of it is committed by now
  EXPECT_TRUE(Draft({3, {}}, committed).empty());
}

TEST(ResolveSpan, TakesTheLongestUsablePathWithinTheLookahead) {
  Span span;
  span.num_committed_tokens = 1;
  span.first_position = 2;
  span.lookahead = 2;
  span.paths = {{3, {9}}, {2, {3, 5, 6, 7}}, {2, {4, 5, 6, 7, 8}}};
  const std::vector<TokenId> committed = {1, 2, 3};
  const ResolvedSpan resolved = ResolveSpan(span, committed);
  EXPECT_EQ(resolved.first_position, 2);
  EXPECT_EQ(std::vector<TokenId>(resolved.draft.begin(), resolved.draft.end()), (std::vector<TokenId>{5, 6}));
}

TEST(ResolveSpan, FindsTheStartOfASpanPlannedBeforeItsPredecessorEnded) {
  Span span;
  span.predecessor = StepId(4);
  span.num_committed_tokens = 1;
  span.first_position = 1;
  const std::vector<TokenId> committed = {1, 2, 3, 4, 5};
  EXPECT_EQ(ResolveSpan(span, committed).first_position, 4);
}

TEST(HashIds, SeesEveryDifference) {
  const auto hash = [](uint64_t sequence, int accepted, std::vector<TokenId> tokens) {
    SpanResult result;
    result.sequence = SequenceId(sequence);
    result.num_accepted = accepted;
    result.tokens = std::move(tokens);
    return HashIds({result});
  };
  const uint64_t base = hash(1, 1, {5, 6});
  EXPECT_EQ(hash(1, 1, {5, 6}), base);
  EXPECT_NE(hash(2, 1, {5, 6}), base);
  EXPECT_NE(hash(1, 0, {5, 6}), base);
  EXPECT_NE(hash(1, 1, {6, 5}), base);
  EXPECT_NE(hash(1, 1, {5}), base);
}

}  // namespace
}  // namespace outrider
