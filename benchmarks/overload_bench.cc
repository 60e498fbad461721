// overload_bench: what a cluster still gets done when it is asked for more than it can do: a line of JSON a case.
//
//   bazel run -c opt //benchmarks:overload_bench -- [--seconds 15] [--max-tokens 32] [--max-sequences 16] [--seed 1]
//
// First the peak: half as many clients again as the group runs sequences, so that somebody always waits, each with its
// next request as soon as the one before has ended. Then open loops: requests come at 1, 2 and 5 times the peak's rate
// at random times (Poisson, by the seed), whether or not those before have ended. Then the peak again: how it differs
// from the first is what the machine alone does. Outputs have --max-tokens in the mean, half to one and a half as many.
// Each request of the open loops has the same deadline, five times the peak's median latency. What ends in the first
// two seconds of a case, or after its last request was offered, is no goodput: the group fills up then, or works off
// what waits while nobody comes.
//
//   goodput    requests a second that ended as OK within their deadline; good_tokens are theirs, a second
//   refused    RESOURCE_EXHAUSTED or UNAVAILABLE, and not accepted by the router's ledger; refusal_ms is from the call
//              to its end, as the client sees it
//   given_up   accepted, and ended like that without a token: a deadline that could be made no longer
//   late       DEADLINE_EXCEEDED; cut: refused or lost after tokens had come; other: anything else
//
// Clients run on the processors of the cluster here, not as elsewhere on their own. Their threads have short slices
// (base/scheduling.h), so that what is measured is less their own wait for a processor.

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "base/scheduling.h"
#include "proto/inference.grpc.pb.h"
#include "tests/integration/cluster_fixture.h"

namespace outrider {
namespace {

using Clock = std::chrono::steady_clock;

struct Outcome {
  int code = 0;
  int num_tokens = 0;
  double ms = 0;
  bool has_retry_time = false;
  std::string request_id;
  Clock::time_point end;
};

double MsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

Outcome RunOne(v1::Inference::Stub& stub, const v1::GenerateRequest& request, double deadline_ms) {
  const auto start = Clock::now();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::microseconds(static_cast<int64_t>(1000 * deadline_ms)));
  const auto reader = stub.Generate(&context, request);
  v1::GenerateResponse response;
  Outcome outcome;
  while (reader->Read(&response)) outcome.num_tokens += response.delta().token_ids_size();
  outcome.code = reader->Finish().error_code();
  outcome.end = Clock::now();
  outcome.ms = MsSince(start);
  outcome.has_retry_time = context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms") > 0;
  const auto& metadata = context.GetServerInitialMetadata();
  if (const auto id = metadata.find("outrider-request-id"); id != metadata.end()) {
    outcome.request_id.assign(id->second.data(), id->second.size());
  }
  return outcome;
}

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

int Flag(int argc, char** argv, const char* name, int fallback) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], name) == 0) return std::atoi(argv[i + 1]);
  }
  return fallback;
}

// The ids that the router's ledger has as accepted.
std::set<std::string> Accepted(const std::string& request_log) {
  std::set<std::string> ids;
  std::ifstream lines(request_log);
  for (std::string line; std::getline(lines, line);) {
    const auto record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (record.is_object() && record.value("event", "") == "accepted") ids.insert(record.value("request_id", ""));
  }
  return ids;
}

// What of a case counts as its goodput: from when the group is full to when the last request is offered.
struct Window {
  Clock::time_point begin, end;
};

// Peak and goodput.
struct Rate {
  double requests_per_s = 0, tokens_per_s = 0;
};

nlohmann::ordered_json Report(const char* name, double offered_per_s, const Window& window, Rate* peak,
                              const std::vector<Outcome>& outcomes, const std::set<std::string>& accepted) {
  int num_good = 0, num_good_tokens = 0, num_late = 0, num_cut = 0, num_other = 0, num_without_retry_time = 0;
  std::vector<double> good_ms, refusal_ms, given_up_ms;
  for (const Outcome& outcome : outcomes) {
    const bool refused =
        outcome.code == grpc::StatusCode::RESOURCE_EXHAUSTED || outcome.code == grpc::StatusCode::UNAVAILABLE;
    if (outcome.code == 0) {
      if (outcome.end <= window.begin || outcome.end > window.end) continue;
      ++num_good;
      num_good_tokens += outcome.num_tokens;
      good_ms.push_back(outcome.ms);
    } else if (refused && outcome.num_tokens == 0) {
      (accepted.count(outcome.request_id) > 0 ? given_up_ms : refusal_ms).push_back(outcome.ms);
      num_without_retry_time += !outcome.has_retry_time;
    } else if (outcome.code == grpc::StatusCode::DEADLINE_EXCEEDED) {
      ++num_late;
    } else if (outcome.num_tokens > 0) {
      ++num_cut;
    } else {
      ++num_other;
    }
  }
  const double seconds = std::chrono::duration<double>(window.end - window.begin).count();
  const Rate good = {num_good / seconds, num_good_tokens / seconds};
  if (peak->requests_per_s == 0) *peak = good;
  return {
      {"case", name},
      {"offered_per_s", offered_per_s},
      {"requests", outcomes.size()},
      {"goodput_per_s", good.requests_per_s},
      {"goodput_of_peak", good.requests_per_s / peak->requests_per_s},
      {"good_tokens_per_s", good.tokens_per_s},
      {"good_tokens_of_peak", good.tokens_per_s / peak->tokens_per_s},
      {"good_ms_p50", Quantile(good_ms, 0.5)},
      {"good_ms_p99", Quantile(good_ms, 0.99)},
      {"refused", refusal_ms.size()},
      {"refused_after_10_ms", std::count_if(refusal_ms.begin(), refusal_ms.end(), [](double ms) { return ms > 10; })},
      {"refusal_ms_p50", Quantile(refusal_ms, 0.5)},
      {"refusal_ms_p90", Quantile(refusal_ms, 0.9)},
      {"refusal_ms_p99", Quantile(refusal_ms, 0.99)},
      {"refused_without_retry_time", num_without_retry_time},
      {"given_up", given_up_ms.size()},
      {"given_up_ms_p50", Quantile(given_up_ms, 0.5)},
      {"late", num_late},
      {"cut", num_cut},
      {"other", num_other}};
}

