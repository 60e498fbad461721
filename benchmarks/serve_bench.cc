// serve_bench: what a user of a whole cluster gets, with and without drafts, in one run: a line of JSON a case.
//
//   bazel run -c opt //benchmarks:serve_bench -- [--workload chat] [--ranks 1] [--repeats 5] [--prompts 64]
//                                                [--max-tokens 64] [--concurrency 16] [--lookaheads auto]
//
// Workloads: `chat`, questions answered with the shipped draft model drafting; `copy`, texts that repeat themselves,
// with nobody drafting but the group's own n-gram source.
//
// Cases (draft off, lookahead auto, lookahead 4; concurrency 1 with a quarter of the prompts and 16 with all of them)
// take turns within each repeat, in an order of chance by seed, so that neither drift nor order favours one. `off`
// comes twice: its second ratio to the first is what noise alone does. Outputs are of many lengths (half to one and a
// half times --max-tokens), so that requests end and begin at all times as users' do. Ids are compared with those of
// `off`: a difference ends the run. --concurrency keeps to one of the two, `--lookaheads auto` leaves lookahead 4 out.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "tests/integration/cluster_fixture.h"

namespace outrider {
namespace {

struct Case {
  const char* name;
  bool draft;
  int lookahead;
  int concurrency;
  std::vector<double> tokens_per_second, first_token_ms;
  double round_trips = 0, round_trip_seconds = 0, waits = 0, wait_seconds = 0;
  uint64_t rounds = 0, plain_steps = 0, draft_tokens = 0, accepted = 0;
};

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

std::vector<v1::GenerateRequest> ChatRequests(int num_prompts) {
  static constexpr const char* kQuestions[] = {"What is the capital of France?",
                                               "Explain photosynthesis in simple terms.",
                                               "Write a short story about a fox.",
                                               "List five uses of a paper clip.",
                                               "How do I make pancakes?",
                                               "What is machine learning?",
                                               "Describe the water cycle.",
                                               "Give me tips for a job interview.",
                                               "Who was Marie Curie?",
                                               "Write a poem about the sea."};
  std::vector<v1::GenerateRequest> requests(num_prompts);
  for (int i = 0; i < num_prompts; ++i) {
    auto* message = requests[i].add_messages();
    message->set_role("user");
    message->set_content(std::string(kQuestions[i % 10]) + (i >= 10 ? " Be brief." : "") +
                         (i >= 20 ? " This is question " + std::to_string(i) + "." : ""));
  }
  return requests;
}

// A made-up record, twice and begun a third time: what a model does with logs, tables and code that it edits.
std::vector<v1::GenerateRequest> CopyRequests(int num_prompts) {
  static constexpr const char* kThings[] = {"river",  "lamp",   "violin", "copper",
                                            "garden", "ticket", "harbor", "winter"};
  std::vector<v1::GenerateRequest> requests(num_prompts);
  for (int i = 0; i < num_prompts; ++i) {
    std::string record;
    for (int line = 0; line < 8; ++line) {
      record += "- item " + std::to_string(100 * i + 7 * line) + ": the " + kThings[(i + 3 * line) % 8] + " and the " +
                kThings[(i + 5 * line + 1) % 8] + ", " + std::to_string(3 + line) + " pieces\n";
    }
    requests[i].set_prompt("Original:\n" + record + "\nExact copy:\n" + record + "\nExact copy:\n");
  }
  return requests;
}

const char* TextFlag(int argc, char** argv, const char* name, const char* fallback) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], name) == 0) return argv[i + 1];
  }
  return fallback;
}

int Flag(int argc, char** argv, const char* name, int fallback) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], name) == 0) return std::atoi(argv[i + 1]);
  }
  return fallback;
}

