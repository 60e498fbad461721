#include "worker/speculation/testing/fake_transport.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

constexpr int kVocabSize = 50;

TimePoint At(double milliseconds) { return TimePoint{} + FromMillis(milliseconds); }

TokenId Successor(absl::Span<const TokenId> tokens, const SamplingParams&) { return (tokens.back() + 1) % kVocabSize; }

std::vector<DraftSource::Proposal> Take(FakeTransport& transport) {
  std::vector<DraftSource::Proposal> proposals;
  transport.TakeProposals(proposals);
  return proposals;
}

void Open(FakeTransport& transport, uint64_t sequence, int lookahead) {
  const std::vector<TokenId> prompt = {1, 2};
  const SamplingParams params;
  transport.Open({SequenceId(sequence), 1, prompt, {}, &params, lookahead});
}

TEST(FakeTransport, BringsTheAnswerAfterBothWaysAndTheDraft) {
  FakeTransport transport({.delay_ms_min = 1, .delay_ms_max = 1, .draft_ms_per_token = 2},
                          MakeOracleDrafter(Successor));
  Open(transport, 7, 3);
  EXPECT_EQ(transport.NextEvent(), At(7));
  transport.AdvanceTo(At(7.9));
  EXPECT_TRUE(Take(transport).empty());
  transport.AdvanceTo(At(10));
  const auto proposals = Take(transport);
  ASSERT_EQ(proposals.size(), 1u);
  EXPECT_EQ(proposals[0].path.base_position, 2);
  EXPECT_EQ(proposals[0].path.tokens, (std::vector<TokenId>{3, 4, 5}));
  EXPECT_EQ(proposals[0].arrived, At(8));
}

TEST(FakeTransport, AKilledPeerForgetsAndComesBackAsAnother) {
  FakeTransport transport({.delay_ms_min = 1, .delay_ms_max = 1, .revive_ms = 5}, MakeOracleDrafter(Successor));
  Open(transport, 7, 3);
  const uint64_t before = transport.connection();
  transport.Kill();
  EXPECT_EQ(transport.connection(), 0u);
  Open(transport, 8, 3);
  transport.AdvanceTo(At(20));
  EXPECT_TRUE(Take(transport).empty());
  EXPECT_NE(transport.connection(), before);
  EXPECT_EQ(transport.drafter().num_sequences(), 0);
}

TEST(FakeTransport, DropsAndDoubles) {
  FakeTransport loses({.drop = 1}, MakeOracleDrafter(Successor));
  Open(loses, 7, 3);
  loses.AdvanceTo(At(1));
  EXPECT_TRUE(Take(loses).empty());
  FakeTransport doubles({.duplicate = 1}, MakeOracleDrafter(Successor));
  Open(doubles, 7, 3);
  doubles.AdvanceTo(At(1));
  EXPECT_EQ(Take(doubles).size(), 4u);
}

TEST(TestDrafter, SyntheticAgreesAsOftenAsAsked) {
  FakeTransport transport({}, MakeSyntheticDrafter(Successor, 0.5, kVocabSize, 3));
  int num_right = 0;
  for (int i = 1; i <= 2000; ++i) Open(transport, i, 1);
  transport.AdvanceTo(At(1));
  for (const auto& proposal : Take(transport)) num_right += proposal.path.tokens[0] == 3;
  EXPECT_NEAR(num_right, 1000, 100);  // more than four standard deviations
}

TEST(TestDrafter, IsSilentOnAGap) {
  FakeTransport transport({}, MakeOracleDrafter(Successor));
  Open(transport, 7, 0);
  const std::vector<TokenId> tokens = {9};
  transport.Commit({SequenceId(7), 1, 5, tokens, 3});
  transport.AdvanceTo(At(1));
  EXPECT_TRUE(Take(transport).empty());
}

}  // namespace
}  // namespace outrider
