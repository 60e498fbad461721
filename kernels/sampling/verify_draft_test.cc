#include "kernels/sampling/verify_draft.h"

#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

using testing::Random;
using testing::RandomTensor;

constexpr int kVocabSize = 40;

// A toy model: logits are a function of the position and the token before it.
std::vector<float> LogitsAfter(int32_t token, uint32_t position) {
  return RandomTensor(kVocabSize, 1000003u * position + static_cast<uint64_t>(token), {.scale = 1.5});
}

TEST(CountAccepted, StopsAtTheFirstDifference) {
  const std::vector<int32_t> target = {1, 2, 3, 4};
  EXPECT_EQ(CountAccepted(target, std::vector<int32_t>{1, 2, 3}), 3);
  EXPECT_EQ(CountAccepted(target, std::vector<int32_t>{1, 9, 3}), 1);
  EXPECT_EQ(CountAccepted(target, std::vector<int32_t>{}), 0);
  EXPECT_EQ(CountAccepted(target, std::vector<int32_t>{0}), 0);
}

struct Params {
  SamplingRow row;
  int min_tokens;
};

// Plain decoding: one token at a time, counts grown by hand.
std::vector<int32_t> Decode(const Params& params, int num_tokens) {
  std::vector<int32_t> output;
  TokenCounts counts;
  counts.AddPromptToken(3);
  SamplingScratch scratch;
  int32_t last = 3;
  for (int i = 0; i < num_tokens; ++i) {
    SamplingRow row = params.row;
    row.position = static_cast<uint32_t>(1 + i);
    row.counts = &counts;
    if (i >= params.min_tokens) row.masked_ids = {};
    const auto logits = LogitsAfter(last, row.position);
    last = SampleRow(row, logits.data(), kVocabSize, scratch).token_id;
    output.push_back(last);
    counts.AddOutputToken(last);
  }
  return output;
}

TEST(VerifyDraft, CommitsWhatPlainDecodingWouldWhateverTheDraft) {
  const uint64_t seed = testing::TestSeed(101);
  Random random(seed);
  const std::vector<int32_t> end_ids = {5, 6};
  for (int round = 0; round < 60; ++round) {
    Params params{.row = {.temperature = round % 4 == 0 ? 0.0f : 0.8f,
                          .top_p = round % 2 == 0 ? 0.9f : 1.0f,
                          .seed = random.Next(),
                          .masked_ids = end_ids},
                  .min_tokens = round % 12};
    if (round % 3 == 0) params.row.repetition_penalty = 1.4f, params.row.frequency_penalty = 0.6f;
    constexpr int kNumTokens = 24;
    const std::vector<int32_t> plain = Decode(params, kNumTokens + 10);

    std::vector<int32_t> output;
    TokenCounts counts;
    counts.AddPromptToken(3);
    SamplingScratch scratch;
    int num_accepted = 0;
    while (output.size() < kNumTokens) {
      // A draft that is right with some chance, wrong otherwise, sometimes no token at all.
      const size_t lookahead = static_cast<size_t>(random.Integer(0, 9));
      std::vector<int32_t> draft;
      for (size_t j = 0; j < lookahead; ++j) {
        const double dice = random.Uniform();
        draft.push_back(dice < 0.8    ? plain[output.size() + j]
                        : dice < 0.95 ? static_cast<int32_t>(random.Integer(0, kVocabSize))
                                      : 1 << 20);
      }
      const uint32_t position = static_cast<uint32_t>(1 + output.size());
      std::vector<float> logits;
      for (size_t j = 0; j <= lookahead; ++j) {
        const int32_t before = j > 0 ? draft[j - 1] : output.empty() ? 3 : output.back();
        const auto row = LogitsAfter(before, position + static_cast<uint32_t>(j));
        logits.insert(logits.end(), row.begin(), row.end());
      }
      VerifySpan span{.row = params.row,
                      .num_masked_rows = params.min_tokens - static_cast<int>(output.size()),
                      .logits = logits.data(),
                      .logits_stride = kVocabSize,
                      .draft_ids = draft};
      span.row.position = position;
      span.row.counts = &counts;
      VerifiedSpan verified;
      VerifyDraft(span, kVocabSize, scratch, &verified);
      ASSERT_EQ(verified.status, RowStatus::kOk);
      ASSERT_EQ(verified.tokens.size(), static_cast<size_t>(verified.num_accepted) + 1);
      num_accepted += verified.num_accepted;
      for (const SampledToken& token : verified.tokens) {
        output.push_back(token.token_id);
        counts.AddOutputToken(token.token_id);
      }
    }
    EXPECT_EQ(std::vector<int32_t>(output.begin(), output.begin() + kNumTokens),
              std::vector<int32_t>(plain.begin(), plain.begin() + kNumTokens))
        << "round " << round;
    EXPECT_GT(num_accepted, 0);
  }
}

