#include "cli/bench_serve_command.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/page_client.h"
#include "base/status_macros.h"
#include "cli/arrival_process.h"
#include "cli/bench_endpoint.h"
#include "cli/bench_prompts.h"
#include "cli/bench_report.h"
#include "cli/bench_statistics.h"
#include "cli/client_access.h"
#include "cli/page_address.h"
#include "cli/progress.h"

namespace outrider {
namespace {

constexpr Duration kMetricsBound = std::chrono::seconds(5);
constexpr int64_t kMaxDatasetBytes = int64_t{2} << 30;
constexpr int kMaxPrompts = 1'000'000;
constexpr uint32_t kHttpPort = 8000;
constexpr auto kSettleInterval = std::chrono::milliseconds(700);  // heartbeats come every 500 ms
constexpr int kSettleTries = 5;                                   // others may keep the server busy

struct ServeFlags {
  ClientAccess access;
  std::string address, host = "127.0.0.1", metrics_address = "127.0.0.1:9100", backend = "grpc", model, base_url,
                       endpoint;
  uint32_t port = 9000;
  std::string dataset_name = "random", dataset_path;
  int num_prompts = 1000, sharegpt_output_len = 0, custom_output_len = 256, input_len = 0, output_len = 0;
  RandomPrompts random;
  uint32_t random_vocab_size = 32000;
  std::string request_rate = "inf", burstiness = "1", ramp_strategy;
  double ramp_start = 0, ramp_end = 0;
  int max_concurrency = 0, num_warmups = 0;
  uint64_t seed = 0;
  double timeout_s = 0, ready_timeout_s = 10;
  std::vector<std::string> goodput, metadata;
  std::string percentile_metrics = "ttft,tpot,itl", metric_percentiles = "99";
  float temperature = 1, top_p = 1, min_p = 0, repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint32_t top_k = 0;
  int lookahead = -1;
  std::string draft = "on", label, result_dir, result_filename;
  bool ignore_eos = false, save_result = false, save_detailed = false, append_result = false, json = false;
  bool disable_tqdm = false;
};

absl::StatusOr<double> ParseNumber(const char* flag, const std::string& text) {
  double value = 0;
  if (absl::SimpleAtod(text, &value) && !std::isnan(value)) return value;
  return absl::InvalidArgumentError(absl::StrCat(flag, " '", text, "' is neither a number nor inf"));
}

absl::StatusOr<ArrivalOptions> Arrivals(const ServeFlags& flags) {
  ArrivalOptions options{.ramp_start = flags.ramp_start, .ramp_end = flags.ramp_end, .seed = flags.seed};
  ASSIGN_OR_RETURN(options.request_rate, ParseNumber("--request-rate", flags.request_rate));
  ASSIGN_OR_RETURN(options.burstiness, ParseNumber("--burstiness", flags.burstiness));
  if (flags.ramp_strategy == "linear") options.ramp = ArrivalOptions::Ramp::kLinear;
  if (flags.ramp_strategy == "exponential") options.ramp = ArrivalOptions::Ramp::kExponential;
  RETURN_IF_ERROR(ValidateArrivals(options));
  return options;
}

absl::StatusOr<std::vector<double>> Percents(const std::string& text) {
  std::vector<double> percents;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    double percent = 0;
    if (!absl::SimpleAtod(part, &percent) || !(percent >= 0 && percent <= 100)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--metric-percentiles: '", part, "' is no number from 0 to 100; write 50,90,99"));
    }
    percents.push_back(percent);
  }
  return percents;
}

absl::StatusOr<std::vector<std::string>> PercentileMetrics(const std::string& text) {
  std::vector<std::string> metrics = absl::StrSplit(text, ',');
  for (const std::string& metric : metrics) {
    if (metric != "ttft" && metric != "tpot" && metric != "itl" && metric != "e2el" && metric != "client_queue_time" &&
        metric != "e2el_including_client_queue") {
      return absl::InvalidArgumentError(
          absl::StrCat("--percentile-metrics: '", metric,
                       "' is none of ttft, tpot, itl, e2el, client_queue_time, e2el_including_client_queue"));
    }
  }
  return metrics;
}

// Only what was given on the command line is set.
v1::GenerateRequest Defaults(const CLI::App& command, const ServeFlags& flags) {
  const auto given = [&](const char* name) { return command.get_option(name)->count() > 0; };
  v1::GenerateRequest request;
  if (given("--temperature")) request.set_temperature(flags.temperature);
  if (given("--top-p")) request.set_top_p(flags.top_p);
  if (given("--top-k")) request.set_top_k(flags.top_k);
  if (given("--min-p")) request.set_min_p(flags.min_p);
  if (given("--repetition-penalty")) request.set_repetition_penalty(flags.repetition_penalty);
  if (given("--presence-penalty")) request.set_presence_penalty(flags.presence_penalty);
  if (given("--frequency-penalty")) request.set_frequency_penalty(flags.frequency_penalty);
  if (given("--lookahead")) request.set_lookahead(flags.lookahead);
  if (given("--draft")) request.set_draft(flags.draft == "on");
  if (flags.ignore_eos) request.set_ignore_eos(true);
  return request;
}

absl::StatusOr<std::string> ReadDataset(const std::string& path, bool silent) {
  std::ifstream file(path, std::ios::binary);
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (!file || error) return absl::NotFoundError(absl::StrCat("--dataset-path: '", path, "' can not be read"));
  if (size > kMaxDatasetBytes) {
    return absl::InvalidArgumentError(absl::StrCat("--dataset-path: '", path, "' has more than 2 GiB"));
  }
  std::string text(size, '\0');
  Progress progress("reading", ProgressUnit::kBytes, std::max<int64_t>(1, static_cast<int64_t>(size)), silent);
  constexpr size_t kPieceBytes = 8 << 20;
  for (size_t done = 0; done < text.size(); progress.Update(static_cast<int64_t>(done))) {
    const size_t piece = std::min(kPieceBytes, text.size() - done);
    if (!file.read(&text[done], static_cast<std::streamsize>(piece))) {
      return absl::DataLossError(absl::StrCat("--dataset-path: '", path, "' ends too soon"));
    }
    done += piece;
  }
  return text;
}

absl::StatusOr<std::vector<v1::GenerateRequest>> Prompts(const ServeFlags& flags, BenchEndpoint& endpoint,
                                                         const v1::ModelInfo& info,
                                                         const v1::GenerateRequest& defaults) {
  if (flags.dataset_name == "random") {
    if (!flags.dataset_path.empty()) {
      return absl::InvalidArgumentError("--dataset-path goes with --dataset-name sharegpt or custom, not random");
    }
    RandomPrompts random = flags.random;
    if (flags.input_len > 0) random.input_len = flags.input_len;
    if (flags.output_len > 0) random.output_len = flags.output_len;
    const uint32_t vocab_size = info.vocab_size() > 0 ? info.vocab_size() : flags.random_vocab_size;
    return MakeRandomPrompts(random, flags.num_prompts, vocab_size,
                             {info.end_token_ids().begin(), info.end_token_ids().end()}, flags.seed, defaults);
  }
  if (flags.dataset_path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--dataset-name ", flags.dataset_name, " needs --dataset-path FILE"));
  }
  if (flags.dataset_name == "custom") {
    return JsonlPrompts(flags.dataset_path, flags.num_prompts,
                        flags.output_len > 0 ? flags.output_len : flags.custom_output_len, defaults);
  }
  ASSIGN_OR_RETURN(const std::string text, ReadDataset(flags.dataset_path, flags.disable_tqdm));
  const CountTokens count = [&](const std::string& prompt) { return endpoint.CountTokens(prompt); };
  return ShareGptPrompts(text, flags.num_prompts, flags.output_len > 0 ? flags.output_len : flags.sharegpt_output_len,
                         flags.seed, count, defaults);
}

bool IsHttp(const ServeFlags& flags) { return flags.backend != "grpc"; }

absl::StatusOr<std::unique_ptr<BenchEndpoint>> MakeEndpoint(const CLI::App& command, ServeFlags& flags) {
  const auto given = [&](const char* name) { return command.get_option(name)->count() > 0; };
  if (!IsHttp(flags)) {
    if (given("--base-url") || given("--endpoint")) {
      return absl::InvalidArgumentError("--base-url and --endpoint go with --backend openai or openai-chat");
    }
    return MakeGrpcEndpoint(flags.address.empty() ? absl::StrCat(flags.host, ":", flags.port) : flags.address,
                            flags.access);
  }
  if (given("--base-url") + given("--address") + given("--host") > 1) {
    return absl::InvalidArgumentError("give one of --base-url, --address and --host");
  }
  const bool chat = flags.backend == "openai-chat";
  OpenAiEndpointOptions options{.base_url = flags.base_url,
                                .path = flags.endpoint,
                                .api = chat ? OpenAiApi::kChat : OpenAiApi::kCompletions,
                                .model = flags.model,
                                .api_key = {},
                                .tls = flags.access.files};
  if (options.base_url.empty()) {
    const uint32_t port = given("--port") ? flags.port : kHttpPort;
    const bool is_secure = flags.access.tls || !flags.access.files.empty();
    options.base_url = absl::StrCat(is_secure ? "https://" : "http://",
                                    flags.address.empty() ? absl::StrCat(flags.host, ":", port) : flags.address);
  }
  if (options.path.empty()) options.path = chat ? "/v1/chat/completions" : "/v1/completions";
  options.api_key = flags.access.api_key;
  if (const char* const key = std::getenv("OPENAI_API_KEY"); key != nullptr && options.api_key.empty()) {
    options.api_key = key;
  }
  // The page with the counters of drafts is that of the same server.
  if (!given("--metrics-address")) {
    absl::string_view rest = options.base_url;
    rest = absl::StripPrefix(absl::StripPrefix(rest, "https://"), "http://");
    flags.metrics_address = std::string(rest.substr(0, rest.find('/')));
  }
  return MakeOpenAiEndpoint(options);
}

DraftCounters FetchDraftCounters(const std::string& metrics_address) {
  const auto address = ResolvePageAddress(metrics_address);
  if (!address.ok()) return {};
  const auto pages = FetchPages({{*address, "/metrics"}}, kMetricsBound);
  return pages[0].ok() && pages[0]->status == 200 ? ReadDraftCounters(pages[0]->body) : DraftCounters();
}

// A router's page has them from its groups' heartbeats: what stood still for longer than one of those is all of it.
DraftCounters FetchSettledDraftCounters(const std::string& metrics_address) {
  DraftCounters last = FetchDraftCounters(metrics_address);
  for (int i = 0; i < kSettleTries; ++i) {
    std::this_thread::sleep_for(kSettleInterval);
    DraftCounters now = FetchDraftCounters(metrics_address);
    if (now == last) break;
    last = std::move(now);
  }
  return last;
}

std::string LocalTime(std::time_t time, const char* format) {
  std::tm local{};
  ::localtime_r(&time, &local);
  char text[64];
  return std::string(text, std::strftime(text, sizeof(text), format, &local));
}

// When the whole number of requests a second rose, under a ramp.
std::vector<std::pair<int, std::string>> RpsChanges(const ArrivalOptions& options, const std::vector<double>& arrivals,
                                                    std::time_t started) {
  std::vector<std::pair<int, std::string>> changes;
  if (options.ramp == ArrivalOptions::Ramp::kNone) return changes;
  const auto add = [&](int rate, double at_s) {
    changes.emplace_back(rate, LocalTime(started + static_cast<std::time_t>(at_s), "%Y-%m-%dT%H:%M:%S"));
  };
  add(static_cast<int>(options.ramp_start), 0);
  for (size_t i = 0; i < arrivals.size(); ++i) {
    const int rate = static_cast<int>(RequestRate(options, static_cast<int>(i), static_cast<int>(arrivals.size())));
    while (changes.back().first < rate) add(changes.back().first + 1, arrivals[i]);
  }
  return changes;
}

absl::Status Save(const ServeFlags& flags, const BenchRun& run, const nlohmann::ordered_json& json) {
  std::filesystem::path path = flags.result_filename.empty() ? BenchFileName(run) : flags.result_filename;
  if (!flags.result_dir.empty()) {
    std::error_code error;
    std::filesystem::create_directories(flags.result_dir, error);
    path = std::filesystem::path(flags.result_dir) / path;
  }
  std::ofstream file(path, flags.append_result ? std::ios::app : std::ios::trunc);
  if (flags.append_result && file.tellp() > 0) file << "\n";
  file << json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  file.close();
  if (!file) return absl::DataLossError(absl::StrCat("'", path.string(), "' can not be written; see --result-dir"));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Metadata(const std::vector<std::string>& pairs) {
  std::vector<std::pair<std::string, std::string>> metadata;
  for (const std::string& pair : pairs) {
    const size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(absl::StrCat("--metadata '", pair, "' is not KEY=VALUE"));
    }
    metadata.emplace_back(pair.substr(0, equals), pair.substr(equals + 1));
  }
  return metadata;
}

absl::Status RunBenchServe(const CLI::App& command, ServeFlags flags) {
  // All that can be wrong before anybody is asked.
  ASSIGN_OR_RETURN(const ArrivalOptions arrivals, Arrivals(flags));
  ASSIGN_OR_RETURN(const auto goodput, ParseGoodput(flags.goodput));
  ASSIGN_OR_RETURN(const std::vector<double> percents, Percents(flags.metric_percentiles));
  BenchRun run{.backend = flags.backend, .num_prompts = flags.num_prompts};
  ASSIGN_OR_RETURN(run.percentile_metrics, PercentileMetrics(flags.percentile_metrics));
  ASSIGN_OR_RETURN(run.metadata, Metadata(flags.metadata));
  const auto given = [&](const char* name) { return command.get_option(name)->count() > 0; };
  if (given("--label")) run.label = flags.label;
  if (given("--max-concurrency")) run.max_concurrency = flags.max_concurrency;
  run.request_rate = arrivals.request_rate;
  run.burstiness = arrivals.burstiness;
  run.ramp_strategy = flags.ramp_strategy;
  run.ramp_start = flags.ramp_start;
  run.ramp_end = flags.ramp_end;
  run.has_goodput = !goodput.empty();

  ASSIGN_OR_RETURN(const std::unique_ptr<BenchEndpoint> endpoint, MakeEndpoint(command, flags));
  ASSIGN_OR_RETURN(const v1::ModelInfo info, endpoint->AwaitModel(flags.ready_timeout_s));
  run.model_id = flags.model.empty() ? info.model() : flags.model;
  ASSIGN_OR_RETURN(const std::vector<v1::GenerateRequest> requests,
                   Prompts(flags, *endpoint, info, Defaults(command, flags)));
  const OpenLoopOptions loop{.max_concurrency = run.max_concurrency, .timeout_s = flags.timeout_s};
  const auto say = [&](const std::string& text) {
    if (!flags.disable_tqdm) std::fprintf(stderr, "%s\n", text.c_str());
  };
  if (flags.num_warmups > 0) {
    say(absl::StrCat("Warming up with ", flags.num_warmups, " requests..."));
    const auto count = static_cast<size_t>(flags.num_warmups);
    RETURN_IF_ERROR(endpoint
                        ->RunOpenLoop(loop, std::vector<v1::GenerateRequest>(count, requests[0]),
                                      std::vector<double>(count, 0.0), [](int, int) {})
                        .status());
  }
  say(absl::StrCat("Traffic request rate: ", flags.ramp_strategy.empty() ? flags.request_rate : flags.ramp_strategy,
                   ", burstiness factor: ", flags.burstiness,
                   arrivals.burstiness == 1 ? " (Poisson process)" : " (Gamma distribution)"));
  const std::vector<double> times = ArrivalTimes(arrivals, flags.num_prompts);
  const auto fetch_counters = IsHttp(flags) ? FetchSettledDraftCounters : FetchDraftCounters;
  const DraftCounters before = fetch_counters(flags.metrics_address);
  const std::time_t started = std::time(nullptr);
  run.date = LocalTime(started, "%Y%m%d-%H%M%S");
  run.rps_changes = RpsChanges(arrivals, times, started);
  OpenLoopResult result;
  {
    Progress progress("requests", ProgressUnit::kCount, flags.num_prompts, flags.disable_tqdm);
    ASSIGN_OR_RETURN(result,
                     endpoint->RunOpenLoop(loop, requests, times, [&](int done, int) { progress.Update(done); }));
  }
  run.duration_s = result.duration_s;
  const SpeculationFigures speculation =
      Speculation(result.records, before, fetch_counters(flags.metrics_address), IsHttp(flags));
  const BenchMetrics metrics = Summarize(result.records, run.duration_s, percents, goodput);
  int num_told = 0;
  for (size_t i = 0; i < result.records.size() && num_told < 10; ++i) {
    if (result.records[i].success) continue;
    if (num_told++ == 0) std::fprintf(stderr, "Failed requests (10 at most are shown):\n");
    std::fprintf(stderr, "  request %zu: %s\n", i, result.records[i].error.c_str());
  }
  const auto json = BenchReportJson(run, metrics, speculation, result.records, flags.save_detailed);
  std::printf(
      "%s", flags.json ? absl::StrCat(json.dump(2), "\n").c_str() : BenchReportText(run, metrics, speculation).c_str());
  if (flags.save_result || flags.append_result) RETURN_IF_ERROR(Save(flags, run, json));
  if (metrics.completed == 0) return absl::UnavailableError("no request succeeded");
  return absl::OkStatus();
}

void AddDatasetFlags(CLI::App& command, ServeFlags& flags) {
  command
      .add_option("--dataset-name", flags.dataset_name,
                  "random: token ids by the seed; sharegpt: a JSON file of conversations; custom: JSONL as of "
                  "`outrider generate --input`")
      ->type_name("[random]")
      ->check(CLI::IsMember({"random", "sharegpt", "custom"}));
  command.add_option("--dataset-path", flags.dataset_path, "File of sharegpt or custom")->type_name("FILE");
  command.add_option("--num-prompts", flags.num_prompts, "Requests")
      ->type_name("[1000]")
      ->check(CLI::Range(1, kMaxPrompts));
  command.add_option("--input-len", flags.input_len, "As --random-input-len")->type_name("N");
  command.add_option("--output-len", flags.output_len, "Output tokens of each request, whatever the dataset")
      ->type_name("N");
  command.add_option("--random-input-len", flags.random.input_len, "Prompt tokens of random")->type_name("[1024]");
  command.add_option("--random-output-len", flags.random.output_len, "Output tokens of random")->type_name("[128]");
  command
      .add_option("--random-range-ratio", flags.random.range_ratio, "Lengths of random are even over 1 -/+ this share")
      ->type_name("[0]");
  command
      .add_option("--random-vocab-size", flags.random_vocab_size,
                  "Ids of random are below; over gRPC the model's own number")
      ->type_name("[32000]")
      ->check(CLI::Range(1, 1 << 24));
  command.add_option("--random-prefix-len", flags.random.prefix_len, "Tokens that all prompts of random begin with")
      ->type_name("[0]");
  command.add_option("--sharegpt-output-len", flags.sharegpt_output_len, "Instead of the answer's own length")
      ->type_name("N");
  command.add_option("--custom-output-len", flags.custom_output_len, "Of lines that say none")->type_name("[256]");
  command.add_option("--seed", flags.seed, "Of arrivals and datasets")->type_name("[0]");
}

void AddTrafficFlags(CLI::App& command, ServeFlags& flags) {
  command.add_option("--request-rate", flags.request_rate, "Requests a second; inf: all at once")->type_name("[inf]");
  command
      .add_option("--burstiness", flags.burstiness,
                  "1: a Poisson process; less: gaps vary more; more: less (gamma distribution); inf: not at all")
      ->type_name("[1]");
  command.add_option("--ramp-up-strategy", flags.ramp_strategy, "Rate that rises by requests: linear or exponential")
      ->type_name("NAME")
      ->check(CLI::IsMember({"linear", "exponential"}));
  command.add_option("--ramp-up-start-rps", flags.ramp_start, "Requests a second at first")->type_name("N");
  command.add_option("--ramp-up-end-rps", flags.ramp_end, "Requests a second at last")->type_name("N");
  command.add_option("--max-concurrency", flags.max_concurrency, "Requests at once; what is due beyond waits here")
      ->type_name("N")
      ->check(CLI::Range(1, kMaxOpenRequests));
  command.add_option("--num-warmups", flags.num_warmups, "Requests before, that do not count")
      ->type_name("[0]")
      ->check(CLI::Range(0, kMaxOpenRequests));
  command.add_option("--timeout", flags.timeout_s, "Seconds a request may take; 0: any")
      ->type_name("[0]")
      ->check(CLI::Range(0.0, 1e6));
  command.add_option("--ready-check-timeout-sec", flags.ready_timeout_s, "Seconds to wait until a group serves")
      ->type_name("[10]")
      ->check(CLI::Range(0.0, 1e6));
}

void AddSamplingFlags(CLI::App& command, ServeFlags& flags) {
  const char* const models = "[the model's]";
  command.add_option("--temperature", flags.temperature, "0 is greedy")->type_name(models);
  command.add_option("--top-p", flags.top_p, "As of `outrider generate`")->type_name(models);
  command.add_option("--top-k", flags.top_k, "As of `outrider generate`")->type_name(models);
  command.add_option("--min-p", flags.min_p, "As of `outrider generate`")->type_name(models);
  command.add_option("--repetition-penalty", flags.repetition_penalty, "As of `outrider generate`")->type_name(models);
  command.add_option("--presence-penalty", flags.presence_penalty, "As of `outrider generate`")->type_name("[0]");
  command.add_option("--frequency-penalty", flags.frequency_penalty, "As of `outrider generate`")->type_name("[0]");
  command.add_flag("--ignore-eos", flags.ignore_eos, "Go on after the end token; random always does");
  command.add_option("--draft", flags.draft, "on or off: speculation for these requests")
      ->type_name("[on]")
      ->check(CLI::IsMember({"on", "off"}));
  command.add_option("--lookahead", flags.lookahead, "Draft tokens a round: -1 (auto) or 0..32")
      ->type_name("[-1]")
      ->check(CLI::Range(-1, 32));
}

void AddReportFlags(CLI::App& command, ServeFlags& flags) {
  command.add_option("--goodput", flags.goodput, "Targets in ms, such as ttft:200 tpot:50 e2el:5000")
      ->type_name("NAME:MS");
  command
      .add_option("--percentile-metrics", flags.percentile_metrics,
                  "Of ttft, tpot, itl, e2el, client_queue_time, e2el_including_client_queue")
      ->type_name("[ttft,tpot,itl]");
  command.add_option("--metric-percentiles", flags.metric_percentiles, "Percentiles of each")->type_name("[99]");
  command.add_flag("--json", flags.json, "Print the result as JSON instead of the report");
  command.add_flag("--save-result", flags.save_result, "Write the result as JSON to a file");
  command.add_flag("--append-result", flags.append_result, "Append it there, a line a run");
  command.add_flag("--save-detailed", flags.save_detailed, "With every request's figures and text");
  command.add_option("--result-dir", flags.result_dir, "Folder of the file")->type_name("DIR");
  command.add_option("--result-filename", flags.result_filename, "Its name")
      ->type_name("[LABEL-RATEqps-MODEL-DATE.json]");
  command.add_option("--label", flags.label, "Of the result; the backend's name if absent")->type_name("TEXT");
  command.add_option("--metadata", flags.metadata, "KEY=VALUE pairs to keep with the result")->type_name("KEY=VALUE");
  command.add_flag("--disable-tqdm", flags.disable_tqdm, "Show no progress");
}

}  // namespace

