#include "cli/bench_report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace outrider {
namespace {

using Json = nlohmann::ordered_json;

struct Section {
  const char* key;
  const char* name;
  const char* header;
};
constexpr Section kSections[] = {
    {"ttft", "TTFT", "Time to First Token"},
    {"tpot", "TPOT", "Time per Output Token (excl. 1st token)"},
    {"itl", "ITL", "Inter-token Latency"},
    {"e2el", "E2EL", "End-to-end Latency"},
    {"client_queue_time", "Client Queue Time", "Client-side Queueing"},
    {"e2el_including_client_queue", "E2EL incl. Client Queue", "Queue-inclusive End-to-end Latency"},
};

bool IsShown(const BenchRun& run, const std::string& key) {
  if (std::find(run.percentile_metrics.begin(), run.percentile_metrics.end(), key) == run.percentile_metrics.end()) {
    return false;
  }
  if (key == "client_queue_time") return run.max_concurrency.has_value();
  if (key == "e2el_including_client_queue") return run.max_concurrency.has_value() && !std::isinf(run.request_rate);
  return true;
}

// In the middle of 50; what is odd goes to the right.
std::string Header(const std::string& text, char fill) {
  constexpr size_t kWidth = 50;
  const size_t rest = kWidth - std::min(kWidth, text.size());
  return absl::StrCat(std::string(rest / 2, fill), text, std::string(rest - rest / 2, fill), "\n");
}

std::string Line(const std::string& label, int64_t value) { return absl::StrFormat("%-40s %-10d\n", label, value); }
std::string Line(const std::string& label, double value) { return absl::StrFormat("%-40s %-10.2f\n", label, value); }

// Python writes a float that is whole with ".0".
std::string RateText(double rate) {
  if (std::isinf(rate)) return "inf";
  return rate == std::floor(rate) && rate < 1e15 ? absl::StrFormat("%.1f", rate) : absl::StrCat(rate);
}

}  // namespace

std::string BenchReportText(const BenchRun& run, const BenchMetrics& metrics, const SpeculationFigures& speculation) {
  std::string text = Header(" Serving Benchmark Result ", '=');
  text += Line("Successful requests:", int64_t{metrics.completed});
  text += Line("Failed requests:", int64_t{metrics.failed});
  if (run.max_concurrency.has_value()) text += Line("Maximum request concurrency:", int64_t{*run.max_concurrency});
  if (!std::isinf(run.request_rate)) text += Line("Request rate configured (RPS):", run.request_rate);
  text += Line("Benchmark duration (s):", run.duration_s);
  text += Line("Total input tokens:", metrics.total_input);
  text += Line("Total generated tokens:", metrics.total_output);
  text += Line("Request throughput (req/s):", metrics.request_throughput);
  if (run.has_goodput) text += Line("Request goodput (req/s):", metrics.request_goodput);
  text += Line("Output token throughput (tok/s):", metrics.output_throughput);
  text += Line("Peak output token throughput (tok/s):", metrics.max_output_tokens_per_s);
  text += Line("Peak concurrent requests:", static_cast<double>(metrics.max_concurrent_requests));
  text += Line("Total token throughput (tok/s):", metrics.total_token_throughput);
  for (const Section& section : kSections) {
    if (!IsShown(run, section.key)) continue;
    const BenchDistribution& distribution = metrics.distributions.at(section.key);
    text += Header(section.header, '-');
    text += Line(absl::StrCat("Mean ", section.name, " (ms):"), distribution.mean);
    text += Line(absl::StrCat("Median ", section.name, " (ms):"), distribution.median);
    for (const auto& [percent, value] : distribution.percentiles) {
      text += Line(absl::StrCat("P", percent, " ", section.name, " (ms):"), value);
    }
  }
  if (speculation.draft_tokens > 0) {
    text += Header("Speculative Decoding", '-');
    text += Line("Acceptance rate (%):", speculation.acceptance_rate());
    text += Line("Acceptance length:", speculation.acceptance_length());
    text += Line("Drafts:", speculation.num_drafts);
    text += Line("Draft tokens:", speculation.draft_tokens);
    text += Line("Accepted tokens:", speculation.accepted_tokens);
    if (!speculation.per_position.empty()) {
      text += "Per-position acceptance (%):\n";
      for (size_t i = 0; i < speculation.per_position.size(); ++i) {
        text += Line(absl::StrCat("  Position ", i, ":"), 100 * speculation.per_position[i]);
      }
    }
  }
  return text + std::string(50, '=') + "\n";
}

