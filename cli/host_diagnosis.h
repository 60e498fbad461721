// What `outrider doctor` finds: facts about a host in, findings with remedies out. Pure; cli/host_facts.h gathers the
// facts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace outrider {

struct PortFact {
  std::string name;     // gRPC, metrics
  std::string address;  // HOST:PORT
  std::string error;    // why it can not be listened on; empty: it can
};

struct PeerFact {
  std::string address;
  std::string error;  // empty: it took a connection
  double connect_ms = 0;
};

struct HostFacts {
  std::string cpu_kernels;  // name of the instruction set that kernels use, as Highway calls it
  int num_cores = 0;        // that this process may use
  int64_t memory_available_bytes = 0;
  bool built_with_cuda = false;
  int num_gpus = 0;
  std::vector<std::string> gpu_errors;  // by GPU; empty: it can be used
  std::string cuda_error;               // why no GPU can be used though there may be some; empty: none is known
  std::string driver_version;           // of the kernel module; empty: none is loaded
  std::optional<int> nccl_version;      // 22105 is 2.21.5; nothing: libnccl.so.2 is not found
  int64_t shared_memory_bytes = 0;      // of /dev/shm; 0: none
  std::vector<PortFact> ports;
  std::vector<PeerFact> peers;
  bool clock_synchronized = true;
  double clock_error_ms = 0;  // the greatest that the kernel thinks possible
  int64_t max_open_files = 0;
  std::string runtime_folder_error;  // why sockets can not be made in it; empty: they can
};

struct Finding {
  enum class Level { kOk, kNote, kWarning, kError };
  std::string check;  // cpu, cores, memory, gpu, driver, nccl, shared memory, port, peer, clock, open files, sockets
  Level level = Level::kOk;
  std::string found;
  std::string remedy;  // empty if it is well
};

std::vector<Finding> DiagnoseHost(const HostFacts& facts);

// A line each, remedies below; then how many of each level.
std::string DiagnosisText(const std::vector<Finding>& findings, bool colour);
// {"ok", "findings": [{"check", "level": ok | note | warning | error, "found", "remedy"}]}
std::string DiagnosisJson(const std::vector<Finding>& findings);
bool HasErrors(const std::vector<Finding>& findings);

}  // namespace outrider
