#include "tests/simulation/simulation.h"

#include <google/protobuf/text_format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "router/testing/byte_tokenizer.h"
#include "tests/simulation/fault_injector.h"
#include "tests/simulation/simulated_client.h"

namespace outrider::simulation {
namespace {

// Processes come up before the first request.
constexpr Duration kWarmUp = std::chrono::milliseconds(900);
// After the last request ended: leases and lost peers' requests run out, then nothing may be held.
constexpr Duration kIdleAfter = std::chrono::seconds(9);
// Far more than any scenario needs: a loop that does not end.
constexpr int64_t kEventsMax = 2'000'000;
constexpr int kMaxModelLen = 96;
constexpr int kBlockSize = 4;

// If the code under simulation breaks an invariant of its own, the process ends there; say which run it was.
char running[256];
void TellRunning(int) {
  const ssize_t written = ::write(STDERR_FILENO, running, std::strlen(running));
  (void)written;
}

const text::Tokenizer* Letters() {
  static const text::Tokenizer* const tokenizer = router::MakeByteTokenizer().release();
  return tokenizer;
}

class Simulation {
 public:
  explicit Simulation(const SimulationOptions& options)
      : scenario_(*options.scenario),
        world_(options.seed, options.sabotage, NetworkOptions(options), options.trace),
        random_(world_.random.Fork(2)),
        faults_(world_, cluster_, world_.random.Fork(3)) {}

  SimulationResult Run() {
    Build();
    start_ = world_.queue.now() + kWarmUp;
    AddWorkload();
    faults_.Plan(scenario_, start_);
    RunUntilIdle();
    SimulationResult result;
    result.failure = world_.failure;
    result.trace_hash = world_.trace.hash();
    result.num_events = world_.queue.num_events();
    result.simulated_seconds = ToMillis(world_.queue.now() - TimePoint{}) / 1000;
    result.counts = Counts();
    return result;
  }

 private:
  static Network::Options NetworkOptions(const SimulationOptions& options) {
    const Scenario& scenario = *options.scenario;
    Network::Options network{.call_loss = scenario.call_loss(),
                             .call_duplicate = scenario.call_duplicate(),
                             .call_delay_ms_max = scenario.call_delay_ms_max()};
    if (scenario.has_delay_ms()) {
      network.delay_ms_min = scenario.delay_ms().min();
      network.delay_ms_max = scenario.delay_ms().max();
    }
    return network;
  }

  double Draw(bool has, const Range& range, double min, double max) {
    const double low = has ? range.min() : min;
    const double high = has ? range.max() : max;
    return low + (high - low) * random_.Unit();
  }
  int DrawInt(bool has, const Range& range, int min, int max) {
    return has ? random_.Between(static_cast<int>(range.min()), static_cast<int>(range.max()))
               : random_.Between(min, max);
  }

  void Build() {
    SimulatedRouter::Options router;
    router.queue.admission.max_queued_requests = static_cast<int>(scenario_.max_queued_requests());
    router.queue.admission.queue_timeout = FromMillis(scenario_.queue_timeout_ms());
    router.queue.admission.replay_wait = FromMillis(scenario_.replay_wait_ms());
    router.queue.retry_budget.burst = scenario_.replay_burst();
    router.queue.retry_budget.per_second = scenario_.replays_per_second();
    router.max_stream_buffer_bytes = scenario_.max_stream_buffer_bytes();
    router.tokenizer = Letters();
    router.lease_slack += FromMillis(scenario_.call_delay_ms_max());
    router.queue.registry.draft_workers_per_group = random_.Between(1, 2);
    router_ = std::make_unique<SimulatedRouter>(world_, router);
    cluster_.router = router_.get();
    router_process_ = &router_->process();
    for (uint32_t i = 0; i < scenario_.groups(); ++i) AddTarget(static_cast<int>(i));
    for (uint32_t i = 0; i < scenario_.drafts(); ++i) AddDraft(static_cast<int>(i));
    clients_process_ = &world_.AddProcess("clients", [] {});
    cluster_.clients = clients_process_;
    world_.Start(*clients_process_);
    router_->supervision().StartNow();
    for (auto& target : cluster_.targets) target->supervision().StartNow();
    for (auto& draft : cluster_.drafts) draft->supervision().StartNow();
  }

