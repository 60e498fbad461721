#include "kernels/sampling/verify_summaries.h"

#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

using testing::Random;
using testing::RandomTensor;

struct SpanOfRows {
  std::vector<float> logits;
  std::vector<int32_t> draft;
  VerifySpan span;
};

constexpr int kVocabSize = 300;

// Drafts that are right with some chance, so that spans of every length are accepted.
SpanOfRows RandomSpan(Random& random) {
  SpanOfRows s;
  const int num_drafts = static_cast<int>(random.Integer(0, 5));
  s.logits = RandomTensor(int64_t{kVocabSize} * (num_drafts + 1), random.Next(), {.scale = 3});
  s.span.row = {.temperature = random.Uniform() < 0.3 ? 0.0f : 0.8f,
                .top_k = random.Uniform() < 0.5 ? 20 : 0,
                .top_p = random.Uniform() < 0.5 ? 0.9f : 1.0f,
                .seed = random.Next(),
                .position = 17,
                .num_logprobs = static_cast<int>(random.Integer(-1, 4))};
  s.span.logits_stride = kVocabSize;
  for (int j = 0; j < num_drafts; ++j) {
    SamplingScratch scratch;
    SamplingRow row = s.span.row;
    row.position += static_cast<uint32_t>(j);
    const int32_t right = SampleRow(row, s.logits.data() + j * kVocabSize, kVocabSize, scratch).token_id;
    s.draft.push_back(random.Uniform() < 0.8 ? right : static_cast<int32_t>(random.Integer(-1, kVocabSize + 1)));
  }
  return s;
}

std::vector<RowSummary> SummariesOf(const VerifySpan& span) {
  std::vector<RowSummary> summaries(span.draft_ids.size() + 1);
  for (size_t j = 0; j < summaries.size(); ++j) {
    SummarizeRow(RequestOf(RowOfSpan(span, j), kVocabSize), span.logits + static_cast<int64_t>(j) * span.logits_stride,
                 kVocabSize, &summaries[j]);
  }
  return summaries;
}

TEST(VerifySummaries, CommitsWhatWholeRowsCommit) {
  Random random(testing::TestSeed(411));
  for (int round = 0; round < 500; ++round) {
    SpanOfRows s = RandomSpan(random);
    s.span.logits = s.logits.data();
    s.span.draft_ids = s.draft;
    ASSERT_TRUE(IsSummarizable(s.span));
    if (round % 10 == 9) s.logits[s.logits.size() - 1] = std::numeric_limits<float>::quiet_NaN();
    SamplingScratch scratch;
    VerifiedSpan expected, actual;
    VerifyDraft(s.span, kVocabSize, scratch, &expected);
    const std::vector<RowSummary> summaries = SummariesOf(s.span);
    ASSERT_TRUE(VerifyFromSummaries(s.span, summaries.data(), kVocabSize, scratch, &actual)) << "round " << round;
    EXPECT_EQ(actual.status, expected.status) << "round " << round;
    EXPECT_EQ(actual.num_accepted, expected.num_accepted) << "round " << round;
    ASSERT_EQ(actual.tokens.size(), expected.tokens.size()) << "round " << round;
    for (size_t j = 0; j < actual.tokens.size(); ++j) {
      EXPECT_EQ(actual.tokens[j].token_id, expected.tokens[j].token_id) << "round " << round << ", row " << j;
      EXPECT_EQ(actual.tokens[j].logprob, expected.tokens[j].logprob) << "round " << round << ", row " << j;
      EXPECT_EQ(actual.tokens[j].num_top, expected.tokens[j].num_top) << "round " << round << ", row " << j;
    }
  }
}

TEST(VerifySummaries, LooksAtNoRowAfterTheFirstThatDiffers) {
  const std::vector<float> logits = RandomTensor(2 * kVocabSize, 3);
  const int32_t wrong[] = {-1};
  const VerifySpan span{
      .row = {.top_k = 4, .seed = 9}, .logits = logits.data(), .logits_stride = kVocabSize, .draft_ids = wrong};
  std::vector<RowSummary> summaries = SummariesOf(span);
  summaries[1] = {};  // decides nothing
  SamplingScratch scratch;
  VerifiedSpan out;
  EXPECT_TRUE(VerifyFromSummaries(span, summaries.data(), kVocabSize, scratch, &out));
  EXPECT_EQ(out.tokens.size(), 1u);
  summaries[0].num_candidates = summaries[0].num_buckets = 0;
  EXPECT_FALSE(VerifyFromSummaries(span, summaries.data(), kVocabSize, scratch, &out));
}

TEST(VerifySummaries, LeavesRejectionAndChangedRowsToWholeRows) {
  const int32_t draft[] = {5, 6};
  const int32_t masked[] = {7};
  EXPECT_TRUE(IsSummarizable(VerifySpan{.draft_ids = draft}));
  EXPECT_FALSE(IsSummarizable(VerifySpan{.draft_ids = draft, .rule = AcceptanceRule::kRejection}));
  EXPECT_TRUE(IsSummarizable(VerifySpan{.rule = AcceptanceRule::kRejection}));
  EXPECT_FALSE(IsSummarizable(VerifySpan{.row = {.masked_ids = masked}, .num_masked_rows = 1, .draft_ids = draft}));
  EXPECT_TRUE(IsSummarizable(VerifySpan{.row = {.masked_ids = masked}, .num_masked_rows = 0, .draft_ids = draft}));
  // A penalty changes the rows that follow a draft token, counts or none.
  EXPECT_FALSE(IsSummarizable(VerifySpan{.row = {.presence_penalty = 1}, .draft_ids = draft}));
}

}  // namespace
}  // namespace outrider::kernels
