// The ranks of one group for a bench: this process leads, the others are processes that it starts, one a GPU or a share
// of the CPU. They form a group as a cluster's do (worker/rpc/group_service.h), without router and scheduler.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/runtime_folder.h"
#include "worker/group/step_broadcast.h"
#include "worker/model/loaded_model.h"
#include "worker/model/model_runner.h"
#include "worker/rpc/group_service.h"
#include "worker/rpc/rpc_server.h"

namespace outrider {

struct BenchGroupOptions {
  std::string model;
  LoadFormat load_format = LoadFormat::kAuto;
  Device device = Device::kCpu;
  Numerics numerics = Numerics::kInvariant;
  int tensor_parallel_size = 1;
  int threads = 1;  // of the machine; divided over ranks
  // Of a runner (RunnerOptions).
  int num_kv_blocks = 0;
  int block_size = 16;
  int max_step_tokens = 0;
  int max_sequences = 0;
  bool profile = false;  // of the leader
};

class BenchGroup {
 public:
  // Loads the model on all ranks. `follower_arguments` start another rank of the same options, as RunBenchRank does;
  // "--rank=R" and "--leader-address=A" are added. Errors: those of LoadModel and CreateRunner; UNAVAILABLE when a rank
  // ended.
  static absl::StatusOr<std::unique_ptr<BenchGroup>> Start(const BenchGroupOptions& options, const std::string& program,
                                                           const std::vector<std::string>& follower_arguments);
  ~BenchGroup();
  BenchGroup(const BenchGroup&) = delete;
  BenchGroup& operator=(const BenchGroup&) = delete;

  const LoadedModel& model() const { return *model_; }  // this rank's
  ModelRunner& runner() { return *runner_; }
  StepBackend& backend() { return *backend_; }

 private:
  BenchGroup() = default;
  absl::Status StartFollowers(int world_size, const std::string& program, std::vector<std::string> arguments);
  absl::Status AwaitFollowers();

  std::unique_ptr<RuntimeFolder> folder_;
  std::vector<pid_t> followers_;
  std::unique_ptr<LoadedModel> model_;
  std::unique_ptr<LeaderGroup> group_;
  std::unique_ptr<RpcServer> server_;  // with several ranks
  std::unique_ptr<ModelRunner> runner_;
  std::unique_ptr<GroupBackend> backend_;
};

// All of a rank above 0: until the leader stops the group.
absl::Status RunBenchRank(const BenchGroupOptions& options, int rank, const std::string& leader_address);

}  // namespace outrider
