#include "cli/host_facts.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/processors.h"
#include "cli/runtime_folder.h"
#include "kernels/gemm/gemm.h"
#include "worker/model/cuda_backend.h"

namespace outrider {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

// The addresses of `host`, or why there are none.
AddressList Resolve(const std::string& host, const std::string& port, int flags, std::string* error) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (code != 0) *error = ::gai_strerror(code);
  return AddressList(code == 0 ? found : nullptr, ::freeaddrinfo);
}

PortFact LookAtPort(const std::string& name, const std::string& host, int port) {
  PortFact fact{name, absl::StrCat(host, ":", port), ""};
  const AddressList found = Resolve(host, std::to_string(port), AI_PASSIVE, &fact.error);
  if (found == nullptr) return fact;
  const int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (fd < 0 || ::bind(fd, found->ai_addr, found->ai_addrlen) != 0 || ::listen(fd, 1) != 0) {
    fact.error = std::strerror(errno);
  }
  if (fd >= 0) ::close(fd);
  return fact;
}

PeerFact LookAtPeer(const std::string& address, double timeout_s) {
  PeerFact fact{.address = address};
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    fact.error = "is not HOST:PORT";
    return fact;
  }
  const AddressList found = Resolve(address.substr(0, colon), address.substr(colon + 1), 0, &fact.error);
  if (found == nullptr) return fact;
  const int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const auto start = std::chrono::steady_clock::now();
  int error = ::connect(fd, found->ai_addr, found->ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    pollfd poll_fd = {fd, POLLOUT, 0};
    socklen_t size = sizeof(error);
    if (::poll(&poll_fd, 1, static_cast<int>(1000 * timeout_s)) != 1) {
      error = ETIMEDOUT;
    } else {
      ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
  }
  fact.connect_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  if (error != 0) fact.error = std::strerror(error);
  ::close(fd);
  return fact;
}

std::optional<int> NcclVersion() {
  void* const library = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return std::nullopt;
  using GetVersion = int (*)(int*);
  const auto get_version = reinterpret_cast<GetVersion>(::dlsym(library, "ncclGetVersion"));
  int version = 0;
  if (get_version == nullptr || get_version(&version) != 0) return std::nullopt;
  return version;  // the library stays: it may have started threads
}

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

int64_t MemoryAvailable() {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  for (int64_t kilobytes = 0; file >> name >> kilobytes; std::getline(file, unit)) {
    if (name == "MemAvailable:") return kilobytes * 1024;
  }
  return 0;
}

}  // namespace

HostFacts LookAtHost(const HostQuestions& questions) {
  HostFacts facts;
  facts.cpu_kernels = kernels::GemmTargetName();
  facts.num_cores = NumUsableProcessors();
  facts.memory_available_bytes = MemoryAvailable();
  const absl::Status cuda = CheckCuda(0);
  facts.built_with_cuda = cuda.code() != absl::StatusCode::kUnimplemented;
  if (facts.built_with_cuda && !cuda.ok()) facts.cuda_error = std::string(cuda.message());
  facts.num_gpus = NumCudaDevices();
  for (int i = 0; i < facts.num_gpus; ++i) facts.gpu_errors.push_back(std::string(CheckCuda(i).message()));
  facts.driver_version = FirstLine("/proc/driver/nvidia/version");
  facts.nccl_version = NcclVersion();
  struct statvfs shared {};
  if (::statvfs("/dev/shm", &shared) == 0) {
    facts.shared_memory_bytes = static_cast<int64_t>(shared.f_blocks) * static_cast<int64_t>(shared.f_frsize);
  }
  if (questions.grpc_port > 0) facts.ports.push_back(LookAtPort("grpc", questions.host, questions.grpc_port));
  if (questions.http_port > 0) facts.ports.push_back(LookAtPort("http", questions.host, questions.http_port));
  if (questions.metrics_port > 0) facts.ports.push_back(LookAtPort("metrics", questions.host, questions.metrics_port));
  for (const std::string& peer : questions.peers) facts.peers.push_back(LookAtPeer(peer, questions.peer_timeout_s));
  timex clock{};
  const int state = ::adjtimex(&clock);
  facts.clock_synchronized = state >= 0 && state != TIME_ERROR && (clock.status & STA_UNSYNC) == 0;
  facts.clock_error_ms = static_cast<double>(clock.maxerror) / 1000;
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  facts.max_open_files = static_cast<int64_t>(files.rlim_cur);
  const auto folder = RuntimeFolder::Make(RuntimeFolder::DefaultBase());
  if (!folder.ok()) facts.runtime_folder_error = std::string(folder.status().message());
  return facts;
}

}  // namespace outrider
