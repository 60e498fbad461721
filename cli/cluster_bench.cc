#include "cli/cluster_bench.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/atomic_file.h"
#include "base/clock.h"
#include "base/page_client.h"
#include "base/status_macros.h"
#include "cli/child_cluster.h"
#include "cli/generate_client.h"
#include "cli/runtime_folder.h"
#include "proto/inference.grpc.pb.h"

namespace outrider {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr int kWarmUpPromptTokens = 64;
constexpr int kWarmUpOutputTokens = 24;
// Of warm-ups where the lookahead is chosen: it may be chosen to be none.
constexpr int kWarmUpLookahead = 4;
constexpr Duration kMetricsBound = std::chrono::seconds(5);
constexpr Duration kDraftsWait = std::chrono::seconds(30);
constexpr double kConnectTimeoutSeconds = 60;
// Seeds of warm-ups: none that is measured.
constexpr uint64_t kWarmUpSeed = uint64_t{1} << 40;

// When tokens of a request came, in seconds since the batch was sent.
struct Arrival {
  double seconds = 0;
  int num_tokens = 0;
};

struct Measured {
  std::vector<RequestOutcome> outcomes;
  std::vector<std::vector<Arrival>> arrivals;  // by request
};

// Times of the cluster's own, by its metrics: how many there were since the start and how long they were together.
struct Times {
  double count = 0, seconds = 0;
};
struct Metric {
  const char* name;             // in the result
  const char *count, *seconds;  // series
  const char* label = "";       // of the series
};
constexpr Metric kMetrics[] = {
    {"decode_steps", "outrider_step_seconds_count", "outrider_step_seconds_sum", "kind=\"decode\""},
    {"verify_steps", "outrider_step_seconds_count", "outrider_step_seconds_sum", "kind=\"verify\""},
    {"prompt_steps", "outrider_step_seconds_count", "outrider_step_seconds_sum", "kind=\"prompt\""},
    {"draft_steps", "outrider_drafter_step_seconds_count", "outrider_drafter_step_seconds_sum"},
    {"draft_waits", "outrider_draft_waits_total", "outrider_draft_wait_seconds_total"},
    {"draft_round_trips", "outrider_draft_round_trip_seconds_count", "outrider_draft_round_trip_seconds_sum"},
};

double SumOfSeries(absl::string_view page, absl::string_view name, absl::string_view label) {
  double sum = 0;
  for (const absl::string_view line : absl::StrSplit(page, '\n')) {
    absl::string_view rest = line;
    double value;
    if (!absl::ConsumePrefix(&rest, name) || (!absl::StartsWith(rest, "{") && !absl::StartsWith(rest, " ")) ||
        !absl::StrContains(rest, label) || !absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) {
      continue;
    }
    sum += value;
  }
  return sum;
}

absl::StatusOr<std::vector<Times>> ReadTimes(const std::string& metrics_address) {
  const std::vector<absl::StatusOr<Page>> pages =
      FetchPages({{.address = metrics_address, .path = "/metrics"}}, kMetricsBound);
  RETURN_IF_ERROR(pages[0].status());
  std::vector<Times> times;
  for (const Metric& metric : kMetrics) {
    times.push_back({.count = SumOfSeries(pages[0]->body, metric.count, metric.label),
                     .seconds = SumOfSeries(pages[0]->body, metric.seconds, metric.label)});
  }
  return times;
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

// A request of made-up ids, other ones for every seed.
v1::GenerateRequest MakeRequest(uint64_t seed, int prompt_tokens, int output_tokens, int vocab_size, int lookahead) {
  v1::GenerateRequest request;
  for (int64_t i = 0; i < prompt_tokens; ++i) {
    const uint64_t id = 13 + seed * 104729 + static_cast<uint64_t>(i) * 7919;
    request.add_prompt_token_ids(static_cast<int32_t>(id % static_cast<uint64_t>(vocab_size)));
  }
  request.set_seed(seed);
  request.set_temperature(0);
  request.set_ignore_eos(true);
  request.set_max_tokens(static_cast<uint32_t>(output_tokens));
  request.set_draft(lookahead != 0);
  if (lookahead != 0) request.set_lookahead(lookahead);
  return request;
}

absl::StatusOr<Measured> Send(const std::string& address, const std::vector<v1::GenerateRequest>& requests,
                              int concurrency) {
  Measured measured;
  measured.outcomes.resize(requests.size());
  measured.arrivals.resize(requests.size());
  const Clock::time_point begin = Clock::now();
  RETURN_IF_ERROR(RunRequests(
      {.address = address,
       .concurrency = concurrency,
       .connect_timeout_s = kConnectTimeoutSeconds,
       .on_tokens =
           [&](int request, int num_tokens) {
             const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
             measured.arrivals[static_cast<size_t>(request)].push_back({seconds, num_tokens});
           }},
      requests, [](int, int, const std::string&) {},
      [&](int request, const RequestOutcome& outcome) { measured.outcomes[static_cast<size_t>(request)] = outcome; }));
  return measured;
}

Json CaseJson(const Measured& measured, int batch, bool drafts) {
  Json json = {{"drafts", drafts}, {"batch", batch}, {"requests", measured.outcomes.size()}};
  std::vector<double> first, last, first_token_ms;
  int64_t num_tokens = 0, rounds = 0, plain_steps = 0, draft_tokens = 0, accepted = 0;
  for (size_t i = 0; i < measured.outcomes.size(); ++i) {
    const v1::Finished& finished = measured.outcomes[i].choices[0].finished;
    first.push_back(measured.arrivals[i].front().seconds);
    last.push_back(measured.arrivals[i].back().seconds);
    first_token_ms.push_back(finished.timing_ms().first_token());
    for (const Arrival& arrival : measured.arrivals[i]) num_tokens += arrival.num_tokens;
    rounds += finished.usage().rounds();
    plain_steps += finished.usage().plain_steps();
    draft_tokens += finished.usage().draft_tokens();
    accepted += finished.usage().accepted_tokens();
  }
  // From when the whole batch puts out tokens until not all of it does any more.
  std::sort(last.begin(), last.end());
  const double begin = *std::max_element(first.begin(), first.begin() + batch);
  const double end = last[last.size() - static_cast<size_t>(batch)];
  int64_t num_decoded = 0;
  for (const auto& arrivals : measured.arrivals) {
    for (const Arrival& arrival : arrivals) {
      if (arrival.seconds > begin && arrival.seconds <= end) num_decoded += arrival.num_tokens;
    }
  }
  json["output_tokens_per_second"] = static_cast<double>(num_tokens) / last.back();
  json["decode_tokens_per_second"] = end > begin ? Json(static_cast<double>(num_decoded) / (end - begin)) : Json();
  json["decode_seconds"] = std::max(0.0, end - begin);
  json["first_token_ms"] = {{"median", Quantile(first_token_ms, 0.5)}, {"p90", Quantile(first_token_ms, 0.9)}};
  if (!drafts) return json;
  json["rounds"] = rounds;
  json["plain_steps"] = plain_steps;
  json["draft_tokens"] = draft_tokens;
  json["accepted_tokens"] = accepted;
  if (rounds > 0) json["tokens_a_round"] = 1 + static_cast<double>(accepted) / static_cast<double>(rounds);
  return json;
}

class Bench {
 public:
  explicit Bench(const ClusterBenchOptions& options, const std::string& program)
      : options_(options), program_(program) {}

  // All batches on a cluster of its own; `replay` is what its draft workers replay.
  absl::Status Run(bool drafts, const std::string& replay, Json& cases) {
    ClusterOptions cluster_options = options_.cluster;
    if (!drafts) cluster_options.draft_model.clear();
    cluster_options.ngram_draft = false;  // drafts are the draft model's
    cluster_options.draft_replay = replay;
    cluster_options.draft_acceptance = options_.draft_acceptance.value_or(1);
    cluster_options.max_model_len = static_cast<uint32_t>(
        std::max(options_.prompt_tokens + options_.output_tokens, kWarmUpPromptTokens + kWarmUpOutputTokens));
    cluster_options.max_sequences =
        static_cast<uint32_t>(*std::max_element(options_.batch.begin(), options_.batch.end()));
    cluster_options.grpc_port = cluster_options.metrics_port = cluster_options.http_port = 0;
    ASSIGN_OR_RETURN(const std::unique_ptr<ChildCluster> cluster, ChildCluster::Start(cluster_options, program_));
    ASSIGN_OR_RETURN(const int vocab_size, VocabSize(cluster->grpc_address()));
    const int lookahead = drafts ? options_.lookahead : 0;
    for (size_t i = 0; i < options_.batch.size(); ++i) {
      const int batch = options_.batch[i];
      const int num_requests = options_.requests > 0 ? std::max(options_.requests, batch) : batch;
      std::vector<v1::GenerateRequest> warm_up, requests;
      for (int j = 0; j < batch; ++j) {
        warm_up.push_back(MakeRequest(kWarmUpSeed + static_cast<uint64_t>(j) + (i << 20), kWarmUpPromptTokens,
                                      std::min(kWarmUpOutputTokens, options_.output_tokens), vocab_size,
                                      lookahead == kLookaheadAuto ? kWarmUpLookahead : lookahead));
      }
      for (int j = 0; j < num_requests; ++j) {
        requests.push_back(MakeRequest(static_cast<uint64_t>(j) + (i << 20), options_.prompt_tokens,
                                       options_.output_tokens, vocab_size, lookahead));
      }
      RETURN_IF_ERROR(WarmUp(cluster->grpc_address(), warm_up, drafts));
      ASSIGN_OR_RETURN(const std::vector<Times> before, ReadTimes(cluster->metrics_address()));
      ASSIGN_OR_RETURN(const Measured measured, Send(cluster->grpc_address(), requests, batch));
      ASSIGN_OR_RETURN(const std::vector<Times> after, ReadTimes(cluster->metrics_address()));
      RETURN_IF_ERROR(Compare(i, measured));
      cases.push_back(CaseJson(measured, batch, drafts));
      for (size_t m = 0; m < std::size(kMetrics); ++m) {
        const double count = after[m].count - before[m].count;
        if (count == 0) continue;
        cases.back()["times"][kMetrics[m].name] = {{"count", count},
                                                   {"mean_ms", 1000 * (after[m].seconds - before[m].seconds) / count}};
      }
    }
    return absl::OkStatus();
  }

  // What the run without drafts put out.
  const std::string& recorded() const { return recorded_; }

 private:
  // Until drafts are there, if they are to be: a group meets its draft worker some time after both are up. What comes
  // without drafts is replayed too: a source of wrong drafts would be believed to be bad from the start.
  absl::Status WarmUp(const std::string& address, const std::vector<v1::GenerateRequest>& requests, bool drafts) {
    for (const Clock::time_point begin = Clock::now();;) {
      ASSIGN_OR_RETURN(const Measured measured, Send(address, requests, static_cast<int>(requests.size())));
      if (!drafts) {
        for (size_t j = 0; j < measured.outcomes.size(); ++j) Record(j, measured.outcomes[j]);
        return absl::OkStatus();
      }
      for (const RequestOutcome& outcome : measured.outcomes) {
        if (outcome.choices[0].finished.usage().rounds() > 0) return absl::OkStatus();
      }
      if (Clock::now() - begin > kDraftsWait) {
        return absl::DeadlineExceededError(absl::StrCat("no draft was verified within ", ToMillis(kDraftsWait), " ms"));
      }
    }
  }

  static absl::StatusOr<int> VocabSize(const std::string& address) {
    const auto stub = v1::Inference::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    v1::ModelInfo info;
    const grpc::Status status = stub->GetModelInfo(&context, {}, &info);
    if (!status.ok()) return absl::UnavailableError(absl::StrCat("the router: ", status.error_message()));
    return static_cast<int>(info.vocab_size());
  }

  void Record(size_t request, const RequestOutcome& outcome) {
    absl::StrAppend(&recorded_, ChoiceJson(static_cast<int>(request), 0, outcome), "\n");
  }

  // The first run says what every later one must put out.
  absl::Status Compare(size_t batch_index, const Measured& measured) {
    const bool is_first = outputs_.size() <= batch_index;
    if (is_first) outputs_.emplace_back();
    std::vector<std::vector<int32_t>>& outputs = outputs_[batch_index];
    for (size_t j = 0; j < measured.outcomes.size(); ++j) {
      const ChoiceOutcome& choice = measured.outcomes[j].choices[0];
      if (is_first) {
        outputs.push_back(choice.output_token_ids);
        Record(j, measured.outcomes[j]);
      } else if (outputs[j] != choice.output_token_ids) {
        return absl::InternalError(absl::StrCat("request ", j, " of a batch of ", options_.batch[batch_index],
                                                " put out other ids with drafts than without"));
      }
    }
    return absl::OkStatus();
  }

  const ClusterBenchOptions& options_;
  const std::string program_;
  std::vector<std::vector<std::vector<int32_t>>> outputs_;  // by batch and request
  std::string recorded_;
};

absl::Status CheckRange(const char* flag, int value, int first, int last) {
  if (value >= first && value <= last) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, " is out of range; it takes ", first, " to ", last));
}

}  // namespace