Json BenchReportJson(const BenchRun& run, const BenchMetrics& metrics, const SpeculationFigures& speculation,
                     const std::vector<BenchRecord>& records, bool detailed) {
  Json json;
  json["date"] = run.date;
  json["endpoint_type"] = run.backend;
  json["backend"] = run.backend;
  json["label"] = run.label.has_value() ? Json(*run.label) : Json();
  json["model_id"] = run.model_id;
  json["tokenizer_id"] = run.model_id;
  json["num_prompts"] = run.num_prompts;
  for (const auto& [key, value] : run.metadata) json[key] = value;
  json["request_rate"] = std::isinf(run.request_rate) ? Json("inf") : Json(run.request_rate);
  json["burstiness"] = std::isinf(run.burstiness) ? Json("inf") : Json(run.burstiness);
  json["max_concurrency"] = run.max_concurrency.has_value() ? Json(*run.max_concurrency) : Json();
  if (!run.ramp_strategy.empty()) {
    json["ramp_up_strategy"] = run.ramp_strategy;
    json["ramp_up_start_rps"] = run.ramp_start;
    json["ramp_up_end_rps"] = run.ramp_end;
  }
  json["duration"] = run.duration_s;
  json["completed"] = metrics.completed;
  json["failed"] = metrics.failed;
  json["total_input_tokens"] = metrics.total_input;
  json["total_output_tokens"] = metrics.total_output;
  json["request_throughput"] = metrics.request_throughput;
  json["request_goodput"] = run.has_goodput ? Json(metrics.request_goodput) : Json();
  json["output_throughput"] = metrics.output_throughput;
  json["total_token_throughput"] = metrics.total_token_throughput;
  const auto each = [&](const char* key, const auto& of) {
    Json list = Json::array();
    for (const BenchRecord& record : records) list.push_back(of(record));
    json[key] = std::move(list);
  };
  if (detailed) {
    each("input_lens", [](const BenchRecord& record) { return record.prompt_tokens; });
    each("output_lens", [](const BenchRecord& record) { return record.success ? record.output_tokens : 0; });
    each("ttfts", [](const BenchRecord& record) { return record.ttft_s; });
    each("itls", [](const BenchRecord& record) { return record.itl_s; });
  }
  each("latencies", [](const BenchRecord& record) { return record.latency_s; });
  if (detailed) each("start_times", [](const BenchRecord& record) { return record.start_s; });
  each("queue_times", [](const BenchRecord& record) { return record.queue_s; });
  if (detailed) {
    each("generated_texts", [](const BenchRecord& record) { return record.text; });
    each("errors", [](const BenchRecord& record) { return record.error; });
  }
  json["max_output_tokens_per_s"] = metrics.max_output_tokens_per_s;
  json["max_concurrent_requests"] = metrics.max_concurrent_requests;
  json["rtfx"] = 0.0;
  if (!run.rps_changes.empty()) {
    json["rps_change_events"] = Json::array();
    for (const auto& [rps, time] : run.rps_changes) {
      json["rps_change_events"].push_back({{"rps", rps}, {"timestamp", time}});
    }
  }
  if (speculation.draft_tokens > 0) {
    json["spec_decode_acceptance_rate"] = speculation.acceptance_rate();
    json["spec_decode_acceptance_length"] = speculation.acceptance_length();
    json["spec_decode_num_drafts"] = speculation.num_drafts;
    json["spec_decode_draft_tokens"] = speculation.draft_tokens;
    json["spec_decode_accepted_tokens"] = speculation.accepted_tokens;
    json["spec_decode_per_position_acceptance_rates"] = speculation.per_position;
  }
  for (const Section& section : kSections) {
    if (!IsShown(run, section.key)) continue;
    const BenchDistribution& distribution = metrics.distributions.at(section.key);
    json[absl::StrCat("mean_", section.key, "_ms")] = distribution.mean;
    json[absl::StrCat("median_", section.key, "_ms")] = distribution.median;
    json[absl::StrCat("std_", section.key, "_ms")] = distribution.std;
    for (const auto& [percent, value] : distribution.percentiles) {
      json[absl::StrCat("p", percent, "_", section.key, "_ms")] = value;
    }
  }
  return json;
}

std::string BenchFileName(const BenchRun& run) {
  const std::string concurrency =
      run.max_concurrency.has_value() ? absl::StrCat("-concurrency", *run.max_concurrency) : std::string();
  const std::string model = run.model_id.substr(run.model_id.rfind('/') + 1);  // all of it without a slash
  const std::string traffic = run.ramp_strategy.empty() ? absl::StrCat(RateText(run.request_rate), "qps")
                                                        : absl::StrCat("ramp-up-", run.ramp_strategy, "-",
                                                                       run.ramp_start, "qps-", run.ramp_end, "qps");
  return absl::StrCat(run.label.value_or(run.backend), "-", traffic, concurrency, "-", model, "-", run.date, ".json");
}

}  // namespace outrider
