#include "worker/target_main.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/atomic_file.h"
#include "base/clock.h"
#include "base/health.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/termination.h"
#include "text/tokenizer_definition.h"  // Fingerprint
#include "tracing/start_tracing.h"
#include "worker/engine/step_thread.h"
#include "worker/engine/target_engine.h"
#include "worker/group/end_of_epoch.h"
#include "worker/group/rank_metrics.h"
#include "worker/group/step_broadcast.h"
#include "worker/group/step_progress.h"
#include "worker/model/loaded_model.h"
#include "worker/model/model_runner.h"
#include "worker/parallel/device_transport.h"
#include "worker/rpc/draft_connections.h"
#include "worker/rpc/group_client.h"
#include "worker/rpc/group_service.h"
#include "worker/rpc/proto_conversions.h"
#include "worker/rpc/registration_client.h"
#include "worker/rpc/rpc_server.h"
#include "worker/rpc/target_service.h"
#include "worker/step/draft_offer.h"  // kMaxLookahead
#include "worker/worker_setup.h"

namespace outrider {
namespace {

// For the last events to reach routers.
constexpr Duration kLastWords = std::chrono::milliseconds(200);

std::string MetricsHost(const v1::TargetConfig& config) {
  return ResolveMetricsHost(config.metrics_host(), config.host(), config.has_metrics_port());
}

// Null if none is wanted.
absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(const v1::TargetConfig& config,
                                                            const MetricsRegistry& registry,
                                                            const ProcessHealth& health) {
  const std::string host = MetricsHost(config);
  if (host.empty()) return std::unique_ptr<MetricsServer>();
  return MetricsServer::Start(host, static_cast<int>(config.metrics_port()), registry, &health);
}

absl::Status WriteAddresses(const v1::TargetConfig& config, const RpcServer& server, const MetricsServer* metrics) {
  std::string metrics_address;
  if (metrics != nullptr) {
    metrics_address = absl::StrCat("metrics=", MetricsHost(config));
    if (metrics->port() > 0) absl::StrAppend(&metrics_address, ":", metrics->port());
  }
  LogInfo("listening on grpc=", server.address(), metrics_address.empty() ? "" : " ", metrics_address);
  if (config.address_file().empty()) return absl::OkStatus();
  return WriteFileAtomically(
      config.address_file(),
      absl::StrCat("grpc=", server.address(), metrics_address.empty() ? "" : " ", metrics_address, "\n"));
}

absl::StatusOr<std::unique_ptr<LoadedModel>> Load(const v1::TargetConfig& config) {
  LoadOptions options;
  ASSIGN_OR_RETURN(options.numerics, ParseNumerics(config.numerics()));
  options.rank = static_cast<int>(config.rank());
  options.world_size = static_cast<int>(config.tensor_parallel_size());
  options.num_threads = ResolveThreads(config.threads(), config.tensor_parallel_size());
  options.max_model_len = static_cast<int>(config.max_model_len());
  ASSIGN_OR_RETURN(options.load_format, ParseLoadFormat(config.load_format()));
  ASSIGN_OR_RETURN(const RankDevice place, ResolveRankDevice(config.device(), options.numerics, options.rank,
                                                             options.world_size, config.first_gpu()));
  options.device = place.device;
  options.device_index = place.index;
  return LoadModel(config.model(), options);
}

RunnerOptions MakeRunnerOptions(const v1::TargetConfig& config, const LoadedModel& model, Communicator* communicator,
                                int64_t num_kv_blocks) {
  return {.communicator = communicator,
          .num_kv_blocks = static_cast<int>(num_kv_blocks),
          .block_size = static_cast<int>(config.block_size()),
          .max_step_tokens = ResolveMaxStepTokens(config.max_step_tokens(), config.max_sequences(), model.device()),
          .max_sequences = static_cast<int>(config.max_sequences()),
          // Its name was checked with the other settings.
          .transport = ParseDeviceTransport(config.gpu_transport()).value_or(DeviceTransport::kAuto)};
}

absl::StatusOr<int> NumBlocks(const v1::TargetConfig& config, const LoadedModel& model) {
  const int block_size = static_cast<int>(config.block_size());
  int64_t device_bytes = 0;
  if (model.device() == Device::kCuda) {
    ASSIGN_OR_RETURN(device_bytes,
                     model.CudaKvBytes(MakeRunnerOptions(config, model, nullptr, 0), config.gpu_memory_utilization()));
  }
  return ResolveNumBlocks({.kv_cache_bytes = config.kv_cache_bytes(),
                           .device_bytes = static_cast<uint64_t>(device_bytes),
                           .bytes_per_block = model.kv_bytes_per_block(block_size),
                           .block_size = block_size,
                           .max_model_len = model.max_model_len(),
                           .max_sequences = static_cast<int>(config.max_sequences())});
}

v1::ModelDescription Describe(const LoadedModel& model) {
  v1::ModelDescription description;
  description.set_name(model.name());
  description.set_architecture(model.config().architecture);
  description.set_max_model_len(static_cast<uint32_t>(model.max_model_len()));
  description.set_vocab_size(static_cast<uint32_t>(model.config().vocab_size));
  description.set_numerics_id(model.numerics_id());
  description.set_numerics(NumericsName(model.numerics()));
  TokenizerToProto(model.tokenizer(), description.mutable_tokenizer());
  description.mutable_end_token_ids()->Add(model.end_token_ids().begin(), model.end_token_ids().end());
  const GenerationDefaults& defaults = model.generation_defaults();
  v1::SamplingDefaults* const sampling = description.mutable_sampling_defaults();
  if (defaults.temperature) sampling->set_temperature(*defaults.temperature);
  if (defaults.top_p) sampling->set_top_p(*defaults.top_p);
  if (defaults.top_k) sampling->set_top_k(*defaults.top_k);
  if (defaults.min_p) sampling->set_min_p(*defaults.min_p);
  if (defaults.repetition_penalty) sampling->set_repetition_penalty(*defaults.repetition_penalty);
  return description;
}

absl::StatusOr<TargetEngine::Options> MakeEngineOptions(const v1::TargetConfig& config, const LoadedModel& model,
                                                        int64_t num_kv_blocks) {
  TargetEngine::Options options;
  options.scheduler.vocab_size = model.config().vocab_size;
  options.scheduler.max_model_len = model.max_model_len();
  options.scheduler.num_blocks = static_cast<int>(num_kv_blocks);
  options.scheduler.block_size = static_cast<int>(config.block_size());
  options.scheduler.prefix_cache = config.prefix_cache();
  options.scheduler.max_sequences = static_cast<int>(config.max_sequences());
  options.scheduler.max_waiting_sequences = static_cast<int>(config.max_waiting_sequences());
  options.scheduler.max_step_tokens =
      ResolveMaxStepTokens(config.max_step_tokens(), config.max_sequences(), model.device());
  options.scheduler.step_time_ms_max = config.step_time_ms_max();
  RETURN_IF_ERROR(Scheduler::Validate(options.scheduler));
  options.drafts.vocab_size = model.config().vocab_size;
  ASSIGN_OR_RETURN(options.drafts.lookahead, ParseLookahead(config.lookahead()));
  options.drafts.draft_wait_ratio = config.draft_wait_ratio();
  options.drafts.draft_wait_ms_max = config.draft_wait_ms_max();
  options.ngram_draft = config.ngram_draft();
  return options;
}

// The leader's drain: may be asked for before there is anything to drain, by whoever, and ends by force once it has
// lasted long enough.
class Drain {
 public:
  Drain(std::string who, Duration timeout) : who_(std::move(who)), timeout_(timeout) {}
  ~Drain() { Disarm(); }
  bool begun() const { return begun_.load(); }

