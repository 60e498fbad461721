#include "cli/bench_group.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/rpc/group_client.h"
#include "worker/worker_setup.h"

namespace outrider {
namespace {

constexpr Duration kJoinTimeout = std::chrono::minutes(10);  // a large model loads meanwhile
constexpr Duration kStepTimeout = std::chrono::minutes(2);   // a chunk of a prompt on a slow machine
constexpr Duration kSilenceMax = std::chrono::seconds(10);
constexpr auto kPollInterval = std::chrono::milliseconds(20);
constexpr int kStopPolls = 500;

absl::StatusOr<std::unique_ptr<LoadedModel>> Load(const BenchGroupOptions& options, int rank) {
  RankDevice place{.device = options.device};
  if (options.device == Device::kCuda) {
    ASSIGN_OR_RETURN(place, ResolveRankDevice("cuda", options.numerics, rank, options.tensor_parallel_size));
  }
  return LoadModel(options.model, {.device = place.device,
                                   .device_index = place.index,
                                   .numerics = options.numerics,
                                   .rank = rank,
                                   .world_size = options.tensor_parallel_size,
                                   .num_threads = std::max(1, options.threads / options.tensor_parallel_size),
                                   .load_format = options.load_format});
}

RunnerOptions MakeRunnerOptions(const BenchGroupOptions& options, Communicator* communicator) {
  return {.communicator = communicator,
          .num_kv_blocks = options.num_kv_blocks,
          .block_size = options.block_size,
          .max_step_tokens = options.max_step_tokens,
          .max_sequences = options.max_sequences};
}

}  // namespace

absl::StatusOr<std::unique_ptr<BenchGroup>> BenchGroup::Start(const BenchGroupOptions& options,
                                                              const std::string& program,
                                                              const std::vector<std::string>& follower_arguments) {
  std::unique_ptr<BenchGroup> group(new BenchGroup());
  if (options.tensor_parallel_size > 1) {
    ASSIGN_OR_RETURN(group->folder_, RuntimeFolder::Make(RuntimeFolder::DefaultBase()));
    // First, so that all ranks load at once.
    RETURN_IF_ERROR(group->StartFollowers(options.tensor_parallel_size, program, follower_arguments));
  }
  ASSIGN_OR_RETURN(group->model_, Load(options, 0));
  ASSIGN_OR_RETURN(group->group_, LeaderGroup::Create({.world_size = options.tensor_parallel_size,
                                                       .numerics_id = group->model_->numerics_id(),
                                                       .num_kv_blocks_max = options.num_kv_blocks,
                                                       .step_timeout = kStepTimeout,
                                                       .silence_max = kSilenceMax}));
  RETURN_IF_ERROR(group->AwaitFollowers());
  RunnerOptions runner_options = MakeRunnerOptions(options, &group->group_->communicator());
  runner_options.profile = options.profile;
  ASSIGN_OR_RETURN(group->runner_, group->model_->CreateRunner(runner_options));
  group->backend_ = std::make_unique<GroupBackend>(*group->runner_, group->group_->communicator());
  return group;
}

absl::Status BenchGroup::StartFollowers(int world_size, const std::string& program,
                                        std::vector<std::string> arguments) {
  arguments.push_back(absl::StrCat("--leader-address=unix:", folder_->path(), "/leader"));
  const pid_t parent = ::getpid();
  for (int rank = 1; rank < world_size; ++rank) {
    arguments.push_back(absl::StrCat("--rank=", rank));
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    const pid_t pid = ::fork();
    if (pid < 0) return absl::UnavailableError(absl::StrCat("fork: ", std::strerror(errno)));
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(1);
      ::execv(program.c_str(), argv.data());
      ::_exit(127);
    }
    followers_.push_back(pid);
    arguments.pop_back();
  }
  return absl::OkStatus();
}

absl::Status BenchGroup::AwaitFollowers() {
  if (followers_.empty()) return group_->WaitForRanks(kJoinTimeout);
  ASSIGN_OR_RETURN(server_, RpcServer::Start({.host = absl::StrCat("unix:", folder_->path(), "/leader")},
                                             {group_->service()}, {}, [] { return true; }));
  // A rank that can not load would be waited for until the end of the timeout.
  std::atomic<bool> done{false}, lost{false};
  std::thread watcher([&] {
    for (; !done; std::this_thread::sleep_for(kPollInterval)) {
      for (const pid_t pid : followers_) {
        siginfo_t info{};
        if (::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0) {
          continue;
        }
        lost = true;
        group_->Stop();
        return;
      }
    }
  });
  const absl::Status status = group_->WaitForRanks(kJoinTimeout);
  done = true;
  watcher.join();
  return lost ? absl::UnavailableError("a rank ended before all had joined; its words are above") : status;
}

BenchGroup::~BenchGroup() {
  if (group_ != nullptr) group_->ExpectEnd();
  if (backend_ != nullptr) backend_->Stop().IgnoreError();
  // Ranks end once they were told to, or are made to.
  for (const pid_t pid : followers_) {
    if (backend_ == nullptr) ::kill(pid, SIGKILL);
    int polls = 0;
    while (::waitpid(pid, nullptr, WNOHANG) == 0) {
      if (++polls == kStopPolls) ::kill(pid, SIGKILL);
      std::this_thread::sleep_for(kPollInterval);
    }
  }
  if (group_ != nullptr) group_->Stop();
  if (server_ != nullptr) server_->Shutdown(Duration::zero());
  backend_.reset();
  runner_.reset();
  server_.reset();
  group_.reset();
}

absl::Status RunBenchRank(const BenchGroupOptions& options, int rank, const std::string& leader_address) {
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadedModel> model, Load(options, rank));
  return RunFollowerRank({.leader_address = leader_address,
                          .rank = rank,
                          .world_size = options.tensor_parallel_size,
                          .numerics_id = model->numerics_id(),
                          .num_kv_blocks_max = options.num_kv_blocks,
                          .join_timeout = kJoinTimeout,
                          .step_timeout = kStepTimeout,
                          .silence_max = kSilenceMax},
                         {.vocab_size = model->config().vocab_size, .max_model_len = model->max_model_len()},
                         [&](Communicator& communicator, int64_t) -> absl::StatusOr<std::unique_ptr<StepBackend>> {
                           return model->CreateRunner(MakeRunnerOptions(options, &communicator));
                         });
}

}  // namespace outrider
