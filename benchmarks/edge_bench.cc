// edge_bench: what the router adds to a request, and what its clients cost it. A fake engine (benchmarks/edge) stands
// behind the real router; real gRPC and HTTP clients stand before it; each part is a process of its own.
//
//   bazel run -c opt //benchmarks:edge_bench -- [--help]
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/scheduling.h"
#include "benchmarks/edge/engine_stream.h"
#include "benchmarks/edge/grpc_streams.h"
#include "benchmarks/edge/http_streams.h"
#include "benchmarks/edge/parts.h"
#include "benchmarks/edge/report.h"
#include "benchmarks/edge/stream_load.h"

namespace outrider::edge {
namespace {

constexpr char kUsage[] =
    R"(edge_bench [--FLAG VALUE]... [--json]

What the router adds to a request, and what clients cost it: the real router in a process of its own, gRPC and HTTP
clients before it, a fake engine behind it whose tokens come at once or at a pace. All of it shares the processors
that this may use (taskset chooses them). Figures are medians over the rounds with the least and the most; a figure
that has a goal says so.

Cases (--cases, all by default):
  first-message  open loop, --rate requests a second at random times: from a call to its first message. By turns: a
                 bare gRPC server that streams the same messages; the router over gRPC; over HTTP (SSE); over gRPC while
                 it writes --log-rate bytes of log a second and its ledger; the engine alone, on a stream as the
                 router's. Ratios are to the bare server, of one round.
  streams        --streams at once, each of 20 tokens a second: gaps between tokens; resident memory of a router that
                 did nothing else, by stream.
  slow-readers   --readers streams of 800 KB a second for --seconds beside an open loop of a fifth of --rate: what the
                 others see without them, beside such that read, and beside such that stop after a message; and what
                 these cost the router's memory.
  metrics        the time of /metrics with 32 groups and 8 draft workers.

  --rounds 5     rounds of first-message and slow-readers
  --seconds 4    of each load in a round
  --rate 1000    requests a second of first-message
  --tokens 4     tokens of a request of first-message, one every 10 ms, the first at once
  --link unix    how the router reaches the engine: by a socket of the file system, as in `outrider serve`, or tcp
  --connections 16   gRPC connections of the clients (HTTP: as many as requests are open)
  --streams 500  of the case streams; --stream-seconds 10 is how long they last
  --readers 16   of slow-readers, half over gRPC and half over HTTP
  --log-rate 1000000
  --seed 1       of the times at which requests come
  --keep         keeps the parts' logs and says where they are
)";

struct Options {
  std::set<std::string> cases = {"first-message", "streams", "slow-readers", "metrics"};
  std::map<std::string, int> numbers = {
      {"--rounds", 5},          {"--seconds", 4},      {"--rate", 1000},  {"--tokens", 4},           {"--streams", 500},
      {"--stream-seconds", 10}, {"--connections", 16}, {"--readers", 16}, {"--log-rate", 1'000'000}, {"--seed", 1}};
  bool json = false;
  bool keep = false;
  bool engine_by_tcp = false;

  int operator[](const std::string& flag) const { return numbers.at(flag); }
};

Options ParseOptions(const std::vector<std::string>& arguments) {
  Options options;
  const auto fail = [](const std::string& why) {
    std::fprintf(stderr, "edge_bench: %s; --help shows what there is\n", why.c_str());
    std::exit(2);
  };
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& flag = arguments[i];
    if (flag == "--help") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    } else if (flag == "--json") {
      options.json = true;
    } else if (flag == "--keep") {
      options.keep = true;
    } else if (i + 1 == arguments.size()) {
      fail(flag + " is unknown or lacks its value");
    } else if (flag == "--cases") {
      const std::set<std::string> all = options.cases;
      options.cases = absl::StrSplit(arguments[++i], ',');
      for (const std::string& name : options.cases) {
        if (all.count(name) == 0) fail("there is no case '" + name + "'");
      }
    } else if (flag == "--link") {
      const std::string& link = arguments[++i];
      if (link != "unix" && link != "tcp") fail("--link '" + link + "' may be unix or tcp");
      options.engine_by_tcp = link == "tcp";
    } else if (options.numbers.count(flag) == 0) {
      fail(flag + " is unknown");
    } else if (!absl::SimpleAtoi(arguments[++i], &options.numbers[flag]) || options.numbers[flag] < 1) {
      fail(flag + " '" + arguments[i] + "' must be a whole number above 0");
    }
  }
  return options;
}

