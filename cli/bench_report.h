// What `outrider bench serve` prints and saves: the report block and the JSON keys of `vllm bench serve`, to the
// letter, so that scripts made for the one read the other. Pure.
//
// Source: vllm-project/vllm, vllm/benchmarks/serve.py, benchmark() and main_async().
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_statistics.h"

namespace outrider {

struct BenchRun {
  std::string date;  // YYYYMMDD-HHMMSS
  std::string backend = "grpc";
  std::optional<std::string> label;
  std::string model_id;
  int num_prompts = 0;
  std::vector<std::pair<std::string, std::string>> metadata;
  double request_rate = 0;  // infinite: all at once
  double burstiness = 1;
  std::optional<int> max_concurrency;
  std::string ramp_strategy;  // empty: none
  double ramp_start = 0, ramp_end = 0;
  std::vector<std::pair<int, std::string>> rps_changes;  // whole rate, time in ISO 8601
  double duration_s = 0;
  bool has_goodput = false;
  // Of ttft, tpot, itl, e2el, client_queue_time, e2el_including_client_queue. The last two only under max_concurrency.
  std::vector<std::string> percentile_metrics = {"ttft", "tpot", "itl"};
};

// The block. Without draft tokens there is no speculation part.
std::string BenchReportText(const BenchRun& run, const BenchMetrics& metrics, const SpeculationFigures& speculation);

// With `detailed`, also input_lens, output_lens, start_times, ttfts, itls, generated_texts, errors, an entry a request.
nlohmann::ordered_json BenchReportJson(const BenchRun& run, const BenchMetrics& metrics,
                                       const SpeculationFigures& speculation, const std::vector<BenchRecord>& records,
                                       bool detailed);

// {label or backend}-{rate}qps[-concurrency{N}]-{model}-{date}.json
std::string BenchFileName(const BenchRun& run);

}  // namespace outrider
