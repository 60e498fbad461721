#include "kernels/sampling/verify_summaries.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

using testing::Random;
using testing::RandomTensor;

constexpr int kVocabSize = 300;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct SpanOfRows {
  std::vector<float> logits;
  std::vector<int32_t> draft, masked;
  std::vector<std::pair<int32_t, float>> bias;
  TokenCounts counts;
  VerifySpan span;

  void Bind() {
    span.logits = logits.data();
    span.draft_ids = draft;
    span.row.masked_ids = masked;
    span.row.bias = bias;
    span.row.counts = &counts;
  }
};

int32_t AnyId(Random& random) { return static_cast<int32_t>(random.Integer(0, kVocabSize)); }

// Of every kind of bias, masks and penalties, a few edits at most; rows that are not finite; masks of nearly all.
void ShapeRows(Random& random, SpanOfRows* s) {
  const auto chance = [&](double p) { return random.Uniform() < p; };
  if (chance(0.5)) s->span.row.repetition_penalty = static_cast<float>(0.5 + 2 * random.Uniform());
  if (chance(0.5)) s->span.row.presence_penalty = static_cast<float>(2 * random.Uniform() - 0.5);
  if (chance(0.5)) s->span.row.frequency_penalty = static_cast<float>(random.Uniform());
  for (int n = static_cast<int>(random.Integer(0, 12)); n > 0; --n) s->counts.AddOutputToken(AnyId(random) % 40);
  for (int n = static_cast<int>(random.Integer(0, 8)); n > 0; --n) s->counts.AddPromptToken(AnyId(random));
  for (int n = static_cast<int>(random.Integer(0, 5)); n > 0; --n) {
    const int32_t id = n == 1 ? kVocabSize + 7 : AnyId(random) / 5 * 5 + n;  // distinct but for one that is none
    s->bias.emplace_back(id, static_cast<float>(8 * random.Uniform() - 4));
  }
  if (chance(0.1)) s->bias.emplace_back(0, chance(0.5) ? 3e38f : -3e38f);
  for (int n = static_cast<int>(random.Integer(0, 4)); n > 0; --n) s->masked.push_back(AnyId(random) % 40);
  s->span.num_masked_rows = static_cast<int>(random.Integer(0, 4));
  float* const last = s->logits.data() + s->logits.size() - kVocabSize;
  const int32_t special = s->masked.empty() || chance(0.5) ? AnyId(random) : s->masked[0];
  switch (random.Integer(0, 20)) {
    case 0:
      last[special] = std::numeric_limits<float>::quiet_NaN();
      break;
    case 1:
      last[special] = kInfinity;
      break;
    case 2:  // one token, masked or not
      std::fill_n(last, kVocabSize, -kInfinity);
      last[special] = 1.0f;
      break;
    case 3:
      std::fill_n(last, kVocabSize, -kInfinity);
      break;
    default:
      break;
  }
}

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
  if (random.Uniform() < 0.7) ShapeRows(random, &s);
  if (num_drafts == 0 && random.Uniform() < 0.2) s.span.row.given_token = AnyId(random);
  for (int j = 0; j < num_drafts; ++j) {
    s.Bind();
    SamplingScratch scratch;
    const int32_t right =
        SampleRow(RowOfSpan(s.span, static_cast<size_t>(j)), s.logits.data() + j * kVocabSize, kVocabSize, scratch)
            .token_id;
    s.draft.push_back(random.Uniform() < 0.8 ? right : static_cast<int32_t>(random.Integer(-1, kVocabSize + 1)));
  }
  return s;
}

// What a device does with a plan, on a copy of the logits.
struct Device {
  std::vector<float> logits;
  std::vector<RowSummary> summaries, raw_summaries;
  std::vector<float> raw_logits;

