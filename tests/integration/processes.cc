#include "tests/integration/processes.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/integration/cluster_fixture.h"

namespace outrider {
namespace {

constexpr std::chrono::seconds kServeMax(60);

// Of one cluster alone, in a folder that the clusters of a test program share.
std::string FolderPrefix() {
  static std::atomic<int> next{0};
  return absl::StrCat(RuntimeFolder(), "/", next++, "-");
}

}  // namespace

int ExitCode(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

Processes::Processes(const std::vector<std::string>& settings) : folder_(FolderPrefix()) {
  const std::string address_file = folder_ + "router";
  std::vector<std::string> args = {"router", "--grpc-port=0", "--metrics-port=0", "--http-port=0",
                                   absl::StrCat("--address-file=", address_file)};
  const auto is_log = [](const std::string& setting) { return absl::StartsWith(setting, "--request-log="); };
  if (std::none_of(settings.begin(), settings.end(), is_log)) {
    args.push_back(absl::StrCat("--request-log=", request_log()));
  }
  args.insert(args.end(), settings.begin(), settings.end());
  router_ = std::make_unique<Process>(args);
  Await(
      "the router listens", [&] { return !AddressIn(address_file, "grpc").empty(); }, kServeMax);
  grpc_address_ = AddressIn(address_file, "grpc");
  metrics_address_ = AddressIn(address_file, "metrics");
}

void Processes::StartWorker(const std::string& name, int threads, std::vector<std::string> args, bool apart) {
  std::unique_ptr<Process>& process = groups_[name];
  if (process != nullptr) {
    EXPECT_FALSE(process->Running());
  }
  args.insert(args.end(), {absl::StrCat("--host=unix:", address_files_[name], ".sock"),
                           absl::StrCat("--threads=", threads), "--max-model-len=512", "--max-sequences=32",
                           "--metrics-port=0", absl::StrCat("--address-file=", address_files_[name])});
  process = std::make_unique<Process>(args, apart);
}

void Processes::StartGroup(const std::string& group_id, int threads, int num_ranks, bool ranks_apart) {
  const std::string leader_file = absl::StrCat(folder_, group_id, "-", ++num_started_);
  for (int rank = 0; rank < num_ranks; ++rank) {
    const std::string name = rank == 0 ? group_id : absl::StrCat(group_id, "/", rank);
    address_files_[name] = rank == 0 ? leader_file : absl::StrCat(leader_file, "-", rank);
    std::vector<std::string> args = {"target", absl::StrCat("--model=", SmallModelPath()),
                                     absl::StrCat("--group-id=", group_id),
                                     absl::StrCat("--tensor-parallel-size=", num_ranks), absl::StrCat("--rank=", rank)};
    args.push_back(rank == 0 ? absl::StrCat("--router-address=", grpc_address_)
                             : absl::StrCat("--leader-address=unix:", leader_file, ".sock"));
    StartWorker(name, threads, std::move(args), ranks_apart && rank > 0);
  }
}

void Processes::StartDraftWorker(const std::string& worker_id) {
  address_files_[worker_id] = absl::StrCat(folder_, worker_id, "-", ++num_started_);
  StartWorker(worker_id, 1,
              {"draft", absl::StrCat("--model=", SmallModelPath()), absl::StrCat("--worker-id=", worker_id),
               absl::StrCat("--router-address=", grpc_address_)});
}

Processes::Past Processes::Take(const std::string& name) {
  return {.process = std::move(groups_.at(name)), .metrics_file = address_files_.at(name)};
}

double Processes::Past::Metric(const std::string& prefix) const {
  return MetricSum(AddressIn(metrics_file, "metrics"), prefix);
}

bool Processes::AwaitGroups(int num_groups) {
  return Await(
      absl::StrCat(num_groups, " groups serve"), [&] { return RouterMetric("outrider_groups_serving") >= num_groups; },
      kServeMax);
}

double Processes::RouterMetric(const std::string& prefix) const { return MetricSum(metrics_address_, prefix); }

double Processes::GroupMetric(const std::string& group_id, const std::string& prefix) const {
  return MetricSum(AddressIn(address_files_.at(group_id), "metrics"), prefix);
}

}  // namespace outrider
