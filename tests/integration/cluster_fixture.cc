#include "tests/integration/cluster_fixture.h"

#include <gtest/gtest.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "worker/model/testing/test_device.h"

namespace outrider {

// Bazel runs tests in a folder of links to their inputs; the real file's folder is the source tree.
std::string SourceFile(const std::string& path) {
  std::error_code error;
  const auto workspace = std::filesystem::canonical("WORKSPACE", error);
  return error ? path : (workspace.parent_path() / path).string();
}

namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string HttpGet(const std::string& address, const std::string& path) {
  const std::vector<std::string> parts = absl::StrSplit(address, ':');
  if (parts.size() != 2) return "";
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (::getaddrinfo(parts[0].c_str(), parts[1].c_str(), &hints, &found) != 0) return "";
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, ::freeaddrinfo);
  const int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string reply;
  if (fd >= 0 && ::connect(fd, found->ai_addr, found->ai_addrlen) == 0) {
    const std::string request = absl::StrCat("GET ", path, " HTTP/1.0\r\nHost: ", address, "\r\n\r\n");
    if (::write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
      char buffer[4096];
      for (ssize_t size; (size = ::read(fd, buffer, sizeof(buffer))) > 0;) reply.append(buffer, size);
    }
  }
  if (fd >= 0) ::close(fd);
  return reply;
}

}  // namespace

std::string SmallModelPath() { return SourceFile("deploy/models/smollm2-135m-draft-16m-q8_0.gguf"); }

std::string TestdataFolder(const std::string& name) { return SourceFile("worker/model/testdata/hf/" + name); }

std::string TargetModelPath() {
  const std::string path = SourceFile(".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf");
  return std::filesystem::exists(path) ? path : "";
}

ClusterOptions TestCluster() {
  ClusterOptions options;
  options.model = SmallModelPath();
  options.draft_model = SmallModelPath();
  options.grpc_port = 0;
  options.metrics_port = 0;
  options.http_port = 0;
  options.max_model_len = 512;
  if (TestDevice() == Device::kCuda) options.device = "cuda";
  return options;
}

std::unique_ptr<ChildCluster> StartCluster(const ClusterOptions& options) {
  auto cluster = ChildCluster::Start(options, std::filesystem::canonical("outrider").string());
  EXPECT_TRUE(cluster.ok()) << cluster.status().message();
  return cluster.ok() ? *std::move(cluster) : nullptr;
}

std::vector<pid_t> ChildrenWith(pid_t parent, const std::vector<std::string>& words) {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    pid_t pid;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
    const std::string stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
    const size_t name_end = stat.rfind(')');  // the command's name may hold spaces
    if (name_end == std::string::npos) continue;
    const std::vector<std::string> fields = absl::StrSplit(stat.substr(name_end + 2), ' ');
    if (fields.size() < 2 || fields[1] != std::to_string(parent) || fields[0] == "Z") continue;
    const std::string command = ReadFile(absl::StrCat("/proc/", pid, "/cmdline"));
    bool all = true;
    for (const std::string& word : words) all &= command.find(word) != std::string::npos;
    if (all) pids.push_back(pid);
  }
  return pids;
}

std::vector<RequestOutcome> Generate(const ChildCluster& cluster, const std::vector<v1::GenerateRequest>& requests,
                                     int concurrency) {
  std::vector<RequestOutcome> outcomes;
  RunRequests(
      {.address = cluster.grpc_address(), .concurrency = concurrency}, requests, [](int, int, const std::string&) {},
      [&](int, const RequestOutcome& outcome) { outcomes.push_back(outcome); })
      .IgnoreError();  // each outcome carries its own
  return outcomes;
}

v1::GenerateRequest TestRequest(int index, bool greedy, int max_tokens) {
  static constexpr const char* kPrompts[] = {"Once upon a time there was a river",
                                             "def fibonacci(n):\n    ",
                                             "The three laws of motion are",
                                             "Dear Sir or Madam,\n\n",
                                             "1 2 3 4 5 6 7",
                                             "Translate to French: good morning",
                                             "Q: What is a GPU?\nA:",
                                             "In the beginning"};
  v1::GenerateRequest request;
  request.set_prompt(absl::StrCat(kPrompts[index % 8], index >= 8 ? absl::StrCat(" (", index, ")") : std::string()));
  request.set_max_tokens(max_tokens);
  request.set_ignore_eos(true);
  if (greedy) {
    request.set_temperature(0);
  } else {
    request.set_temperature(0.8f);
    request.set_top_p(0.95f);
    request.set_seed(1000 + index);
  }
  return request;
}

double MetricSum(const std::string& metrics_address, const std::string& prefix) {
  double sum = -1;
  for (const absl::string_view line : absl::StrSplit(HttpGet(metrics_address, "/metrics"), '\n')) {
    double value;
    if (line.substr(0, prefix.size()) != prefix || !absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value))
      continue;
    sum = std::max(sum, 0.0) + value;
  }
  return sum;
}

}  // namespace outrider