absl::Status Validate(const ClusterBenchOptions& options) {
  if (options.cluster.model.empty()) return absl::InvalidArgumentError("give a MODEL, or --shape F");
  if (options.batch.empty()) return absl::InvalidArgumentError("--batch takes at least one number");
  for (const int batch : options.batch) RETURN_IF_ERROR(CheckRange("--batch", batch, 1, 1024));
  RETURN_IF_ERROR(CheckRange("--requests", options.requests, 0, 1 << 20));
  RETURN_IF_ERROR(CheckRange("--prompt", options.prompt_tokens, 1, 1 << 20));
  RETURN_IF_ERROR(CheckRange("--output", options.output_tokens, 2, 1 << 20));
  if (options.lookahead != kLookaheadAuto) RETURN_IF_ERROR(CheckRange("--lookahead", options.lookahead, 1, 32));
  // Written so that NaN fails.
  if (options.draft_acceptance && !(*options.draft_acceptance >= 0 && *options.draft_acceptance <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--draft-acceptance is ", *options.draft_acceptance, "; it may be 0 to 1"));
  }
  if (options.cluster.draft_model.empty() && (options.draft_acceptance || !options.recorded.empty())) {
    return absl::InvalidArgumentError("--draft-acceptance and --recorded need --draft-model or --draft-shape");
  }
  return absl::OkStatus();
}

absl::StatusOr<Json> BenchCluster(const ClusterBenchOptions& options, const std::string& program) {
  RETURN_IF_ERROR(Validate(options));
  const ClusterOptions& cluster = options.cluster;
  Json json = {{"model", cluster.model},
               {"draft_model", cluster.draft_model.empty() ? Json() : Json(cluster.draft_model)},
               {"device", cluster.device},
               {"numerics", cluster.numerics},
               {"tensor_parallel_size", cluster.tensor_parallel_size},
               {"groups", cluster.groups},
               {"prompt_tokens", options.prompt_tokens},
               {"output_tokens", options.output_tokens}};
  if (!cluster.draft_model.empty()) {
    json["lookahead"] = options.lookahead == kLookaheadAuto ? Json("auto") : Json(options.lookahead);
    json["draft_acceptance"] = options.draft_acceptance ? Json(*options.draft_acceptance) : Json();
  }
  Bench bench(options, program);
  json["cases"] = Json::array();
  if (options.recorded.empty()) RETURN_IF_ERROR(bench.Run(/*drafts=*/false, "", json["cases"]));
  if (!options.record.empty()) RETURN_IF_ERROR(WriteFileAtomically(options.record, bench.recorded()));
  if (cluster.draft_model.empty()) return json;

  ASSIGN_OR_RETURN(const std::unique_ptr<RuntimeFolder> folder, RuntimeFolder::Make(RuntimeFolder::DefaultBase()));
  std::string replay;
  if (options.draft_acceptance) {
    replay = options.recorded;
    if (replay.empty()) {
      replay = absl::StrCat(folder->path(), "/outputs.jsonl");
      RETURN_IF_ERROR(WriteFileAtomically(replay, bench.recorded()));
    }
  }
  RETURN_IF_ERROR(bench.Run(/*drafts=*/true, replay, json["cases"]));
  // Beside the same batch without drafts.
  for (Json& drafted : json["cases"]) {
    for (const Json& plain : json["cases"]) {
      if (!drafted["drafts"] || plain["drafts"] || plain["batch"] != drafted["batch"]) continue;
      if (plain["decode_tokens_per_second"].is_null() || drafted["decode_tokens_per_second"].is_null()) continue;
      drafted["ratio"] =
          drafted["decode_tokens_per_second"].get<double>() / plain["decode_tokens_per_second"].get<double>();
    }
  }
  return json;
}

std::string ClusterBenchText(const Json& result) {
  std::string text = absl::StrFormat("%s, %s, %s, tensor parallel %d, prompts of %d tokens, outputs of %d",
                                     result["model"].get<std::string>(), result["device"].get<std::string>(),
                                     result["numerics"].get<std::string>(), result["tensor_parallel_size"].get<int>(),
                                     result["prompt_tokens"].get<int>(), result["output_tokens"].get<int>());
  if (result.contains("lookahead")) {
    const Json& lookahead = result["lookahead"];
    absl::StrAppend(&text, "; drafts of ", lookahead.is_string() ? "as many as pay" : lookahead.dump(), " by ",
                    result["draft_model"].get<std::string>());
    if (!result["draft_acceptance"].is_null()) {
      absl::StrAppendFormat(&text, ", right by a chance of %g", result["draft_acceptance"].get<double>());
    }
  }
  text += "\n";
  for (const Json& entry : result["cases"]) {
    absl::StrAppendFormat(&text, "%-8s %4d at once", entry["drafts"].get<bool>() ? "drafts" : "plain",
                          entry["batch"].get<int>());
    if (!entry["decode_tokens_per_second"].is_null()) {
      absl::StrAppendFormat(&text, "  decode %9.1f tokens/s over %.2f s",
                            entry["decode_tokens_per_second"].get<double>(), entry["decode_seconds"].get<double>());
    }
    absl::StrAppendFormat(&text, ", whole %9.1f tokens/s, first token %.1f ms (p90 %.1f)",
                          entry["output_tokens_per_second"].get<double>(),
                          entry["first_token_ms"]["median"].get<double>(),
                          entry["first_token_ms"]["p90"].get<double>());
    if (entry.contains("ratio")) absl::StrAppendFormat(&text, ", %.2fx", entry["ratio"].get<double>());
    if (entry.contains("tokens_a_round")) {
      absl::StrAppendFormat(&text, ", %.2f tokens a round, %d rounds, %d plain steps",
                            entry["tokens_a_round"].get<double>(), entry["rounds"].get<int64_t>(),
                            entry["plain_steps"].get<int64_t>());
    }
    text += "\n";
    if (!entry.contains("times")) continue;
    text += "        ";
    for (const auto& [name, times] : entry["times"].items()) {
      absl::StrAppendFormat(&text, "  %s: %d of %.2f ms", name, static_cast<int64_t>(times["count"].get<double>()),
                            times["mean_ms"].get<double>());
    }
    text += "\n";
  }
  return text;
}

}  // namespace outrider
