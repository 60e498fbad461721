#include "cli/metrics_merge.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace outrider {
namespace {

struct Family {
  std::string help;  // whole lines
  std::string type;
  std::string samples;
};

// "# TYPE outrider_x counter": the word after `keyword`, or nothing.
absl::string_view NameAfter(absl::string_view line, absl::string_view keyword) {
  if (line.substr(0, keyword.size()) != keyword) return {};
  line.remove_prefix(keyword.size());
  return line.substr(0, line.find(' '));
}

// The labels between the braces of a sample, and where its name ends; false if it is no sample.
bool Split(absl::string_view line, absl::string_view* name, absl::string_view* labels, absl::string_view* value) {
  size_t name_end = 0;
  while (name_end < line.size() && line[name_end] != '{' && line[name_end] != ' ') ++name_end;
  *name = line.substr(0, name_end);
  *labels = {};
  *value = line.substr(name_end);
  if (name->empty() || value->empty()) return false;
  if ((*value)[0] == '{') {
    bool quoted = false;
    size_t end = 1;
    for (; end < value->size() && (quoted || (*value)[end] != '}'); ++end) {
      if ((*value)[end] == '\\') {
        ++end;
      } else if ((*value)[end] == '"') {
        quoted = !quoted;
      }
    }
    if (end >= value->size()) return false;
    *labels = value->substr(1, end - 1);
    value->remove_prefix(end + 1);
  }
  return value->size() > 1 && (*value)[0] == ' ';
}

bool HasLabel(absl::string_view labels, absl::string_view name) {
  const std::string start = absl::StrCat(name, "=\"");
  return labels.substr(0, start.size()) == start || labels.find(absl::StrCat(",", start)) != absl::string_view::npos;
}

std::string Escaped(const std::string& value) {
  return absl::StrReplaceAll(value, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}});
}

}  // namespace

std::string MergeMetrics(const std::vector<MetricsPage>& pages) {
  std::map<std::string, Family> families;
  std::vector<std::string> order;
  const auto family_of = [&](absl::string_view name) -> Family& {
    const auto [family, is_new] = families.try_emplace(std::string(name));
    if (is_new) order.emplace_back(name);
    return family->second;
  };
  for (const MetricsPage& page : pages) {
    std::string current;  // the family that samples belong to until the next TYPE
    bool fits = true;     // its type is the one that was said first
    for (const absl::string_view line : absl::StrSplit(page.text, '\n')) {
      if (line.empty()) continue;
      if (const absl::string_view name = NameAfter(line, "# HELP "); !name.empty()) {
        Family& family = family_of(name);
        if (family.help.empty()) family.help = std::string(line);
        continue;
      }
      if (const absl::string_view name = NameAfter(line, "# TYPE "); !name.empty()) {
        Family& family = family_of(name);
        if (family.type.empty()) family.type = std::string(line);
        fits = family.type == line;
        current = std::string(name);
        continue;
      }
      absl::string_view name, labels, value;
      if (line[0] == '#' || !Split(line, &name, &labels, &value)) continue;
      // A histogram's samples are named after it; others stand for themselves.
      const bool is_of_current = !current.empty() && name.substr(0, current.size()) == current;
      if (is_of_current && !fits) continue;
      std::string all_labels;
      for (const auto& [label, label_value] : page.labels) {
        if (HasLabel(labels, label)) continue;
        absl::StrAppend(&all_labels, all_labels.empty() ? "" : ",", label, "=\"", Escaped(label_value), "\"");
      }
      if (!labels.empty()) absl::StrAppend(&all_labels, all_labels.empty() ? "" : ",", labels);
      absl::StrAppend(&family_of(is_of_current ? absl::string_view(current) : name).samples, name,
                      all_labels.empty() ? "" : absl::StrCat("{", all_labels, "}"), value, "\n");
    }
  }
  std::string merged;
  for (const std::string& name : order) {
    const Family& family = families[name];
    if (family.samples.empty()) continue;
    if (!family.help.empty()) absl::StrAppend(&merged, family.help, "\n");
    if (!family.type.empty()) absl::StrAppend(&merged, family.type, "\n");
    absl::StrAppend(&merged, family.samples);
  }
  return merged;
}

}  // namespace outrider
