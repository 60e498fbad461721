#include "kernels/sampling/row_edits.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

using testing::Random;
using testing::RandomTensor;

struct Case {
  std::vector<float> logits;
  std::vector<std::pair<int32_t, float>> bias;
  std::vector<int32_t> masked, extra;
  TokenCounts counts;
  SamplingRow row;
};

Case RandomCase(int vocab_size, Random& random) {
  const auto chance = [&](double p) { return random.Uniform() < p; };
  const auto any_id = [&] { return static_cast<int32_t>(random.Integer(-1, vocab_size + 1)); };
  Case c;
  c.logits = RandomTensor(vocab_size, random.Next(), {.scale = 5});
  for (int n = 0; n < 5; ++n) {
    float& logit = c.logits[static_cast<size_t>(random.Integer(0, vocab_size))];
    logit = n == 0 ? 0.0f : n == 1 ? -0.0f : -std::numeric_limits<float>::infinity();
  }
  if (chance(0.7)) c.row.repetition_penalty = static_cast<float>(0.5 + 2 * random.Uniform());
  if (chance(0.5)) c.row.presence_penalty = static_cast<float>(2 * random.Uniform() - 0.5);
  if (chance(0.5)) c.row.frequency_penalty = static_cast<float>(random.Uniform());
  std::set<int32_t> biased;
  const auto count = [&](int most) { return static_cast<int>(random.Integer(0, most)); };
  for (int n = count(20); n > 0; --n) biased.insert(any_id());
  for (const int32_t id : biased) c.bias.emplace_back(id, static_cast<float>(20 * random.Uniform() - 10));
  for (int n = count(5); n > 0; --n) c.masked.push_back(any_id());
  for (int n = count(9); n > 0; --n) c.extra.push_back(any_id());
  for (int n = count(40); n > 0; --n) c.counts.AddPromptToken(any_id());
  for (int n = count(40); n > 0; --n) c.counts.AddOutputToken(any_id());
  // Tokens that several of them name.
  if (!c.extra.empty() && chance(0.5)) c.counts.AddOutputToken(c.extra[0]);
  if (!c.extra.empty() && chance(0.5)) c.extra.push_back(c.extra[0]);
  if (!c.bias.empty() && chance(0.5)) c.masked.push_back(c.bias[0].first);
  if (!c.bias.empty() && chance(0.5)) c.counts.AddPromptToken(c.bias[0].first);
  return c;
}

void Bind(Case* c, bool has_counts) {
  c->row.bias = c->bias;
  c->row.masked_ids = c->masked;
  c->row.extra_tokens = c->extra;
  c->row.counts = has_counts ? &c->counts : nullptr;
}

int NumDifferent(const Case& c, const std::vector<RowEdit>& edits, size_t first) {
  std::vector<float> edited = c.logits;
  std::set<int32_t> ids;
  for (size_t i = first; i < edits.size(); ++i) {
    float& logit = edited[static_cast<size_t>(edits[i].token_id)];
    logit = EditedLogit(PenaltiesOf(c.row), edits[i], logit);
    EXPECT_TRUE(ids.insert(edits[i].token_id).second) << edits[i].token_id << " is edited twice";
  }
  SamplingScratch scratch;
  const int vocab_size = static_cast<int>(c.logits.size());
  const float* const expected = ProcessedLogits(c.row, c.logits.data(), vocab_size, scratch);
  int num_different = 0;
  for (size_t v = 0; v < edited.size(); ++v) {
    num_different += std::bit_cast<uint32_t>(edited[v]) != std::bit_cast<uint32_t>(expected[v]);
  }
  return num_different;
}

TEST(RowEdits, HaveTheBitsOfProcessedRows) {
  Random random(testing::TestSeed(431));
  RowEditor editor;
  std::vector<RowEdit> edits = {{.token_id = 1}};  // of a row before
  for (int round = 0; round < 5000; ++round) {
    Case c = RandomCase(static_cast<int>(random.Integer(1000, 3000)), random);
    Bind(&c, random.Uniform() < 0.8);
    edits.resize(1);
    ASSERT_TRUE(editor.Append(c.row, static_cast<int>(c.logits.size()), &edits));
    ASSERT_EQ(NumDifferent(c, edits, 1), 0) << "round " << round;
    ASSERT_EQ(edits[0].token_id, 1);
  }
}

TEST(RowEdits, PlantedFaultsAreSeen) {
  Random random(testing::TestSeed(432));
  RowEditor editor;
  int num_counts = 0, num_masks = 0, num_biases = 0, num_lost = 0;
  for (int round = 0; round < 100; ++round) {
    Case c = RandomCase(2000, random);
    c.row.frequency_penalty = 0.7f;
    Bind(&c, true);
    std::vector<RowEdit> edits;
    ASSERT_TRUE(editor.Append(c.row, 2000, &edits));
    if (edits.empty()) continue;
    const auto num_wrong = [&](auto&& spoil) {
      std::vector<RowEdit> wrong = edits;
      spoil(wrong[static_cast<size_t>(random.Integer(0, static_cast<int64_t>(wrong.size())))]);
      return NumDifferent(c, wrong, 0) > 0 ? 1 : 0;
    };
    num_counts += num_wrong([](RowEdit& edit) { ++edit.output_count; });
    num_masks += num_wrong([](RowEdit& edit) { edit.is_masked ^= 1; });
    num_biases += num_wrong([](RowEdit& edit) { edit.bias += 1; });
    num_lost += num_wrong([](RowEdit& edit) { edit = {.token_id = edit.token_id}; });
  }
  EXPECT_GT(num_counts, 0);
  EXPECT_GT(num_masks, 50);
  EXPECT_GT(num_biases, 0);
  EXPECT_GT(num_lost, 50);
}

TEST(RowEdits, AreNoListWhereATokenHasTwoBiasesOrAMaskNamesTheAllowed) {
  RowEditor editor;
  std::vector<RowEdit> edits;
  const std::pair<int32_t, float> twice[] = {{3, 1.0f}, {4, 1.0f}, {3, 0.5f}};
  const uint32_t allowed[64] = {};
  EXPECT_FALSE(editor.Append({.bias = twice}, 2000, &edits));
  EXPECT_FALSE(editor.Append({.allowed_tokens = allowed}, 2000, &edits));
  EXPECT_TRUE(edits.empty());
  EXPECT_TRUE(editor.Append({.bias = std::span(twice).first(2)}, 2000, &edits));
  EXPECT_EQ(edits.size(), 2u);
}

TEST(RowEdits, EndAtTheirBound) {
  EXPECT_EQ(RowEditsMax(800), 100);
  EXPECT_EQ(RowEditsMax(128256), kRowEditsMax);
  RowEditor editor;
  std::vector<RowEdit> edits;
  TokenCounts counts;
  for (int id = 0; id < 100; ++id) counts.AddOutputToken(id);
  const SamplingRow row{.repetition_penalty = 1.2f, .counts = &counts};
  EXPECT_TRUE(editor.Append(row, 800, &edits));
  EXPECT_EQ(edits.size(), 100u);
  counts.AddPromptToken(100);
  EXPECT_FALSE(editor.Append(row, 800, &edits));
  EXPECT_EQ(edits.size(), 100u);
}

}  // namespace
}  // namespace outrider::kernels
