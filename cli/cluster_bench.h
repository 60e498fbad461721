// What a whole cluster gives: requests of a batch sent at once through the router, without drafts and with them, ids
// compared. The cluster is started for it, on random weights if wished, with the prompts' ids made up.
//
// With `draft_acceptance` drafts have that quality whatever the weights: what the run without drafts put out is
// replayed by the draft workers, each token right by that chance, while both models compute as ever
// (worker/speculation/draft_replay.h).
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/cluster_plan.h"

namespace outrider {

inline constexpr int kLookaheadAuto = -1;  // of ClusterBenchOptions, and on the wire

struct ClusterBenchOptions {
  // Model, draft model (none: only without drafts), ranks, device and so on; lengths, sequences and ports are chosen
  // here.
  ClusterOptions cluster;
  int lookahead = 4;                       // draft tokens a round, where there are drafts; kLookaheadAuto: as it pays
  std::optional<double> draft_acceptance;  // none: the draft model's own drafts
  std::vector<int> batch = {1};            // requests at once
  int requests = 0;                        // of each batch; 0: as many as the batch
  int prompt_tokens = 1000;
  int output_tokens = 256;
  // Where the outputs of the run without drafts are kept, for `recorded` of another run. Empty: nowhere.
  std::string record;
  // Outputs that an earlier run of the same prompts recorded: there is no run without drafts then.
  std::string recorded;
};

// INVALID_ARGUMENT naming the flag, its value and what it takes.
absl::Status Validate(const ClusterBenchOptions& options);

// A case a batch, without and with drafts: `output_tokens_per_second` of the whole, prompts included;
// `decode_tokens_per_second` from when all requests of the batch have begun to put out tokens until the first is done
// (null if that is never); `first_token_ms` and counts of rounds and draft tokens; `times` of the
// workers' own: steps of the group by kind and of the draft worker, waits for drafts, their way there and back. Errors:
// INTERNAL if drafts changed an id; those of the cluster and of its requests. `program` is the outrider binary.
absl::StatusOr<nlohmann::ordered_json> BenchCluster(const ClusterBenchOptions& options,
                                                    const std::string& program = "/proc/self/exe");

// The same for people.
std::string ClusterBenchText(const nlohmann::ordered_json& result);

}  // namespace outrider
