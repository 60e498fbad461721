#include "cli/cluster_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace outrider {
namespace {

ClusterOptions Options() {
  ClusterOptions options;
  options.model = "target.gguf";
  options.draft_model = "draft.gguf";
  options.tensor_parallel_size = 2;
  return options;
}

bool Has(const ProcessPlan& process, const std::string& arg) {
  return std::find(process.args.begin(), process.args.end(), arg) != process.args.end();
}

TEST(ClusterPlan, RunsARouterTheRanksOfEachGroupAsAUnitAndDraftWorkers) {
  ClusterOptions options = Options();
  options.groups = 2;
  options.draft_workers = 3;
  const auto units = PlanCluster(options, "/run/x", 8);
  ASSERT_EQ(units.size(), 6);
  EXPECT_EQ(units[0].name, "router");
  EXPECT_EQ(units[1].name, "group-0");
  ASSERT_EQ(units[2].processes.size(), 2);
  EXPECT_EQ(units[2].processes[1].name, "group-1/1");
  EXPECT_TRUE(Has(units[2].processes[1], "--leader-address=unix:/run/x/group-1-0.sock"));
  EXPECT_TRUE(Has(units[2].processes[0], "--router-address=unix:/run/x/router.sock"));
  EXPECT_FALSE(Has(units[2].processes[1], "--router-address=unix:/run/x/router.sock"));
  EXPECT_EQ(units[5].name, "draft-2");
  std::set<std::string> sockets;
  for (const auto& unit : units) {
    for (const auto& process : unit.processes) {
      for (const auto& arg : process.args) {
        if (arg.rfind("--host=unix:", 0) == 0) {
          EXPECT_TRUE(sockets.insert(arg).second) << arg;
        }
      }
    }
  }
  EXPECT_EQ(sockets.size(), 7);
}

TEST(ClusterPlan, HasNoDraftWorkerWithoutADraftModel) {
  ClusterOptions options = Options();
  options.draft_model.clear();
  EXPECT_EQ(PlanCluster(options, "/run/x", 2).size(), 2);
}

TEST(ClusterPlan, LetsNoDraftWorkerRunAheadOnCoresItShares) {
  ClusterOptions options = Options();
  const auto holds = [&](const std::string& arg) {
    const std::vector<std::string> args = PlanCluster(options, "/run/x", 2).back().processes[0].args;
    return std::find(args.begin(), args.end(), arg) != args.end();
  };
  EXPECT_TRUE(holds("--run-ahead=off"));
}

TEST(ClusterPlan, GivesGroupsThenDraftWorkersGpusOfTheirOwnAsFarAsThereAreAny) {
  ClusterOptions options = Options();
  options.groups = 2;
  options.draft_workers = 2;
  const auto first_of = [&](uint32_t num_gpus, size_t unit) {
    return PlanCluster(options, "/run/x", 8, num_gpus)[unit].processes[0];
  };
  EXPECT_TRUE(Has(first_of(8, 1), "--first-gpu=0"));
  EXPECT_TRUE(Has(first_of(8, 2), "--first-gpu=2"));
  EXPECT_TRUE(Has(first_of(8, 3), "--gpu=4"));
  EXPECT_TRUE(Has(first_of(8, 4), "--gpu=5"));
  EXPECT_TRUE(Has(first_of(8, 4), "--run-ahead=on"));
  EXPECT_TRUE(Has(first_of(5, 3), "--run-ahead=on"));
  EXPECT_TRUE(Has(first_of(5, 4), "--gpu=0"));
  EXPECT_TRUE(Has(first_of(5, 4), "--run-ahead=off"));  // the GPU is the first group's too
  options.device = "cpu";
  EXPECT_TRUE(Has(first_of(8, 3), "--run-ahead=off"));
}

TEST(ClusterPlan, TellsDraftWorkersWhatToReplay) {
  ClusterOptions options = Options();
  options.draft_replay = "/tmp/outputs.jsonl";
  options.draft_acceptance = 0.8;
  const ProcessPlan draft = PlanCluster(options, "/run/x", 2).back().processes[0];
  EXPECT_TRUE(Has(draft, "--replay=/tmp/outputs.jsonl"));
  EXPECT_TRUE(Has(draft, "--replay-acceptance=0.8"));
  options.draft_acceptance = 1.2;
  EXPECT_FALSE(Validate(options).ok());
}

TEST(ClusterPlan, TellsTheRouterLeadersAndDraftWorkersWhereTracesGo) {
  ClusterOptions options = Options();
  for (const auto& unit : PlanCluster(options, "/run/x", 2)) {
    for (const auto& process : unit.processes) {
      for (const auto& arg : process.args) EXPECT_EQ(arg.find("--otlp"), std::string::npos);
    }
  }
  options.otlp_endpoint = "collector:4317";
  options.otlp_sample_ratio = 0.5;
  const auto units = PlanCluster(options, "/run/x", 2);
  EXPECT_TRUE(Has(units[0].processes[0], "--otlp-endpoint=collector:4317"));
  EXPECT_TRUE(Has(units[0].processes[0], "--otlp-sample-ratio=0.5"));
  EXPECT_TRUE(Has(units[1].processes[0], "--otlp-endpoint=collector:4317"));
  EXPECT_FALSE(Has(units[1].processes[1], "--otlp-endpoint=collector:4317"));
  EXPECT_TRUE(Has(units.back().processes[0], "--otlp-endpoint=collector:4317"));
}

TEST(ClusterPlan, DividesTheMachinesThreads) {
  ClusterOptions options = Options();
  options.threads = 8;
  EXPECT_EQ(DivideThreads(options, 64).per_rank, 4);
  options.groups = 8;
  EXPECT_EQ(DivideThreads(options, 64).per_rank, 1);
  options.threads = 0;
  EXPECT_EQ(DivideThreads(options, 64).per_rank, 4);
}

TEST(ClusterPlan, NamesTheFlagThatIsWrong) {
  const auto message = [](void (*change)(ClusterOptions&)) {
    ClusterOptions options = Options();
    change(options);
    return std::string(Validate(options).message());
  };
  EXPECT_EQ(message([](ClusterOptions&) {}), "");
  EXPECT_NE(message([](ClusterOptions& o) { o.model.clear(); }).find("no model"), std::string::npos);
  EXPECT_NE(message([](ClusterOptions& o) { o.tensor_parallel_size = 0; }).find("--tensor-parallel-size 0"),
            std::string::npos);
  EXPECT_NE(message([](ClusterOptions& o) { o.grpc_port = 65536; }).find("--grpc-port 65536"), std::string::npos);
  EXPECT_NE(message([](ClusterOptions& o) { o.lookahead = "33"; }).find("--lookahead '33'"), std::string::npos);
  EXPECT_NE(message([](ClusterOptions& o) { o.gpu_memory_utilization = 0; }).find("--gpu-memory-utilization is 0"),
            std::string::npos);
  EXPECT_NE(message([](ClusterOptions& o) { o.otlp_sample_ratio = 2; }).find("--otlp-sample-ratio is 2"),
            std::string::npos);
  EXPECT_NE(message([](ClusterOptions& o) { o.device = "tpu"; }).find("--device 'tpu'"), std::string::npos);
  EXPECT_NE(message([](ClusterOptions& o) { o.numerics = "fast"; }).find("--numerics 'fast'"), std::string::npos);
  EXPECT_NE(message([](ClusterOptions& o) { o.load_format = "gguf"; }).find("--load-format 'gguf'"), std::string::npos);
}

}  // namespace
}  // namespace outrider
