#include "cli/engine_bench.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "cli/bench_group.h"
#include "cli/read_bandwidth.h"
#include "kernels/common/thread_pool.h"
#include "kernels/gemm/gemm.h"
#include "worker/model/cuda_backend.h"

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

double Quantile(std::vector<double>& values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

Json Summary(std::vector<double> ms) {
  return {{"median_ms", Quantile(ms, 0.5)},
          {"p10_ms", Quantile(ms, 0.1)},
          {"p90_ms", Quantile(ms, 0.9)},
          {"samples", ms.size()}};
}

bool OnGpu(const EngineBenchOptions& options) { return options.device == Device::kCuda; }
int PromptTokens(const EngineBenchOptions& options) {
  return options.prompt > 0 ? options.prompt : OnGpu(options) ? 2048 : 512;
}
int ChunkTokens(const EngineBenchOptions& options) {
  return options.chunk > 0 ? options.chunk : OnGpu(options) ? 2048 : 256;
}

// KV blocks of each sequence: for its context, what it grows by, and the rows of its last step.
int BlocksASequence(const EngineBenchOptions& options) {
  const int rows_max = *std::max_element(options.rows.begin(), options.rows.end());
  const int grown = (kWarmUpSteps + options.steps) * (options.profile ? 2 : 1);
  const int tokens = std::max(PromptTokens(options), options.context + grown + rows_max);
  return (tokens + kBlockSize) / kBlockSize;
}

BenchGroupOptions GroupOptions(const EngineBenchOptions& options) {
  const int batch_max = *std::max_element(options.batch.begin(), options.batch.end());
  const int rows_max = *std::max_element(options.rows.begin(), options.rows.end());
  return {.model = options.model,
          .load_format = options.load_format,
          .device = options.device,
          .numerics = options.numerics,
          .tensor_parallel_size = options.tensor_parallel_size,
          .threads = options.threads,
          .num_kv_blocks = BlocksASequence(options) * batch_max,
          .block_size = kBlockSize,
          .max_step_tokens = std::max({ChunkTokens(options), batch_max, rows_max}),
          .max_sequences = std::max(batch_max, 4),
          .profile = options.profile};
}

std::vector<std::string> FollowerArguments(const EngineBenchOptions& options) {
  std::vector<std::string> arguments = {
      "outrider",
      "bench",
      "engine",
      options.model,
      absl::StrCat("--load-format=", options.load_format == LoadFormat::kDummy ? "dummy" : "auto"),
      absl::StrCat("--device=", OnGpu(options) ? "cuda" : "cpu"),
      absl::StrCat("--numerics=", NumericsName(options.numerics)),
      absl::StrCat("--tensor-parallel-size=", options.tensor_parallel_size),
      absl::StrCat("--threads=", options.threads),
      absl::StrCat("--context=", options.context),
      absl::StrCat("--prompt=", options.prompt),
      absl::StrCat("--chunk=", options.chunk),
      absl::StrCat("--steps=", options.steps),
      absl::StrCat("--batch=", absl::StrJoin(options.batch, ",")),
      absl::StrCat("--rows=", absl::StrJoin(options.rows, ","))};
  if (options.profile) arguments.push_back("--profile");
  return arguments;
}

// Medians of the steps, an entry an op that ran.
Json Profile(const std::vector<OpTimes>& steps) {
  Json ops = Json::array();
  for (size_t kind = 0; kind < kNumOpKinds; ++kind) {
    std::vector<double> ms;
    for (const OpTimes& step : steps) ms.push_back(step[kind].ms);
    const int count = steps.back()[kind].count;
    if (count == 0) continue;
    ops.push_back({{"op", OpKindName(static_cast<OpKind>(kind))}, {"count", count}, {"ms", Quantile(ms, 0.5)}});
  }
  return ops;
}

class Bench {
 public:
  Bench(const EngineBenchOptions& options, BenchGroup& group) : options_(options), group_(group) {}

  // Steps of one row of each of `batch` sequences.
  absl::StatusOr<Json> Decode(int batch) {
    for (int i = 0; i < batch; ++i) RETURN_IF_ERROR(Start(options_.context, i).status());
    return Measure([&] {
      StepPlan plan = NewPlan();
      for (const SequenceId sequence : live_) {
        plan.spans.push_back(
            {.sequence = sequence, .first_position = num_tokens_ - 1, .num_committed_tokens = 1, .samples = true});
      }
      return plan;
    });
  }

  // Steps of one span of `rows` rows whose drafts are wrong, so that it advances by one token whatever the rows.
  absl::StatusOr<Json> Verify(int rows) {
    RETURN_IF_ERROR(Start(options_.context, 0).status());
    return Measure([&] {
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
      return plan;
    });
  }

  absl::StatusOr<Json> Prompts() {
    std::vector<double> ms;
    for (int i = -1; i < kPromptRuns; ++i) {
      ASSIGN_OR_RETURN(const double took, Start(PromptTokens(options_), 0));
      if (i >= 0) ms.push_back(took);
    }
    return Summary(std::move(ms));
  }

 private:
  // Of steps of one token a sequence, or of more if drafts happen to be right.
  absl::StatusOr<Json> Measure(const std::function<StepPlan()>& next_plan) {
    std::vector<double> ms;
    int num_launches = 0;
    for (int i = -kWarmUpSteps; i < options_.steps; ++i) {
      const StepPlan plan = next_plan();
      const Clock::time_point begin = Clock::now();
      ASSIGN_OR_RETURN(const StepResult result, Step(plan));
      if (i >= 0) ms.push_back(Millis(begin));
      num_tokens_ += static_cast<int>(result.spans[0].tokens.size());
      num_launches = group_.runner().last_num_launches();
    }
    Json json = Summary(std::move(ms));
    if (num_launches > 0) json["launches"] = num_launches;
    if (!options_.profile) return json;
    group_.runner().SetProfiled(true);
    std::vector<OpTimes> profile;
    for (int i = -kWarmUpSteps; i < options_.steps; ++i) {
      ASSIGN_OR_RETURN(const StepResult result, Step(next_plan()));
      num_tokens_ += static_cast<int>(result.spans[0].tokens.size());
      ASSIGN_OR_RETURN(const OpTimes times, group_.runner().last_profile());
      if (i >= 0) profile.push_back(times);
    }
    group_.runner().SetProfiled(false);
    json["ops"] = Profile(profile);
    return json;
  }

  absl::StatusOr<StepResult> Step(const StepPlan& plan) {
    RETURN_IF_ERROR(group_.backend().Submit(plan));
    return group_.backend().Collect();
  }

  StepPlan NewPlan() {
    StepPlan plan;
    plan.step = StepId(++step_);
    return plan;
  }

  // Begins the index-th sequence of those that run together (0 ends all earlier ones) and computes its prompt; ms.
  absl::StatusOr<double> Start(int num_tokens, int index) {
    std::vector<TokenId> prompt(static_cast<size_t>(num_tokens));
    const int vocab_size = group_.model().config().vocab_size;
    for (int i = 0; i < num_tokens; ++i) prompt[i] = static_cast<TokenId>((i * int64_t{7919} + 13) % vocab_size);
    const SequenceId sequence(++sequences_);
    SamplingParams params = options_.sampling;
    params.seed = sequences_;
    params.max_tokens = 1 << 20;
    const int blocks_a_sequence = BlocksASequence(options_);
    const int chunk = ChunkTokens(options_);
    double ms = 0;
    for (int at = 0; at < num_tokens; at += chunk) {
      StepPlan plan = NewPlan();
      Span span{.sequence = sequence, .first_position = at};
      span.num_committed_tokens = std::min(chunk, num_tokens - at);
      span.samples = at + span.num_committed_tokens == num_tokens;
      if (at == 0) {
        plan.starts.push_back({sequence, prompt, {}, params});
        for (int i = 0; i < blocks_a_sequence; ++i) span.blocks.push_back(index * blocks_a_sequence + i);
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
  BenchGroup& group_;
  uint64_t step_ = 0, sequences_ = 0;
  std::vector<SequenceId> live_;
  int num_tokens_ = 0;  // of each live sequence
};

absl::Status CheckRange(const char* flag, int value, int first, int last) {
  if (value >= first && value <= last) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, " is out of range; it takes ", first, " to ", last));
}

// Of rank 0.
absl::StatusOr<double> RankBandwidth(const EngineBenchOptions& options) {
  if (OnGpu(options)) return CudaReadBandwidth(0);
  ASSIGN_OR_RETURN(const double bandwidth, ReadBandwidth(options.threads));
  return bandwidth / options.tensor_parallel_size;
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
  RETURN_IF_ERROR(CheckRange("--prompt", options.prompt, 0, 1 << 20));
  RETURN_IF_ERROR(CheckRange("--chunk", options.chunk, 0, 1 << 16));
  RETURN_IF_ERROR(CheckRange("--steps", options.steps, 1, 100'000));
  RETURN_IF_ERROR(Validate(options.sampling, 1 << 30));  // ids are no part of it
  for (const int batch : options.batch) RETURN_IF_ERROR(CheckRange("--batch", batch, 1, 4096));
  for (const int rows : options.rows) RETURN_IF_ERROR(CheckRange("--rows", rows, 1, 33));
  return absl::OkStatus();
}

absl::Status RunEngineBenchRank(const EngineBenchOptions& options, int rank, const std::string& leader_address) {
  RETURN_IF_ERROR(Validate(options));
  return RunBenchRank(GroupOptions(options), rank, leader_address);
}

absl::StatusOr<Json> BenchEngine(const EngineBenchOptions& options, const std::string& program) {
  RETURN_IF_ERROR(Validate(options));
  ASSIGN_OR_RETURN(const std::unique_ptr<BenchGroup> group,
                   BenchGroup::Start(GroupOptions(options), program, FollowerArguments(options)));
  const LoadedModel& model = group->model();
  if (const int tokens = (BlocksASequence(options) - 1) * kBlockSize; tokens > model.max_model_len()) {
    return absl::InvalidArgumentError(absl::StrCat("--context, --steps, --rows and --prompt ask for sequences of ",
                                                   tokens, " tokens; ", options.model, " takes ",
                                                   model.max_model_len()));
  }
  Bench bench(options, *group);
  Json json;
  json["model"] = model.name();
  json["numerics"] = NumericsName(options.numerics);
  json["device"] = OnGpu(options) ? "cuda" : kernels::GemmTargetName();
  json["tensor_parallel_size"] = options.tensor_parallel_size;
  json["threads"] = options.threads;
  json["context"] = options.context;
  json["sampling"] = {{"temperature", options.sampling.temperature},
                      {"top_k", options.sampling.top_k},
                      {"top_p", options.sampling.top_p},
                      {"repetition_penalty", options.sampling.repetition_penalty},
                      {"num_logprobs", options.sampling.num_logprobs}};
  json["weight_bytes"] = model.weight_bytes();
  ASSIGN_OR_RETURN(const double bandwidth, RankBandwidth(options));
  json["read_bytes_per_second"] = bandwidth;

  const auto add = [&](Json entry, const Json& step, int num_sequences) {
    entry.update(step);
    const int64_t kv_bytes = model.kv_bytes_per_block(kBlockSize) / kBlockSize * options.context * num_sequences;
    const double seconds = entry["median_ms"].get<double>() / 1000;
    entry["kv_bytes"] = kv_bytes;
    entry["read_bandwidth_ratio"] = static_cast<double>(model.weight_bytes() + kv_bytes) / seconds / bandwidth;
    return entry;
  };
  json["decode"] = Json::array();
  for (const int batch : options.batch) {
    ASSIGN_OR_RETURN(const Json step, bench.Decode(batch));
    Json entry = add({{"sequences", batch}}, step, batch);
    entry["tokens_per_second"] = 1000.0 * batch / step["median_ms"].get<double>();
    json["decode"].push_back(entry);
  }
  json["verify"] = Json::array();
  for (const int rows : options.rows) {
    ASSIGN_OR_RETURN(const Json step, bench.Verify(rows));
    json["verify"].push_back(add({{"rows", rows}}, step, 1));
  }
  ASSIGN_OR_RETURN(Json prompt, bench.Prompts());
  prompt["tokens"] = PromptTokens(options);
  prompt["chunk"] = ChunkTokens(options);
  prompt["tokens_per_second"] = PromptTokens(options) * 1000.0 / prompt["median_ms"].get<double>();
  json["prompt"] = prompt;
  return json;
}

}  // namespace outrider
