#include "cli/child_cluster.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

constexpr size_t kMaxLineBytes = 4096;
constexpr int kStopBoundMs = 40000;  // beyond what a cluster takes to drain

std::vector<std::string> ServeArguments(const ClusterOptions& options) {
  std::vector<std::string> arguments = {"outrider",
                                        "serve",
                                        options.model,
                                        absl::StrCat("--tensor-parallel-size=", options.tensor_parallel_size),
                                        absl::StrCat("--groups=", options.groups),
                                        absl::StrCat("--draft-workers=", options.draft_workers),
                                        absl::StrCat("--device=", options.device),
                                        absl::StrCat("--numerics=", options.numerics),
                                        absl::StrCat("--load-format=", options.load_format),
                                        absl::StrCat("--lookahead=", options.lookahead),
                                        absl::StrCat("--ngram-draft=", options.ngram_draft ? "true" : "false"),
                                        absl::StrCat("--threads=", options.threads),
                                        absl::StrCat("--max-model-len=", options.max_model_len),
                                        absl::StrCat("--kv-cache-bytes=", options.kv_cache_bytes),
                                        absl::StrCat("--gpu-memory-utilization=", options.gpu_memory_utilization),
                                        absl::StrCat("--max-sequences=", options.max_sequences),
                                        absl::StrCat("--max-step-tokens=", options.max_step_tokens),
                                        absl::StrCat("--prefix-cache=", options.prefix_cache ? "true" : "false"),
                                        absl::StrCat("--host=", options.host),
                                        absl::StrCat("--grpc-port=", options.grpc_port),
                                        absl::StrCat("--metrics-port=", options.metrics_port),
                                        absl::StrCat("--http-port=", options.http_port)};
  // Left out if empty: `--draft-model=` takes the next argument for its value.
  if (!options.draft_model.empty()) arguments.push_back(absl::StrCat("--draft-model=", options.draft_model));
  if (!options.draft_replay.empty()) {
    arguments.push_back(absl::StrCat("--draft-replay=", options.draft_replay));
    arguments.push_back(absl::StrCat("--draft-acceptance=", options.draft_acceptance));
  }
  return arguments;
}

// What the last error in a log says, for people; empty if there is none.
std::string LastError(const std::string& log_file) {
  std::ifstream file(log_file);
  std::string line, last;
  while (std::getline(file, line)) {
    if (!absl::StrContains(line, "level=error")) continue;
    const size_t message = line.find("message=");
    if (message != std::string::npos) last = line.substr(message + 8);
  }
  if (last.size() >= 2 && last.front() == '"' && last.back() == '"') last = last.substr(1, last.size() - 2);
  return last;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildCluster>> ChildCluster::Start(const ClusterOptions& options,
                                                                  const std::string& program,
                                                                  const ChildTerminal& terminal) {
  RETURN_IF_ERROR(Validate(options));
  int log_fd = -1;
  if (!terminal.log_file.empty()) {
    log_fd = ::open(terminal.log_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (log_fd < 0) {
      return absl::UnavailableError(
          absl::StrCat("the log '", terminal.log_file, "' can not be written: ", std::strerror(errno)));
    }
  }
  int ready[2];
  if (::pipe2(ready, O_CLOEXEC) != 0) return absl::UnavailableError(absl::StrCat("pipe: ", std::strerror(errno)));
  const std::vector<std::string> arguments = ServeArguments(options);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return absl::UnavailableError(absl::StrCat("fork: ", std::strerror(errno)));
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    if (terminal.own_process_group) ::setpgid(0, 0);
    ::dup2(ready[1], STDOUT_FILENO);
    if (log_fd >= 0) ::dup2(log_fd, STDERR_FILENO);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  ::close(ready[1]);
  if (log_fd >= 0) ::close(log_fd);
  std::unique_ptr<ChildCluster> cluster(new ChildCluster(pid));
  // `serve` prints one line once ready, or ends.
  std::string line;
  char c;
  while (line.size() < kMaxLineBytes && ::read(ready[0], &c, 1) == 1 && c != '\n') line += c;
  ::close(ready[0]);
  absl::string_view rest = line;
  if (!absl::ConsumePrefix(&rest, "ready grpc=")) {
    if (terminal.log_file.empty()) {
      return absl::UnavailableError("the cluster ended before it was ready; its log above says why");
    }
    const std::string error = LastError(terminal.log_file);
    return absl::UnavailableError(absl::StrCat("the cluster ended before it was ready",
                                               error.empty() ? "" : absl::StrCat(": ", error),
                                               " (its log: ", terminal.log_file, ")"));
  }
  const size_t space = rest.find(' ');
  cluster->grpc_address_ = std::string(rest.substr(0, space));
  if (space != absl::string_view::npos) {
    rest.remove_prefix(space + 1);
    for (const absl::string_view part : absl::StrSplit(rest, ' ')) {
      if (absl::StartsWith(part, "metrics=")) cluster->metrics_address_ = std::string(part.substr(8));
      if (absl::StartsWith(part, "http=")) cluster->http_address_ = std::string(part.substr(5));
    }
  }
  return cluster;
}

ChildCluster::~ChildCluster() { Stop(); }

bool ChildCluster::Stop() {
  const pid_t pid = std::exchange(pid_, 0);
  if (pid == 0) return true;
  int status = 0;
  ::kill(pid, SIGTERM);
  for (int waited_ms = 0; waited_ms < kStopBoundMs; waited_ms += 10) {
    if (::waitpid(pid, &status, WNOHANG) != 0) return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  return false;
}

}  // namespace outrider
