#include "worker/draft_main.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/atomic_file.h"
#include "base/clock.h"
#include "base/health.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/status_macros.h"
#include "base/termination.h"
#include "text/tokenizer_definition.h"  // Fingerprint
#include "tracing/start_tracing.h"
#include "worker/engine/drafter.h"
#include "worker/model/loaded_model.h"
#include "worker/model/mapped_file.h"
#include "worker/model/model_runner.h"
#include "worker/rpc/draft_service.h"
#include "worker/rpc/registration_client.h"
#include "worker/rpc/rpc_server.h"
#include "worker/speculation/draft_replay.h"
#include "worker/worker_setup.h"

namespace outrider {
namespace {

// A step of a draft model that lasts longer means that something hangs.
constexpr Duration kStepPatience = std::chrono::seconds(10);

}  // namespace

absl::Status RunDraft(const v1::DraftConfig& config) {
  SetLogProcess(config.worker_id());
  RETURN_IF_ERROR(SetLogFormat(config.log_format()));
  RETURN_IF_ERROR(Validate(config));
  ASSIGN_OR_RETURN(const std::shared_ptr<const LinkSecurity> links, ResolveLinks(config));
  TerminationWatcher termination;
  const uint64_t incarnation = NewIncarnation();
  // Health is to be seen from the first moment on.
  MetricsRegistry registry;
  ProcessHealth health;
  std::unique_ptr<MetricsServer> metrics_server;
  std::string metrics_address;
  if (const std::string host = ResolveMetricsHost(config.metrics_host(), config.host(), config.has_metrics_port());
      !host.empty()) {
    ASSIGN_OR_RETURN(metrics_server,
                     MetricsServer::Start(host, static_cast<int>(config.metrics_port()), registry, &health));
    metrics_address = absl::StrCat(" metrics=", host);
    if (metrics_server->port() > 0) absl::StrAppend(&metrics_address, ":", metrics_server->port());
  }

  LoadOptions load_options;
  ASSIGN_OR_RETURN(load_options.numerics, ParseNumerics(config.numerics()));
  load_options.num_threads = ResolveThreads(config.threads(), 1);
  load_options.max_model_len = static_cast<int>(config.max_model_len());
  ASSIGN_OR_RETURN(load_options.load_format, ParseLoadFormat(config.load_format()));
  ASSIGN_OR_RETURN(const RankDevice place,
                   ResolveRankDevice(config.device(), load_options.numerics, 0, 1, config.gpu()));
  load_options.device = place.device;
  load_options.device_index = place.index;
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadedModel> model, LoadModel(config.model(), load_options));
  ASSIGN_OR_RETURN(const bool run_ahead, ResolveRunAhead(config.run_ahead()));
  const int block_size = static_cast<int>(config.block_size());
  const int max_sequences = static_cast<int>(config.max_sequences());
  const int max_step_tokens = static_cast<int>(config.max_step_tokens());
  std::optional<DraftReplay> replay;
  if (!config.replay().empty()) {
    ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(config.replay(), "recorded outputs"));
    const absl::string_view lines(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
    ASSIGN_OR_RETURN(replay, DraftReplay::Parse(lines, {.acceptance = config.replay_acceptance(),
                                                        .vocab_size = model->config().vocab_size}));
    LogWarning("drafting what ", config.replay(), " recorded of ", replay->num_requests(),
               " requests, right by a chance of ", config.replay_acceptance());
  }
  RunnerOptions runner_options{.block_size = block_size,
                               .max_step_tokens = max_step_tokens,
                               .max_sequences = std::min(max_sequences, max_step_tokens)};
  if (replay.has_value()) {
    runner_options.replay = [&replay](const SamplingParams& params, int index, TokenId chosen) {
      return replay->TokenAt(params, index, chosen);
    };
  }
  int64_t device_bytes = 0;
  if (model->device() == Device::kCuda) {
    ASSIGN_OR_RETURN(device_bytes, model->CudaKvBytes(runner_options, config.gpu_memory_utilization()));
  }
  ASSIGN_OR_RETURN(const int num_blocks, ResolveNumBlocks({.kv_cache_bytes = config.kv_cache_bytes(),
                                                           .device_bytes = static_cast<uint64_t>(device_bytes),
                                                           .bytes_per_block = model->kv_bytes_per_block(block_size),
                                                           .block_size = block_size,
                                                           .max_model_len = model->max_model_len(),
                                                           .max_sequences = max_sequences}));
  runner_options.num_kv_blocks = num_blocks;
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelRunner> runner, model->CreateRunner(runner_options));
  const std::string fingerprint = text::Fingerprint(model->tokenizer());

  ASSIGN_OR_RETURN(const std::unique_ptr<Tracer> tracer,
                   StartTracing(config.otlp_endpoint(), /*sample_ratio=*/1,
                                {.service = "outrider-draft", .instance = config.worker_id()}, registry));
  DrafterMetrics metrics(registry);
  const SystemClock clock;
  Drafter drafter({.vocab_size = model->config().vocab_size,
                   .max_model_len = model->max_model_len(),
                   .max_sequences = max_sequences,
                   .block_size = block_size,
                   .num_blocks = num_blocks,
                   .max_step_tokens = max_step_tokens,
                   .lease = std::chrono::milliseconds(config.lease_ms()),
                   .run_ahead = run_ahead,
                   .tracer = tracer.get()},
                  *runner, clock, metrics);
  DraftService service({.draft_id = config.worker_id(),
                        .incarnation = incarnation,
                        .model = model->name(),
                        .tokenizer_fingerprint = fingerprint,
                        .vocab_size = model->config().vocab_size,
                        .max_model_len = model->max_model_len(),
                        .max_sequences = max_sequences,
                        .runs_ahead = run_ahead},
                       drafter, metrics);
  ASSIGN_OR_RETURN(
      const std::unique_ptr<RpcServer> server,
      RpcServer::Start(
          {.host = config.host(), .port = static_cast<int>(config.grpc_port()), .security = links.get()}, {&service},
          {"outrider.v1.Draft"}, [&health] { return health.IsReady(); }, [&health] { return health.IsLive(); }));
  LogInfo("drafting with ", model->name(), ", ", num_blocks, " KV blocks of ", block_size,
          " tokens, on grpc=", server->address(), metrics_address);
  if (!config.address_file().empty()) {
    RETURN_IF_ERROR(
        WriteFileAtomically(config.address_file(), absl::StrCat("grpc=", server->address(), metrics_address, "\n")));
  }

  std::atomic<bool> draining{false};
  health.Set([&] { return drafter.IsHealthy(kStepPatience) ? "" : "a step of the draft model does not end"; },
             [&] { return draining.load() ? "draining" : ""; });
  std::unique_ptr<RegistrationClient> registration;
  if (!config.router_address().empty()) {
    registration = std::make_unique<RegistrationClient>(
        RegistrationClient::Options{.router_address = config.router_address(), .security = links.get(), .status = [&] {
                                      const DrafterLoad load = drafter.load();
                                      v1::HeartbeatRequest request;
                                      request.set_worker_id(config.worker_id());
                                      request.set_incarnation(incarnation);
                                      request.set_address(server->address());
                                      request.set_draining(draining.load());
                                      v1::DraftWorkerStatus* const status = request.mutable_draft_worker();
                                      status->set_model(model->name());
                                      status->set_tokenizer_fingerprint(fingerprint);
                                      status->set_vocab_size(static_cast<uint32_t>(model->config().vocab_size));
                                      status->set_max_sequences(config.max_sequences());
                                      status->set_sequences(static_cast<uint32_t>(load.num_sequences));
                                      status->set_queued_tokens(static_cast<uint32_t>(load.num_queued_tokens));
                                      status->set_tokens_per_second(load.tokens_per_second);
                                      return request;
                                    }});
  }
  termination.OnSignal([&] {
    LogInfo("told to end: groups have ", config.drain_timeout_ms(), " ms to leave");
    draining = true;
    if (registration != nullptr) registration->Hurry();
    drafter.Drain(clock.Now() + std::chrono::milliseconds(config.drain_timeout_ms()));
  });

  const absl::Status status = drafter.Run();

  termination.OnSignal([] {});  // the end is under way
  health.Suspend("stopping");
  registration.reset();
  server->Shutdown(Duration::zero());
  return status;
}

}  // namespace outrider