Duration Seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

void NoteFailures(const std::string& where, const StreamFigures& figures, Report& report) {
  if (figures.num_failed() > 0) report.Note(absl::StrCat(where, ": failed: ", figures.WhatFailed()));
}

// --- first-message

void FirstMessage(const Options& options, Parts& parts, Report& report) {
  const RunningRouter plain = parts.StartRouter({});
  const RunningRouter logging = parts.StartRouter({.log_bytes_per_second = options["--log-rate"]});
  GrpcClients to_bare(parts.bare_address(), options["--connections"]);
  GrpcClients to_router(plain.grpc_address, options["--connections"]);
  GrpcClients to_logging(logging.grpc_address, options["--connections"]);
  HttpClients to_http(plain.http_address);
  EngineStream to_engine(parts.engine_address());
  struct Way {
    const char* name;
    std::function<StreamFigures(const StreamLoad&)> run;
    ChildProcess* server;
  };
  const std::vector<Way> ways = {
      {"bare gRPC", [&](const StreamLoad& load) { return to_bare.Run(load); }, &parts.bare()},
      {"router, gRPC", [&](const StreamLoad& load) { return to_router.Run(load); }, plain.process.get()},
      {"router, HTTP", [&](const StreamLoad& load) { return to_http.Run(load); }, plain.process.get()},
      {"router, gRPC, logging", [&](const StreamLoad& load) { return to_logging.Run(load); }, logging.process.get()},
      {"engine alone", [&](const StreamLoad& load) { return to_engine.Run(load); }, &parts.engine()}};
  StreamLoad load{.max_tokens = static_cast<uint32_t>(options["--tokens"])};
  load.starts = EvenStarts(100, 0.2);
  for (const Way& way : ways) way.run(load);  // connections, and what is made once
  for (int round = 0; round < options["--rounds"]; ++round) {
    std::map<std::string, double> p50, p99;
    load.starts = RandomStarts(options["--rate"], options["--seconds"], options["--seed"] + round);
    for (size_t i = 0; i < ways.size(); ++i) {
      const Way& way = ways[(i + round) % ways.size()];
      const std::string name = way.name;
      const double before = way.server->ProcessorSeconds();
      const StreamFigures figures = way.run(load);
      const double busy_us = 1e6 * (way.server->ProcessorSeconds() - before);
      NoteFailures(name, figures, report);
      p50[name] = Quantile(figures.first_ms, 0.5);
      p99[name] = Quantile(figures.first_ms, 0.99);
      report.Add(absl::StrCat("first message: ", name, ", p50"), "ms", p50[name]);
      report.Add(absl::StrCat("first message: ", name, ", p99"), "ms", p99[name]);
      report.Add(absl::StrCat("first message: ", name, ", server's processor time a request"), "us",
                 busy_us / static_cast<double>(load.starts.size()));
      if (!figures.late_ms.empty()) {
        report.Add("first message: clients late, p99", "ms", Quantile(figures.late_ms, 0.99));
      }
    }
    const auto ratio = [&](const char* name, const std::map<std::string, double>& of, double goal, const char* which) {
      report.Add(absl::StrCat("first message: ", name, " / bare, ", which), "ratio", of.at(name) / of.at("bare gRPC"),
                 goal);
    };
    ratio("router, gRPC", p50, 1.5, "p50");
    ratio("router, gRPC", p99, 5, "p99");
    ratio("router, HTTP", p50, 2, "p50");
    report.Add("first message: router, gRPC / (bare + engine alone), p50", "ratio",
               p50["router, gRPC"] / (p50["bare gRPC"] + p50["engine alone"]));
    report.Add("first message: router, gRPC, p99, logging / not", "ratio",
               p99["router, gRPC, logging"] / p99["router, gRPC"]);
  }
}

// --- streams

