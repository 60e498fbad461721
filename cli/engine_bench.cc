#include "cli/engine_bench.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "cli/read_bandwidth.h"
#include "kernels/common/thread_pool.h"
#include "kernels/gemm/gemm.h"
#include "worker/group/step_broadcast.h"
#include "worker/model/loaded_model.h"
#include "worker/model/model_runner.h"
#include "worker/parallel/loopback_communicator.h"

namespace outrider {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr int kBlockSize = 16;
constexpr int kWarmUpSteps = 5;
constexpr int kPromptRuns = 5;

double Millis(Clock::time_point since) {
  return std::chrono::duration<double, std::milli>(Clock::now() - since).count();
}

Json Summary(std::vector<double> ms) {
  std::sort(ms.begin(), ms.end());
  const auto at = [&](double q) { return ms[static_cast<size_t>(q * static_cast<double>(ms.size() - 1))]; };
  return {{"median_ms", at(0.5)}, {"p10_ms", at(0.1)}, {"p90_ms", at(0.9)}, {"samples", ms.size()}};
}

// The ranks of a group as threads; the caller is the leader.
class Ranks {
 public:
  static absl::StatusOr<std::unique_ptr<Ranks>> Create(const EngineBenchOptions& options, int blocks_a_sequence) {
    std::unique_ptr<Ranks> ranks(new Ranks());
    const int size = options.tensor_parallel_size;
    const int batch_max = *std::max_element(options.batch.begin(), options.batch.end());
    const int rows_max = *std::max_element(options.rows.begin(), options.rows.end());
    for (int rank = 0; rank < size; ++rank) {
      ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model,
                       LoadModel(options.model, {.device = options.device,
                                                 .numerics = options.numerics,
                                                 .rank = rank,
                                                 .world_size = size,
                                                 .num_threads = std::max(1, options.threads / size),
                                                 .load_format = options.load_format}));
      ranks->models_.push_back(std::move(model));
    }
    if (blocks_a_sequence * kBlockSize > ranks->model().max_model_len() + kBlockSize) {
      return absl::InvalidArgumentError(absl::StrCat("--context, --steps, --rows and --prompt ask for sequences of ",
                                                     blocks_a_sequence * kBlockSize, " tokens; ", options.model,
                                                     " takes ", ranks->model().max_model_len()));
    }
    ranks->communicators_ = CreateLoopbackCommunicators(size);
    for (int rank = 0; rank < size; ++rank) {
      ASSIGN_OR_RETURN(
          std::unique_ptr<ModelRunner> runner,
          ranks->models_[rank]->CreateRunner({.communicator = ranks->communicators_[rank].get(),
                                              .num_kv_blocks = blocks_a_sequence * batch_max,
                                              .block_size = kBlockSize,
                                              .max_step_tokens = std::max({options.chunk, batch_max, rows_max}),
                                              .max_sequences = std::max(batch_max, 4)}));
      ranks->runners_.push_back(std::move(runner));
    }
    ranks->backend_ = std::make_unique<GroupBackend>(*ranks->runners_[0], *ranks->communicators_[0]);
    for (int rank = 1; rank < size; ++rank) {
      // Its errors reach the leader's next step.
      ranks->followers_.emplace_back(
          [runner = ranks->runners_[rank].get(), communicator = ranks->communicators_[rank].get()] {
            RunFollower(*runner, *communicator).IgnoreError();
          });
    }
    return ranks;
  }
  ~Ranks() {
    if (backend_ != nullptr && !backend_->Stop().ok()) communicators_[0]->Abort("the bench has ended");
    for (std::thread& follower : followers_) follower.join();
  }

  const LoadedModel& model() const { return *models_[0]; }
  StepBackend& backend() { return *backend_; }
  int64_t weight_bytes() const {
    int64_t bytes = 0;
    for (const auto& model : models_) bytes += model->weight_bytes();
    return bytes;
  }
  int64_t kv_bytes_per_token() const {
    int64_t bytes = 0;
    for (const auto& model : models_) bytes += model->kv_bytes_per_block(kBlockSize) / kBlockSize;
    return bytes;
  }

 private:
  Ranks() = default;
  std::vector<std::unique_ptr<LoadedModel>> models_;
  std::vector<std::unique_ptr<Communicator>> communicators_;
  std::vector<std::unique_ptr<ModelRunner>> runners_;
  std::unique_ptr<GroupBackend> backend_;
  std::vector<std::thread> followers_;
};

class Bench {
 public:
  Bench(const EngineBenchOptions& options, Ranks& ranks, int blocks_a_sequence)
      : options_(options), ranks_(ranks), blocks_a_sequence_(blocks_a_sequence) {}

  // Steps of one row of each of `batch` sequences.
  absl::StatusOr<Json> Decode(int batch) {
    for (int i = 0; i < batch; ++i) RETURN_IF_ERROR(Start(options_.context, i).status());
    std::vector<double> ms;
    for (int i = -kWarmUpSteps; i < options_.steps; ++i) {
      StepPlan plan = NewPlan();
      for (const SequenceId sequence : live_) {
        plan.spans.push_back(
            {.sequence = sequence, .first_position = num_tokens_ - 1, .num_committed_tokens = 1, .samples = true});
      }
      const Clock::time_point begin = Clock::now();
      RETURN_IF_ERROR(Step(plan).status());
      if (i >= 0) ms.push_back(Millis(begin));
      ++num_tokens_;
    }
    return Summary(std::move(ms));
  }

