// A whole cluster in one thread: clients, a router, target groups and draft workers, the project's own code wherever it
// decides, under a clock and a network that are data. The same seed and scenario give the same run, event by event.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/simulation/sabotage.h"
#include "tests/simulation/scenario.pb.h"

namespace outrider::simulation {

struct SimulationOptions {
  uint64_t seed = 0;
  const Scenario* scenario = nullptr;
  Sabotage sabotage = Sabotage::kNone;
  std::ostream* trace = nullptr;  // events as text; null: none
};

struct SimulationResult {
  // The first thing that was wrong, and when.
  std::optional<std::string> failure;
  uint64_t trace_hash = 0;
  int64_t num_events = 0;
  double simulated_seconds = 0;
  // What happened, by the names that Scenario.must_happen knows; and the ledger: "accepted", "complete", "retriable",
  // "permanent", "cancelled", "deadline".
  std::map<std::string, int64_t> counts;
};

SimulationResult Simulate(const SimulationOptions& options);

// All of scenarios/, by name.
absl::StatusOr<std::vector<Scenario>> LoadScenarios();
// The line that runs one seed again.
std::string ReproductionOf(uint64_t seed, const Scenario& scenario, Sabotage sabotage = Sabotage::kNone);

}  // namespace outrider::simulation
