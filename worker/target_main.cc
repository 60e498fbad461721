#include "worker/target_main.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/atomic_file.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/termination.h"
#include "text/tokenizer_definition.h"  // Fingerprint
#include "worker/engine/target_engine.h"
#include "worker/group/step_broadcast.h"
#include "worker/model/loaded_model.h"
#include "worker/model/model_runner.h"
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

// What runs may go on for so long after SIGTERM; within the 30 s that Kubernetes grants.
constexpr Duration kDrainTimeout = std::chrono::seconds(25);
// For the last events to reach routers.
constexpr Duration kLastWords = std::chrono::milliseconds(200);

std::string MetricsHost(const std::string& host) { return host.rfind("unix:", 0) == 0 ? "127.0.0.1" : host; }

absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(const v1::TargetConfig& config,
                                                            const MetricsRegistry& registry) {
  if (!config.has_metrics_port()) return std::unique_ptr<MetricsServer>();
  return MetricsServer::Start(MetricsHost(config.host()), static_cast<int>(config.metrics_port()), registry);
}

absl::Status WriteAddresses(const v1::TargetConfig& config, const RpcServer& server, const MetricsServer* metrics) {
  const std::string metrics_address =
      metrics == nullptr ? "" : absl::StrCat("metrics=", MetricsHost(config.host()), ":", metrics->port());
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
  return LoadModel(config.model(), options);
}

absl::StatusOr<int> NumBlocks(const v1::TargetConfig& config, const LoadedModel& model) {
  const int block_size = static_cast<int>(config.block_size());
  return ResolveNumBlocks({.kv_cache_bytes = config.kv_cache_bytes(),
                           .bytes_per_block = model.kv_bytes_per_block(block_size),
                           .block_size = block_size,
                           .max_model_len = model.max_model_len(),
                           .max_sequences = static_cast<int>(config.max_sequences())});
}

RunnerOptions MakeRunnerOptions(const v1::TargetConfig& config, Communicator& communicator, int64_t num_kv_blocks) {
  return {.communicator = &communicator,
          .num_kv_blocks = static_cast<int>(num_kv_blocks),
          .block_size = static_cast<int>(config.block_size()),
          .max_step_tokens = ResolveMaxStepTokens(config.max_step_tokens(), config.max_sequences()),
          .max_sequences = static_cast<int>(config.max_sequences())};
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
  options.scheduler.max_step_tokens = ResolveMaxStepTokens(config.max_step_tokens(), config.max_sequences());
  options.scheduler.step_time_ms_max = config.step_time_ms_max();
  RETURN_IF_ERROR(Scheduler::Validate(options.scheduler));
  options.drafts.vocab_size = model.config().vocab_size;
  ASSIGN_OR_RETURN(options.drafts.lookahead, ParseLookahead(config.lookahead()));
  options.drafts.draft_wait_ratio = config.draft_wait_ratio();
  options.drafts.draft_wait_ms_max = config.draft_wait_ms_max();
  options.ngram_draft = config.ngram_draft();
  return options;
}

// Ends the drain by force once it has lasted long enough.
class DrainTimer {
 public:
  explicit DrainTimer(TargetEngine& engine) : engine_(engine) {}
  ~DrainTimer() {
    {
      MutexLock lock(mu_);
      done_ = true;
      changed_.NotifyAll();
    }
    if (thread_.joinable()) thread_.join();
  }
  // Once, from any thread.
  void Begin() {
    MutexLock lock(mu_);
    if (done_) return;
    engine_.Drain();
    thread_ = std::thread([this] {
      MutexLock lock(mu_);
      const TimePoint deadline = std::chrono::steady_clock::now() + kDrainTimeout;
      while (!done_ && changed_.WaitUntil(mu_, deadline)) {
      }
      if (done_) return;
      LogWarning("still running after ", ToMillis(kDrainTimeout), " ms: ending what is left");
      engine_.Stop();
    });
  }

 private:
  TargetEngine& engine_;
  std::thread thread_;
  Mutex mu_;
  CondVar changed_;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

absl::Status RunLeader(const v1::TargetConfig& config, TerminationWatcher& termination) {
  const uint64_t incarnation = NewIncarnation();
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadedModel> model, Load(config));
  ASSIGN_OR_RETURN(const int num_blocks_max, NumBlocks(config, *model));
  const std::string fingerprint = text::Fingerprint(model->tokenizer());

  MetricsRegistry registry;
  EngineMetrics engine_metrics(registry);
  DraftLinkMetrics link_metrics(registry);
  const SystemClock clock;
  Inbox inbox(static_cast<int>(config.max_waiting_sequences() + config.max_sequences()));
  TargetService target_service({.model = Describe(*model),
                                .incarnation = incarnation,
                                .max_buffered_tokens = static_cast<int>(config.max_buffered_tokens())},
                               inbox, clock);
  const int world_size = static_cast<int>(config.tensor_parallel_size());
  const Duration step_timeout = std::chrono::milliseconds(config.step_timeout_ms());
  ASSIGN_OR_RETURN(const std::unique_ptr<LeaderGroup> group, LeaderGroup::Create({.world_size = world_size,
                                                                                  .numerics_id = model->numerics_id(),
                                                                                  .num_kv_blocks_max = num_blocks_max,
                                                                                  .step_timeout = step_timeout}));

