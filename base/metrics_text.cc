#include "base/metrics_text.h"

#include <cstddef>

#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace outrider {
namespace {

// Takes `name="value",...}` off the front of `rest`; false if it is none.
bool TakeLabels(absl::string_view& rest, std::vector<std::pair<std::string, std::string>>& labels) {
  while (true) {
    if (!rest.empty() && rest[0] == '}') {
      rest.remove_prefix(1);
      return true;
    }
    const size_t equals = rest.find("=\"");
    if (equals == absl::string_view::npos || equals == 0) return false;
    const std::string name(rest.substr(0, equals));
    rest.remove_prefix(equals + 2);
    std::string value;
    for (; !rest.empty() && rest[0] != '"'; rest.remove_prefix(1)) {
      if (rest[0] == '\\' && rest.size() > 1) {
        rest.remove_prefix(1);
        value += rest[0] == 'n' ? '\n' : rest[0];
      } else {
        value += rest[0];
      }
    }
    if (rest.empty()) return false;
    rest.remove_prefix(1);
    if (!rest.empty() && rest[0] == ',') rest.remove_prefix(1);
    labels.emplace_back(name, std::move(value));
  }
}

}  // namespace

std::vector<MetricSample> ParseMetrics(const std::string& page) {
  std::vector<MetricSample> samples;
  for (absl::string_view line : absl::StrSplit(page, '\n')) {
    if (line.empty() || line[0] == '#') continue;
    const size_t name_end = line.find_first_of("{ ");
    if (name_end == absl::string_view::npos || name_end == 0) continue;
    MetricSample sample{.name = std::string(line.substr(0, name_end))};
    line.remove_prefix(name_end);
    if (line[0] == '{') {
      line.remove_prefix(1);
      if (!TakeLabels(line, sample.labels)) continue;
    }
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.empty() || !absl::SimpleAtod(words[0], &sample.value)) continue;
    samples.push_back(std::move(sample));
  }
  return samples;
}

std::string LabelOf(const MetricSample& sample, const std::string& label) {
  for (const auto& [name, value] : sample.labels) {
    if (name == label) return value;
  }
  return "";
}

std::string EscapeLabelValue(const std::string& value) {
  return absl::StrReplaceAll(value, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}});
}

}  // namespace outrider
