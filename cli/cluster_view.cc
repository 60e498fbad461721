#include "cli/cluster_view.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace outrider {
namespace {

using Match = MetricsPageView::Match;

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
constexpr double kFull = 0.9;  // of KV memory: sequences are about to be preempted

// Between two looks.
class Change {
 public:
  Change(const MetricsPageView& before, const MetricsPageView& after, double seconds)
      : before_(before), after_(after), seconds_(seconds) {}
  double Of(const std::string& name, const Match& match) const {
    const double now = after_.Sum(name, match), then = before_.Sum(name, match);
    return now >= then ? now - then : now;
  }
  double PerSecond(const std::string& name, const Match& match) const { return Of(name, match) / seconds_; }
  double Ratio(const std::string& name, const std::string& of, const Match& match) const {
    const double whole = Of(of, match);
    return whole > 0 ? Of(name, match) / whole : kUnknown;
  }
  // Mean of a histogram, ms.
  double MeanMs(const std::string& name, const Match& match) const {
    return 1000 * Ratio(name + "_sum", name + "_count", match);
  }
  double QuantileMs(const std::string& name, const Match& match, double q) const {
    return 1000 * HistogramQuantile(before_.Buckets(name, match), after_.Buckets(name, match), q);
  }

 private:
  const MetricsPageView& before_;
  const MetricsPageView& after_;
  const double seconds_;
};

std::string Cell(double value, int width, int decimals) {
  if (std::isnan(value)) return absl::StrFormat("%*s", width, "-");
  const std::string text = absl::StrFormat("%.*f", decimals, value);
  if (static_cast<int>(text.size()) <= width) return absl::StrFormat("%*s", width, text);
  return absl::StrFormat("%*s", width, absl::StrFormat("%.0fk", value / 1000));
}
std::string Percent(double ratio, int width) { return Cell(100 * ratio, width, 0); }

std::string Name(const std::string& name, size_t width) {
  return name.size() <= width ? name + std::string(width - name.size(), ' ') : name.substr(0, width - 1) + "~";
}

// One line of the screen and how it is shown.
struct ScreenLine {
  std::string text;
  const char* style = "";
};

// From what the leader shows (`prefix` "outrider_"), or what the router has heard of it ("outrider_group_").
GroupRow ViewGroup(const std::string& name, const MetricsPageView& after, const Change& change,
                   const std::string& prefix, const Match& of) {
  const bool itself = prefix == "outrider_";
  const std::string rounds = prefix + "draft_rounds_total", drafted = prefix + "draft_tokens_total",
                    accepted = prefix + "draft_tokens_accepted_total";
  GroupRow group{.name = name};
  group.running = after.Sum(prefix + "sequences_running", of, kUnknown);
  group.waiting = after.Sum(prefix + "sequences_waiting", of, kUnknown);
  group.kv_used_ratio = after.Sum(prefix + "kv_cache_used_ratio", of, kUnknown);
  group.tokens_per_s = itself ? change.PerSecond("outrider_committed_tokens_total", of) : kUnknown;
  group.step_ms = itself ? change.MeanMs("outrider_step_seconds", of) : kUnknown;
  group.acceptance_rate = change.Ratio(accepted, drafted, of);
  group.acceptance_length = 1 + change.Ratio(accepted, rounds, of);
  group.hidden_ratio = itself ? change.Ratio("outrider_draft_rounds_hidden_total", rounds, of) : kUnknown;
  group.preempted_per_s = change.PerSecond(prefix + "sequences_preempted_total", of);
  return group;
}

}  // namespace

