#include "tests/integration/processes.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <utility>

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
  std::vector<std::string> args = {"router", "--grpc-port=0", "--metrics-port=0",
                                   absl::StrCat("--address-file=", address_file),
                                   absl::StrCat("--request-log=", request_log())};
  args.insert(args.end(), settings.begin(), settings.end());
  router_ = std::make_unique<Process>(args);
  Await(
      "the router listens", [&] { return !AddressIn(address_file, "grpc").empty(); }, kServeMax);
  grpc_address_ = AddressIn(address_file, "grpc");
  metrics_address_ = AddressIn(address_file, "metrics");
}

void Processes::StartGroup(const std::string& group_id, int threads) {
  const std::string address_file = folder_ + group_id;
  std::unique_ptr<Process>& group = groups_[group_id];
  if (group != nullptr) {
    EXPECT_FALSE(group->Running());
    std::remove(address_file.c_str());
  }
  group = std::make_unique<Process>(std::vector<std::string>{
      "target", absl::StrCat("--model=", SmallModelPath()), absl::StrCat("--group-id=", group_id),
      absl::StrCat("--host=unix:", address_file, ".sock"), absl::StrCat("--router-address=", grpc_address_),
      absl::StrCat("--threads=", threads), "--max-model-len=512", "--max-sequences=32", "--metrics-port=0",
      absl::StrCat("--address-file=", address_file)});
}

bool Processes::AwaitGroups(int num_groups) {
  return Await(
      absl::StrCat(num_groups, " groups serve"), [&] { return RouterMetric("outrider_groups_serving") >= num_groups; },
      kServeMax);
}

double Processes::RouterMetric(const std::string& prefix) const { return MetricSum(metrics_address_, prefix); }

double Processes::GroupMetric(const std::string& group_id, const std::string& prefix) const {
  return MetricSum(AddressIn(folder_ + group_id, "metrics"), prefix);
}

}  // namespace outrider