int Main(int argc, char** argv) {
  const int seconds = Flag(argc, argv, "--seconds", 15);
  const int max_tokens = Flag(argc, argv, "--max-tokens", 32);
  const int max_sequences = Flag(argc, argv, "--max-sequences", 16);
  const uint64_t seed = static_cast<uint64_t>(Flag(argc, argv, "--seed", 1));
  ClusterOptions options = TestCluster();
  options.model = TargetModelPath();
  options.draft_workers = 0;
  options.max_sequences = static_cast<uint32_t>(max_sequences);
  if (options.model.empty()) {
    std::fprintf(stderr, "overload_bench: no target model; run deploy/setup.sh model\n");
    return 1;
  }
  char request_log[] = "/tmp/overload-XXXXXX";
  const int log_file = ::mkstemp(request_log);
  if (log_file < 0) return 1;
  ::close(log_file);
  ::setenv("OUTRIDER_REQUEST_LOG", request_log, 1);
  const auto cluster = StartCluster(options);
  if (cluster == nullptr) return 1;
  UseShortSlices();  // not before: the cluster would inherit them
  const auto stub =
      v1::Inference::NewStub(grpc::CreateChannel(cluster->grpc_address(), grpc::InsecureChannelCredentials()));
  const auto request_of = [&](int index) {
    const int num_tokens = std::max(1, max_tokens / 2 + static_cast<int>(int64_t{index} * 7919 % (max_tokens + 1)));
    v1::GenerateRequest request = TestRequest(index % 64, /*greedy=*/true, num_tokens);
    request.set_draft(false);
    return request;
  };

  constexpr double kLongMs = 60'000;
  std::vector<Outcome> outcomes;
  std::mutex mu;
  std::atomic<int> next{0};
  constexpr auto kWarmUp = std::chrono::seconds(2);
  const auto window_of = [&](Clock::time_point begin) {
    return Window{begin + kWarmUp, begin + kWarmUp + std::chrono::seconds(seconds)};
  };
  const auto run_one = [&](double with_deadline_ms) {
    const Outcome outcome = RunOne(*stub, request_of(next++), with_deadline_ms);
    const std::lock_guard<std::mutex> lock(mu);
    outcomes.push_back(outcome);
  };
  Rate peak;
  const auto closed_loop = [&](const char* name) {
    outcomes.clear();
    const Window window = window_of(Clock::now());
    std::vector<std::thread> clients;
    for (int i = 0; i < max_sequences * 3 / 2; ++i) {
      clients.emplace_back([&] {
        while (Clock::now() < window.end) run_one(kLongMs);
      });
    }
    for (std::thread& client : clients) client.join();
    return Report(name, 0, window, &peak, outcomes, {});
  };
  auto report = closed_loop("peak");
  if (peak.requests_per_s == 0) {
    std::fprintf(stderr, "overload_bench: no request ended in %d s: --seconds is too short\n", seconds);
    return 1;
  }
  const double deadline_ms = 5 * report["good_ms_p50"].get<double>();
  report["deadline_ms"] = deadline_ms;
  std::printf("%s\n", report.dump().c_str());
  std::fflush(stdout);

  std::mt19937_64 random(seed);
  for (const auto& [name, factor] : {std::pair{"1x", 1.0}, {"2x", 2.0}, {"5x", 5.0}}) {
    outcomes.clear();
    const double rate = factor * peak.requests_per_s;
    std::exponential_distribution<double> gap(rate);
    std::vector<std::thread> clients;
    auto next_at = Clock::now();
    const Window window = window_of(next_at);
    while (true) {
      next_at += std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(gap(random)));
      if (next_at > window.end) break;
      std::this_thread::sleep_until(next_at);
      clients.emplace_back([&] { run_one(deadline_ms); });
    }
    for (std::thread& client : clients) client.join();
    std::printf("%s\n", Report(name, rate, window, &peak, outcomes, Accepted(request_log)).dump().c_str());
    std::fflush(stdout);
  }
  std::printf("%s\n", closed_loop("peak again").dump().c_str());
  std::remove(request_log);
  return 0;
}

}  // namespace
}  // namespace outrider

int main(int argc, char** argv) { return outrider::Main(argc, argv); }
