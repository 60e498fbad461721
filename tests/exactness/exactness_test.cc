// The exactness matrix: output ids are a pure function of model, prompt, parameters and seed. Every cell changes only
// what must not matter - who drafts, how far ahead, the company in the batch, chunking, prefix hits, preemption,
// whether a step is planned before the one before has ended - and has to give the ids of a plain run, one request after
// the other. Planted faults prove that it would notice.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>

#include "tests/exactness/in_process_group.h"
#include "tests/exactness/model_source.h"
#include "worker/model/testing/gguf_writer.h"
#include "worker/model/testing/test_device.h"
#include "worker/speculation/testing/fake_transport.h"
#include "worker/speculation/testing/test_drafters.h"

namespace outrider {
namespace {

constexpr int kMaxTokens = 24;

uint64_t Seed() {
  const char* text = std::getenv("OUTRIDER_TEST_SEED");
  return text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 10) : 20260101;
}

struct Sampling {
  const char* name;
  void (*set)(SamplingParams&);
};
constexpr Sampling kSamplings[] = {
    {"greedy", [](SamplingParams& p) { p.temperature = 0; }},
    {"seeded",
     [](SamplingParams& p) {
       p.temperature = 0.8f;
       p.top_p = 0.95f;
     }},
    {"penalised",
     [](SamplingParams& p) {
       p.temperature = 1.1f;
       p.top_k = 40;
       p.min_p = 0.02f;
       p.repetition_penalty = 1.3f;
       p.presence_penalty = 0.5f;
       p.frequency_penalty = 0.2f;
       p.min_tokens = 10;
       p.logit_bias = {{17, 2.0f}, {19, -50.0f}};
     }},
};

// Prompts of one token, of several chunks, of a shared beginning, with two choices.
std::vector<Request> Requests(const Sampling& sampling, int vocab_size, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto tokens = [&](int count) {
    std::vector<TokenId> ids(count);
    for (TokenId& id : ids) id = 3 + static_cast<TokenId>(random() % (vocab_size - 3));
    return ids;
  };
  std::vector<TokenId> shared = tokens(70), repeating = tokens(6);
  for (int i = 0; i < 24; ++i) repeating.push_back(repeating[i]);
  std::vector<std::vector<TokenId>> prompts = {tokens(1), shared, shared, repeating, tokens(37)};
  prompts[2].push_back(5);
  std::vector<Request> requests;
  for (size_t i = 0; i < prompts.size(); ++i) {
    Request request;
    request.prompt = prompts[i];
    sampling.set(request.params);
    request.params.max_tokens = kMaxTokens;
    request.params.end_token_ids = {2};
    request.params.seed = seed + i;
    request.lanes.push_back({});
    if (i == 1) request.lanes.push_back({.lane = 1, .output = {}});
    requests.push_back(std::move(request));
  }
  return requests;
}

// What the plain run gave, for drafters that know the answer: by what came so far and the lane.
class KnownContinuations {
 public:
  KnownContinuations(const std::vector<Request>& requests, const GroupOutcome& plain) {
    for (size_t i = 0; i < requests.size(); ++i) {
      for (size_t lane = 0; lane < requests[i].lanes.size(); ++lane) {
        std::vector<TokenId> tokens = requests[i].prompt;
        for (const TokenId id : plain.ids[i][lane]) {
          next_[{requests[i].params.seed, lane, tokens}] = id;
          tokens.push_back(id);
        }
      }
    }
  }
  NextTokenFunction function() const {
    return [this](absl::Span<const TokenId> tokens, const SamplingParams& params) {
      const auto it = next_.find({params.seed, params.lane, {tokens.begin(), tokens.end()}});
      return it == next_.end() ? 3 : it->second;
    };
  }

