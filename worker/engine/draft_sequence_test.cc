#include "worker/engine/draft_sequence.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <random>

namespace outrider {
namespace {

using Outcome = DraftSequence::CommitOutcome;

DraftSequence MakeSequence(std::vector<TokenId> prompt, int max_tokens = 100, int max_model_len = 64) {
  SamplingParams params;
  params.max_tokens = max_tokens;
  return DraftSequence({.epoch = 1, .prompt = std::move(prompt), .params = params, .max_model_len = max_model_len});
}

TEST(DraftSequence, ComputesThePromptThenDraftsOneTokenAtATime) {
  DraftSequence sequence = MakeSequence({1, 2, 3});
  sequence.WantDraft(2);
  EXPECT_TRUE(sequence.needs_start());
  EXPECT_EQ(sequence.StartMirror(SequenceId(7)).prompt, (std::vector<TokenId>{1, 2, 3}));
  EXPECT_EQ(sequence.num_tokens_to_compute(), 3);
  sequence.Computed(2, -1, false);  // a chunk
  EXPECT_EQ(sequence.num_tokens_to_compute(), 1);
  sequence.Computed(1, 10, false);
  EXPECT_EQ(sequence.num_tokens_to_compute(), 1);
  sequence.Computed(1, 11, false);
  ASSERT_TRUE(sequence.draft_is_ready());
  const DraftPath draft = sequence.TakeDraft();
  EXPECT_EQ(draft.base_position, 3);
  EXPECT_EQ(draft.tokens, (std::vector<TokenId>{10, 11}));
  EXPECT_FALSE(sequence.wants_draft());
}

TEST(DraftSequence, ComputesNothingUntilADraftIsWanted) {
  DraftSequence sequence = MakeSequence({1, 2});
  EXPECT_EQ(sequence.num_tokens_to_compute(), 0);
  EXPECT_EQ(sequence.Commit(2, {5, 6}), Outcome::kTaken);
  EXPECT_EQ(sequence.num_tokens_to_compute(), 0);
  sequence.WantDraft(1);
  EXPECT_EQ(sequence.num_tokens_to_compute(), 4);
}

TEST(DraftSequence, StartsAnewFromTheLastPositionThatAgrees) {
  DraftSequence sequence = MakeSequence({1, 2});
  sequence.WantDraft(3);
  sequence.StartMirror(SequenceId(1));
  sequence.Computed(2, 10, false);
  sequence.Computed(1, 11, false);
  sequence.Computed(1, 12, false);
  sequence.TakeDraft();
  EXPECT_EQ(sequence.num_computed(), 4);  // 1 2 10 11
  EXPECT_EQ(sequence.Commit(2, {10, 99}), Outcome::kTaken);
  EXPECT_TRUE(sequence.needs_start());
  EXPECT_EQ(sequence.num_computed(), 3);  // 1 2 10
  sequence.WantDraft(1);
  const SequenceStart start = sequence.StartMirror(SequenceId(2));
  EXPECT_EQ(start.prompt, (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(start.output, (std::vector<TokenId>{10, 99}));
  EXPECT_EQ(sequence.num_tokens_to_compute(), 1);
}

TEST(DraftSequence, KeepsItsLeadWhereTheCommitAgrees) {
  DraftSequence sequence = MakeSequence({1});
  sequence.WantDraft(3);
  sequence.StartMirror(SequenceId(1));
  sequence.Computed(1, 10, false);
  sequence.Computed(1, 11, false);
  sequence.Computed(1, 12, false);
  sequence.TakeDraft();
  EXPECT_EQ(sequence.Commit(1, {10, 11}), Outcome::kTaken);
  EXPECT_FALSE(sequence.needs_start());
  sequence.WantDraft(1);
  ASSERT_TRUE(sequence.draft_is_ready());
  EXPECT_EQ(sequence.TakeDraft().tokens, std::vector<TokenId>{12});
}

TEST(DraftSequence, VoidsAnUnfinishedDraftAtANewCommit) {
  DraftSequence sequence = MakeSequence({1});
  sequence.WantDraft(4);
  sequence.StartMirror(SequenceId(1));
  sequence.Computed(1, 10, false);
  EXPECT_EQ(sequence.Commit(1, {20}), Outcome::kTaken);
  EXPECT_FALSE(sequence.wants_draft());
  EXPECT_TRUE(sequence.draft().empty());
}

TEST(DraftSequence, RefusesCommitsThatDoNotFit) {
  DraftSequence sequence = MakeSequence({1, 2, 3}, 100, 5);
  EXPECT_EQ(sequence.Commit(4, {9}), Outcome::kGap);
  EXPECT_EQ(sequence.Commit(-1, {9}), Outcome::kGap);
  EXPECT_EQ(sequence.Commit(1, {2, 9}), Outcome::kContradiction);
  EXPECT_EQ(sequence.Commit(3, {4, 5, 6}), Outcome::kTooLong);
  EXPECT_EQ(sequence.Commit(1, {2, 3, 4}), Outcome::kTaken);  // known ids may be said again
  EXPECT_EQ(sequence.committed().size(), 4u);
  EXPECT_EQ(sequence.Commit(0, {1, 2}), Outcome::kTaken);
  EXPECT_EQ(sequence.committed().size(), 4u);
}

TEST(DraftSequence, StopsAtTheContextMaxTokensAndEndTokens) {
  DraftSequence context = MakeSequence({1, 2, 3}, 100, 4);
  context.WantDraft(8);
  context.StartMirror(SequenceId(1));
  context.Computed(3, 10, false);
  EXPECT_TRUE(context.draft_is_ready());
  EXPECT_EQ(context.TakeDraft().tokens.size(), 1u);

  DraftSequence length = MakeSequence({1}, 1);
  EXPECT_EQ(length.Commit(1, {4}), Outcome::kTaken);
  length.WantDraft(8);
  ASSERT_TRUE(length.draft_is_ready());
  EXPECT_TRUE(length.TakeDraft().tokens.empty());

  DraftSequence ended = MakeSequence({1});
  ended.WantDraft(8);
  ended.StartMirror(SequenceId(1));
  ended.Computed(1, 10, true);
  EXPECT_TRUE(ended.draft_is_ready());
  EXPECT_EQ(ended.TakeDraft().tokens, std::vector<TokenId>{10});
  // The target does not end there after all: the ended mirror is left behind.
  EXPECT_EQ(ended.Commit(1, {10}), Outcome::kTaken);
  EXPECT_TRUE(ended.needs_start());
}

TEST(DraftSequence, ComputesEverythingAgainOnceItsKvIsGone) {
  DraftSequence sequence = MakeSequence({1, 2, 3});
  sequence.WantDraft(1);
  sequence.StartMirror(SequenceId(1));
  sequence.Computed(3, 10, false);
  sequence.DropKv();
  EXPECT_EQ(sequence.Commit(3, {10}), Outcome::kTaken);
  sequence.WantDraft(1);
  EXPECT_TRUE(sequence.needs_start());
  EXPECT_EQ(sequence.num_tokens_to_compute(), 4);
}

// Against an obvious model: KV is a list of the tokens that were computed at each position, a mirror is a list of
// tokens, and a draft must always follow from KV that holds exactly the tokens before it.
TEST(DraftSequence, AlwaysDraftsFromKvThatHoldsTheCommittedTokens) {
  const char* env = std::getenv("OUTRIDER_TEST_SEED");
  const uint32_t seed = env != nullptr ? std::strtoul(env, nullptr, 10) : std::random_device()();
  std::cout << "OUTRIDER_TEST_SEED=" << seed << "\n";
  std::mt19937 random(seed);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<TokenId> truth(1 + random() % 6);
    for (TokenId& id : truth) id = random() % 3;
    DraftSequence sequence = MakeSequence(truth, 40, 64);
    std::vector<TokenId> kv;      // token computed at each position
    std::vector<TokenId> mirror;  // what the backend holds
    bool mirror_ended = false;
    uint64_t next_mirror = 1;
    for (int event = 0; event < 60; ++event) {
      switch (random() % 4) {
        case 0: {
          std::vector<TokenId> ids(random() % 4);
          for (TokenId& id : ids) id = random() % 3;
          if (truth.size() + ids.size() > 64) break;
          ASSERT_EQ(sequence.Commit(static_cast<int>(truth.size()), ids), Outcome::kTaken);
          truth.insert(truth.end(), ids.begin(), ids.end());
          sequence.WantDraft(random() % 5);
          break;
        }
        case 1:
          if (random() % 8 == 0) {
            sequence.DropKv();
            kv.clear();
          }
          break;
        default: {
          if (sequence.draft_is_ready()) {
            const DraftPath draft = sequence.TakeDraft();
            ASSERT_EQ(draft.base_position, static_cast<int>(truth.size()));
            break;
          }
          const int remaining = sequence.num_tokens_to_compute();
          if (remaining == 0) break;
          if (sequence.needs_start()) {
            const SequenceStart start = sequence.StartMirror(SequenceId(next_mirror++));
            mirror = start.prompt;
            mirror.insert(mirror.end(), start.output.begin(), start.output.end());
            ASSERT_EQ(mirror, truth);
            mirror_ended = false;
          }
          ASSERT_FALSE(mirror_ended);
          const int n = 1 + random() % remaining;
          const int first = sequence.num_computed();
          ASSERT_LE(static_cast<size_t>(first), kv.size());
          kv.resize(first);
          for (int i = 0; i < n; ++i) kv.push_back(mirror[first + i]);
          TokenId drafted = -1;
          if (n == remaining) {
            ASSERT_EQ(kv, mirror);
            ASSERT_TRUE(std::equal(truth.begin(), truth.end(), kv.begin()));
            drafted = random() % 3;
            mirror.push_back(drafted);
            mirror_ended = random() % 6 == 0;
          }
          sequence.Computed(n, drafted, mirror_ended);
        }
      }
    }
  }
}

}  // namespace
}  // namespace outrider
