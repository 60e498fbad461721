#include "benchmarks/edge/parts.h"

#include <grpcpp/grpcpp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/log.h"
#include "base/scheduling.h"
#include "base/status_macros.h"
#include "benchmarks/edge/bare_server.h"
#include "benchmarks/edge/fake_engine.h"
#include "proto/config.pb.h"
#include "router/router_main.h"

namespace outrider::edge {
namespace {

constexpr auto kStartMax = std::chrono::seconds(20);

[[noreturn]] void RunBare() {
  const BareServer server;
  std::printf("%s\n", server.address().c_str());
  std::fflush(stdout);
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

// Each line of standard input: ROUTER_ADDRESS NUM_GROUPS NUM_DRAFT_WORKERS.
[[noreturn]] void RunEngine(const std::string& folder, bool by_tcp) {
  FakeEngine engine(folder + "/engine.sock");
  std::printf("%s\n", engine.address(by_tcp).c_str());
  std::fflush(stdout);
  std::string address;
  for (int num_groups, num_draft_workers; std::cin >> address >> num_groups >> num_draft_workers;) {
    engine.RegisterAt(address, num_groups, num_draft_workers, by_tcp);
  }
  std::_Exit(0);
}

// As the program itself does it (router_main.h).
[[noreturn]] void RunRouterPart(const std::string& folder, int log_bytes_per_second) {
  v1::RouterConfig config;
  config.set_grpc_port(0);
  config.set_metrics_port(0);
  config.set_http_port(0);
  config.set_address_file(absl::StrCat(folder, "/addresses"));
  if (log_bytes_per_second > 0) {
    config.set_request_log(absl::StrCat(folder, "/requests"));
    std::thread([log_bytes_per_second, addresses = config.address_file()] {
      while (!std::ifstream(addresses).good()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const std::string message(900, 'x');  // with the rest of the line about 1000 bytes
      const auto gap = std::chrono::microseconds(1'000'000'000LL / log_bytes_per_second);
      for (auto next = std::chrono::steady_clock::now(); true; next += gap) {
        std::this_thread::sleep_until(next);
        LogInfo(message);
      }
    }).detach();
  }
  const absl::Status status = RunRouter(config);
  if (!status.ok()) LogError(status.message());
  std::_Exit(status.ok() ? 0 : 1);
}

}  // namespace

void RunPartIfAsked(const std::vector<std::string>& arguments) {
  if (arguments.size() < 2 || arguments[0] != "--part") return;
  UseShortSlices();  // as routers do
  if (arguments[1] == "bare") RunBare();
  CHECK(arguments.size() == 4);
  if (arguments[1] == "engine") RunEngine(arguments[2], arguments[3] == "tcp");
  CHECK(arguments[1] == "router");
  RunRouterPart(arguments[2], std::atoi(arguments[3].c_str()));
}

Parts::Parts(std::string folder, bool engine_by_tcp) : folder_(std::move(folder)) {
  bare_ = ChildProcess::Start({"--part", "bare"}, folder_ + "/bare.log");
  engine_ = ChildProcess::Start({"--part", "engine", folder_, engine_by_tcp ? "tcp" : "unix"}, folder_ + "/engine.log");
  bare_address_ = bare_->ReadLine();
  engine_address_ = engine_->ReadLine();
}

RunningRouter Parts::StartRouter(const RouterOptions& options) {
  const std::string folder = absl::StrCat(folder_, "/router-", num_routers_++);
  CHECK(::mkdir(folder.c_str(), 0755) == 0);
  RunningRouter router;
  router.log = folder + "/log";
  router.process =
      ChildProcess::Start({"--part", "router", folder, absl::StrCat(options.log_bytes_per_second)}, router.log);
  const auto deadline = std::chrono::steady_clock::now() + kStartMax;
  const auto wait = [&](const char* what) {
    if (!router.process->running() || std::chrono::steady_clock::now() > deadline) {
      std::fprintf(stderr, "edge_bench: the router %s; see %s\n", what, router.log.c_str());
      std::exit(1);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  };
  std::map<std::string, std::string> addresses;
  while (addresses.count("http") == 0) {
    wait("does not listen");
    std::ifstream file(folder + "/addresses");
    for (std::string word; file >> word;) addresses.insert(absl::StrSplit(word, absl::MaxSplits('=', 1)));
  }
  router.grpc_address = addresses["grpc"];
  router.http_address = addresses["http"];
  engine_->WriteLine(absl::StrCat(router.grpc_address, " ", options.num_groups, " ", options.num_draft_workers));
  const auto stub =
      v1::Inference::NewStub(grpc::CreateChannel(router.grpc_address, grpc::InsecureChannelCredentials()));
  v1::ModelInfo info;
  while (static_cast<int>(info.num_groups()) < options.num_groups ||
         static_cast<int>(info.num_draft_workers()) < options.num_draft_workers) {
    wait("does not serve");
    grpc::ClientContext context;
    stub->GetModelInfo(&context, {}, &info);
  }
  return router;
}

}  // namespace outrider::edge
