// Speed of one group: tokens a second of decode and of prompts, and the time of a step by its rows.
//
//   engine_bench MODEL [--load-format auto|dummy] [--device cpu|cuda] [--threads N] [--context N] [--prompt N] [--chunk
//   N]
//                           [--numerics invariant|reference] [--steps N] [--batch 1,8,..]
//                           [--tensor-parallel-size N]
//
// Prints one JSON object. Times are medians over steps after a warm-up, with the 10th and 90th percentile beside them;
// every step runs the whole path: plan, forward pass, greedy sampling. Verify spans are one sequence of 1 + K rows with
// drafts that are all rejected, so that the sequence advances by one token a step whatever the rows. --batch: decode
// steps of so many sequences of --context tokens each. The ranks of --tensor-parallel-size are threads here, on GPUs
// one GPU each; a step is then the group's, from the plan's way to the followers to the comparison of what was chosen.
// --load-format dummy: random weights in the shapes of a folder's config.json, deploy/models/shapes has some.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/gemm/gemm.h"
#include "nlohmann/json.hpp"
#include "worker/group/step_broadcast.h"
#include "worker/model/loaded_model.h"
#include "worker/model/model_runner.h"
#include "worker/parallel/loopback_communicator.h"
#include "worker/parallel/region_communicator.h"  // kMaxRanks

namespace outrider {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

struct Arguments {
  std::string model;
  Device device = Device::kCpu;
  std::vector<int> batches;
  int threads = 2;
  int context = 64;
  int prompt = 512;
  int chunk = 256;
  int steps = 60;
  int world_size = 1;
  Numerics numerics = Numerics::kInvariant;
  LoadFormat load_format = LoadFormat::kAuto;
};

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "engine_bench: %s\n", message.c_str());
  std::exit(1);
}

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name.rfind("--", 0) != 0) {
      arguments.model = name;
      continue;
    }
    if (++i == argc) Fail(name + " wants a value");
    const int value = std::atoi(argv[i]);
    if (name == "--threads") {
      arguments.threads = value;
    } else if (name == "--context") {
      arguments.context = value;
    } else if (name == "--prompt") {
      arguments.prompt = value;
    } else if (name == "--chunk") {
      arguments.chunk = value;
    } else if (name == "--steps") {
      arguments.steps = value;
    } else if (name == "--tensor-parallel-size") {
      arguments.world_size = value;
    } else if (name == "--device") {
      if (std::strcmp(argv[i], "cuda") != 0 && std::strcmp(argv[i], "cpu") != 0) Fail("--device is cpu or cuda");
      arguments.device = std::strcmp(argv[i], "cuda") == 0 ? Device::kCuda : Device::kCpu;
    } else if (name == "--load-format") {
      if (std::strcmp(argv[i], "auto") != 0 && std::strcmp(argv[i], "dummy") != 0)
        Fail("--load-format is auto or dummy");
      arguments.load_format = std::strcmp(argv[i], "dummy") == 0 ? LoadFormat::kDummy : LoadFormat::kAuto;
    } else if (name == "--batch") {
      for (const char* at = argv[i]; *at != 0;) {
        char* end = nullptr;
        arguments.batches.push_back(static_cast<int>(std::strtol(at, &end, 10)));
        if (end == at || arguments.batches.back() < 1) Fail("--batch wants numbers such as 1,8,64");
        at = *end == ',' ? end + 1 : end;
      }
    } else if (name == "--numerics") {
      arguments.numerics = std::strcmp(argv[i], "reference") == 0 ? Numerics::kReference : Numerics::kInvariant;
    } else {
      Fail("unknown flag " + name);
    }
  }
  if (arguments.model.empty() || arguments.context < 1 || arguments.prompt < 1 || arguments.chunk < 1 ||
      arguments.steps < 1 || arguments.world_size < 1 || arguments.world_size > kMaxRanks) {
    Fail(
        "usage: engine_bench MODEL [--load-format auto|dummy] [--threads N] [--context N] [--prompt N] [--chunk N] "
        "[--steps N]");
  }
  return arguments;
}

Json Summary(std::vector<double> ms) {
  std::sort(ms.begin(), ms.end());
  const auto at = [&](double q) { return ms[static_cast<size_t>(q * static_cast<double>(ms.size() - 1))]; };
  return {{"median_ms", at(0.5)}, {"p10_ms", at(0.1)}, {"p90_ms", at(0.9)}, {"samples", ms.size()}};
}