 private:
  std::map<std::tuple<uint64_t, uint64_t, std::vector<TokenId>>, TokenId> next_;
};

struct Cell {
  std::string drafter;  // off, ngram, oracle, synthetic, random, adversarial, dying, model
  int lookahead;
  bool busy;
  bool prefix_cache;
  bool scarce_kv;     // few blocks: sequences are preempted
  bool small_chunks;  // prompts are computed a few tokens a step
  bool ahead;         // steps are planned while the one before runs
};

std::string Name(const Cell& cell) {
  return cell.drafter + " K=" + std::to_string(cell.lookahead) + (cell.busy ? " busy" : " alone") +
         (cell.prefix_cache ? " prefix-cache" : "") + (cell.scarce_kv ? " scarce-kv" : "") +
         (cell.small_chunks ? " small-chunks" : "") + (cell.ahead ? " ahead" : "");
}

// The full product of drafter and K; the five other dimensions vary so that each pair of values meets.
std::vector<Cell> Cells() {
  std::vector<Cell> cells;
  int index = 0;
  for (const char* drafter : {"off", "ngram", "oracle", "synthetic", "random", "adversarial", "dying", "model"}) {
    for (const int lookahead : {1, 2, 4, 8}) {
      if (std::string(drafter) == "off" && lookahead > 1) continue;
      for (int half = 0; half < 2; ++half, ++index) {
        const unsigned bits = static_cast<unsigned>(index * 5 + half * 10);
        cells.push_back(
            {drafter, lookahead, half == 0, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0});
      }
    }
  }
  cells.push_back({"off", 0, true, true, true, true, false});
  cells.push_back({"off", 0, true, true, true, true, true});
  cells.push_back({"off", 0, true, false, false, false, false});
  cells.push_back({"off", 0, true, false, false, false, true});
  return cells;
}

class Matrix {
 public:
  Matrix(const RankedModel& target, const LoadedModel& draft) : target_(target), draft_(draft) {}

  GroupOutcome Plain(const std::vector<Request>& requests) const {
    GroupSettings settings;
    settings.lookahead = 0;
    settings.prefix_cache = false;
    return RunGroup(target_, settings, requests, /*all_at_once=*/false, nullptr);
  }

  GroupOutcome Run(const Cell& cell, const std::vector<Request>& requests, const KnownContinuations& known,
                   uint64_t seed, PlantedFault fault = PlantedFault::kNone) const {
    GroupSettings settings;
    settings.fault = fault;
    settings.lookahead = cell.drafter == "off" ? 0 : cell.lookahead;
    settings.ahead = cell.ahead;
    settings.ngram_draft = cell.drafter == "ngram";
    settings.prefix_cache = cell.prefix_cache;
    settings.num_blocks = cell.scarce_kv ? 14 : 256;
    settings.max_step_tokens = cell.small_chunks ? 24 : 256;
    FakeTransport* transport = nullptr;
    std::unique_ptr<DraftSource> source = MakeSource(cell, known, seed, &transport);
    if (transport != nullptr) {
      settings.after_turn = [transport](TargetEngine&, int) { transport->AdvanceTo(SystemClock().Now()); };
    }
    return RunGroup(target_, settings, requests, cell.busy, std::move(source));
  }

 private:
  std::unique_ptr<DraftSource> MakeSource(const Cell& cell, const KnownContinuations& known, uint64_t seed,
                                          FakeTransport** transport) const {
    const int vocab_size = target_.ranks[0]->config().vocab_size;
    if (cell.drafter == "off" || cell.drafter == "ngram") return nullptr;
    if (cell.drafter == "model") return std::make_unique<ModelSource>(draft_, cell.scarce_kv ? 12 : 128);
    FakeTransportOptions link{.seed = seed};
    std::unique_ptr<TestDrafter> drafter;
    if (cell.drafter == "oracle") drafter = MakeOracleDrafter(known.function(), cell.busy ? 2 : 0);
    if (cell.drafter == "synthetic") drafter = MakeSyntheticDrafter(known.function(), 0.7, vocab_size, seed);
    if (cell.drafter == "random") drafter = MakeRandomDrafter(vocab_size, seed);
    if (cell.drafter == "adversarial") drafter = MakeAdversarialDrafter(vocab_size, seed);
    if (cell.drafter == "dying") {
      drafter = MakeSyntheticDrafter(known.function(), 0.8, vocab_size, seed);
      link.drop = link.duplicate = link.corrupt = 0.1;
      link.kill = 0.05;
      link.reorder = true;
      link.delay_ms_max = 1;
      link.revive_ms = 5;
    }
    auto made = std::make_unique<FakeTransport>(link, std::move(drafter));
    made->AdvanceTo(SystemClock().Now());
    *transport = made.get();
    return made;
  }

