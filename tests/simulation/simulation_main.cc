// Runs seeds of simulation scenarios and prints what happened.
//
//   bazel run //tests/simulation -- --scenario=group_crash --seed=17 --trace   one seed, every event
//   bazel run //tests/simulation -- --seeds=2000                               many, of all scenarios in turn
#include <chrono>
#include <cstdint>
#include <iostream>
#include <map>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "tests/simulation/simulation.h"

namespace outrider::simulation {
namespace {

int Usage(const std::string& wrong) {
  std::cerr << wrong
            << "\nflags: --seed=N  --seeds=COUNT (from --seed on)  --scenario=NAME  --sabotage=NAME  --trace\n";
  return 2;
}

void Print(const SimulationResult& result) {
  for (const auto& [name, count] : result.counts) {
    if (count != 0) std::cout << "  " << name << " " << count;
  }
  std::cout << "\n";
}

int Run(int argc, char** argv) {
  uint64_t seed = 1;
  uint64_t num_seeds = 1;
  bool trace = false;
  std::string only;
  Sabotage sabotage = Sabotage::kNone;
  for (int i = 1; i < argc; ++i) {
    absl::string_view arg = argv[i];
    if (absl::ConsumePrefix(&arg, "--seed=")) {
      if (!absl::SimpleAtoi(arg, &seed)) return Usage(absl::StrCat("not a number: ", argv[i]));
    } else if (absl::ConsumePrefix(&arg, "--seeds=")) {
      if (!absl::SimpleAtoi(arg, &num_seeds)) return Usage(absl::StrCat("not a number: ", argv[i]));
    } else if (absl::ConsumePrefix(&arg, "--scenario=")) {
      only = std::string(arg);
    } else if (absl::ConsumePrefix(&arg, "--sabotage=")) {
      for (const NamedSabotage& named : kSabotages) {
        if (arg == named.name) sabotage = named.sabotage;
      }
      if (sabotage == Sabotage::kNone) return Usage(absl::StrCat("no such sabotage: ", argv[i]));
    } else if (arg == "--trace") {
      trace = true;
    } else {
      return Usage(absl::StrCat("unknown: ", argv[i]));
    }
  }
  const absl::StatusOr<std::vector<Scenario>> all = LoadScenarios();
  if (!all.ok()) return Usage(std::string(all.status().message()));
  std::vector<Scenario> scenarios;
  for (const Scenario& scenario : *all) {
    if (only.empty() || scenario.name() == only) scenarios.push_back(scenario);
  }
  if (scenarios.empty()) return Usage(absl::StrCat("no scenario ", only));

  const auto began = std::chrono::steady_clock::now();
  int num_failures = 0;
  int64_t num_events = 0;
  double simulated_seconds = 0;
  std::map<std::string, std::map<std::string, int64_t>> counts;
  for (uint64_t i = 0; i < num_seeds; ++i) {
    const Scenario& scenario = scenarios[(seed + i) % scenarios.size()];
    const SimulationResult result = Simulate(
        {.seed = seed + i, .scenario = &scenario, .sabotage = sabotage, .trace = trace ? &std::cout : nullptr});
    num_events += result.num_events;
    simulated_seconds += result.simulated_seconds;
    for (const auto& [name, count] : result.counts) counts[scenario.name()][name] += count;
    if (result.failure.has_value()) {
      ++num_failures;
      std::cout << scenario.name() << " seed " << seed + i << ": " << *result.failure << "\n  "
                << ReproductionOf(seed + i, scenario, sabotage) << " --trace" << std::endl;
    }
    if (num_seeds == 1) {
      std::cout << "trace " << absl::StrCat(absl::Hex(result.trace_hash)) << ", " << result.num_events << " events, "
                << result.simulated_seconds << " s simulated\n";
      Print(result);
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  if (num_seeds > 1) {
    for (const auto& [name, of_scenario] : counts) {
      std::cout << name << ":";
      Print({.counts = of_scenario});
    }
    std::cout << num_seeds << " seeds, " << num_failures << " failures, " << num_events << " events, "
              << simulated_seconds << " s simulated in " << seconds << " s\n";
  }
  return num_failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace outrider::simulation

int main(int argc, char** argv) { return outrider::simulation::Run(argc, argv); }
