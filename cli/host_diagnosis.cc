#include "cli/host_diagnosis.h"

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace outrider {
namespace {

using Level = Finding::Level;

// What the smallest model with its KV memory and a router take.
constexpr int64_t kMemoryMinBytes = int64_t{1} << 30;
// A connection is a file: of clients, workers, groups.
constexpr int64_t kOpenFilesMin = 4096;
// What NCCL takes of /dev/shm for each pair of ranks of a host, generously; containers have 64 MiB by default.
constexpr int64_t kSharedMemoryMinBytes = 512 << 20;
// Logs of several hosts are read side by side; leases and timeouts use the monotonic clock and do not care.
constexpr double kClockErrorMaxMs = 100;
// A draft must come within a step.
constexpr double kPeerConnectMaxMs = 5;
constexpr int kNcclVersionMin = 21800;

const char* LevelName(Level level) {
  switch (level) {
    case Level::kOk:
      return "ok";
    case Level::kNote:
      return "note";
    case Level::kWarning:
      return "warning";
    case Level::kError:
      return "error";
  }
  return "";
}

std::string Gigabytes(int64_t bytes) { return absl::StrFormat("%.1f GB", static_cast<double>(bytes) / 1e9); }

Finding Cpu(const HostFacts& facts) {
  if (absl::StartsWith(facts.cpu_kernels, "AVX3"))
    return {"cpu", Level::kOk, "AVX-512 kernels (" + facts.cpu_kernels + ")"};
  if (facts.cpu_kernels == "AVX2") return {"cpu", Level::kOk, "AVX2 kernels; AVX-512 would be faster"};
  return {"cpu", Level::kWarning, absl::StrCat("kernels for ", facts.cpu_kernels),
          "a model on this CPU is slow: use one with AVX2 or AVX-512, or a GPU"};
}

Finding Memory(const HostFacts& facts) {
  const std::string found = Gigabytes(facts.memory_available_bytes) + " free";
  if (facts.memory_available_bytes >= kMemoryMinBytes) return {"memory", Level::kOk, found};
  return {
      "memory", Level::kWarning, found,
      "end other processes, or raise the container's memory limit; `outrider inspect MODEL` says what a model needs"};
}

void Gpus(const HostFacts& facts, std::vector<Finding>& findings) {
  const bool has_driver = !facts.driver_version.empty();
  if (!facts.built_with_cuda) {
    findings.push_back(has_driver
                           ? Finding{"gpu", Level::kWarning, "there is a driver, and this build has no CUDA",
                                     "build with --config=cuda, or go on with --device cpu"}
                           : Finding{"gpu", Level::kNote, "none, and this build has no CUDA: models run on the CPU"});
  } else if (facts.num_gpus == 0) {
    findings.push_back(
        {"gpu", has_driver ? Level::kError : Level::kNote,
         facts.cuda_error.empty() ? std::string("none") : facts.cuda_error,
         has_driver ? "check nvidia-smi and CUDA_VISIBLE_DEVICES; in a container, that GPUs are given to it" : ""});
  }
  for (size_t i = 0; i < facts.gpu_errors.size(); ++i) {
    const std::string name = absl::StrCat("gpu ", i);
    if (facts.gpu_errors[i].empty()) {
      findings.push_back({name, Level::kOk, "can be used"});
    } else {
      findings.push_back(
          {name, Level::kError, facts.gpu_errors[i], "hide it by CUDA_VISIBLE_DEVICES, or mend what it says"});
    }
  }
  if (has_driver) findings.push_back({"driver", Level::kOk, facts.driver_version});
  if (facts.nccl_version.has_value()) {
    const int version = *facts.nccl_version;
    const std::string found = absl::StrFormat("%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    findings.push_back(version >= kNcclVersionMin
                           ? Finding{"nccl", Level::kOk, found}
                           : Finding{"nccl", Level::kWarning, found, "install NCCL 2.18 or newer (libnccl2)"});
  } else if (facts.num_gpus > 1) {
    findings.push_back({"nccl", Level::kNote, "libnccl.so.2 is not found: GPUs exchange through each other's memory",
                        "where GPUs can not reach each other, install libnccl2 (gpu_transport)"});
  }
}

Finding SharedMemory(const HostFacts& facts) {
  const std::string found =
      facts.shared_memory_bytes > 0 ? Gigabytes(facts.shared_memory_bytes) + " at /dev/shm" : "none";
  if (facts.shared_memory_bytes >= kSharedMemoryMinBytes || facts.num_gpus < 2) {
    return {"shared memory", Level::kOk, found};
  }
  return {"shared memory", Level::kWarning, found,
          "ranks with NCCL need more: docker --shm-size=1g, or an emptyDir with medium: Memory at /dev/shm"};
}

}  // namespace

std::vector<Finding> DiagnoseHost(const HostFacts& facts) {
  std::vector<Finding> findings;
  findings.push_back(Cpu(facts));
  findings.push_back(facts.num_cores >= 2
                         ? Finding{"cores", Level::kOk, absl::StrCat(facts.num_cores, " may be used")}
                         : Finding{"cores", Level::kWarning, absl::StrCat(facts.num_cores, " may be used"),
                                   "drafts run beside the target only on cores of their own: raise the container's CPU "
                                   "limit or the process's affinity"});
  findings.push_back(Memory(facts));
  Gpus(facts, findings);
  findings.push_back(SharedMemory(facts));
  for (const PortFact& port : facts.ports) {
    const std::string name = absl::StrCat("port ", port.name);
    if (port.error.empty()) {
      findings.push_back({name, Level::kOk, absl::StrCat(port.address, " is free")});
    } else {
      findings.push_back({name, Level::kError, absl::StrCat(port.address, ": ", port.error),
                          absl::StrCat("end who listens there (ss -ltnp), or choose another --", port.name, "-port")});
    }
  }
  for (const PeerFact& peer : facts.peers) {
    if (!peer.error.empty()) {
      findings.push_back({"peer", Level::kError, absl::StrCat(peer.address, ": ", peer.error),
                          "check that it runs, that its --host is not 127.0.0.1, and firewalls between"});
    } else if (peer.connect_ms > kPeerConnectMaxMs) {
      findings.push_back({"peer", Level::kWarning,
                          absl::StrFormat("%s: connected in %.1f ms", peer.address, peer.connect_ms),
                          "drafts over such a way come late; put draft workers near their groups"});
    } else {
      findings.push_back(
          {"peer", Level::kOk, absl::StrFormat("%s: connected in %.2f ms", peer.address, peer.connect_ms)});
    }
  }
  if (facts.clock_synchronized && facts.clock_error_ms <= kClockErrorMaxMs) {
    findings.push_back({"clock", Level::kOk, absl::StrFormat("synchronized within %.1f ms", facts.clock_error_ms)});
  } else {
    findings.push_back(
        {"clock", Level::kNote,
         facts.clock_synchronized ? absl::StrFormat("may be off by %.0f ms", facts.clock_error_ms)
                                  : std::string("not synchronized, says the kernel"),
         "run chrony or systemd-timesyncd, so that logs of several hosts agree; nothing else depends on it"});
  }
  findings.push_back(facts.max_open_files >= kOpenFilesMin
                         ? Finding{"open files", Level::kOk, absl::StrCat(facts.max_open_files, " at most")}
                         : Finding{"open files", Level::kWarning, absl::StrCat(facts.max_open_files, " at most"),
                                   "each connection is one: ulimit -n 65536, or LimitNOFILE of the service"});
  findings.push_back(facts.runtime_folder_error.empty()
                         ? Finding{"sockets", Level::kOk, "the folder of `outrider serve` can be made"}
                         : Finding{"sockets", Level::kError, facts.runtime_folder_error,
                                   "set TMPDIR to a folder that this user may write in"});
  return findings;
}

bool HasErrors(const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) {
    if (finding.level == Level::kError) return true;
  }
  return false;
}