  const RankedModel& target_;
  const LoadedModel& draft_;
};

class Exactness : public ::testing::TestWithParam<int> {
 protected:
  void ExpectExact(const std::string& target_path);
  static TinyModelOptions TargetOptions() {
    TinyModelOptions options;
    options.rope = TinyModelOptions::Rope::kFactors;
    return options;
  }
  // Of another seed but the same vocabulary: it agrees now and then.
  static std::string DraftPath() {
    TinyModelOptions options;
    options.num_layers = 1;
    return WriteTinyModel(options);
  }
};

// The whole matrix on one model.
void Exactness::ExpectExact(const std::string& target_path) {
  const uint64_t seed = Seed();
  std::printf("seed %lu\n", seed);
  const RankedModel target = LoadRanked(target_path, GetParam());
  const RankedModel draft = LoadRanked(DraftPath(), 1);
  const Matrix matrix(target, *draft.ranks[0]);
  int num_runs = 0;
  int64_t rounds = 0, accepted = 0, preemptions = 0, cached = 0, ahead = 0;
  for (const Sampling& sampling : kSamplings) {
    const auto requests = Requests(sampling, target.ranks[0]->config().vocab_size, seed);
    const GroupOutcome plain = matrix.Plain(requests);
    const KnownContinuations known(requests, plain);
    bool none_ends = true;
    for (const auto& lanes : plain.ids) {
      for (const auto& ids : lanes) none_ends = none_ends && ids.size() == kMaxTokens;
    }
    EXPECT_NE(plain.ids[1][0], plain.ids[3][0]);  // the model is not stuck on one answer
    for (const Cell& cell : Cells()) {
      const GroupOutcome outcome = matrix.Run(cell, requests, known, seed);
      EXPECT_EQ(outcome.ids, plain.ids) << sampling.name << ": " << Name(cell);
      if (cell.drafter == "oracle") {
        // Beyond an end token it knows nothing.
        if (none_ends) {
          EXPECT_EQ(outcome.total.accepted_tokens, outcome.total.draft_tokens) << Name(cell);
        }
        EXPECT_GT(outcome.total.rounds, 0) << Name(cell);
      }
      ++num_runs;
      rounds += outcome.total.rounds;
      accepted += outcome.total.accepted_tokens;
      preemptions += outcome.stats.num_preemptions;
      cached += outcome.total.cached_tokens;
      ahead += outcome.stats.num_steps_ahead;
      EXPECT_TRUE(cell.ahead || outcome.stats.num_steps_ahead == 0) << Name(cell);
    }
  }
  std::printf(
      "%d runs of 5 requests: %ld rounds, %ld draft tokens accepted, %ld preemptions, %ld cached tokens, "
      "%ld steps planned ahead\n",
      num_runs, rounds, accepted, preemptions, cached, ahead);
  // Each dimension did take effect.
  EXPECT_GT(rounds, 0);
  EXPECT_GT(accepted, 0);
  EXPECT_GT(preemptions, 0);
  EXPECT_GT(cached, 0);
  EXPECT_GT(ahead, 0);
}

TEST_P(Exactness, IdsDependOnNothingThatMustNotMatter) {
  if (!TestDeviceHas(GetParam())) GTEST_SKIP() << "fewer GPUs than ranks";
  ExpectExact(WriteTinyModel(TargetOptions()));
}

// Keys and queries are normed head by head.
TEST_P(Exactness, IdsOfQwen3DependOnNothingThatMustNotMatter) {
  if (!TestDeviceHas(GetParam())) GTEST_SKIP() << "fewer GPUs than ranks";
  ExpectExact("worker/model/testdata/hf/qwen3");
}

// A window of 8 positions: shorter than a span of a draft, a block of KV and a chunk of a prompt.
TEST_P(Exactness, IdsBehindASlidingWindowDependOnNothingThatMustNotMatter) {
  if (!TestDeviceHas(GetParam())) GTEST_SKIP() << "fewer GPUs than ranks";
  ExpectExact("worker/model/testdata/hf/mistral-window");
}

TEST_P(Exactness, PlantedFaultsAreFound) {
  if (!TestDeviceHas(GetParam())) GTEST_SKIP() << "fewer GPUs than ranks";
  const uint64_t seed = Seed();
  const RankedModel target = LoadRanked(WriteTinyModel(TargetOptions()), GetParam());
  const RankedModel draft = LoadRanked(DraftPath(), 1);
  const Matrix matrix(target, *draft.ranks[0]);
  const auto requests = Requests(kSamplings[1], target.ranks[0]->config().vocab_size, seed);
  const GroupOutcome plain = matrix.Plain(requests);
  const KnownContinuations known(requests, plain);
  for (const PlantedFault fault :
       {PlantedFault::kAcceptUnverified, PlantedFault::kSkipRollback, PlantedFault::kReverseSumOrder}) {
    int num_red = 0;
    for (const Cell& cell : Cells()) {
      num_red += matrix.Run(cell, requests, known, seed, fault).ids != plain.ids;
      if (num_red > 0) break;
    }
    EXPECT_GT(num_red, 0) << "fault " << static_cast<int>(fault) << " went unnoticed";
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, Exactness, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace outrider
