#include "worker/speculation/prediction_source.h"

#include <gtest/gtest.h>

#include <vector>

namespace outrider {
namespace {

using Ids = std::vector<TokenId>;

class PredictionSourceTest : public testing::Test {
 protected:
  void Open(const Ids& prediction, const Ids& output, int lookahead) {
    source_.Open({.sequence = SequenceId(1),
                  .epoch = 1,
                  .prompt = prompt_,
                  .output = output,
                  .lookahead = lookahead,
                  .prediction = prediction});
    num_tokens_ = static_cast<int>(prompt_.size() + output.size());
  }
  void Commit(const Ids& tokens, int lookahead) {
    source_.Commit({.sequence = SequenceId(1),
                    .epoch = 1,
                    .first_position = num_tokens_,
                    .tokens = tokens,
                    .lookahead = lookahead});
    num_tokens_ += static_cast<int>(tokens.size());
  }
  // The one answer, which continues what was committed.
  Ids Draft() {
    std::vector<DraftSource::Proposal> proposals;
    source_.TakeProposals(proposals);
    EXPECT_EQ(proposals.size(), 1u);
    if (proposals.empty()) return {-1};
    EXPECT_EQ(proposals[0].path.base_position, num_tokens_);
    return proposals[0].path.tokens;
  }

  const Ids prompt_ = {1, 2, 3};
  PredictionSource source_;
  int num_tokens_ = 0;
};

TEST_F(PredictionSourceTest, DraftsThePredictionFromItsBeginning) {
  Open({10, 11, 12, 13}, {}, 3);
  EXPECT_EQ(Draft(), Ids({10, 11, 12}));
  Commit({10}, 8);
  EXPECT_EQ(Draft(), Ids({11, 12, 13}));
}

TEST_F(PredictionSourceTest, HasNothingBehindTheEnd) {
  Open({10, 11}, {10, 11}, 4);
  EXPECT_EQ(Draft(), Ids());
  Commit({12, 13}, 4);
  EXPECT_EQ(Draft(), Ids());
}

TEST_F(PredictionSourceTest, FallsSilentOffThePredictionAndComesBackBehindAnEdit) {
  Open({10, 11, 12, 13, 14, 15}, {10}, 2);
  EXPECT_EQ(Draft(), Ids({11, 12}));
  Commit({99}, 2);  // in place of 11
  EXPECT_EQ(Draft(), Ids());
  Commit({12}, 2);  // one token is no proof
  EXPECT_EQ(Draft(), Ids());
  Commit({13}, 2);
  EXPECT_EQ(Draft(), Ids({14, 15}));
}

TEST_F(PredictionSourceTest, FollowsInsertionsAndDeletions) {
  Open({10, 11, 12, 13, 14, 15, 16, 17}, {10, 11, 70, 71, 72, 12, 13}, 2);
  EXPECT_EQ(Draft(), Ids({14, 15}));
  Commit({16, 17}, 2);  // 14, 15 are left out
  EXPECT_EQ(Draft(), Ids());
}

TEST_F(PredictionSourceTest, TakesTheLongestMatchThenTheNearest) {
  const Ids prediction = {5, 6, 7, 1, 6, 7, 2, 6, 7, 3};
  const PredictionOptions options;
  EXPECT_EQ(FindPlace(prediction, Ids{5, 6, 7}, 9, options), 3);  // three tokens
  EXPECT_EQ(FindPlace(prediction, Ids{8, 6, 7}, 7, options), 6);  // all have two
  EXPECT_EQ(FindPlace(prediction, Ids{8, 6, 7}, 9, options), 9);
  EXPECT_EQ(FindPlace(prediction, Ids{8, 8, 7}, 9, options), -1);  // one is too short
}

TEST(FindPlace, LooksWithinItsWindowHoweverLongThePredictionIs) {
  Ids prediction(1000, 0);
  prediction[399] = 6, prediction[400] = 7;  // the place is 401
  const PredictionOptions options{.window = 100};
  for (const int from : {301, 401, 501}) EXPECT_EQ(FindPlace(prediction, Ids{6, 7}, from, options), 401) << from;
  for (const int from : {0, 300, 502, 1000}) EXPECT_EQ(FindPlace(prediction, Ids{6, 7}, from, options), -1) << from;
}

TEST_F(PredictionSourceTest, AnswersNothingToAnotherEpochOrAfterClosing) {
  Open({10, 11}, {}, 0);
  source_.Commit({.sequence = SequenceId(1), .epoch = 2, .first_position = 3, .tokens = {}, .lookahead = 2});
  source_.Close(SequenceId(1), 1);
  source_.Commit({.sequence = SequenceId(1), .epoch = 1, .first_position = 3, .tokens = {}, .lookahead = 2});
  std::vector<DraftSource::Proposal> proposals;
  source_.TakeProposals(proposals);
  EXPECT_TRUE(proposals.empty());
}

}  // namespace
}  // namespace outrider