std::string DiagnosisText(const std::vector<Finding>& findings, bool colour) {
  std::string text;
  int num_errors = 0, num_warnings = 0;
  for (const Finding& finding : findings) {
    const char* style = finding.level == Level::kError     ? "\x1b[31m"
                        : finding.level == Level::kWarning ? "\x1b[33m"
                        : finding.level == Level::kOk      ? "\x1b[32m"
                                                           : "";
    absl::StrAppend(&text, colour ? style : "", absl::StrFormat("%-8s", LevelName(finding.level)),
                    colour ? "\x1b[0m" : "", absl::StrFormat("%-14s ", finding.check), finding.found, "\n");
    if (!finding.remedy.empty()) absl::StrAppend(&text, "                       ", finding.remedy, "\n");
    num_errors += finding.level == Level::kError;
    num_warnings += finding.level == Level::kWarning;
  }
  absl::StrAppend(&text, num_errors, num_errors == 1 ? " error, " : " errors, ", num_warnings,
                  num_warnings == 1 ? " warning\n" : " warnings\n");
  return text;
}

std::string DiagnosisJson(const std::vector<Finding>& findings) {
  using Json = nlohmann::ordered_json;
  Json json = {{"ok", !HasErrors(findings)}, {"findings", Json::array()}};
  for (const Finding& finding : findings) {
    json["findings"].push_back({{"check", finding.check},
                                {"level", LevelName(finding.level)},
                                {"found", finding.found},
                                {"remedy", finding.remedy}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace outrider
