#include "cli/host_diagnosis.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace outrider {
namespace {

using Level = Finding::Level;

HostFacts Healthy() {
  return {.cpu_kernels = "AVX3_DL",
          .num_cores = 8,
          .memory_available_bytes = int64_t{16} << 30,
          .shared_memory_bytes = int64_t{8} << 30,
          .ports = {{"grpc", "127.0.0.1:9000", ""}},
          .peers = {{"router:9000", "", 0.3}},
          .clock_error_ms = 2,
          .max_open_files = 65536};
}

const Finding* Find(const std::vector<Finding>& findings, const std::string& check) {
  for (const Finding& finding : findings) {
    if (finding.check == check) return &finding;
  }
  return nullptr;
}

Finding Of(const HostFacts& facts, const std::string& check) {
  const std::vector<Finding> findings = DiagnoseHost(facts);
  const Finding* const finding = Find(findings, check);
  EXPECT_NE(finding, nullptr) << check;
  return finding == nullptr ? Finding() : *finding;
}

TEST(HostDiagnosis, AHealthyHostHasNothingToMend) {
  const std::vector<Finding> findings = DiagnoseHost(Healthy());
  EXPECT_FALSE(HasErrors(findings));
  for (const Finding& finding : findings) {
    EXPECT_TRUE(finding.level == Level::kOk || finding.check == "gpu") << finding.check << ": " << finding.found;
    EXPECT_EQ(finding.remedy, "");
  }
}

TEST(HostDiagnosis, EveryFaultHasItsLevelAndARemedy) {
  const auto expect = [](const std::string& check, Level level, const std::string& remedy, auto break_it) {
    HostFacts facts = Healthy();
    break_it(facts);
    const Finding finding = Of(facts, check);
    EXPECT_EQ(finding.level, level) << check;
    EXPECT_NE(finding.remedy.find(remedy), std::string::npos) << check << ": " << finding.remedy;
  };
  expect("cpu", Level::kWarning, "AVX2", [](HostFacts& f) { f.cpu_kernels = "SSE4"; });
  expect("cores", Level::kWarning, "affinity", [](HostFacts& f) { f.num_cores = 1; });
  expect("memory", Level::kWarning, "outrider inspect", [](HostFacts& f) { f.memory_available_bytes = 1 << 20; });
  expect("gpu", Level::kWarning, "--config=cuda", [](HostFacts& f) { f.driver_version = "NVRM 535"; });
  expect("gpu", Level::kError, "nvidia-smi", [](HostFacts& f) {
    f.built_with_cuda = true;
    f.driver_version = "NVRM 535";
    f.cuda_error = "no such GPU";
  });
  expect("gpu 1", Level::kError, "CUDA_VISIBLE_DEVICES", [](HostFacts& f) {
    f.built_with_cuda = true;
    f.num_gpus = 2;
    f.gpu_errors = {"", "compute capability 7.0"};
  });
  expect("nccl", Level::kWarning, "2.18", [](HostFacts& f) { f.nccl_version = 21005; });
  expect("nccl", Level::kNote, "libnccl2", [](HostFacts& f) { f.num_gpus = 2; });
  expect("shared memory", Level::kWarning, "--shm-size", [](HostFacts& f) {
    f.num_gpus = 2;
    f.shared_memory_bytes = 64 << 20;
  });
  expect("port grpc", Level::kError, "--grpc-port", [](HostFacts& f) { f.ports[0].error = "Address already in use"; });
  expect("peer", Level::kError, "firewalls", [](HostFacts& f) { f.peers[0].error = "Connection refused"; });
  expect("peer", Level::kWarning, "near", [](HostFacts& f) { f.peers[0].connect_ms = 80; });
  expect("clock", Level::kNote, "chrony", [](HostFacts& f) { f.clock_synchronized = false; });
  expect("clock", Level::kNote, "chrony", [](HostFacts& f) { f.clock_error_ms = 900; });
  expect("open files", Level::kWarning, "ulimit -n", [](HostFacts& f) { f.max_open_files = 1024; });
  expect("sockets", Level::kError, "TMPDIR", [](HostFacts& f) { f.runtime_folder_error = "read-only"; });
}

TEST(HostDiagnosis, VersionsOfNcclAreWrittenAsItsMakersDo) {
  HostFacts facts = Healthy();
  facts.nccl_version = 22105;
  EXPECT_EQ(Of(facts, "nccl").found, "2.21.5");
}

TEST(HostDiagnosis, TextCountsAndJsonSaysWhetherAllIsWell) {
  HostFacts facts = Healthy();
  facts.ports[0].error = "Address already in use";
  facts.num_cores = 1;
  const std::vector<Finding> findings = DiagnoseHost(facts);
  const std::string text = DiagnosisText(findings, false);
  EXPECT_NE(text.find("error   port grpc      127.0.0.1:9000: Address already in use\n"), std::string::npos) << text;
  EXPECT_NE(text.find("1 error, 1 warning\n"), std::string::npos) << text;
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_NE(DiagnosisText(findings, true).find('\x1b'), std::string::npos);
  const auto json = nlohmann::json::parse(DiagnosisJson(findings));
  EXPECT_EQ(json["ok"], false);
  EXPECT_EQ(json["findings"].size(), findings.size());
}

}  // namespace
}  // namespace outrider