  // From any thread, as often as is liked.
  void Begin(const std::string& why) {
    MutexLock lock(mu_);
    if (done_ || begun_.exchange(true)) return;
    LogInfo(who_, " drains: ", why);
    if (engine_ != nullptr) Start();
  }
  // What is to be drained is there; `tell` announces it. Both live until Disarm.
  void Arm(TargetEngine& engine, std::function<void()> tell) {
    MutexLock lock(mu_);
    engine_ = &engine;
    tell_ = std::move(tell);
    if (begun_.load()) Start();
  }

  // Nothing is told and nothing ended any more once this returns.
  void Disarm() {
    {
      MutexLock lock(mu_);
      done_ = true;
      changed_.NotifyAll();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Start() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    tell_();
    engine_->Drain();
    thread_ = std::thread([this] {
      MutexLock lock(mu_);
      const TimePoint deadline = std::chrono::steady_clock::now() + timeout_;
      while (!done_ && changed_.WaitUntil(mu_, deadline)) {
      }
      if (done_) return;
      LogWarning("still running after ", ToMillis(timeout_), " ms: ending what is left");
      engine_->Stop();
    });
  }

  const std::string who_;
  const Duration timeout_;
  std::atomic<bool> begun_{false};
  std::thread thread_;
  Mutex mu_;
  CondVar changed_;
  TargetEngine* engine_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::function<void()> tell_ ABSL_GUARDED_BY(mu_);
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

absl::Status RunLeader(const v1::TargetConfig& config, const LinkSecurity& links, TerminationWatcher& termination) {
  const uint64_t incarnation = NewIncarnation();
  const int world_size = static_cast<int>(config.tensor_parallel_size());
  // Health is to be seen from the first moment on.
  MetricsRegistry registry;
  ProcessHealth health;
  ASSIGN_OR_RETURN(const std::unique_ptr<MetricsServer> metrics_server, StartMetrics(config, registry, health));
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadedModel> model, Load(config));
  ASSIGN_OR_RETURN(const int num_blocks_max, NumBlocks(config, *model));
  const std::string fingerprint = text::Fingerprint(model->tokenizer());

  ASSIGN_OR_RETURN(const std::unique_ptr<Tracer> tracer,
                   StartTracing(config.otlp_endpoint(), /*sample_ratio=*/1,
                                {.service = "outrider-target", .instance = config.group_id()}, registry));
  EngineMetrics engine_metrics(registry);
  DraftLinkMetrics link_metrics(registry);
  RankMetrics rank_metrics(registry, world_size);
  const SystemClock clock;
  Inbox inbox(static_cast<int>(config.max_waiting_sequences() + config.max_sequences()));
  TargetService target_service({.model = Describe(*model),
                                .incarnation = incarnation,
                                .max_buffered_tokens = static_cast<int>(config.max_buffered_tokens())},
                               inbox, clock);
  const Duration step_timeout = std::chrono::milliseconds(config.step_timeout_ms());
  StepProgress progress;
  Drain drain(config.group_id(), std::chrono::milliseconds(config.drain_timeout_ms()));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<LeaderGroup> group,
      LeaderGroup::Create(
          {.world_size = world_size,
           .numerics_id = model->numerics_id(),
           .num_kv_blocks_max = num_blocks_max,
           .step_timeout = step_timeout,
           .silence_max = std::chrono::milliseconds(config.silence_timeout_ms()),
           .progress = &progress,
           .on_leaving = [&](int rank) { drain.Begin(absl::StrCat("rank ", rank, " was told to end")); },
           .on_tick = [&](int rank, uint64_t step, Duration silence) { rank_metrics.Heard(rank, step, silence); }}));