class Bench {
 public:
  explicit Bench(const Arguments& arguments) : arguments_(arguments) {
    int batch_max = 1;
    for (const int batch : arguments.batches) batch_max = std::max(batch_max, batch);
    blocks_a_sequence_ = (std::max(arguments.prompt, arguments.context + arguments.steps + 64) + 64) / 16 + 1;
    communicators_ = CreateLoopbackCommunicators(arguments.world_size);
    models_.resize(static_cast<size_t>(arguments.world_size));
    runners_.resize(models_.size());
    // In turn, so that one rank's staging is in memory at a time; on GPUs the ranks meet as their runners are made.
    for (int rank = 0; rank < arguments.world_size; ++rank) {
      models_[rank] = Must(LoadModel(arguments.model, {.device = arguments.device,
                                                       .device_index = rank,
                                                       .numerics = arguments.numerics,
                                                       .rank = rank,
                                                       .world_size = arguments.world_size,
                                                       .num_threads = arguments.threads,
                                                       .load_format = arguments.load_format}));
    }
    const auto make_runner = [&, batch_max](int rank) {
      runners_[rank] = Must(models_[rank]->CreateRunner({.communicator = communicators_[rank].get(),
                                                         .num_kv_blocks = blocks_a_sequence_ * batch_max,
                                                         .max_step_tokens = std::max({arguments_.chunk, batch_max, 64}),
                                                         .max_sequences = std::max(batch_max, 4)}));
    };
    for (int rank = 1; rank < arguments.world_size; ++rank) {
      followers_.emplace_back([this, make_runner, rank] {
        make_runner(rank);
        const absl::Status status = RunFollower(*runners_[rank], *communicators_[rank]);
        if (!status.ok()) Fail(std::string(status.message()));
      });
    }
    make_runner(0);
    backend_ = std::make_unique<GroupBackend>(*runners_[0], *communicators_[0]);
  }
  ~Bench() {
    if (const absl::Status status = backend_->Stop(); !status.ok()) Fail(std::string(status.message()));
    for (std::thread& follower : followers_) follower.join();
  }

  Json Run() {
    Json json;
    json["model"] = models_[0]->name();
    json["numerics"] = NumericsName(models_[0]->numerics());
    json["device"] = models_[0]->device() == Device::kCuda ? "cuda" : kernels::GemmTargetName();
    json["tensor_parallel_size"] = arguments_.world_size;
    json["threads"] = arguments_.threads;
    json["weight_mib"] = models_[0]->weight_bytes() >> 20;

    const Json decode = Verify(1);
    json["decode"] = decode;
    json["decode"]["context"] = arguments_.context;
    json["decode"]["tokens_per_second"] = 1000.0 / decode["median_ms"].get<double>();

    std::vector<double> prompts;
    for (int i = 0; i < 5; ++i) prompts.push_back(Prompt());
    const Json prompt = Summary(prompts);
    json["prompt"] = prompt;
    json["prompt"]["tokens"] = arguments_.prompt;
    json["prompt"]["chunk"] = arguments_.chunk;
    json["prompt"]["tokens_per_second"] = arguments_.prompt * 1000.0 / prompt["median_ms"].get<double>();

    for (const int rows : {1, 2, 3, 5, 9, 17, 33}) {
      Json entry = {{"rows", rows}};
      entry.update(Verify(rows));
      json["step_by_rows"].push_back(entry);
    }
    for (const int batch : arguments_.batches) {
      Json entry = {{"sequences", batch}};
      entry.update(Decode(batch));
      entry["tokens_per_second"] = 1000.0 * batch / entry["median_ms"].get<double>();
      json["decode_by_batch"].push_back(entry);
    }
    return json;
  }

 private:
  StepResult Step(const StepPlan& plan) {
    if (absl::Status status = backend_->Submit(plan); !status.ok()) Fail(std::string(status.message()));
    return Must(backend_->Collect());
  }

  template <typename T>
  static T Must(absl::StatusOr<T> made) {
    if (!made.ok()) Fail(std::string(made.status().message()));
    return *std::move(made);
  }