void AddBenchServeCommand(CLI::App& bench, int& exit_code) {
  CLI::App* const command =
      bench.add_subcommand("serve", "A serving cluster under open-loop load, as `vllm bench serve`");
  const auto flags = std::make_shared<ServeFlags>();
  const auto group = [&](const char* name) { command->option_defaults()->group(name); };
  group("Router");
  command->add_option("--address", flags->address, "Router to ask; else --host and --port")->type_name("HOST:PORT");
  AddAccessFlags(*command, flags->access);
  command->add_option("--host", flags->host, "Of the router")->type_name("[127.0.0.1]");
  command->add_option("--port", flags->port, "Its port; 8000 over HTTP")
      ->type_name("[9000]")
      ->check(CLI::Range(1, 65535));
  command->add_option("--base-url", flags->base_url, "Over HTTP, instead: any server of OpenAI's API")
      ->type_name("http[s]://HOST:PORT");
  command->add_option("--endpoint", flags->endpoint, "Over HTTP: the path that requests go to")
      ->type_name("[/v1/completions or /v1/chat/completions]");
  command
      ->add_option(
          "--metrics-address", flags->metrics_address,
          "Metrics page with the acceptance by position; the report does without it. Over HTTP: of the same port")
      ->type_name("[127.0.0.1:9100]");
  command
      ->add_option("--backend", flags->backend,
                   "grpc; openai or vllm: HTTP, completions; openai-chat: HTTP, conversations (key: --api-key, else "
                   "OPENAI_API_KEY)")
      ->type_name("[grpc]")
      ->check(CLI::IsMember({"grpc", "openai", "openai-chat", "vllm"}));
  command->add_option("--model", flags->model, "Name in the report, and of the model over HTTP; the server's if absent")
      ->type_name("NAME");
  group("Prompts");
  AddDatasetFlags(*command, *flags);
  group("Traffic");
  AddTrafficFlags(*command, *flags);
  group("Sampling and speculation");
  AddSamplingFlags(*command, *flags);
  group("Report");
  AddReportFlags(*command, *flags);
  command->footer(
      "Arrivals do not wait for answers: a cluster that falls behind shows it in its latencies. ITL is the gap "
      "between\n"
      "messages, which bring several tokens under speculation; TPOT is a token's.\n\n"
      "Examples:\n"
      "  outrider bench serve --num-prompts 200 --request-rate 8 --random-input-len 256 --goodput ttft:500 tpot:50\n"
      "  outrider bench serve --dataset-name sharegpt --dataset-path ShareGPT_V3.json --request-rate 4 --save-result\n"
      "  outrider bench serve --dataset-name custom --dataset-path prompts.jsonl --max-concurrency 16 --draft off\n"
      "  outrider bench serve --backend openai --base-url http://vllm:8000 --request-rate 8");
  command->callback([=, &exit_code] {
    const absl::Status status = RunBenchServe(*command, *flags);
    if (status.ok()) return;
    std::fprintf(stderr, "outrider bench serve: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
                 std::string(status.message()).c_str());
    exit_code = status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  });
}

}  // namespace outrider
