// A whole target group in one process: an engine over ranks that are threads, with any draft source beside it. What the
// exactness matrix runs a cell on.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "worker/engine/target_engine.h"
#include "worker/model/loaded_model.h"
#include "worker/model/model_runner.h"

namespace outrider {

// The ranks' shares of one model; constant, used by any number of groups in turn.
struct RankedModel {
  std::vector<std::unique_ptr<LoadedModel>> ranks;
};
RankedModel LoadRanked(const std::string& path, int world_size, Numerics numerics = Numerics::kInvariant);

struct GroupSettings {
  int lookahead = Request::kAutoLookahead;
  bool ngram_draft = false;
  bool prefix_cache = true;
  int num_blocks = 256;
  int block_size = 16;
  int max_step_tokens = 256;
  int max_sequences = 16;
  bool ahead = false;  // the leader's steps run on a thread, so that the next one is planned beside them
  PlantedFault fault = PlantedFault::kNone;
  // Called after each turn with the number of turns so far; may post to the inbox, as to lose a source.
  std::function<void(TargetEngine&, int)> after_turn;
};

struct GroupOutcome {
  // By request, then lane: the output ids.
  std::vector<std::vector<std::vector<TokenId>>> ids;
  Usage total;
  SchedulerStats stats;
};

// Runs `requests` to their ends: all submitted at once, or one after the other. Fails the test if one ends otherwise
// than finished, or a block is held afterwards. `source` may be null.
GroupOutcome RunGroup(const RankedModel& model, const GroupSettings& settings, const std::vector<Request>& requests,
                      bool all_at_once, std::unique_ptr<DraftSource> source);

}  // namespace outrider
