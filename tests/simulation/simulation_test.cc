// Many seeds of every scenario, and what keeps the simulation honest: each scenario shows what it claims to, the same
// seed gives the same trace, and faults planted on purpose are found.
#include "tests/simulation/simulation.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <sstream>
#include <string>

#include "absl/strings/numbers.h"

namespace outrider::simulation {
namespace {

// Of all scenarios and shards together. OUTRIDER_SIMULATION_SEEDS overrides: a night's run takes 50,000 and more.
#ifdef OUTRIDER_SANITIZED
constexpr uint64_t kNumSeeds = 200;
#else
constexpr uint64_t kNumSeeds = 2000;
#endif

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const text = std::getenv(name);
  uint64_t value = otherwise;
  if (text != nullptr && !absl::SimpleAtoi(text, &value)) {
    ADD_FAILURE() << name << " is not a number: " << text;
  }
  return value;
}

const std::vector<Scenario>& Scenarios() {
  static const std::vector<Scenario>* const scenarios = [] {
    absl::StatusOr<std::vector<Scenario>> loaded = LoadScenarios();
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return new std::vector<Scenario>(loaded.ok() ? *std::move(loaded) : std::vector<Scenario>());
  }();
  return *scenarios;
}

const Scenario* Find(const std::string& name) {
  for (const Scenario& scenario : Scenarios()) {
    if (scenario.name() == name) return &scenario;
  }
  ADD_FAILURE() << "no scenario " << name;
  return nullptr;
}

class Simulation : public testing::TestWithParam<std::string> {};

std::vector<std::string> ScenarioNames() {
  std::vector<std::string> names;
  for (const Scenario& scenario : Scenarios()) names.push_back(scenario.name());
  return names;
}

TEST_P(Simulation, HoldsItsInvariantsOverManySeeds) {
  const Scenario& scenario = *Find(GetParam());
  const uint64_t first = FromEnvironment("OUTRIDER_TEST_SEED", 1);
  const uint64_t count = FromEnvironment("OUTRIDER_SIMULATION_SEEDS", kNumSeeds) / Scenarios().size() + 1;
  std::map<std::string, int64_t> counts;
  int num_failures = 0;
  for (uint64_t seed = first; seed < first + count && num_failures < 3; ++seed) {
    const SimulationResult result = Simulate({.seed = seed, .scenario = &scenario});
    for (const auto& [name, value] : result.counts) counts[name] += value;
    if (result.failure.has_value()) {
      ++num_failures;
      ADD_FAILURE() << scenario.name() << " seed " << seed << ": " << *result.failure << "\n  "
                    << ReproductionOf(seed, scenario) << " --trace";
    }
  }
  if (num_failures > 0) return;
  for (const auto& [name, value] : counts) std::cout << name << " " << value << "  ";
  std::cout << std::endl;
  const int64_t ends =
      counts["complete"] + counts["retriable"] + counts["permanent"] + counts["cancelled"] + counts["deadline"];
  EXPECT_EQ(counts["accepted"], ends);
  // Few seeds may miss what is rare.
  if (count < 50) return;
  for (const std::string& name : scenario.must_happen()) {
    EXPECT_GT(counts[name], 0) << scenario.name() << " shows nothing: it has no " << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Scenarios, Simulation, testing::ValuesIn(ScenarioNames()),
                         [](const auto& info) { return info.param; });

TEST(SimulationTrace, IsTheSameForTheSameSeed) {
  for (const Scenario& scenario : Scenarios()) {
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      std::stringstream first, second;
      const SimulationResult a = Simulate({.seed = seed, .scenario = &scenario, .trace = &first});
      const SimulationResult b = Simulate({.seed = seed, .scenario = &scenario, .trace = &second});
      const SimulationResult unread = Simulate({.seed = seed, .scenario = &scenario});
      ASSERT_EQ(first.str(), second.str()) << ReproductionOf(seed, scenario);
      EXPECT_EQ(a.trace_hash, b.trace_hash);
      EXPECT_EQ(a.trace_hash, unread.trace_hash) << "reading the trace changes what happens";
      EXPECT_EQ(a.num_events, b.num_events);
      EXPECT_FALSE(first.str().empty());
    }
  }
}

TEST(SimulationTrace, DiffersForAnotherSeed) {
  const Scenario& scenario = *Find("calm");
  EXPECT_NE(Simulate({.seed = 1, .scenario = &scenario}).trace_hash,
            Simulate({.seed = 2, .scenario = &scenario}).trace_hash);
}

class PlantedFault : public testing::TestWithParam<NamedSabotage> {};

TEST_P(PlantedFault, IsFound) {
  const NamedSabotage& planted = GetParam();
  const Scenario& scenario = *Find(planted.scenario);
  constexpr uint64_t kBudget = 200;
  for (uint64_t seed = 1; seed <= kBudget; ++seed) {
    const SimulationResult result = Simulate({.seed = seed, .scenario = &scenario, .sabotage = planted.sabotage});
    if (!result.failure.has_value()) continue;
    std::cout << planted.name << " is found by seed " << seed << ": " << *result.failure << "\n  "
              << ReproductionOf(seed, scenario, planted.sabotage) << std::endl;
    return;
  }
  ADD_FAILURE() << planted.name << " is not found by " << kBudget << " seeds of " << scenario.name();
}

INSTANTIATE_TEST_SUITE_P(All, PlantedFault, testing::ValuesIn(kSabotages), [](const auto& info) {
  std::string name = info.param.name;
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace outrider::simulation