  // Listen first, so that followers can come; serving begins with the engine.
  std::atomic<TargetEngine*> serving_engine{nullptr};
  std::atomic<bool> draining{false};
  const auto serving = [&] {
    const TargetEngine* const engine = serving_engine.load();
    return engine != nullptr && !draining.load() && engine->IsHealthy(step_timeout);
  };
  ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> server,
                   RpcServer::Start({.host = config.host(), .port = static_cast<int>(config.grpc_port())},
                                    {&target_service, group->service()}, {"outrider.v1.Target"}, serving));
  ASSIGN_OR_RETURN(const std::unique_ptr<MetricsServer> metrics_server, StartMetrics(config, registry));
  RETURN_IF_ERROR(WriteAddresses(config, *server, metrics_server.get()));

  RETURN_IF_ERROR(group->WaitForRanks(std::chrono::milliseconds(config.join_timeout_ms())));
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelRunner> runner,
                   model->CreateRunner(MakeRunnerOptions(config, group->communicator(), group->num_kv_blocks())));
  GroupBackend backend(*runner, group->communicator());
  ASSIGN_OR_RETURN(const TargetEngine::Options engine_options,
                   MakeEngineOptions(config, *model, group->num_kv_blocks()));
  TargetEngine engine(engine_options, inbox, backend, clock, engine_metrics);
  DraftConnections draft_connections({.target_id = config.group_id(),
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
    request.set_draining(draining.load());
    v1::TargetGroupStatus* const status = request.mutable_target_group();
    status->set_epoch(group->epoch());
    status->set_model(model->name());
    status->set_numerics_id(model->numerics_id());
    status->set_tokenizer_fingerprint(fingerprint);
    status->set_max_model_len(static_cast<uint32_t>(model->max_model_len()));
    status->set_max_sequences(config.max_sequences());
    status->set_serving(serving());
    status->set_sequences_running(static_cast<uint32_t>(load.num_running));
    status->set_sequences_waiting(static_cast<uint32_t>(load.num_waiting));
    status->set_outstanding_tokens(static_cast<uint64_t>(load.num_outstanding_tokens));
    status->set_kv_cache_used_ratio(load.kv_used_ratio);
    return request;
  };
  serving_engine = &engine;
  std::unique_ptr<RegistrationClient> registration;
  if (!config.router_address().empty()) {
    registration = std::make_unique<RegistrationClient>(
        RegistrationClient::Options{.router_address = config.router_address(),
                                    .status = heartbeat,
                                    .on_response = [&](const v1::HeartbeatResponse& response) {
                                      draft_connections.Assign(response.draft_workers());
                                    }});
  }
  DrainTimer drain(engine);
  termination.OnSignal([&] {
    LogInfo("draining");
    draining = true;
    if (registration != nullptr) registration->Hurry();
    drain.Begin();
  });
  LogInfo("serving ", model->name(), " with ", world_size, world_size == 1 ? " rank, " : " ranks, ",
          group->num_kv_blocks(), " KV blocks of ", config.block_size(), " tokens, numerics ",
          NumericsName(model->numerics()), " ", model->numerics_id());

  const absl::Status status = engine.Run();

  termination.OnSignal([] {});  // the end is under way
  serving_engine = nullptr;
  registration.reset();
  absl::Status stopped = status;
  if (stopped.ok()) {
    group->ExpectEnd();
    stopped = backend.Stop();
  }
  group->Stop();  // before the server, whose end would otherwise be news of lost ranks
  server->Shutdown(kLastWords);
  return stopped;
}

absl::Status RunFollowing(const v1::TargetConfig& config, TerminationWatcher& termination) {
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadedModel> model, Load(config));
  ASSIGN_OR_RETURN(const int num_blocks_max, NumBlocks(config, *model));
  MetricsRegistry registry;
  std::atomic<bool> running{false};
  ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> server,
                   RpcServer::Start({.host = config.host(), .port = static_cast<int>(config.grpc_port())}, {}, {},
                                    [&] { return running.load(); }));
  ASSIGN_OR_RETURN(const std::unique_ptr<MetricsServer> metrics_server, StartMetrics(config, registry));
  RETURN_IF_ERROR(WriteAddresses(config, *server, metrics_server.get()));
  const absl::Status status = RunFollowerRank(
      {.leader_address = config.leader_address(),
       .rank = static_cast<int>(config.rank()),
       .world_size = static_cast<int>(config.tensor_parallel_size()),
       .numerics_id = model->numerics_id(),
       .num_kv_blocks_max = num_blocks_max,
       .join_timeout = std::chrono::milliseconds(config.join_timeout_ms()),
       .step_timeout = std::chrono::milliseconds(config.step_timeout_ms())},
      {.vocab_size = model->config().vocab_size, .max_model_len = model->max_model_len()},
      [&](Communicator& communicator, int64_t num_kv_blocks) -> absl::StatusOr<std::unique_ptr<StepBackend>> {
        ASSIGN_OR_RETURN(std::unique_ptr<ModelRunner> runner,
                         model->CreateRunner(MakeRunnerOptions(config, communicator, num_kv_blocks)));
        running = true;
        termination.OnSignal([] { LogInfo("told to end: waiting for the leader, which drains first"); });
        return runner;
      });
  running = false;
  return status;
}

}  // namespace

absl::Status RunTarget(const v1::TargetConfig& config) {
  SetLogProcess(absl::StrCat(config.group_id(), "/", config.rank()));
  RETURN_IF_ERROR(Validate(config));
  TerminationWatcher termination;
  return config.rank() == 0 ? RunLeader(config, termination) : RunFollowing(config, termination);
}

}  // namespace outrider