  // Steps of one span of `rows` rows whose drafts are wrong, so that it advances by one token whatever the rows.
  absl::StatusOr<Json> Verify(int rows) {
    RETURN_IF_ERROR(Start(options_.context, 0).status());
    std::vector<double> ms;
    for (int i = -kWarmUpSteps; i < options_.steps; ++i) {
      StepPlan plan = NewPlan();
      Span span{.sequence = live_[0],
                .first_position = num_tokens_ - 1,
                .num_committed_tokens = 1,
                .samples = true,
                .lookahead = rows - 1};
      if (rows > 1) {
        span.paths.push_back({.base_position = num_tokens_, .tokens = std::vector<TokenId>(rows - 1, 11)});
      }
      plan.spans.push_back(span);
      const Clock::time_point begin = Clock::now();
      ASSIGN_OR_RETURN(const StepResult result, Step(plan));
      if (i >= 0) ms.push_back(Millis(begin));
      num_tokens_ += static_cast<int>(result.spans[0].tokens.size());
    }
    return Summary(std::move(ms));
  }

  absl::StatusOr<Json> Prompts() {
    std::vector<double> ms;
    for (int i = 0; i < kPromptRuns; ++i) {
      ASSIGN_OR_RETURN(const double took, Start(options_.prompt, 0));
      ms.push_back(took);
    }
    return Summary(std::move(ms));
  }

 private:
  absl::StatusOr<StepResult> Step(const StepPlan& plan) {
    RETURN_IF_ERROR(ranks_.backend().Submit(plan));
    return ranks_.backend().Collect();
  }

  StepPlan NewPlan() {
    StepPlan plan;
    plan.step = StepId(++step_);
    return plan;
  }

  // Begins the index-th sequence of those that run together (0 ends all earlier ones) and computes its prompt; ms.
  absl::StatusOr<double> Start(int num_tokens, int index) {
    std::vector<TokenId> prompt(static_cast<size_t>(num_tokens));
    const int vocab_size = ranks_.model().config().vocab_size;
    for (int i = 0; i < num_tokens; ++i) prompt[i] = static_cast<TokenId>((i * int64_t{7919} + 13) % vocab_size);
    const SequenceId sequence(++sequences_);
    SamplingParams params;
    params.temperature = 0;
    params.max_tokens = 1 << 20;
    double ms = 0;
    for (int at = 0; at < num_tokens; at += options_.chunk) {
      StepPlan plan = NewPlan();
      Span span{.sequence = sequence, .first_position = at};
      span.num_committed_tokens = std::min(options_.chunk, num_tokens - at);
      span.samples = at + span.num_committed_tokens == num_tokens;
      if (at == 0) {
        plan.starts.push_back({sequence, prompt, {}, params});
        for (int i = 0; i < blocks_a_sequence_; ++i) span.blocks.push_back(index * blocks_a_sequence_ + i);
        if (index == 0) plan.ends = std::exchange(live_, {});
        live_.push_back(sequence);
      }
      plan.spans.push_back(span);
      const Clock::time_point begin = Clock::now();
      RETURN_IF_ERROR(Step(plan).status());
      ms += Millis(begin);
    }
    num_tokens_ = num_tokens + 1;
    return ms;
  }

  const EngineBenchOptions& options_;
  Ranks& ranks_;
  const int blocks_a_sequence_;
  uint64_t step_ = 0, sequences_ = 0;
  std::vector<SequenceId> live_;
  int num_tokens_ = 0;  // of each live sequence
};

absl::Status CheckRange(const char* flag, int value, int first, int last) {
  if (value >= first && value <= last) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, " is out of range; it takes ", first, " to ", last));
}

}  // namespace