ClusterView ViewCluster(const MetricsPageView& before, const MetricsPageView& after, double seconds) {
  const Change change(before, after, seconds);
  ClusterView view;
  view.seconds = seconds;
  view.groups = after.Sum("outrider_groups", {}, kUnknown);
  view.groups_serving = after.Sum("outrider_groups_serving", {}, kUnknown);
  view.draft_workers = after.Sum("outrider_draft_workers", {}, kUnknown);
  view.requests_running = after.Sum("outrider_requests_running", {}, kUnknown);
  view.requests_waiting = after.Sum("outrider_requests_waiting", {}, kUnknown);
  view.requests_per_s = change.PerSecond("outrider_requests_total", {});
  const double ok = change.PerSecond("outrider_requests_total", {{"outcome", "ok"}});
  view.failed_per_s = std::max(0.0, view.requests_per_s - ok);
  view.prompt_tokens_per_s = change.PerSecond("outrider_prompt_tokens_total", {});
  view.output_tokens_per_s = change.PerSecond("outrider_output_tokens_total", {});
  view.ttft_ms_p50 = change.QuantileMs("outrider_time_to_first_token_seconds", {}, 0.5);
  view.ttft_ms_p99 = change.QuantileMs("outrider_time_to_first_token_seconds", {}, 0.99);
  view.itl_ms_p50 = change.QuantileMs("outrider_inter_token_seconds", {}, 0.5);
  view.itl_ms_p99 = change.QuantileMs("outrider_inter_token_seconds", {}, 0.99);
  for (const std::string& name : after.Values("outrider_group_sequences_running", "group")) {
    const Match leader = {{"group", name}, {"rank", "0"}};
    const bool itself = after.Has("outrider_sequences_running", leader);
    view.group_list.push_back(ViewGroup(name, after, change, itself ? "outrider_" : "outrider_group_",
                                        itself ? leader : Match{{"group", name}}));
  }
  // Leaders that were asked themselves: their pages do not say whose they are.
  for (const std::string& name : after.Values("outrider_sequences_running", "process")) {
    const Match leader = {{"process", name}, {"group", ""}};
    if (!after.Has("outrider_sequences_running", leader)) continue;
    view.group_list.push_back(ViewGroup(name, after, change, "outrider_", leader));
  }
  for (const std::string& name : after.Values("outrider_drafter_sequences", "process")) {
    const Match of = {{"process", name}};
    DraftWorkerRow worker{.name = name};
    worker.sequences = after.Sum("outrider_drafter_sequences", of, kUnknown);
    worker.kv_used_ratio = after.Sum("outrider_drafter_kv_cache_used_ratio", of, kUnknown);
    worker.tokens_per_s = change.PerSecond("outrider_drafter_tokens_total", of);
    worker.step_ms = change.MeanMs("outrider_drafter_step_seconds", of);
    worker.answer_ms = change.MeanMs("outrider_drafter_answer_seconds", of);
    worker.dropped_per_s = change.PerSecond("outrider_drafter_commands_dropped_total", of);
    view.draft_list.push_back(std::move(worker));
  }
  for (const std::string& name : after.Values("outrider_process_up", "process")) {
    const std::string unit = name.substr(0, name.find('/'));
    view.processes.push_back({name, after.Sum("outrider_process_up", {{"process", name}}) > 0,
                              after.Sum("outrider_unit_restarts_total", {{"unit", unit}})});
  }
  return view;
}

