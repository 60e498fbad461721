#include "tests/exactness/in_process_group.h"

#include <gtest/gtest.h>

#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "base/metrics.h"
#include "worker/engine/step_thread.h"
#include "worker/group/step_broadcast.h"
#include "worker/model/testing/test_device.h"
#include "worker/parallel/loopback_communicator.h"

namespace outrider {

RankedModel LoadRanked(const std::string& path, int world_size, Numerics numerics) {
  RankedModel model;
  for (int rank = 0; rank < world_size; ++rank) {
    auto loaded = LoadModel(
        path,
        {.device = TestDevice(), .device_index = rank, .numerics = numerics, .rank = rank, .world_size = world_size});
    EXPECT_TRUE(loaded.ok()) << loaded.status().message();
    model.ranks.push_back(*std::move(loaded));
  }
  return model;
}

GroupOutcome RunGroup(const RankedModel& model, const GroupSettings& settings, const std::vector<Request>& requests,
                      bool all_at_once, std::unique_ptr<DraftSource> source) {
  const int world_size = static_cast<int>(model.ranks.size());
  auto communicators = CreateLoopbackCommunicators(world_size);
  std::vector<std::unique_ptr<ModelRunner>> runners(static_cast<size_t>(world_size));
  std::vector<std::thread> followers;
  // On GPUs the ranks meet as their runners are made.
  const auto make_runner = [&](int rank) {
    auto runner = model.ranks[rank]->CreateRunner({.communicator = communicators[rank].get(),
                                                   .num_kv_blocks = settings.num_blocks,
                                                   .block_size = settings.block_size,
                                                   .max_step_tokens = settings.max_step_tokens,
                                                   .max_sequences = settings.max_sequences,
                                                   .fault = settings.fault});
    EXPECT_TRUE(runner.ok()) << runner.status().message();
    runners[rank] = *std::move(runner);
  };
  for (int rank = 1; rank < world_size; ++rank) followers.emplace_back(make_runner, rank);
  make_runner(0);
  for (std::thread& follower : followers) follower.join();
  followers.clear();
  for (int rank = 1; rank < world_size; ++rank) {
    followers.emplace_back([&, rank] {
      const absl::Status status = RunFollower(*runners[rank], *communicators[rank]);
      EXPECT_TRUE(status.ok()) << "rank " << rank << ": " << status.message();
    });
  }
  GroupOutcome outcome;
  outcome.ids.resize(requests.size());
  {
    GroupBackend backend(*runners[0], *communicators[0]);
    std::optional<StepThread> step_thread;
    if (settings.ahead) step_thread.emplace(backend);
    StepBackend& outermost = settings.ahead ? static_cast<StepBackend&>(*step_thread) : backend;
    SystemClock clock;
    MetricsRegistry registry;
    EngineMetrics metrics(registry);
    TargetEngine::Options options;
    options.scheduler = {.vocab_size = model.ranks[0]->config().vocab_size,
                         .max_model_len = model.ranks[0]->max_model_len(),
                         .num_blocks = settings.num_blocks,
                         .block_size = settings.block_size,
                         .prefix_cache = settings.prefix_cache,
                         .max_sequences = settings.max_sequences,
                         .max_step_tokens = settings.max_step_tokens};
    options.drafts = {.vocab_size = options.scheduler.vocab_size, .lookahead = settings.lookahead};
    options.ngram_draft = settings.ngram_draft;
    Inbox inbox(/*max_waiting_lanes=*/1024);
    TargetEngine engine(options, inbox, outermost, clock, metrics);
    if (source != nullptr) {
      EXPECT_TRUE(inbox.Post(AttachSourceEvent{"test", std::move(source)}).ok());
    }
    const auto stream = std::make_shared<TokenStream>(1 << 16, [] {});
    size_t num_submitted = 0, num_live = 0;
    int num_turns = 0;
    while (num_submitted < requests.size() || num_live > 0) {
      while (num_submitted < requests.size() && (all_at_once || num_live == 0)) {
        const Request& request = requests[num_submitted];
        outcome.ids[num_submitted].resize(request.lanes.size());
        EXPECT_TRUE(inbox.Post(SubmitEvent{stream, RequestId(num_submitted + 1), request, clock.Now()}).ok());
        ++num_submitted;
        num_live += request.lanes.size();
      }
      const absl::StatusOr<bool> busy = engine.RunTurn();
      if (!busy.ok()) {
        ADD_FAILURE() << busy.status().message();
        break;
      }
      if (settings.after_turn) settings.after_turn(engine, ++num_turns);
      const std::vector<LaneEvent> events = stream->Take();
      for (const LaneEvent& event : events) {
        if (const auto* tokens = std::get_if<TokensEvent>(&event.event)) {
          auto& ids = outcome.ids[event.id.request.value - 1][event.id.lane];
          EXPECT_EQ(tokens->first_output_index, ids.size());
          ids.insert(ids.end(), tokens->tokens.begin(), tokens->tokens.end());
          continue;
        }
        --num_live;
        if (const auto* finished = std::get_if<FinishedEvent>(&event.event)) {
          outcome.total.rounds += finished->usage.rounds;
          outcome.total.plain_steps += finished->usage.plain_steps;
          outcome.total.draft_tokens += finished->usage.draft_tokens;
          outcome.total.accepted_tokens += finished->usage.accepted_tokens;
          outcome.total.cached_tokens += finished->usage.cached_tokens;
        } else {
          ADD_FAILURE() << std::get<FailedEvent>(event.event).status.message();
        }
      }
      if (!*busy && events.empty() && num_live > 0) inbox.WaitUntil(engine.NextDeadline());
    }
    // What is still out: ends that ranks are told of, rows planned ahead of the last tokens.
    for (absl::StatusOr<bool> busy = true; busy.ok() && *busy;) busy = engine.RunTurn();
    EXPECT_EQ(engine.load().kv_used_ratio, 0);
    outcome.stats = engine.scheduler().stats();
    EXPECT_TRUE(backend.Stop().ok());
  }
  for (std::thread& follower : followers) follower.join();
  return outcome;
}

}  // namespace outrider
