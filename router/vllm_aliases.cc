#include "router/vllm_aliases.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/engine_totals.h"
#include "base/metrics_text.h"
#include "router/latency_buckets.h"

namespace outrider::router {
namespace {

using Samples = std::map<std::string, std::vector<MetricSample>>;

struct HistogramAlias {
  const char* name;
  const char* native;
  const char* help;
  std::vector<double> bounds;
};

std::vector<double> StepBounds() { return {kStepTokenBounds.begin(), kStepTokenBounds.end()}; }

// 1, 2, 5, 10, ... as vLLM's: those the model's length allows.
std::vector<double> TokenBoundsTo(double max_model_len) {
  std::vector<double> bounds;
  for (const double bound : TokenBounds()) {
    if (bound <= max_model_len) bounds.push_back(bound);
  }
  return bounds;
}

std::vector<HistogramAlias> HistogramAliases(double max_model_len) {
  const std::vector<double> tokens = TokenBoundsTo(max_model_len);
  return {
      {"time_to_first_token_seconds", "time_to_first_token_seconds", "Time to first token.", VllmFirstTokenBounds()},
      {"inter_token_latency_seconds", "inter_token_seconds", "Time between tokens.", VllmInterTokenBounds()},
      {"request_time_per_output_token_seconds", "choice_token_seconds", "Mean time per output token of a request.",
       VllmInterTokenBounds()},
      {"e2e_request_latency_seconds", "request_seconds", "Time of a request.", VllmRequestBounds()},
      {"request_queue_time_seconds", "request_queue_seconds", "Time a request waited.", VllmRequestBounds()},
      {"request_inference_time_seconds", "choice_inference_seconds", "Time a request ran.", VllmRequestBounds()},
      {"request_prefill_time_seconds", "choice_prefill_seconds", "Time a request's prompt took.", VllmRequestBounds()},
      {"request_decode_time_seconds", "choice_decode_seconds", "Time a request's output took.", VllmRequestBounds()},
      {"request_prompt_tokens", "choice_prompt_tokens", "Prompt tokens of a request.", tokens},
      {"request_generation_tokens", "choice_output_tokens", "Output tokens of a request.", tokens},
      {"request_max_num_generation_tokens", "choice_output_tokens", "Most output tokens of a request's choices.",
       tokens},
      {"request_params_max_tokens", "choice_max_tokens", "max_tokens of a request.", tokens},
      {"request_params_n", "request_choices", "n of a request.", VllmChoiceBounds()},
      {"iteration_tokens_total", "group_step_positions", "Tokens of an engine step.", StepBounds()},
  };
}

class AliasPage {
 public:
  AliasPage(const Samples& samples, const std::string& labels) : samples_(samples), labels_(labels) {}

  // The sum of a native metric's samples, of those whose `label` is `value` if one is given.
  double Sum(const std::string& native, const std::string& label = {}, const std::string& value = {}) const {
    double sum = 0;
    for (const MetricSample& sample : Of(native)) {
      if (label.empty() || LabelOf(sample, label) == value) sum += sample.value;
    }
    return sum;
  }
  const std::vector<MetricSample>& Of(const std::string& native) const {
    static const std::vector<MetricSample> none;
    const auto found = samples_.find(absl::StrCat("outrider_", native));
    return found == samples_.end() ? none : found->second;
  }

  void Head(const std::string& name, const char* type, const std::string& help) {
    absl::StrAppend(&text_, "# HELP vllm:", name, " ", help, "\n# TYPE vllm:", name, " ", type, "\n");
  }
  void Line(const std::string& name, const std::string& more_labels, double value) {
    char number[32];
    std::snprintf(number, sizeof(number), "%.15g", value);
    absl::StrAppend(&text_, "vllm:", name, "{", labels_, more_labels.empty() ? "" : ",", more_labels, "} ", number,
                    "\n");
  }
  void Metric(const std::string& name, const char* type, const std::string& help, double value) {
    Head(name, type, help);
    Line(name, "", value);
  }
  void Histogram(const HistogramAlias& alias) {
    Head(alias.name, "histogram", alias.help);
    // Cumulative counts by bound; several groups' are summed.
    std::map<double, double> counts;
    for (const MetricSample& sample : Of(absl::StrCat(alias.native, "_bucket"))) {
      double bound;
      if (absl::SimpleAtod(LabelOf(sample, "le"), &bound)) counts[bound] += sample.value;
    }
    const std::string name = absl::StrCat(alias.name, "_bucket");
    for (const double bound : alias.bounds) {
      // The greatest native bound up to this one; it is this one.
      auto at = counts.upper_bound(bound * (1 + 1e-9));
      Line(name, absl::StrCat("le=\"", Bound(bound), "\""), at == counts.begin() ? 0 : std::prev(at)->second);
    }
    const double count = Sum(absl::StrCat(alias.native, "_count"));
    Line(name, "le=\"+Inf\"", count);
    Line(absl::StrCat(alias.name, "_sum"), "", Sum(absl::StrCat(alias.native, "_sum")));
    Line(absl::StrCat(alias.name, "_count"), "", count);
  }
  std::string Take() { return std::move(text_); }

 private:
  // As vLLM's client writes it: 1.0, 0.25.
  static std::string Bound(double bound) {
    return absl::StrCat(bound, bound == std::floor(bound) && bound < 1e6 ? ".0" : "");
  }

