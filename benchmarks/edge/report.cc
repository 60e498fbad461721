#include "benchmarks/edge/report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "benchmarks/edge/stream_load.h"

namespace outrider::edge {
namespace {

std::string Number(double value) {
  return absl::StrFormat(value >= 1000 ? "%.0f" : value >= 100 ? "%.1f" : "%.3g", value);
}

}  // namespace

void Report::Add(const std::string& name, const std::string& unit, double value, std::optional<double> goal_at_most) {
  auto found = std::find_if(figures_.begin(), figures_.end(), [&](const Figure& f) { return f.name == name; });
  if (found == figures_.end()) {
    figures_.push_back({.name = name, .unit = unit, .goal_at_most = goal_at_most});
    found = std::prev(figures_.end());
  }
  found->values.push_back(value);
}

std::string Report::ToText() const {
  std::string out = absl::StrFormat("%-66s %10s  %-22s %s\n", "figure", "median", "(least, most)", "goal");
  for (const Figure& figure : figures_) {
    const double median = Quantile(figure.values, 0.5);
    const auto [least, most] = std::minmax_element(figure.values.begin(), figure.values.end());
    absl::StrAppendFormat(
        &out, "%-66s %10s  %-22s %s\n", absl::StrCat(figure.name, ", ", figure.unit), Number(median),
        absl::StrCat("(", Number(*least), ", ", Number(*most), ")"),
        !figure.goal_at_most.has_value()
            ? ""
            : absl::StrCat("<= ", Number(*figure.goal_at_most), median <= *figure.goal_at_most ? "" : "  MISSED"));
  }
  for (const std::string& note : notes_) absl::StrAppend(&out, note, "\n");
  return out;
}

std::string Report::ToJson() const {
  nlohmann::ordered_json report;
  report["figures"] = nlohmann::ordered_json::array();
  for (const Figure& figure : figures_) {
    const double median = Quantile(figure.values, 0.5);
    nlohmann::ordered_json entry = {{"name", figure.name},
                                    {"unit", figure.unit},
                                    {"median", median},
                                    {"least", *std::min_element(figure.values.begin(), figure.values.end())},
                                    {"most", *std::max_element(figure.values.begin(), figure.values.end())},
                                    {"rounds", figure.values.size()}};
    if (figure.goal_at_most.has_value()) {
      entry["goal_at_most"] = *figure.goal_at_most;
      entry["met"] = median <= *figure.goal_at_most;
    }
    report["figures"].push_back(std::move(entry));
  }
  report["notes"] = notes_;
  return report.dump(2);
}

}  // namespace outrider::edge