  // Listen first, so that followers can come; serving begins with the engine.
  ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> server,
                   RpcServer::Start(
                       {.host = config.host(), .port = static_cast<int>(config.grpc_port()), .security = &links},
                       {&target_service, group->service()}, {"outrider.v1.Target"},
                       [&health] { return health.IsReady(); }, [&health] { return health.IsLive(); }));
  RETURN_IF_ERROR(WriteAddresses(config, *server, metrics_server.get()));

  RETURN_IF_ERROR(group->WaitForRanks(std::chrono::milliseconds(config.join_timeout_ms())));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<ModelRunner> runner,
      model->CreateRunner(MakeRunnerOptions(config, *model, &group->communicator(), group->num_kv_blocks())));
  GroupBackend backend(*runner, group->communicator(), &progress);
  // A GPU computes while the processor plans; a rank on processors needs them for its steps.
  std::optional<StepThread> step_thread;
  if (model->device() == Device::kCuda) step_thread.emplace(backend);
  ASSIGN_OR_RETURN(TargetEngine::Options engine_options, MakeEngineOptions(config, *model, group->num_kv_blocks()));
  engine_options.tracer = tracer.get();
  TargetEngine engine(engine_options, inbox,
                      step_thread.has_value() ? static_cast<StepBackend&>(*step_thread) : backend, clock,
                      engine_metrics);
  DraftConnections draft_connections({.security = &links,
                                      .target_id = config.group_id(),
                                      .incarnation = incarnation,
                                      .model = model->name(),
                                      .tokenizer_fingerprint = fingerprint,
                                      .vocab_size = model->config().vocab_size,
                                      .max_lookahead = kMaxLookahead},
                                     inbox, link_metrics);
  for (const std::string& address : SplitAddresses(config.draft_addresses())) draft_connections.ConnectTo(address);