std::string ClusterText(const ClusterView& view, const std::string& title, int width, int height, bool colour) {
  constexpr char kBold[] = "\x1b[1m", kInverse[] = "\x1b[7m", kRed[] = "\x1b[31m", kReset[] = "\x1b[0m";
  std::vector<ScreenLine> rows;
  rows.push_back({title, kBold});
  const auto n = [](double value, int decimals = 0) {
    return std::isnan(value) ? std::string("-") : absl::StrFormat("%.*f", decimals, value);
  };
  rows.push_back({absl::StrCat("requests ", n(view.requests_running), " running, ", n(view.requests_waiting),
                               " waiting, ", n(view.requests_per_s, 1), "/s, ", n(view.failed_per_s, 1), "/s not ok")});
  rows.push_back(
      {absl::StrCat("tokens   ", n(view.output_tokens_per_s), "/s out, ", n(view.prompt_tokens_per_s), "/s in")});
  rows.push_back({absl::StrCat("latency  TTFT p50 ", n(view.ttft_ms_p50, 1), " p99 ", n(view.ttft_ms_p99, 1),
                               " ms, a token p50 ", n(view.itl_ms_p50, 1), " p99 ", n(view.itl_ms_p99, 1), " ms")});
  const bool short_of_groups = view.groups_serving < view.groups;
  rows.push_back({absl::StrCat("cluster  ", n(view.groups_serving), " of ", n(view.groups), " groups serve, ",
                               n(view.draft_workers), " draft workers"),
                  short_of_groups ? kRed : ""});
  if (!view.group_list.empty()) {
    rows.push_back({"", ""});
    rows.push_back({absl::StrFormat("%-16s%5s%6s%5s%8s%9s%6s%7s%9s%9s", "GROUP", "RUN", "WAIT", "KV%", "TOK/S",
                                    "STEP ms", "ACC%", "LEN", "HIDDEN%", "PREEMPT"),
                    kInverse});
  }
  for (const GroupRow& group : view.group_list) {
    rows.push_back(
        {absl::StrCat(Name(group.name, 16), Cell(group.running, 5, 0), Cell(group.waiting, 6, 0),
                      Percent(group.kv_used_ratio, 5), Cell(group.tokens_per_s, 8, 0), Cell(group.step_ms, 9, 2),
                      Percent(group.acceptance_rate, 6), Cell(group.acceptance_length, 7, 2),
                      Percent(group.hidden_ratio, 9), Cell(group.preempted_per_s, 9, 1)),
         group.kv_used_ratio > kFull ? kRed : ""});
  }
  if (!view.draft_list.empty()) {
    rows.push_back({"", ""});
    rows.push_back({absl::StrFormat("%-16s%5s%5s%8s%9s%11s%11s", "DRAFT WORKER", "SEQ", "KV%", "TOK/S", "STEP ms",
                                    "ANSWER ms", "DROPPED/s"),
                    kInverse});
  }
  for (const DraftWorkerRow& worker : view.draft_list) {
    rows.push_back({absl::StrCat(Name(worker.name, 16), Cell(worker.sequences, 5, 0), Percent(worker.kv_used_ratio, 5),
                                 Cell(worker.tokens_per_s, 8, 0), Cell(worker.step_ms, 9, 2),
                                 Cell(worker.answer_ms, 11, 2), Cell(worker.dropped_per_s, 11, 1)),
                    worker.kv_used_ratio > kFull ? kRed : ""});
  }
  if (!view.processes.empty()) {
    rows.push_back({"", ""});
    rows.push_back({absl::StrFormat("%-16s%7s%10s", "PROCESS", "STATE", "RESTARTS"), kInverse});
  }
  for (const ProcessRow& process : view.processes) {
    rows.push_back(
        {absl::StrCat(Name(process.name, 16), process.up ? "     up" : "   DOWN", Cell(process.restarts, 10, 0)),
         process.up ? "" : kRed});
  }
  if (height > 1 && static_cast<int>(rows.size()) > height) {
    const size_t hidden = rows.size() - static_cast<size_t>(height) + 1;
    rows.resize(static_cast<size_t>(height) - 1);
    rows.push_back({absl::StrCat("... ", hidden, " more lines"), ""});
  }
  std::string text;
  for (const ScreenLine& row : rows) {
    const std::string cut = row.text.substr(0, static_cast<size_t>(std::max(1, width)));
    if (colour && *row.style != '\0') {
      absl::StrAppend(&text, row.style, cut, kReset, "\n");
    } else {
      absl::StrAppend(&text, cut, "\n");
    }
  }
  return text;
}

std::string ClusterJson(const ClusterView& view) {
  using Json = nlohmann::ordered_json;  // writes NaN as null
  Json json = {{"seconds", view.seconds},
               {"groups", view.groups},
               {"groups_serving", view.groups_serving},
               {"draft_workers", view.draft_workers},
               {"requests_running", view.requests_running},
               {"requests_waiting", view.requests_waiting},
               {"requests_per_s", view.requests_per_s},
               {"failed_per_s", view.failed_per_s},
               {"prompt_tokens_per_s", view.prompt_tokens_per_s},
               {"output_tokens_per_s", view.output_tokens_per_s},
               {"ttft_ms_p50", view.ttft_ms_p50},
               {"ttft_ms_p99", view.ttft_ms_p99},
               {"itl_ms_p50", view.itl_ms_p50},
               {"itl_ms_p99", view.itl_ms_p99}};
  json["group_list"] = Json::array();
  for (const GroupRow& group : view.group_list) {
    json["group_list"].push_back({{"name", group.name},
                                  {"running", group.running},
                                  {"waiting", group.waiting},
                                  {"kv_used_ratio", group.kv_used_ratio},
                                  {"tokens_per_s", group.tokens_per_s},
                                  {"step_ms", group.step_ms},
                                  {"acceptance_rate", group.acceptance_rate},
                                  {"acceptance_length", group.acceptance_length},
                                  {"hidden_ratio", group.hidden_ratio},
                                  {"preempted_per_s", group.preempted_per_s}});
  }
  json["draft_list"] = Json::array();
  for (const DraftWorkerRow& worker : view.draft_list) {
    json["draft_list"].push_back({{"name", worker.name},
                                  {"sequences", worker.sequences},
                                  {"kv_used_ratio", worker.kv_used_ratio},
                                  {"tokens_per_s", worker.tokens_per_s},
                                  {"step_ms", worker.step_ms},
                                  {"answer_ms", worker.answer_ms},
                                  {"dropped_per_s", worker.dropped_per_s}});
  }
  json["processes"] = Json::array();
  for (const ProcessRow& process : view.processes) {
    json["processes"].push_back({{"name", process.name}, {"up", process.up}, {"restarts", process.restarts}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace outrider
