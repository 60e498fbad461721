// overload_bench: what a cluster still gets done when it is asked for more than it can do: a line of JSON a case.
//
//   bazel run -c opt //benchmarks:overload_bench -- [--seconds 15] [--max-tokens 32] [--max-sequences 16] [--seed 1]
//
// First the peak: half as many clients again as the group runs sequences, so that somebody always waits, each with its
// next request as soon as the one before has ended. Then open loops: requests come at 1, 2 and 5 times the peak's rate
// at random times (Poisson, by the seed), whether or not those before have ended. Outputs have --max-tokens in the
// mean, half to one and a half as many. Each request has the same deadline, five times the peak's median latency.
//
//   goodput    requests a second that ended as OK within their deadline
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

// `seconds` is how long requests were offered.
nlohmann::ordered_json Report(const char* name, double rate, double seconds, double peak,
                              const std::vector<Outcome>& outcomes, const std::set<std::string>& accepted) {
  int num_good = 0, num_late = 0, num_cut = 0, num_other = 0, num_without_retry_time = 0;
  std::vector<double> good_ms, refusal_ms, given_up_ms;
  for (const Outcome& outcome : outcomes) {
    const bool refused =
        outcome.code == grpc::StatusCode::RESOURCE_EXHAUSTED || outcome.code == grpc::StatusCode::UNAVAILABLE;
    if (outcome.code == 0) {
      ++num_good;
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
  const double goodput = num_good / seconds;
  return {
      {"case", name},
      {"offered_per_s", rate},
      {"requests", outcomes.size()},
      {"goodput_per_s", goodput},
      {"goodput_of_peak", peak > 0 ? goodput / peak : 1},
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
  // The peak; what ends in the first seconds only warms up.
  constexpr double kWarmUpSeconds = 2;
  const auto after = [begin = Clock::now()](double at) {
    return begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(at));
  };
  std::vector<std::thread> closed_loop;
  for (int i = 0; i < max_sequences * 3 / 2; ++i) {
    closed_loop.emplace_back([&] {
      while (Clock::now() < after(kWarmUpSeconds + seconds)) {
        const Outcome outcome = RunOne(*stub, request_of(next++), kLongMs);
        const std::lock_guard<std::mutex> lock(mu);
        if (outcome.end > after(kWarmUpSeconds) && outcome.end <= after(kWarmUpSeconds + seconds)) {
          outcomes.push_back(outcome);
        }
      }
    });
  }
  for (std::thread& client : closed_loop) client.join();
  const double peak = static_cast<double>(outcomes.size()) / seconds;
  std::vector<double> latencies;
  for (const Outcome& outcome : outcomes) latencies.push_back(outcome.ms);
  const double deadline_ms = 5 * Quantile(latencies, 0.5);
  auto report = Report("peak", peak, seconds, peak, outcomes, {});
  report["deadline_ms"] = deadline_ms;
  std::printf("%s\n", report.dump().c_str());
  std::fflush(stdout);

  std::mt19937_64 random(seed);
  for (const auto& [name, factor] : {std::pair{"1x", 1.0}, {"2x", 2.0}, {"5x", 5.0}}) {
    outcomes.clear();
    const double rate = factor * peak;
    std::exponential_distribution<double> gap(rate);
    std::vector<std::thread> clients;
    const auto begin = Clock::now();
    for (double at = gap(random); at < seconds; at += gap(random)) {
      std::this_thread::sleep_until(begin +
                                    std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(at)));
      clients.emplace_back([&] {
        const Outcome outcome = RunOne(*stub, request_of(next++), deadline_ms);
        const std::lock_guard<std::mutex> lock(mu);
        outcomes.push_back(outcome);
      });
    }
    for (std::thread& client : clients) client.join();
    std::printf("%s\n", Report(name, rate, seconds, peak, outcomes, Accepted(request_log)).dump().c_str());
    std::fflush(stdout);
  }
  std::remove(request_log);
  return 0;
}

}  // namespace
}  // namespace outrider

int main(int argc, char** argv) { return outrider::Main(argc, argv); }