  void AddTarget(int index) {
    SimulatedTarget::Options target;
    target.id = absl::StrCat("group-", index);
    target.numerics_id = scenario_.distinct_numerics() ? absl::StrCat("exact-", index) : "exact";
    target.num_ranks = static_cast<int>(scenario_.ranks());
    target.max_buffered_tokens = static_cast<int>(scenario_.max_buffered_tokens());
    target.model.depth = random_.Below(2);
    target.model.block_size = kBlockSize;
    target.model.num_blocks = DrawInt(scenario_.has_kv_blocks(), scenario_.kv_blocks(), 64, 96);
    target.model.salt = SaltOf(target.numerics_id);
    target.model.step_ms = Draw(scenario_.has_step_ms(), scenario_.step_ms(), 2, 8);
    target.model.sabotage = world_.sabotage;
    SchedulerOptions& scheduler = target.engine.scheduler;
    scheduler.vocab_size = kVocabSize;
    scheduler.max_model_len = kMaxModelLen;
    scheduler.num_blocks = target.model.num_blocks;
    scheduler.block_size = kBlockSize;
    scheduler.prefix_cache = random_.Chance(0.7);
    scheduler.max_sequences = DrawInt(scenario_.has_max_sequences(), scenario_.max_sequences(), 4, 8);
    scheduler.max_waiting_sequences = 32;
    scheduler.max_step_tokens = random_.Chance(0.5) ? 32 : 128;
    target.engine.drafts.vocab_size = kVocabSize;
    target.engine.drafts.lookahead = random_.Chance(0.5) ? Request::kAutoLookahead : random_.Between(1, 6);
    target.engine.drafts.draft_wait_ratio = random_.Chance(0.5) ? 0.5 : 2.0;
    target.engine.ngram_draft = random_.Chance(0.5);
    cluster_.targets.push_back(std::make_unique<SimulatedTarget>(world_, router_process_, std::move(target)));
  }

  void AddDraft(int index) {
    SimulatedDraft::Options draft;
    draft.id = absl::StrCat("draft-", index);
    draft.drafter = {.vocab_size = kVocabSize,
                     .max_model_len = kMaxModelLen,
                     .max_sequences = random_.Between(8, 32),
                     .block_size = kBlockSize,
                     .num_blocks = static_cast<int>(scenario_.draft_kv_blocks()),
                     .max_step_tokens = 64,
                     .lease = std::chrono::seconds(5),
                     .run_ahead = random_.Chance(0.4)};
    draft.model = {.block_size = kBlockSize,
                   .num_blocks = static_cast<int>(scenario_.draft_kv_blocks()),
                   .salt = SaltOf("exact"),
                   .disagreement = Draw(scenario_.has_draft_disagreement(), scenario_.draft_disagreement(), 0.1, 0.5),
                   .step_ms = random_.Within(0.2, 2).count() * 1e-6,
                   .row_ms = 0.02};
    cluster_.drafts.push_back(std::make_unique<SimulatedDraft>(world_, router_process_, std::move(draft)));
  }

  void AddWorkload() {
    const int count = DrawInt(scenario_.has_requests(), scenario_.requests(), 20, 30);
    TimePoint when = start_;
    for (int i = 0; i < count; ++i) {
      when += FromMillis(Draw(scenario_.has_arrival_ms(), scenario_.arrival_ms(), 5, 60));
      clients_.push_back(
          std::make_unique<SimulatedClient>(world_, *clients_process_, *router_process_, i, MakeClient(when)));
    }
    last_arrival_ = when;
  }

  SimulatedClient::Options MakeClient(TimePoint when) {
    SimulatedClient::Options client;
    client.start = when;
    v1::GenerateRequest& request = client.request;
    // Prompts are prefixes of few texts, so that they are found again.
    const int text = random_.Below(3);
    const int num_prompt_tokens = std::max(1, DrawInt(scenario_.has_prompt_tokens(), scenario_.prompt_tokens(), 2, 40));
    for (int i = 0; i < num_prompt_tokens; ++i) request.add_prompt_token_ids('a' + (text + i * 7) % 26);
    const int num_left = kMaxModelLen - num_prompt_tokens;
    const int max_tokens = std::clamp(DrawInt(scenario_.has_max_tokens(), scenario_.max_tokens(), 1, 32), 1, num_left);
    request.set_max_tokens(static_cast<uint32_t>(max_tokens));
    if (random_.Chance(0.3)) request.set_min_tokens(static_cast<uint32_t>(random_.Between(0, max_tokens)));
    if (random_.Chance(0.8)) request.set_seed(static_cast<uint64_t>(random_.Below(1000)));
    if (random_.Chance(0.4)) request.set_repetition_penalty(1.25f);
    if (random_.Chance(0.3)) request.add_stop(random_.Chance(0.5) ? "ab" : "fad");
    if (random_.Chance(0.15)) request.add_stop("b");
    if (random_.Chance(0.2)) request.add_stop_token_ids('c');
    if (random_.Chance(0.2)) request.set_ignore_eos(true);
    if (random_.Chance(0.2)) request.set_num_logprobs(0);
    if (random_.Chance(0.15)) request.set_draft(false);
    if (random_.Chance(0.3)) request.set_lookahead(random_.Below(9));
    if (random_.Chance(scenario_.priorities())) request.set_priority(random_.Between(-4, 4));
    request.set_n(random_.Chance(scenario_.lanes()) ? static_cast<uint32_t>(random_.Between(2, 4)) : 1);
    if (random_.Chance(scenario_.slow_clients())) {
      client.read_every = FromMillis(Draw(scenario_.has_slow_ms(), scenario_.slow_ms(), 50, 400));
    }
    if (random_.Chance(scenario_.vanishing_clients())) client.vanish_after = random_.Within(0, 400);
    if (random_.Chance(scenario_.deadlines())) {
      client.deadline = FromMillis(Draw(scenario_.has_deadline_ms(), scenario_.deadline_ms(), 20, 2000));
    }
    return client;
  }