absl::Status Validate(const EngineBenchOptions& options) {
  if (options.model.empty()) return absl::InvalidArgumentError("give a MODEL, or --shape F");
  if (options.batch.empty() || options.rows.empty()) {
    return absl::InvalidArgumentError("--batch and --rows take at least one number");
  }
  RETURN_IF_ERROR(CheckRange("--tensor-parallel-size", options.tensor_parallel_size, 1, 32));
  RETURN_IF_ERROR(CheckRange("--threads", options.threads, 1, kernels::ThreadPool::kMaxThreads));
  RETURN_IF_ERROR(CheckRange("--context", options.context, 1, 1 << 20));
  RETURN_IF_ERROR(CheckRange("--prompt", options.prompt, 1, 1 << 20));
  RETURN_IF_ERROR(CheckRange("--chunk", options.chunk, 1, 1 << 16));
  RETURN_IF_ERROR(CheckRange("--steps", options.steps, 1, 100'000));
  for (const int batch : options.batch) RETURN_IF_ERROR(CheckRange("--batch", batch, 1, 4096));
  for (const int rows : options.rows) RETURN_IF_ERROR(CheckRange("--rows", rows, 1, 33));
  if (options.device == Device::kCuda && options.tensor_parallel_size > 1) {
    return absl::UnimplementedError(absl::StrCat("--tensor-parallel-size ", options.tensor_parallel_size,
                                                 " with --device cuda: the bench computes on one GPU; use 1, or "
                                                 "--device cpu"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Json> BenchEngine(const EngineBenchOptions& options) {
  RETURN_IF_ERROR(Validate(options));
  const int rows_max = *std::max_element(options.rows.begin(), options.rows.end());
  const int tokens_max = std::max(options.prompt, options.context + kWarmUpSteps + options.steps + rows_max);
  const int blocks_a_sequence = (tokens_max + kBlockSize) / kBlockSize;
  ASSIGN_OR_RETURN(const std::unique_ptr<Ranks> ranks, Ranks::Create(options, blocks_a_sequence));
  const bool on_cpu = options.device == Device::kCpu;
  double bandwidth = 0;
  if (on_cpu) {
    ASSIGN_OR_RETURN(bandwidth, ReadBandwidth(options.threads));
  }
  Json json;
  json["model"] = ranks->model().name();
  json["numerics"] = NumericsName(options.numerics);
  json["device"] = on_cpu ? kernels::GemmTargetName() : "cuda";
  json["tensor_parallel_size"] = options.tensor_parallel_size;
  json["threads"] = options.threads;
  json["context"] = options.context;
  json["weight_bytes"] = ranks->weight_bytes();
  if (on_cpu) json["read_bytes_per_second"] = bandwidth;

  const auto with_bytes = [&](Json entry, int num_sequences) {
    const int64_t kv_bytes = ranks->kv_bytes_per_token() * options.context * num_sequences;
    const double seconds = entry["median_ms"].get<double>() / 1000;
    entry["kv_bytes"] = kv_bytes;
    if (on_cpu) {
      entry["read_bandwidth_ratio"] = static_cast<double>(ranks->weight_bytes() + kv_bytes) / seconds / bandwidth;
    }
    return entry;
  };
  Bench bench(options, *ranks, blocks_a_sequence);
  json["decode"] = Json::array();
  for (const int batch : options.batch) {
    ASSIGN_OR_RETURN(const Json step, bench.Decode(batch));
    Json entry = {{"sequences", batch}};
    entry.update(with_bytes(step, batch));
    entry["tokens_per_second"] = 1000.0 * batch / step["median_ms"].get<double>();
    json["decode"].push_back(entry);
  }
  json["verify"] = Json::array();
  for (const int rows : options.rows) {
    ASSIGN_OR_RETURN(const Json step, bench.Verify(rows));
    Json entry = {{"rows", rows}};
    entry.update(with_bytes(step, 1));
    json["verify"].push_back(entry);
  }
  ASSIGN_OR_RETURN(Json prompt, bench.Prompts());
  prompt["tokens"] = options.prompt;
  prompt["chunk"] = options.chunk;
  prompt["tokens_per_second"] = options.prompt * 1000.0 / prompt["median_ms"].get<double>();
  json["prompt"] = prompt;
  return json;
}

std::string EngineBenchText(const Json& result) {
  const bool has_ratio = result.contains("read_bytes_per_second");
  std::string text = absl::StrFormat("%s, %s, %s, tensor parallel %d, %d threads, context %d, %.2f GB of weights",
                                     result["model"].get<std::string>(), result["device"].get<std::string>(),
                                     result["numerics"].get<std::string>(), result["tensor_parallel_size"].get<int>(),
                                     result["threads"].get<int>(), result["context"].get<int>(),
                                     result["weight_bytes"].get<double>() / 1e9);
  if (has_ratio) {
    absl::StrAppendFormat(&text, "; memory reads at %.1f GB/s", result["read_bytes_per_second"].get<double>() / 1e9);
  }
  text += "\n";
  const auto add = [&](const Json& entry) {
    absl::StrAppendFormat(&text, "  median %9.3f ms, p10 %9.3f, p90 %9.3f", entry["median_ms"].get<double>(),
                          entry["p10_ms"].get<double>(), entry["p90_ms"].get<double>());
    if (entry.contains("read_bandwidth_ratio")) {
      absl::StrAppendFormat(&text, ", %5.1f %% of the read rate", 100 * entry["read_bandwidth_ratio"].get<double>());
    }
    if (entry.contains("tokens_per_second")) {
      absl::StrAppendFormat(&text, ", %.1f tokens/s", entry["tokens_per_second"].get<double>());
    }
    text += "\n";
  };
  for (const Json& entry : result["decode"]) {
    absl::StrAppendFormat(&text, "decode, %4d sequences", entry["sequences"].get<int>());
    add(entry);
  }
  for (const Json& entry : result["verify"]) {
    absl::StrAppendFormat(&text, "verify, %9d rows", entry["rows"].get<int>());
    add(entry);
  }
  absl::StrAppendFormat(&text, "prompt, %7d tokens", result["prompt"]["tokens"].get<int>());
  add(result["prompt"]);
  return text;
}

}  // namespace outrider