  const auto heartbeat = [&] {
    const EngineLoad load = engine.load();
    v1::HeartbeatRequest request;
    request.set_worker_id(config.group_id());
    request.set_incarnation(incarnation);
    request.set_address(server->address());
    request.set_draining(drain.begun());
    v1::TargetGroupStatus* const status = request.mutable_target_group();
    status->set_epoch(group->epoch());
    status->set_model(model->name());
    status->set_numerics_id(model->numerics_id());
    status->set_tokenizer_fingerprint(fingerprint);
    status->set_max_model_len(static_cast<uint32_t>(model->max_model_len()));
    status->set_max_sequences(config.max_sequences());
    status->set_serving(health.IsReady());
    status->set_sequences_running(static_cast<uint32_t>(load.num_running));
    status->set_sequences_waiting(static_cast<uint32_t>(load.num_waiting));
    status->set_outstanding_tokens(static_cast<uint64_t>(load.num_outstanding_tokens));
    status->set_kv_cache_used_ratio(load.kv_used_ratio);
    status->set_block_size(config.block_size());
    status->set_num_kv_blocks(static_cast<uint32_t>(group->num_kv_blocks()));
    status->set_num_ranks(static_cast<uint32_t>(world_size));
    EngineTotalsToProto(load.totals, status->mutable_totals());
    for (const DraftLink::Status& link : draft_connections.Statuses()) {
      v1::DraftLinkStatus* const told = status->add_draft_links();
      told->set_worker_id(link.worker_id);
      told->set_incarnation(link.incarnation);
      told->set_round_trip_ms(static_cast<float>(link.round_trip_ms));
    }
    return request;
  };
  health.Set([&] { return engine.IsHealthy(step_timeout) ? "" : "a turn of the engine does not end"; },
             [&] {
               if (drain.begun()) return std::string("draining");
               const absl::Status status = group->status();
               return status.ok() ? std::string() : std::string(status.message());
             });
  std::unique_ptr<RegistrationClient> registration;
  if (!config.router_address().empty()) {
    registration = std::make_unique<RegistrationClient>(
        RegistrationClient::Options{.router_address = config.router_address(),
                                    .security = &links,
                                    .status = heartbeat,
                                    .on_response = [&](const v1::HeartbeatResponse& response) {
                                      draft_connections.Assign(response.draft_workers());
                                    }});
  }
  drain.Arm(engine, [&] {
    if (registration != nullptr) registration->Hurry();
  });
  termination.OnSignal([&] { drain.Begin("this process was told to end"); });
  LogInfo("serving ", model->name(), " with ", world_size, world_size == 1 ? " rank, " : " ranks, ",
          group->num_kv_blocks(), " KV blocks of ", config.block_size(), " tokens, numerics ",
          NumericsName(model->numerics()), " ", model->numerics_id());