  std::vector<TokenId> Tokens(int count) const {
    std::vector<TokenId> tokens(count);
    for (int i = 0; i < count; ++i) tokens[i] = static_cast<TokenId>((i * 7919 + 13) % models_[0]->config().vocab_size);
    return tokens;
  }

  // Of the index-th sequence of a step.
  std::vector<BlockId> Blocks(int index) const {
    std::vector<BlockId> blocks(blocks_a_sequence_);
    for (int i = 0; i < blocks_a_sequence_; ++i) blocks[i] = index * blocks_a_sequence_ + i;
    return blocks;
  }

  // Starts a sequence and computes its prompt in chunks; ms.
  double Start(const std::vector<TokenId>& prompt, int index = 0) {
    sequence_ = SequenceId(sequence_.value + 1);
    SamplingParams params;
    params.temperature = 0;
    params.max_tokens = 1 << 20;
    double ms = 0;
    for (int at = 0; at < static_cast<int>(prompt.size()); at += arguments_.chunk) {
      StepPlan plan = NewPlan();
      Span span{.sequence = sequence_, .first_position = at};
      span.num_committed_tokens = std::min(arguments_.chunk, static_cast<int>(prompt.size()) - at);
      span.samples = at + span.num_committed_tokens == static_cast<int>(prompt.size());
      if (at == 0) {
        plan.starts.push_back({sequence_, prompt, {}, params});
        span.blocks = Blocks(index);
        if (index == 0) {
          plan.ends = live_;
          live_.clear();
        }
        live_.push_back(sequence_);
      }
      plan.spans.push_back(span);
      const auto begin = Clock::now();
      Step(plan);
      ms += std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
    }
    num_tokens_ = static_cast<int>(prompt.size()) + 1;
    return ms;
  }

  double Prompt() { return Start(Tokens(arguments_.prompt)); }

  // Steps of one span of `rows` rows whose drafts are rejected.
  Json Verify(int rows) {
    Start(Tokens(arguments_.context));
    std::vector<double> ms;
    for (int i = -5; i < arguments_.steps; ++i) {
      StepPlan plan = NewPlan();
      Span span{.sequence = sequence_,
                .first_position = num_tokens_ - 1,
                .num_committed_tokens = 1,
                .samples = true,
                .lookahead = rows - 1};
      if (rows > 1) {
        span.paths.push_back({.base_position = num_tokens_, .tokens = std::vector<TokenId>(rows - 1, 11)});
      }
      plan.spans.push_back(span);
      const auto begin = Clock::now();
      const StepResult result = Step(plan);
      if (i >= 0) ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
      num_tokens_ += static_cast<int>(result.spans[0].tokens.size());
    }
    return Summary(ms);
  }

  // Steps of one row of each of `batch` sequences.
  Json Decode(int batch) {
    for (int i = 0; i < batch; ++i) Start(Tokens(arguments_.context), i);
    std::vector<double> ms;
    for (int i = -5; i < arguments_.steps; ++i) {
      StepPlan plan = NewPlan();
      for (const SequenceId sequence : live_) {
        plan.spans.push_back(
            {.sequence = sequence, .first_position = num_tokens_ - 1, .num_committed_tokens = 1, .samples = true});
      }
      const auto begin = Clock::now();
      Step(plan);
      if (i >= 0) ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
      ++num_tokens_;
    }
    return Summary(ms);
  }

  StepPlan NewPlan() {
    StepPlan plan;
    plan.step = StepId(++step_);
    return plan;
  }

  const Arguments arguments_;
  // By rank.
  std::vector<std::unique_ptr<Communicator>> communicators_;
  std::vector<std::unique_ptr<LoadedModel>> models_;
  std::vector<std::unique_ptr<ModelRunner>> runners_;
  std::vector<std::thread> followers_;
  std::unique_ptr<GroupBackend> backend_;
  int blocks_a_sequence_ = 0;
  uint64_t step_ = 0;
  SequenceId sequence_;           // started last
  std::vector<SequenceId> live_;  // not ended yet
  int num_tokens_ = 0;
};

}  // namespace
}  // namespace outrider

int main(int argc, char** argv) {
  const outrider::Arguments arguments = outrider::Parse(argc, argv);
  std::printf("%s\n", outrider::Bench(arguments).Run().dump(2).c_str());
  return 0;
}
