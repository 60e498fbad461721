// A target group of one rank and a draft worker in this process, with real models behind real gRPC servers on ports of
// their own, for tests.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/status_macros.h"
#include "proto/target.grpc.pb.h"
#include "text/tokenizer_definition.h"
#include "worker/engine/drafter.h"
#include "worker/engine/target_engine.h"
#include "worker/model/loaded_model.h"
#include "worker/model/model_runner.h"
#include "worker/rpc/draft_connections.h"
#include "worker/rpc/draft_service.h"
#include "worker/rpc/proto_conversions.h"
#include "worker/rpc/rpc_server.h"
#include "worker/rpc/target_service.h"
#include "worker/step/draft_offer.h"

namespace outrider {

inline std::unique_ptr<LoadedModel> LoadForTest(const std::string& path) {
  auto model = LoadModel(path, {.num_threads = 1});
  CHECK(model.ok());
  return *std::move(model);
}

class ServedTarget {
 public:
  static constexpr int kNumBlocks = 256;

  explicit ServedTarget(const std::string& model_path, int lookahead = Request::kAutoLookahead,
                        int max_buffered_tokens = 65536)
      : model(LoadForTest(model_path)) {
    auto made = model->CreateRunner({.num_kv_blocks = kNumBlocks, .block_size = 16, .max_sequences = 16});
    CHECK(made.ok());
    runner = *std::move(made);
    TargetEngine::Options options;
    options.scheduler = {.vocab_size = model->config().vocab_size,
                         .max_model_len = model->max_model_len(),
                         .num_blocks = kNumBlocks,
                         .block_size = 16,
                         .max_sequences = 16,
                         .max_waiting_sequences = 64,
                         .max_step_tokens = 256};
    // Waits are long, so that a loaded machine drafts all the same.
    options.drafts = {.vocab_size = model->config().vocab_size, .lookahead = lookahead, .draft_wait_ms_max = 20'000};
    options.ngram_draft = false;
    engine = std::make_unique<TargetEngine>(options, inbox, *runner, clock, metrics);
    v1::ModelDescription description;
    description.set_name(model->name());
    TokenizerToProto(model->tokenizer(), description.mutable_tokenizer());
    service = std::make_unique<TargetService>(
        TargetService::Options{.model = description, .max_buffered_tokens = max_buffered_tokens}, inbox, clock);
    auto started = RpcServer::Start({.host = "127.0.0.1"}, {service.get()}, {"outrider.v1.Target"},
                                    [this] { return engine->IsHealthy(std::chrono::seconds(10)); });
    CHECK(started.ok());
    server = *std::move(started);
    drafts = std::make_unique<DraftConnections>(
        DraftLink::Options{.target_id = "target-under-test",
                           .model = model->name(),
                           .tokenizer_fingerprint = text::Fingerprint(model->tokenizer()),
                           .vocab_size = model->config().vocab_size,
                           .max_lookahead = kMaxLookahead},
        inbox, link_metrics);
    loop = std::thread([this] { CHECK(engine->Run().ok()); });
  }
  ~ServedTarget() {
    drafts.reset();
    engine->Stop();
    loop.join();
    server->Shutdown(Duration::zero());
  }

  SystemClock clock;
  MetricsRegistry registry;
  EngineMetrics metrics{registry};
  DraftLinkMetrics link_metrics{registry};
  Inbox inbox{80};
  std::unique_ptr<LoadedModel> model;
  std::unique_ptr<ModelRunner> runner;
  std::unique_ptr<TargetEngine> engine;
  std::unique_ptr<TargetService> service;
  std::unique_ptr<RpcServer> server;
  std::unique_ptr<DraftConnections> drafts;
  std::thread loop;
};

class ServedDraft {
 public:
  explicit ServedDraft(const std::string& model_path, const std::string& host = "127.0.0.1")
      : model(LoadForTest(model_path)) {
    auto made = model->CreateRunner({.num_kv_blocks = 128, .block_size = 16, .max_sequences = 16});
    CHECK(made.ok());
    runner = *std::move(made);
    drafter = std::make_unique<Drafter>(Drafter::Options{.vocab_size = model->config().vocab_size,
                                                         .max_model_len = model->max_model_len(),
                                                         .max_sequences = 16,
                                                         .block_size = 16,
                                                         .num_blocks = 128,
                                                         .max_step_tokens = 256,
                                                         .lease = std::chrono::seconds(60)},
                                        *runner, clock, metrics);
    service = std::make_unique<DraftService>(
        DraftService::Options{.draft_id = "draft-under-test",
                              .model = model->name(),
                              .tokenizer_fingerprint = text::Fingerprint(model->tokenizer()),
                              .vocab_size = model->config().vocab_size,
                              .max_model_len = model->max_model_len(),
                              .max_sequences = 16},
        *drafter, metrics);
    auto started = RpcServer::Start({.host = host}, {service.get()}, {"outrider.v1.Draft"}, [] { return true; });
    CHECK(started.ok());
    server = *std::move(started);
    loop = std::thread([this] { CHECK(drafter->Run().ok()); });
  }
  ~ServedDraft() {
    server->Shutdown(Duration::zero());
    drafter->Stop();
    loop.join();
  }

  SystemClock clock;
  MetricsRegistry registry;
  DrafterMetrics metrics{registry};
  std::unique_ptr<LoadedModel> model;
  std::unique_ptr<ModelRunner> runner;
  std::unique_ptr<Drafter> drafter;
  std::unique_ptr<DraftService> service;
  std::unique_ptr<RpcServer> server;
  std::thread loop;
};

}  // namespace outrider