void Streams(const Options& options, Parts& parts, Report& report) {
  const int num_streams = options["--streams"];
  constexpr int kIntervalMs = 50;
  constexpr double kStartSeconds = 1;
  StreamLoad load{.starts = EvenStarts(num_streams, kStartSeconds), .pace = {.interval_ms = kIntervalMs}};
  load.max_tokens = static_cast<uint32_t>(options["--stream-seconds"] * 1000 / kIntervalMs);
  const StreamLoad warm_up{.starts = EvenStarts(20, 0.2)};
  const StreamLoad connect{.starts = EvenStarts(num_streams, kStartSeconds)};
  struct Way {
    std::string name;
    int num_connections;  // 0: HTTP
  };
  for (const Way& way :
       {Way{absl::StrCat("gRPC, ", options["--connections"], " connections"), options["--connections"]},
        Way{"gRPC, a connection each", num_streams}, Way{"HTTP", 0}}) {
    const RunningRouter router = parts.StartRouter({});
    GrpcClients over_grpc(router.grpc_address, std::max(1, way.num_connections));
    HttpClients over_http(router.http_address);
    const auto run = [&](const StreamLoad& what) {
      return way.num_connections > 0 ? over_grpc.Run(what) : over_http.Run(what);
    };
    GrpcClients(router.grpc_address, 2).Run(warm_up);
    HttpClients(router.http_address).Run(warm_up);
    const int64_t before = router.process->ResidentBytes();
    run(connect);
    const double busy_before = router.process->ProcessorSeconds();
    StreamFigures figures;
    std::thread clients([&] { figures = run(load); });
    int64_t resident = 0;
    for (int i = 0; i < 10; ++i) {  // all are open in the last
      std::this_thread::sleep_for(std::chrono::duration<double>(options["--stream-seconds"] / 10.0));
      resident = std::max(resident, router.process->ResidentBytes());
    }
    clients.join();
    NoteFailures(way.name, figures, report);
    const std::string name = absl::StrCat(num_streams, " streams: ", way.name);
    report.Add(name + ", gap between tokens, p50", "ms", Quantile(figures.gap_ms, 0.5));
    report.Add(name + ", gap between tokens, p99", "ms", Quantile(figures.gap_ms, 0.99), 100);
    report.Add(name + ", longest gap", "ms", Quantile(figures.gap_ms, 1));
    report.Add(name + ", streams lost", "streams", num_streams - figures.num_complete, 0);
    report.Add(name + ", router's memory a stream", "KB", static_cast<double>(resident - before) / 1024 / num_streams,
               64);
    report.Add(name + ", router's processor time a token", "us",
               1e6 * (router.process->ProcessorSeconds() - busy_before) / (num_streams * load.max_tokens));
  }
}

// --- slow-readers

// The sum of a metric's samples.
double Metric(const RunningRouter& router, const std::string& name) {
  std::string page;
  TimeGets(router.http_address, "/metrics", 1, &page);
  double sum = 0;
  for (const absl::string_view line : absl::StrSplit(page, '\n')) {
    double value;
    const size_t end = line.find_first_of(" {");
    if (line.substr(0, end) == name && absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) sum += value;
  }
  return sum;
}