  const Samples& samples_;
  const std::string labels_;
  std::string text_;
};

void AppendSpeculation(AliasPage& page) {
  page.Metric("spec_decode_num_drafts_total", "counter", "Drafts verified.", page.Sum("group_draft_rounds_total"));
  page.Metric("spec_decode_num_draft_tokens_total", "counter", "Draft tokens verified.",
              page.Sum("group_draft_tokens_total"));
  page.Metric("spec_decode_num_accepted_tokens_total", "counter", "Draft tokens accepted.",
              page.Sum("group_draft_tokens_accepted_total"));
  page.Head("spec_decode_num_accepted_tokens_per_pos_total", "counter", "Draft tokens accepted, by position.");
  std::map<int, double> by_position;
  for (const MetricSample& sample : page.Of("group_draft_tokens_accepted_total")) {
    int position;
    if (absl::SimpleAtoi(LabelOf(sample, "position"), &position)) by_position[position - 1] += sample.value;
  }
  for (const auto& [position, count] : by_position) {
    page.Line("spec_decode_num_accepted_tokens_per_pos_total", absl::StrCat("position=\"", position, "\""), count);
  }
}

}  // namespace

std::string VllmAliases(const std::string& native) {
  Samples samples;
  for (MetricSample& sample : ParseMetrics(native)) samples[sample.name].push_back(std::move(sample));
  const auto groups = samples.find("outrider_group_info");
  if (groups == samples.end()) return "";
  const MetricSample& first = *std::min_element(
      groups->second.begin(), groups->second.end(),
      [](const MetricSample& a, const MetricSample& b) { return LabelOf(a, "group") < LabelOf(b, "group"); });
  AliasPage page(samples, absl::StrCat("engine=\"0\",model_name=\"", EscapeLabelValue(LabelOf(first, "model")), "\""));

  const double queued = page.Sum("requests_waiting") + page.Sum("group_sequences_waiting");
  page.Metric("num_requests_running", "gauge", "Requests that run.", page.Sum("group_sequences_running"));
  page.Metric("num_requests_waiting", "gauge", "Requests that wait.", queued);
  page.Head("num_requests_waiting_by_reason", "gauge", "Requests that wait, by reason.");
  page.Line("num_requests_waiting_by_reason", "reason=\"capacity\"", queued);
  page.Line("num_requests_waiting_by_reason", "reason=\"deferred\"", 0);
  double blocks = 0, used_blocks = 0, block_tokens = 0, max_model_len = 0;
  for (const MetricSample& sample : page.Of("group_kv_blocks")) {
    const std::string group = LabelOf(sample, "group");
    blocks += sample.value;
    used_blocks += sample.value * page.Sum("group_kv_cache_used_ratio", "group", group);
    block_tokens = std::max(block_tokens, page.Sum("group_kv_block_tokens", "group", group));
    max_model_len = std::max(max_model_len, page.Sum("group_max_model_len_tokens", "group", group));
  }
  page.Metric("kv_cache_usage_perc", "gauge", "KV blocks in use, of all; 1 is all.",
              blocks > 0 ? used_blocks / blocks : 0);
  page.Head("cache_config_info", "gauge", "1; the labels tell the size of the KV cache.");
  page.Line("cache_config_info", absl::StrCat("block_size=\"", block_tokens, "\",num_gpu_blocks=\"", blocks, "\""), 1);
  page.Head("engine_sleep_state", "gauge", "1 for the state that the engine is in.");
  for (const auto& [state, value] : {std::pair{"awake", 1}, {"weights_offloaded", 0}, {"discard_all", 0}}) {
    page.Line("engine_sleep_state", absl::StrCat("sleep_state=\"", state, "\""), value);
  }

  const double prompt_tokens = page.Sum("choices_prompt_tokens_total");
  const double cached_tokens = page.Sum("choices_cached_tokens_total");
  page.Metric("num_preemptions_total", "counter", "Requests paused since blocks ran out.",
              page.Sum("group_sequences_preempted_total"));
  page.Metric("prompt_tokens_total", "counter", "Prompt tokens.", page.Sum("prompt_tokens_total"));
  page.Metric("prompt_tokens_cached_total", "counter", "Prompt tokens found in the prefix cache.", cached_tokens);
  page.Head("prompt_tokens_by_source_total", "counter", "Prompt tokens of finished requests, by source.");
  for (const auto& [source, value] : {std::pair{"local_compute", prompt_tokens - cached_tokens},
                                      {"local_cache_hit", cached_tokens},
                                      {"external_kv_transfer", 0.0}}) {
    page.Line("prompt_tokens_by_source_total", absl::StrCat("source=\"", source, "\""), value);
  }
  page.Metric("prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache.", prompt_tokens);
  page.Metric("prefix_cache_hits_total", "counter", "Of them, those that were found.", cached_tokens);
  page.Metric("generation_tokens_total", "counter", "Output tokens.", page.Sum("output_tokens_total"));
  const auto choices = [&](const char* reason) { return page.Sum("choices_total", "reason", reason); };
  page.Head("request_success_total", "counter", "Requests that finished, by reason.");
  for (const auto& [reason, value] :
       {std::pair{"stop", choices("end_token") + choices("stop_token") + choices("stop_string")},
        {"length", choices("length")},
        {"abort", choices("cancelled")}}) {
    page.Line("request_success_total", absl::StrCat("finished_reason=\"", reason, "\""), value);
  }
  for (const HistogramAlias& alias : HistogramAliases(max_model_len)) page.Histogram(alias);
  AppendSpeculation(page);
  return page.Take();
}

}  // namespace outrider::router
