#include "cli/serve_command.h"

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/held_port.h"
#include "base/log.h"
#include "base/page_client.h"
#include "base/processors.h"
#include "base/status_macros.h"
#include "cli/cluster_flags.h"
#include "cli/cluster_pages.h"
#include "cli/cluster_plan.h"
#include "cli/model_check.h"
#include "cli/runtime_folder.h"
#include "cli/supervisor.h"
#include "security/tls.h"
#include "tracing/otlp_endpoint.h"
#include "worker/model/cuda_backend.h"  // NumCudaDevices

namespace outrider {
namespace {

// Draft workers may be late: once all groups serve, they are waited for so long, then serving begins without.
constexpr Duration kDraftWaitMax = std::chrono::seconds(20);
constexpr auto kPollInterval = std::chrono::milliseconds(50);
constexpr Duration kPageBound = std::chrono::seconds(1);
constexpr Duration kProgressInterval = std::chrono::seconds(5);

// The gauge `outrider_NAME` on a page of metrics; 0 if it is not there.
uint32_t GaugeOn(const std::string& page, const std::string& name) {
  for (const absl::string_view line : absl::StrSplit(page, '\n')) {
    absl::string_view value = line;
    uint32_t count = 0;
    if (absl::ConsumePrefix(&value, absl::StrCat("outrider_", name, " ")) && absl::SimpleAtoi(value, &count)) {
      return count;
    }
  }
  return 0;
}

// Waits until every group serves and, within a bound, every draft worker is there, by the router's pages. False once
// `stopped`.
bool AwaitReady(const ClusterOptions& options, const std::string& router_pages, const std::atomic<bool>& stopped) {
  const uint32_t num_draft_workers = options.draft_model.empty() ? 0 : options.draft_workers;
  TimePoint groups_ready_at{}, told_at = std::chrono::steady_clock::now();
  for (; !stopped; std::this_thread::sleep_for(kPollInterval)) {
    const std::vector<absl::StatusOr<Page>> pages =
        FetchPages({{router_pages, "/readyz"}, {router_pages, "/metrics"}}, kPageBound);
    const bool router_ready = pages[0].ok() && pages[0]->status == 200;
    const std::string page = pages[1].ok() ? pages[1]->body : "";
    const uint32_t num_groups_now = GaugeOn(page, "groups_serving"), num_drafts_now = GaugeOn(page, "draft_workers");
    const TimePoint now = std::chrono::steady_clock::now();
    if (router_ready && num_groups_now >= options.groups) {
      if (num_drafts_now >= num_draft_workers) return true;
      if (groups_ready_at == TimePoint{}) groups_ready_at = now;
      if (now - groups_ready_at > kDraftWaitMax) {
        LogWarning(num_drafts_now, " of ", num_draft_workers,
                   " draft workers are there; serving begins without the rest");
        return true;
      }
    }
    if (now - told_at >= kProgressInterval) {
      told_at = now;
      LogInfo("waiting for the cluster: ", num_groups_now, " of ", options.groups, " groups serve, ", num_drafts_now,
              " of ", num_draft_workers, " draft workers are there");
    }
  }
  return false;
}

absl::Status RunServe(ClusterOptions options) {
  SetLogProcess("serve");
  RETURN_IF_ERROR(Validate(options));
  RETURN_IF_ERROR(SetLogFormat(options.log_format));
  // Before looking for GPUs: their driver starts threads, which would take the signals that are waited for here.
  Supervisor::BlockSignals();
  RETURN_IF_ERROR(CheckTlsFiles({.certificate = options.tls_certificate,
                                 .private_key = options.tls_private_key,
                                 .authorities = options.tls_authorities},
                                "tls"));
  if (!options.otlp_endpoint.empty()) RETURN_IF_ERROR(ParseOtlpEndpoint(options.otlp_endpoint).status());
  RETURN_IF_ERROR(CheckModels(options));
  // For the router, whenever it is started again.
  ASSIGN_OR_RETURN(const HeldPort grpc_port, HeldPort::Hold(options.host, options.grpc_port));
  ASSIGN_OR_RETURN(const HeldPort http_port, HeldPort::Hold(options.host, options.http_port));
  options.grpc_port = grpc_port.port();
  options.http_port = http_port.port();
  ASSIGN_OR_RETURN(const std::unique_ptr<RuntimeFolder> folder, RuntimeFolder::Make(RuntimeFolder::DefaultBase()));

  std::random_device random;
  Supervisor supervisor({.program = std::filesystem::read_symlink("/proc/self/exe").string(), .seed = random()});
  const std::vector<UnitPlan> units =
      PlanCluster(options, folder->path(), static_cast<uint32_t>(NumUsableProcessors()),
                  options.device == "cpu" ? 0 : static_cast<uint32_t>(NumCudaDevices()));
  for (const UnitPlan& unit : units) supervisor.Add(unit);
  ClusterPages pages(units, supervisor);
  ASSIGN_OR_RETURN(const std::unique_ptr<PageServer> page_server,
                   PageServer::Start(options.host, static_cast<int>(options.metrics_port), pages.Pages()));
  options.metrics_port = static_cast<uint32_t>(page_server->port());
  std::atomic<bool> stopped{false};
  std::thread ready([&] {
    if (!AwaitReady(options, units[0].processes[0].health_address, stopped)) return;
    supervisor.MarkReady();
    pages.MarkReady();
    const std::string http = absl::StrCat(options.host, ":", options.http_port);
    const char* const scheme = options.tls_certificate.empty() ? "http://" : "https://";
    std::printf("ready grpc=%s:%u metrics=%s:%u http=%s\n", options.host.c_str(), options.grpc_port,
                options.host.c_str(), options.metrics_port, http.c_str());
    std::fflush(stdout);
    LogInfo("a page to chat and to see the cluster at ", scheme, http, "/");
    LogInfo("OpenAI-compatible API at ", scheme, http, "/v1; try: curl ", scheme, http,
            R"(/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}')");
  });
  const absl::Status status = supervisor.Run();
  stopped = true;
  ready.join();
  return status;
}

}  // namespace

void AddServeCommand(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("serve", "Run a whole cluster on this machine");
  auto options = std::make_shared<ClusterOptions>();
  // Not `required()`: an unknown flag is to be named before a missing model is.
  command->add_option("MODEL", options->model, "GGUF file or Hugging Face folder of the target model");
  AddClusterFlags(*command, *options);
  command->add_option("--lookahead", options->lookahead, "Draft tokens a round: auto (measured) or 0..32")
      ->type_name("[auto]");
  command->add_option("--draft-replay", options->draft_replay, "For benches: outputs that draft workers draft (JSONL)")
      ->type_name("FILE");
  command->add_option("--draft-acceptance", options->draft_acceptance, "Share of replayed tokens that is right")
      ->type_name("[1]");
  command->add_option("--host", options->host, "Address to listen on")->type_name("[127.0.0.1]");
  command->add_option("--grpc-port", options->grpc_port, "Port of the gRPC API; 0: a free one")->type_name("[9000]");
  command
      ->add_option("--http-port", options->http_port,
                   "Port of the OpenAI-compatible HTTP API (also --port); 0: a free one")
      ->type_name("[8000]");
  command->add_option("--served-model-name", options->served_model_name, "What HTTP clients call the model")
      ->type_name("NAME,NAME");
  command->add_option("--metrics-port", options->metrics_port, "Port of the Prometheus metrics; 0: a free one")
      ->type_name("[9100]");
  command
      ->add_option("--metrics-compat", options->metrics_compat,
                   "vllm: show the router's metrics under vLLM's names too; none: only ours")
      ->type_name("[vllm]");
  command->add_option("--api-keys", options->api_keys, "File of the keys that clients must have; see outrider key")
      ->type_name("FILE");
  command->add_flag("--vllm-engine", options->vllm_engine, "Answer vLLM's gRPC engine service too");
  command->add_option("--log-format", options->log_format, "Lines of the log: text (key=value) or json")
      ->type_name("[text]");
  command
      ->add_option("--otlp-endpoint", options->otlp_endpoint,
                   "Send spans of requests to this collector of OpenTelemetry traces, by OTLP/gRPC")
      ->type_name("HOST:PORT");
  command
      ->add_option("--otlp-sample-ratio", options->otlp_sample_ratio,
                   "Share of requests whose spans are recorded, of those that bring no trace")
      ->type_name("[1]");
  command->add_option("--tls-certificate", options->tls_certificate, "PEM file: clients speak TLS to the gRPC API")
      ->type_name("FILE");
  command->add_option("--tls-private-key", options->tls_private_key, "PEM file: the certificate's key")
      ->type_name("FILE");
  command
      ->add_option("--tls-authorities", options->tls_authorities,
                   "PEM file: clients must show a certificate of these authorities")
      ->type_name("FILE");
  command->footer(
      "Prints `ready grpc=HOST:PORT metrics=HOST:PORT http=HOST:PORT` on standard output once it can serve; logs go to "
      "standard error.\n"
      "SIGTERM or Ctrl-C finishes what runs and stops all; a second one stops at once.\n\n"
      "Example:\n"
      "  outrider serve model.gguf --draft-model draft.gguf --tensor-parallel-size 2");
  command->callback([=, &exit_code] {
    if (options->model.empty()) throw CLI::RequiredError("MODEL");
    const absl::Status status = RunServe(*options);
    if (status.ok()) return;
    LogError(status.message());
    exit_code = status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  });
}

}  // namespace outrider