  bool AllEnded() const {
    return std::all_of(clients_.begin(), clients_.end(),
                       [](const auto& client) { return client->outcome() != Outcome::kOpen; });
  }

  bool AllServe() const {
    return router_->queue() != nullptr &&
           std::all_of(cluster_.targets.begin(), cluster_.targets.end(),
                       [](const auto& target) { return target->engine() != nullptr; }) &&
           std::all_of(cluster_.drafts.begin(), cluster_.drafts.end(),
                       [](const auto& draft) { return draft->drafter() != nullptr; });
  }

  void RunUntilIdle() {
    const Duration settle = FromMillis(scenario_.settle_ms());
    size_t num_ended = 0;  // of the first clients, to look at few
    std::optional<TimePoint> idle_at;
    while (!world_.failure.has_value()) {
      if (!world_.queue.RunNext()) return world_.Fail("nothing is left to happen");
      faults_.AfterEvent();
      while (num_ended < clients_.size() && clients_[num_ended]->outcome() != Outcome::kOpen) ++num_ended;
      const TimePoint now = world_.queue.now();
      if (num_ended == clients_.size() && faults_.done() && (idle_at.has_value() || AllServe())) {
        if (!idle_at.has_value()) idle_at = now + kIdleAfter;
        if (now >= *idle_at) break;
      } else {
        const TimePoint last = std::max(last_arrival_, faults_.last_end());
        if (faults_.done() && now > last + settle) {
          const std::string what = num_ended < clients_.size() ? absl::StrCat("client ", num_ended, " has not ended ")
                                                               : std::string("not every process serves ");
          world_.Fail(what, scenario_.settle_ms(), " ms after the last fault");
        }
      }
      if (world_.queue.num_events() > kEventsMax) world_.Fail("more than ", kEventsMax, " events");
    }
    if (!world_.failure.has_value()) CheckIdle();
  }

  void CheckIdle() {
    router_->CheckIdle();
    for (const auto& target : cluster_.targets) {
      const TargetEngine* const engine = target->engine();
      if (engine == nullptr) {
        world_.Fail(target->id(), " does not serve again");
        continue;
      }
      const Scheduler& scheduler = engine->scheduler();
      if (scheduler.num_running() + scheduler.num_waiting() > 0) {
        world_.Fail(target->id(), " still has ", scheduler.num_running(), " sequences running and ",
                    scheduler.num_waiting(), " waiting, of no client");
      }
      if (scheduler.kv().num_used_blocks() != 0) {
        world_.Fail(target->id(), " still holds ", scheduler.kv().num_used_blocks(), " KV blocks");
      }
    }
    for (const auto& draft : cluster_.drafts) {
      if (draft->drafter() == nullptr) {
        world_.Fail(draft->process().name, " does not serve again");
      } else if (draft->drafter()->load().num_sequences != 0) {
        world_.Fail(draft->process().name, " still holds ", draft->drafter()->load().num_sequences, " sequences");
      }
    }
    CheckLedger();
  }

