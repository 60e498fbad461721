// Time of one choice of a group, by the least load and with a prompt of 32 blocks whose beginning is known or not; and
// of what a call costs that is recorded (docs/tracing.md).
//
//   bazel run -c opt //router:routing_bench
#include <benchmark/benchmark.h>

#include <chrono>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "router/prefix_affinity_policy.h"
#include "router/request_trace.h"
#include "tracing/tracer.h"

namespace outrider::router {
namespace {

ClusterSnapshot Cluster(int num_groups) {
  std::mt19937_64 random(1);
  ClusterSnapshot cluster;
  for (int i = 0; i < num_groups; ++i) {
    const int64_t num_tokens = static_cast<int64_t>(random() % 100'000);
    cluster.groups.push_back({.id = absl::StrCat("group-", 1000 + i),
                              .incarnation = 1,
                              .address = absl::StrCat("10.0.0.", i, ":9000"),
                              .model = {"SmolLM2 135M Instruct", "a1ce5a26f97420cc3a7fe82c20fbcb9a"},
                              .numerics_id = "c8ee9d97a90bd6e14f6d78b2ecc89f1c",
                              .max_model_len = 8192,
                              .max_sequences = 64,
                              .serving = true,
                              .connected = true,
                              .life = static_cast<uint32_t>(i + 1),
                              .own = {.num_lanes = static_cast<int64_t>(random() % 64), .num_tokens = num_tokens}});
  }
  cluster.Rebuild();
  return cluster;
}

RoutingNeeds Needs(size_t num_blocks) {
  RoutingNeeds needs{.model = {"SmolLM2 135M Instruct", "a1ce5a26f97420cc3a7fe82c20fbcb9a"},
                     .numerics_id = "c8ee9d97a90bd6e14f6d78b2ecc89f1c",
                     .num_lanes = 1,
                     .num_context_tokens = 4000,
                     .num_tokens = 4000};
  std::mt19937_64 random(2);
  for (size_t i = 0; i < num_blocks; ++i) needs.prefix_chain.push_back(random());
  return needs;
}

void BM_LeastLoaded(benchmark::State& state) {
  const ClusterSnapshot cluster = Cluster(static_cast<int>(state.range(0)));
  const RoutingNeeds needs = Needs(0);
  const LeastLoadedPolicy policy;
  for (auto _ : state) benchmark::DoNotOptimize(policy.Choose(cluster, needs));
}
BENCHMARK(BM_LeastLoaded)->Arg(1)->Arg(16)->Arg(256)->Arg(1024)->Unit(benchmark::kNanosecond);

void BM_PrefixAffinity(benchmark::State& state) {
  const ClusterSnapshot cluster = Cluster(static_cast<int>(state.range(0)));
  const RoutingNeeds needs = Needs(32);
  PrefixIndex index;
  std::mt19937_64 random(3);
  for (size_t i = 0; i < PrefixIndex::kMaxBlocks; ++i) index.Learn({{random()}}, 1);
  if (state.range(1) != 0) {
    // Everyone who holds it carries too much: all that may be looked at is.
    for (uint32_t life = 1; life <= 4; ++life) index.Learn(needs.prefix_chain, life);
  }
  const PrefixAffinityPolicy policy(&index, /*load_tokens=*/1);
  for (auto _ : state) benchmark::DoNotOptimize(policy.Choose(cluster, needs));
}
BENCHMARK(BM_PrefixAffinity)->ArgsProduct({{16, 256}, {0, 1}})->Unit(benchmark::kNanosecond);

class Discard final : public SpanSink {
 public:
  void Add(std::vector<TraceSpan> spans) override { benchmark::DoNotOptimize(spans.data()); }
};

void BM_RecordCall(benchmark::State& state) {
  Tracer tracer(std::make_unique<Discard>(), 1);
  ResolvedRequest request;
  GroupRef group;
  group.group_id = "group-0";
  group.numerics_id = "c8ee9d97a90bd6e14f6d78b2ecc89f1c";
  for (auto _ : state) {
    const TimePoint now = std::chrono::steady_clock::now();
    RequestTrace trace(&tracer, tracer.Enter(std::nullopt), /*is_chat=*/true, now,
                       WallClock(now, std::chrono::system_clock::now()));
    trace.OnQueued(now);
    benchmark::DoNotOptimize(trace.OnAttempt(1, 1, group, now));
    trace.OnFirstToken(std::chrono::milliseconds(1));
    trace.OnChoiceEnded({});
    trace.OnAttemptEnded(now);
    trace.End({.request_name = "req-0123456789abcdef-1", .model = "SmolLM2 135M Instruct", .request = &request}, now);
  }
}
BENCHMARK(BM_RecordCall)->Unit(benchmark::kNanosecond);

}  // namespace
}  // namespace outrider::router

BENCHMARK_MAIN();