  void Summarize(std::span<const SummaryRequest> requests, std::span<const int32_t> rows,
                 std::vector<RowSummary>* out) const {
    out->resize(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      SummarizeRow(requests[i], logits.data() + int64_t{rows[i]} * kVocabSize, kVocabSize, &(*out)[i]);
    }
  }
  void Run(const SummaryPlan& plan) {
    Summarize(plan.raw_requests(), plan.raw_logit_rows(), &raw_summaries);
    raw_logits.resize(plan.edits().size());
    for (const EditedRow& row : plan.edited_rows()) {
      for (int i = row.first_edit; i < row.first_edit + row.num_edits; ++i) {
        const RowEdit& edit = plan.edits()[static_cast<size_t>(i)];
        float& logit = logits[static_cast<size_t>(int64_t{row.logits_row} * kVocabSize + edit.token_id)];
        raw_logits[static_cast<size_t>(i)] = logit;
        logit = EditedLogit(row.penalties, edit, logit);
      }
    }
    Summarize(plan.requests(), plan.logit_rows(), &summaries);
  }
  SummaryPlan::Answers answers() const { return {summaries.data(), raw_summaries.data(), raw_logits.data()}; }
};

bool AreEqual(const VerifiedSpan& a, const VerifiedSpan& b) {
  if (a.status != b.status || a.num_accepted != b.num_accepted || a.tokens.size() != b.tokens.size()) return false;
  for (size_t j = 0; j < a.tokens.size(); ++j) {
    const SampledToken &x = a.tokens[j], &y = b.tokens[j];
    if (x.token_id != y.token_id || x.logprob != y.logprob || x.rank != y.rank || x.num_top != y.num_top) return false;
    for (size_t i = 0; i < static_cast<size_t>(x.num_top); ++i) {
      if (x.top[i].token_id != y.top[i].token_id || x.top[i].logprob != y.top[i].logprob) return false;
    }
  }
  return true;
}

// How many of random steps of spans come out otherwise than from whole rows. `spoil` is called before spans are
// decided.
template <typename Spoil>
int NumWrong(int num_steps, uint64_t seed, int* num_decided, const Spoil& spoil) {
  Random random(testing::TestSeed(seed));
  int num_wrong = 0;
  for (int step = 0; step < num_steps; ++step) {
    std::vector<SpanOfRows> spans;
    Device device;
    SummaryPlan plan(kVocabSize);
    for (int n = static_cast<int>(random.Integer(1, 6)); n > 0; --n) spans.push_back(RandomSpan(random));
    for (SpanOfRows& s : spans) {
      s.Bind();
      EXPECT_TRUE(plan.Add(s.span, static_cast<int>(device.logits.size() / kVocabSize)));
      device.logits.insert(device.logits.end(), s.logits.begin(), s.logits.end());
    }
    device.Run(plan);
    spoil(device);
    for (size_t i = 0; i < spans.size(); ++i) {
      SamplingScratch scratch;
      VerifiedSpan expected, actual;
      VerifyDraft(spans[i].span, kVocabSize, scratch, &expected);
      if (!plan.Verify(i, spans[i].span, device.answers(), scratch, &actual)) continue;
      ++*num_decided;
      num_wrong += !AreEqual(actual, expected);
    }
  }
  return num_wrong;
}

TEST(VerifySummaries, CommitsWhatWholeRowsCommit) {
  int num_decided = 0;
  EXPECT_EQ(NumWrong(2000, 411, &num_decided, [](Device&) {}), 0);
  EXPECT_GT(num_decided, 4500);
}

TEST(VerifySummaries, PlantedFaultsAreSeen) {
  int num_decided = 0;
  EXPECT_GT(NumWrong(200, 412, &num_decided,
                     [](Device& d) {
                       for (RowSummary& summary : d.summaries) summary.best_id ^= 1;
                     }),
            0);
  EXPECT_GT(NumWrong(200, 413, &num_decided,
                     [](Device& d) {
                       for (float& logit : d.raw_logits) logit += 0.5f;
                     }),
            0);
  EXPECT_GT(NumWrong(200, 414, &num_decided,
                     [](Device& d) {
                       for (RowSummary& summary : d.raw_summaries) summary.raw_weight_sum /= 2;
                     }),
            0);
}

