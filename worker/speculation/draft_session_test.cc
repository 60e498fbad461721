#include "worker/speculation/draft_session.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

constexpr int kVocabSize = 100;
const std::vector<TokenId> kCommitted = {1, 2, 3, 4};

TimePoint At(double milliseconds) { return TimePoint{} + FromMillis(milliseconds); }

std::optional<DropReason> Dropped(DraftSession& session, const DraftPath& path, uint32_t epoch = 1) {
  return session.Judge(epoch, path, kCommitted, kVocabSize, At(1)).dropped;
}

DraftSession OpenSession() {
  DraftSession session;
  EXPECT_TRUE(session.Ask(4, 4, At(0)).open);
  return session;
}

TEST(DraftSession, TakesWhatBeginsWithWhatIsCommitted) {
  DraftSession session = OpenSession();
  EXPECT_EQ(Dropped(session, {4, {5, 6}}), std::nullopt);
  EXPECT_EQ(Dropped(session, {2, {3, 4, 9}}), std::nullopt);
  EXPECT_EQ(Dropped(session, {4, {5, 6}}), std::nullopt);  // said twice
}

TEST(DraftSession, DropsProposalFromEarlierEpoch) {
  DraftSession session = OpenSession();
  session.Lose();
  EXPECT_EQ(Dropped(session, {4, {5}}, 1), DropReason::kStaleEpoch);
  EXPECT_TRUE(session.Ask(4, 4, At(1)).open);
  EXPECT_EQ(session.epoch(), 2u);
  EXPECT_EQ(Dropped(session, {4, {5}}, 1), DropReason::kStaleEpoch);
  EXPECT_EQ(Dropped(session, {4, {5}}, 2), std::nullopt);
}

TEST(DraftSession, DropsWhatIsWrongByItsReason) {
  DraftSession session = OpenSession();
  EXPECT_EQ(Dropped(session, {2, {3, 4}}), DropReason::kStalePosition);
  EXPECT_EQ(Dropped(session, {0, {}}), DropReason::kStalePosition);
  EXPECT_EQ(Dropped(session, {2, {9, 9, 9}}), DropReason::kMismatch);
  EXPECT_EQ(Dropped(session, {4, {5, -1}}), DropReason::kOutOfRange);
  EXPECT_EQ(Dropped(session, {4, {kVocabSize}}), DropReason::kOutOfRange);
  EXPECT_EQ(Dropped(session, {-1, {5}}), DropReason::kOutOfRange);
  EXPECT_EQ(Dropped(session, {5, {5}}), DropReason::kOutOfRange);
  EXPECT_EQ(Dropped(session, {4, std::vector<TokenId>(1000000, 1)}), DropReason::kTooLong);
}

TEST(DraftSession, AnswerIsWhateverIsSaidOfTheLatestPosition) {
  DraftSession session = OpenSession();
  EXPECT_FALSE(session.MayAsk(At(1)));
  EXPECT_FALSE(session.Judge(1, {3, {4, 5}}, kCommitted, kVocabSize, At(1)).answers);
  const DraftSession::Verdict verdict = session.Judge(1, {4, {}}, kCommitted, kVocabSize, At(7));
  EXPECT_TRUE(verdict.answers);
  EXPECT_EQ(verdict.dropped, std::nullopt);
  EXPECT_EQ(ToMillis(verdict.latency), 7);
  EXPECT_EQ(verdict.lookahead, 4);
  EXPECT_EQ(verdict.num_new_tokens, 4);
  EXPECT_TRUE(session.MayAsk(At(7)));
  EXPECT_TRUE(session.warm());
}

TEST(DraftSession, CatchesUpWithOneLongerCommit) {
  DraftSession session = OpenSession();
  session.Judge(1, {4, {5}}, kCommitted, kVocabSize, At(1));
  const DraftSession::Command command = session.Ask(9, 4, At(2));
  EXPECT_FALSE(command.open);
  EXPECT_EQ(command.first_position, 4);
  EXPECT_EQ(session.num_told(), 9);
}

TEST(DraftSession, GivesUpOnSilenceAndOpensAnewEverMoreRarely) {
  DraftSession session = OpenSession();
  double now = 0, last_patience = 0;
  for (int i = 0; i < 4; ++i) {
    const double asked = now;
    while (!session.MayAsk(At(now))) now += 10;
    EXPECT_GT(now - asked, last_patience);
    last_patience = now - asked;
    EXPECT_FALSE(session.warm());
    EXPECT_TRUE(session.Ask(4, 4, At(now)).open);
  }
  EXPECT_EQ(session.epoch(), 5u);
}

TEST(DraftSession, OpensAnewAfterALongSilenceOfItsOwn) {
  DraftSession session = OpenSession();
  session.Judge(1, {4, {5}}, kCommitted, kVocabSize, At(1));
  EXPECT_TRUE(session.Ask(400, 4, At(100000)).open);
}

TEST(DraftSession, EveryReasonHasAName) {
  for (int i = 0; i < kNumDropReasons; ++i) EXPECT_STRNE(DropReasonName(static_cast<DropReason>(i)), "unknown");
}

}  // namespace
}  // namespace outrider