  const absl::Status status = engine.Run();

  termination.OnSignal([] {});  // the end is under way
  health.Suspend("stopping");
  absl::Status stopped = status;
  if (stopped.ok()) {
    group->ExpectEnd();
    stopped = backend.Stop();  // no step is out: Run collected them
  }
  drain.Disarm();
  registration.reset();
  group->Stop();  // before the server, whose end would otherwise be news of lost ranks
  server->Shutdown(kLastWords);
  // Whatever broke, the ranks start anew together.
  if (!stopped.ok()) ExitAtEndOfEpoch(std::string(stopped.message()));
  return absl::OkStatus();
}

absl::Status RunFollowing(const v1::TargetConfig& config, const LinkSecurity& links, TerminationWatcher& termination) {
  MetricsRegistry registry;
  ProcessHealth health;
  ASSIGN_OR_RETURN(const std::unique_ptr<MetricsServer> metrics_server, StartMetrics(config, registry, health));
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadedModel> model, Load(config));
  ASSIGN_OR_RETURN(const int num_blocks_max, NumBlocks(config, *model));
  std::atomic<bool> leaving{false};
  bool joined = false;
  StepProgress progress;
  FollowerMetrics metrics(registry);
  const Duration step_timeout = std::chrono::milliseconds(config.step_timeout_ms());
  ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> server,
                   RpcServer::Start(
                       {.host = config.host(), .port = static_cast<int>(ResolveGrpcPort(config)), .security = &links},
                       {}, {}, [&health] { return health.IsReady(); }, [&health] { return health.IsLive(); }));
  RETURN_IF_ERROR(WriteAddresses(config, *server, metrics_server.get()));
  const absl::Status status = RunFollowerRank(
      {.leader_address = config.leader_address(),
       .security = &links,
       .rank = static_cast<int>(config.rank()),
       .world_size = static_cast<int>(config.tensor_parallel_size()),
       .numerics_id = model->numerics_id(),
       .num_kv_blocks_max = num_blocks_max,
       .join_timeout = std::chrono::milliseconds(config.join_timeout_ms()),
       .step_timeout = step_timeout,
       .silence_max = std::chrono::milliseconds(config.silence_timeout_ms()),
       .leaving = &leaving,
       .progress = &progress},
      {.vocab_size = model->config().vocab_size, .max_model_len = model->max_model_len()},
      [&](Communicator& communicator, int64_t num_kv_blocks) -> absl::StatusOr<std::unique_ptr<StepBackend>> {
        ASSIGN_OR_RETURN(std::unique_ptr<ModelRunner> runner,
                         model->CreateRunner(MakeRunnerOptions(config, *model, &communicator, num_kv_blocks)));
        joined = true;
        // The group's own watch ends the process if this lasts; see LeaderGroup.
        health.Set([] { return std::string(); },
                   [&] { return leaving.load() ? std::string("draining") : std::string(); });
        termination.OnSignal([&] {
          LogInfo("told to end: the leader is asked to drain the group first");
          leaving = true;
        });
        return std::make_unique<MeasuredBackend>(std::move(runner), metrics);
      });
  termination.OnSignal([] {});  // the end is under way
  health.Suspend("stopping");
  if (joined && !status.ok()) ExitAtEndOfEpoch(std::string(status.message()));
  return status;
}

}  // namespace

absl::Status RunTarget(const v1::TargetConfig& config) {
  SetLogProcess(absl::StrCat(config.group_id(), "/", config.rank()));
  RETURN_IF_ERROR(SetLogFormat(config.log_format()));
  RETURN_IF_ERROR(Validate(config));
  ASSIGN_OR_RETURN(const std::shared_ptr<const LinkSecurity> links, ResolveLinks(config));
  TerminationWatcher termination;
  return config.rank() == 0 ? RunLeader(config, *links, termination) : RunFollowing(config, *links, termination);
}

}  // namespace outrider