TEST(VerifySummaries, LooksAtNoRowAfterTheFirstThatDiffers) {
  const std::vector<float> logits = RandomTensor(2 * kVocabSize, 3);
  const int32_t wrong[] = {-1};
  const VerifySpan span{
      .row = {.top_k = 4, .seed = 9}, .logits = logits.data(), .logits_stride = kVocabSize, .draft_ids = wrong};
  SummaryPlan plan(kVocabSize);
  ASSERT_TRUE(plan.Add(span, 0));
  Device device{.logits = logits};
  device.Run(plan);
  device.summaries[1] = {};  // decides nothing
  SamplingScratch scratch;
  VerifiedSpan out;
  EXPECT_TRUE(plan.Verify(0, span, device.answers(), scratch, &out));
  EXPECT_EQ(out.tokens.size(), 1u);
  device.summaries[0].num_candidates = device.summaries[0].num_buckets = 0;
  EXPECT_FALSE(plan.Verify(0, span, device.answers(), scratch, &out));
}

TEST(VerifySummaries, LeavesRejectionAndWhatIsNoListOfEditsToWholeRows) {
  const int32_t draft[] = {5, 6};
  const int32_t masked[] = {7};
  const uint32_t allowed[kVocabSize / 32 + 1] = {};
  const std::pair<int32_t, float> twice[] = {{3, 1.0f}, {3, 1.0f}};
  SummaryPlan plan(kVocabSize);
  EXPECT_FALSE(plan.Add({.draft_ids = draft, .rule = AcceptanceRule::kRejection}, 0));
  EXPECT_FALSE(plan.Add({.row = {.allowed_tokens = allowed}}, 0));
  EXPECT_FALSE(plan.Add({.row = {.bias = twice}, .draft_ids = draft}, 0));
  EXPECT_EQ(plan.num_spans(), 0);
  EXPECT_TRUE(plan.requests().empty());
  EXPECT_TRUE(plan.Add({.rule = AcceptanceRule::kRejection}, 0));
  EXPECT_TRUE(plan.Add({.row = {.masked_ids = masked}, .num_masked_rows = 1, .draft_ids = draft}, 1));
  EXPECT_EQ(plan.requests().size(), 4u);
  EXPECT_EQ(plan.edits().size(), 1u);  // of the first row
  // A penalty changes the rows that follow a draft token, counts or none.
  EXPECT_TRUE(plan.Add({.row = {.presence_penalty = 1}, .draft_ids = draft}, 4));
  EXPECT_EQ(plan.edits().size(), 4u);
  EXPECT_EQ(plan.edited_rows().size(), 3u);
}

TEST(VerifySummaries, LeavesRowsWithTooManyEditsToWholeRows) {
  TokenCounts counts;
  for (int id = 0; id < RowEditsMax(kVocabSize); ++id) counts.AddOutputToken(id);
  VerifySpan span{.row = {.repetition_penalty = 1.5f, .counts = &counts}};
  SummaryPlan plan(kVocabSize);
  EXPECT_TRUE(plan.Add(span, 0));
  SummaryPlan small(kVocabSize, plan.edits().size() - 1);
  EXPECT_FALSE(small.Add(span, 0));
  EXPECT_TRUE(small.edits().empty());
  EXPECT_TRUE(small.Add({}, 0));
  // Tokens of the prompt are not changed by penalties on the output.
  counts.AddPromptToken(RowEditsMax(kVocabSize));
  EXPECT_FALSE(plan.Add(span, 1));
  span.row = {.presence_penalty = 0.5f, .counts = &counts};
  EXPECT_TRUE(plan.Add(span, 1));
  EXPECT_EQ(plan.num_spans(), 2);
}

}  // namespace
}  // namespace outrider::kernels