void SlowReaders(const Options& options, Parts& parts, Report& report) {
  const int seconds = options["--seconds"];
  const int num_readers = std::max(2, options["--readers"]);
  const RunningRouter router = parts.StartRouter({});
  GrpcClients others(router.grpc_address, options["--connections"]);
  const StreamLoad warm_up{.starts = EvenStarts(50, 0.2)};
  others.Run(warm_up);
  struct Way {
    const char* name;
    bool readers, stop_reading;
  };
  const Way ways[] = {{"alone", false, false}, {"beside readers", true, false}, {"beside slow readers", true, true}};
  for (int round = 0; round < options["--rounds"]; ++round) {
    std::map<std::string, double> p99;
    for (const Way& way : ways) {
      GrpcClients grpc_readers(router.grpc_address, num_readers / 2);
      HttpClients http_readers(router.http_address);
      // They begin a second before the others, and are cancelled as those end.
      StreamLoad flood{.starts = EvenStarts(num_readers / 2, 0.1),
                       .pace = {.interval_ms = 10, .num_tokens = 8, .long_tokens = true}};
      flood.max_tokens = 1'000'000;
      flood.stop_reading = way.stop_reading;
      flood.cancel_after = Seconds(seconds + 1);
      const int64_t before = router.process->ResidentBytes();
      std::vector<std::thread> readers;
      if (way.readers) {
        readers.emplace_back([&] { grpc_readers.Run(flood); });
        readers.emplace_back([&] { http_readers.Run(flood); });
        std::this_thread::sleep_for(std::chrono::seconds(1));
      }
      int64_t resident = before;
      std::atomic<bool> ended{false};
      std::thread watch([&] {
        while (!ended) {
          resident = std::max(resident, router.process->ResidentBytes());
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
      });
      const StreamFigures figures = others.Run(
          {.starts = RandomStarts(options["--rate"] / 5.0, seconds, options["--seed"] + round), .max_tokens = 4});
      ended = true;
      watch.join();
      for (std::thread& reader : readers) reader.join();
      NoteFailures(way.name, figures, report);
      p99[way.name] = Quantile(figures.first_ms, 0.99);
      report.Add(absl::StrCat("slow readers: others ", way.name, ", p50"), "ms", Quantile(figures.first_ms, 0.5));
      report.Add(absl::StrCat("slow readers: others ", way.name, ", p99"), "ms", p99[way.name]);
      if (way.readers) {
        report.Add(absl::StrCat("slow readers: router's memory ", way.name, ", a reader, at most"), "KB",
                   static_cast<double>(resident - before) / 1024 / num_readers);
      }
    }
    report.Add("slow readers: others, p99, beside slow readers / beside readers", "ratio",
               p99["beside slow readers"] / p99["beside readers"]);
    report.Add("slow readers: others, p99, beside slow readers / alone", "ratio",
               p99["beside slow readers"] / p99["alone"]);
  }
  report.Note(absl::StrCat("slow readers: ", Metric(router, "outrider_streams_cut_total"), " of ",
                           num_readers * options["--rounds"], " were cut at their bound (max_stream_buffer_bytes)"));
}

// --- metrics

void Metrics(const Options& options, Parts& parts, Report& report) {
  const RunningRouter router = parts.StartRouter({.num_groups = 32, .num_draft_workers = 8});
  GrpcClients clients(router.grpc_address, options["--connections"]);
  clients.Run({.starts = EvenStarts(500, 1), .max_tokens = 4});
  std::string page;
  TimeGets(router.http_address, "/metrics", 5, &page);
  for (int round = 0; round < options["--rounds"]; ++round) {
    const std::vector<double> times_ms = TimeGets(router.http_address, "/metrics", 40, &page);
    report.Add("metrics: /metrics with 32 groups and 8 draft workers, p50", "ms", Quantile(times_ms, 0.5), 5);
    report.Add("metrics: /metrics with 32 groups and 8 draft workers, p90", "ms", Quantile(times_ms, 0.9));
  }
  report.Add("metrics: page", "KB", static_cast<double>(page.size()) / 1024);
}

int Main(const std::vector<std::string>& arguments) {
  RunPartIfAsked(arguments);
  const Options options = ParseOptions(arguments);
  UseShortSlices();  // clients too, so that what is measured is less their own wait for a processor
  std::string folder = (std::filesystem::temp_directory_path() / "edge-bench-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    std::fprintf(stderr, "edge_bench: no folder can be made in the temporary one; set TMPDIR\n");
    return 1;
  }
  Report report;
  {
    Parts parts(folder, options.engine_by_tcp);
    const auto run = [&](const char* name, void (*run_case)(const Options&, Parts&, Report&)) {
      if (options.cases.count(name) > 0) run_case(options, parts, report);
    };
    run("first-message", FirstMessage);
    run("streams", Streams);
    run("slow-readers", SlowReaders);
    run("metrics", Metrics);
  }
  std::printf("%s\n", (options.json ? report.ToJson() : report.ToText()).c_str());
  if (options.keep) {
    std::fprintf(stderr, "edge_bench: logs are in %s\n", folder.c_str());
  } else {
    std::filesystem::remove_all(folder);
  }
  return 0;
}

}  // namespace
}  // namespace outrider::edge

int main(int argc, char** argv) { return outrider::edge::Main({argv + 1, argv + argc}); }