int Main(int argc, char** argv) {
  const int ranks = Flag(argc, argv, "--ranks", 1);
  const int repeats = Flag(argc, argv, "--repeats", 5);
  const int num_prompts = Flag(argc, argv, "--prompts", 64);
  const int max_tokens = Flag(argc, argv, "--max-tokens", 64);
  const int only_concurrency = Flag(argc, argv, "--concurrency", 0);
  const std::string lookaheads = TextFlag(argc, argv, "--lookaheads", "all");
  ClusterOptions options = TestCluster();
  options.model = TargetModelPath();
  options.max_model_len = 2048;
  options.tensor_parallel_size = ranks;
  if (options.model.empty()) {
    std::fprintf(stderr, "serve_bench: no target model; run deploy/setup.sh model\n");
    return 1;
  }
  const std::string workload = TextFlag(argc, argv, "--workload", "chat");
  const bool copies = workload == "copy";
  if (!copies && workload != "chat") {
    std::fprintf(stderr, "serve_bench: --workload '%s' is neither chat nor copy\n", workload.c_str());
    return 2;
  }
  if (copies) options.draft_model.clear();
  if ((only_concurrency != 0 && only_concurrency != 1 && only_concurrency != 16) ||
      (lookaheads != "all" && lookaheads != "auto")) {
    std::fprintf(stderr, "serve_bench: --concurrency is 1 or 16, --lookaheads is all or auto\n");
    return 2;
  }
  const auto cluster = StartCluster(options);
  if (cluster == nullptr) return 1;

  std::vector<v1::GenerateRequest> requests = copies ? CopyRequests(num_prompts) : ChatRequests(num_prompts);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].set_temperature(0);
    requests[i].set_max_tokens(max_tokens * static_cast<int>(50 + i * 37 % 101) / 100);
  }
  std::vector<Case> cases;
  for (const int concurrency : {1, 16}) {
    if (only_concurrency != 0 && concurrency != only_concurrency) continue;
    cases.push_back({"off", false, -1, concurrency});
    cases.push_back({"off again", false, -1, concurrency});
    cases.push_back({"auto", true, -1, concurrency});
    if (lookaheads == "all") cases.push_back({"lookahead 4", true, 4, concurrency});
  }
  std::vector<size_t> order(cases.size());
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 chance(1);
  const auto counted = [&](const char* name) { return std::max(0.0, MetricSum(cluster->metrics_address(), name)); };
  std::vector<std::vector<int32_t>> expected;
  for (int repeat = -1; repeat < repeats; ++repeat) {  // -1 warms up
    if (repeat >= 0) std::shuffle(order.begin(), order.end(), chance);
    for (const size_t i : order) {
      Case& c = cases[i];
      std::vector<v1::GenerateRequest> asked = requests;
      if (c.concurrency == 1 && !expected.empty()) asked.resize(std::max(1, num_prompts / 4));
      for (auto& request : asked) {
        request.set_draft(c.draft);
        request.set_lookahead(c.lookahead);
      }
      const double counts[] = {counted("outrider_draft_round_trip_seconds_count"),
                               counted("outrider_draft_round_trip_seconds_sum"), counted("outrider_draft_waits_total"),
                               counted("outrider_draft_wait_seconds_total")};
      const auto start = std::chrono::steady_clock::now();
      const auto outcomes = Generate(*cluster, asked, c.concurrency);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (repeat >= 0) {
        c.round_trips += counted("outrider_draft_round_trip_seconds_count") - counts[0];
        c.round_trip_seconds += counted("outrider_draft_round_trip_seconds_sum") - counts[1];
        c.waits += counted("outrider_draft_waits_total") - counts[2];
        c.wait_seconds += counted("outrider_draft_wait_seconds_total") - counts[3];
      }
      uint64_t tokens = 0;
      std::vector<std::vector<int32_t>> ids;
      for (const RequestOutcome& outcome : outcomes) {
        if (!outcome.status.ok()) {
          std::fprintf(stderr, "serve_bench: %s\n", std::string(outcome.status.message()).c_str());
          return 1;
        }
        const ChoiceOutcome& choice = outcome.choices[0];
        ids.push_back(choice.output_token_ids);
        tokens += choice.output_token_ids.size();
        if (repeat < 0) continue;
        c.first_token_ms.push_back(choice.finished.timing_ms().first_token());
        c.rounds += choice.finished.usage().rounds();
        c.plain_steps += choice.finished.usage().plain_steps();
        c.draft_tokens += choice.finished.usage().draft_tokens();
        c.accepted += choice.finished.usage().accepted_tokens();
      }
      if (expected.empty()) expected = ids;
      if (!std::equal(ids.begin(), ids.end(), expected.begin())) {
        std::fprintf(stderr, "serve_bench: ids of '%s' at concurrency %d differ from those without drafts\n", c.name,
                     c.concurrency);
        return 1;
      }
      std::fprintf(stderr, "serve_bench: repeat %d of %d (0 warms up): %s, %d at once: %.0f tokens/s\n", repeat + 1,
                   repeats, c.name, c.concurrency, static_cast<double>(tokens) / seconds);
      if (repeat >= 0) c.tokens_per_second.push_back(static_cast<double>(tokens) / seconds);
    }
  }
  for (const Case& c : cases) {
    const Case& off = *std::find_if(cases.begin(), cases.end(), [&](const Case& other) {
      return other.concurrency == c.concurrency;  // the first is `off`
    });
    std::vector<double> ratios;
    for (int i = 0; i < repeats; ++i) ratios.push_back(c.tokens_per_second[i] / off.tokens_per_second[i]);
    nlohmann::ordered_json json;
    json["bench"] = "serve";
    json["workload"] = workload;
    json["case"] = c.name;
    json["concurrency"] = c.concurrency;
    json["ranks"] = ranks;
    json["repeats"] = repeats;
    json["tokens_per_second"] = {{"median", Quantile(c.tokens_per_second, 0.5)},
                                 {"p10", Quantile(c.tokens_per_second, 0.1)},
                                 {"p90", Quantile(c.tokens_per_second, 0.9)}};
    json["ratio_to_off"] = {
        {"median", Quantile(ratios, 0.5)}, {"p10", Quantile(ratios, 0.1)}, {"p90", Quantile(ratios, 0.9)}};
    json["first_token_ms"] = {{"median", Quantile(c.first_token_ms, 0.5)}, {"p90", Quantile(c.first_token_ms, 0.9)}};
    json["rounds"] = c.rounds;
    json["plain_steps"] = c.plain_steps;
    json["draft_tokens"] = c.draft_tokens;
    json["accepted_tokens"] = c.accepted;
    if (c.rounds > 0) {
      json["tokens_a_round"] = 1 + static_cast<double>(c.accepted) / static_cast<double>(c.rounds);
    }
    if (c.round_trips > 0) {
      json["draft_round_trip_ms"] = {{"count", c.round_trips}, {"mean", 1e3 * c.round_trip_seconds / c.round_trips}};
      json["draft_wait_ms"] = {{"count", c.waits}, {"mean", 1e3 * c.wait_seconds / std::max(1.0, c.waits)}};
    }
    std::printf("%s\n", json.dump().c_str());
  }
  return 0;
}

}  // namespace
}  // namespace outrider

int main(int argc, char** argv) { return outrider::Main(argc, argv); }