  // Client side and router side, joined by the name of the request.
  void CheckLedger() {
    for (const auto& client : clients_) {
      const absl::Status& status = client->status();
      switch (client->outcome()) {
        case Outcome::kOpen:
          world_.Fail("client ", client->index(), " has no end");
          break;
        case Outcome::kRetriable:
        case Outcome::kPermanent: {
          std::string code = absl::StatusCodeToString(status.code());
          if (absl::StrContains(status.message(), "is quarantined")) code = "QUARANTINED";
          const auto& allowed = scenario_.allowed_errors();
          if (std::find(allowed.begin(), allowed.end(), code) == allowed.end()) {
            world_.Fail("client ", client->index(), " got ", status.ToString(), ", which this scenario does not allow");
          }
          break;
        }
        default:
          break;
      }
      const auto known = router_->ended().find(client->request_name());
      if (known == router_->ended().end()) continue;
      const bool complete = client->outcome() == Outcome::kComplete;
      if (complete && !known->second.ok()) {
        world_.Fail("client ", client->index(), " has all of its answer, the router ended the call as ",
                    known->second.ToString());
      }
    }
  }

  std::map<std::string, int64_t> Counts() const {
    std::map<std::string, int64_t> counts;
    constexpr std::array<const char*, 6> kNames = {"open",      "complete",  "retriable",
                                                   "permanent", "cancelled", "deadline"};
    for (const auto& client : clients_) {
      ++counts["accepted"];
      ++counts[kNames[static_cast<int>(client->outcome())]];
      counts["tokens"] += client->num_tokens();
      counts["accepted_drafts"] += client->num_accepted();
    }
    const SimulatedRouter::Totals& router = router_->totals();
    counts["replays"] = router.num_replays;
    counts["refusals"] = router.num_refusals;
    counts["hand_overs"] = router.num_hand_overs;
    counts["cuts"] = router.num_cuts;
    counts["stale_events"] = router.num_stale_events;
    counts["queue_timeouts"] = router.num_queue_timeouts;
    counts["faults"] = faults_.num_faults();
    counts["restarts"] = router_->supervision().num_starts() - 1;
    for (const auto& target : cluster_.targets) {
      const SimulatedTarget::Totals totals = target->totals();
      counts["preemptions"] += totals.num_preemptions;
      counts["rounds"] += totals.num_rounds;
      counts["steps"] += totals.num_steps;
      counts["restarts"] += target->supervision().num_starts() - 1;
    }
    for (const auto& draft : cluster_.drafts) {
      counts["lies"] += draft->num_lies();
      counts["restarts"] += draft->supervision().num_starts() - 1;
    }
    return counts;
  }

  const Scenario& scenario_;
  World world_;
  Random random_;
  Cluster cluster_;
  FaultInjector faults_;
  std::unique_ptr<SimulatedRouter> router_;
  Process* router_process_ = nullptr;
  Process* clients_process_ = nullptr;
  std::vector<std::unique_ptr<SimulatedClient>> clients_;
  TimePoint start_{};
  TimePoint last_arrival_{};
};

}  // namespace

SimulationResult Simulate(const SimulationOptions& options) {
  CHECK(options.scenario != nullptr);
  std::snprintf(running, sizeof(running), "seed %llu of scenario %s ends here; again with:\n  %s\n",
                static_cast<unsigned long long>(options.seed), options.scenario->name().c_str(),
                ReproductionOf(options.seed, *options.scenario, options.sabotage).c_str());
  std::signal(SIGABRT, TellRunning);
  return Simulation(options).Run();
}

std::string ReproductionOf(uint64_t seed, const Scenario& scenario, Sabotage sabotage) {
  std::string line = absl::StrCat("bazel run //tests/simulation -- --seed=", seed, " --scenario=", scenario.name());
  for (const NamedSabotage& named : kSabotages) {
    if (sabotage == named.sabotage) absl::StrAppend(&line, " --sabotage=", named.name);
  }
  return line;
}

absl::StatusOr<std::vector<Scenario>> LoadScenarios() {
  const std::filesystem::path folder = "tests/simulation/scenarios";
  std::vector<Scenario> scenarios;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".textproto") continue;
    std::ifstream file(entry.path());
    std::stringstream text;
    text << file.rdbuf();
    Scenario scenario;
    if (!google::protobuf::TextFormat::ParseFromString(text.str(), &scenario)) {
      return absl::InvalidArgumentError(absl::StrCat(entry.path().string(), " is not a Scenario"));
    }
    scenario.set_name(entry.path().stem().string());
    scenarios.push_back(std::move(scenario));
  }
  if (scenarios.empty()) {
    return absl::NotFoundError(absl::StrCat("no scenarios in ", folder.string(), "; run in the workspace's root"));
  }
  std::sort(scenarios.begin(), scenarios.end(),
            [](const Scenario& a, const Scenario& b) { return a.name() < b.name(); });
  return scenarios;
}

}  // namespace outrider::simulation