TEST(VerifyDraft, KeepsTokensBeforeARowThatIsNotFinite) {
  std::vector<float> logits(3 * 4, 0.0f);
  logits[1] = 5.0f;
  logits[4 + 2] = 5.0f;
  logits[8] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<int32_t> draft = {1, 2};
  SamplingScratch scratch;
  VerifiedSpan verified;
  VerifyDraft({.row = {.temperature = 0}, .logits = logits.data(), .logits_stride = 4, .draft_ids = draft}, 4, scratch,
              &verified);
  EXPECT_EQ(verified.status, RowStatus::kNotFinite);
  EXPECT_EQ(verified.num_accepted, 2);
  ASSERT_EQ(verified.tokens.size(), 2u);
}

TEST(VerifyDraft, GivesEachRowItsOwnGrammarMask) {
  const std::vector<float> logits(3 * 4, 0.0f);
  const uint32_t second = 0b0100, third = 0b1000, first = 0b0010;
  const uint32_t* masks[] = {&first, &second, &third};
  const std::vector<int32_t> draft = {1, 2};
  SamplingScratch scratch;
  VerifiedSpan verified;
  VerifyDraft({.row = {.temperature = 1},
               .allowed_tokens_of_row = masks,
               .logits = logits.data(),
               .logits_stride = 4,
               .draft_ids = draft},
              4, scratch, &verified);
  EXPECT_EQ(verified.num_accepted, 2);
  EXPECT_EQ(verified.tokens.back().token_id, 3);
}

TEST(VerifyDrafts, GivesTheResultsOfEachSpanAloneOnAnyNumberOfThreads) {
  Random random(testing::TestSeed(102));
  for (int round = 0; round < 40; ++round) {
    const size_t num_spans = static_cast<size_t>(1 + round % 5);
    std::vector<std::vector<float>> logits;
    std::vector<std::vector<int32_t>> drafts;
    std::vector<VerifySpan> spans;
    for (size_t i = 0; i < num_spans; ++i) {
      const int64_t lookahead = random.Integer(0, 6);
      logits.push_back(RandomTensor((lookahead + 1) * kVocabSize, random.Next(), {.scale = 4}));
      drafts.emplace_back();
      for (int64_t j = 0; j < lookahead; ++j) {
        drafts.back().push_back(ArgMax(logits.back().data() + j * kVocabSize, kVocabSize));
      }
      if (lookahead > 0 && round % 3 == 0) logits.back().back() = std::numeric_limits<float>::quiet_NaN();
    }
    for (size_t i = 0; i < num_spans; ++i) {
      spans.push_back({.row = {.temperature = 0.8f, .seed = random.Next(), .position = 9},
                       .logits = logits[i].data(),
                       .logits_stride = kVocabSize,
                       .draft_ids = drafts[i],
                       .rule = round % 2 == 0 ? AcceptanceRule::kCoupled : AcceptanceRule::kRejection});
    }
    std::vector<VerifiedSpan> alone(num_spans);
    SamplingScratch own_scratch;
    for (size_t i = 0; i < num_spans; ++i) VerifyDraft(spans[i], kVocabSize, own_scratch, &alone[i]);
    for (const int num_threads : {1, 2, 4}) {
      ThreadPool pool(num_threads);
      std::vector<SamplingScratch> scratch;
      std::vector<VerifiedSpan> results(num_spans);
      ASSERT_EQ(VerifyDrafts(spans, kVocabSize, results, pool, scratch), KernelError::kOk);
      for (size_t i = 0; i < num_spans; ++i) {
        EXPECT_EQ(results[i].status, alone[i].status);
        EXPECT_EQ(results[i].num_accepted, alone[i].num_accepted);
        ASSERT_EQ(results[i].tokens.size(), alone[i].tokens.size());
        for (size_t j = 0; j < alone[i].tokens.size(); ++j) {
          EXPECT_EQ(results[i].tokens[j].token_id, alone[i].tokens[j].token_id);
        }
      }
    }
  }
}

TEST(VerifyDrafts, RefusesSizesThatDoNotFit) {
  ThreadPool pool(1);
  std::vector<SamplingScratch> scratch;
  const std::vector<float> logits(4);
  const std::vector<VerifySpan> spans = {{.logits = logits.data()}};
  std::vector<VerifiedSpan> results(2);
  EXPECT_EQ(VerifyDrafts(spans, 4, results, pool, scratch), KernelError::kInvalidShape);
  results.resize(1);
  EXPECT_EQ(VerifyDrafts(spans, 0, results, pool, scratch), KernelError::kInvalidShape);
  EXPECT_EQ(VerifyDrafts(spans, 4, results, pool, scratch), KernelError::kOk);
}

}  // namespace
}  // namespace outrider::kernels
