#include "cli/environment_check.h"

#include <unistd.h>

#include <regex>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/config_schema.h"
#include "proto/config.pb.h"

namespace outrider {
namespace {

constexpr char kPrefix[] = "OUTRIDER_";

// Names without the prefix that a setting of any process has.
std::vector<std::string> KnownNames() {
  std::set<std::string> names;
  for (const auto* message :
       {v1::RouterConfig::descriptor(), v1::TargetConfig::descriptor(), v1::DraftConfig::descriptor()}) {
    for (const Setting& setting : SettingsOf(*message)) names.insert(setting.variable.substr(sizeof(kPrefix) - 1));
  }
  return {names.begin(), names.end()};
}

bool IsForTests(const std::string& name) {
  return absl::StartsWith(name, "TEST_") || name == "SOAK_SECONDS" || name == "SIMULATION_SEEDS" || name == "MODEL_DIR";
}

// kubernetes.io/docs/tutorials/services/connect-applications-service: "environment variables" of a service.
bool IsServiceLink(const std::string& name, const std::string& value) {
  static const std::regex* const pattern = new std::regex(
      "([A-Z0-9_]*_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|"
      "PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)");
  return std::regex_match(name, *pattern) || (absl::EndsWith(name, "PORT") && absl::StartsWith(value, "tcp://"));
}

}  // namespace

EnvironmentFindings CheckEnvironment(const std::vector<std::pair<std::string, std::string>>& variables) {
  const std::vector<std::string> known = KnownNames();
  const std::set<std::string> known_set(known.begin(), known.end());
  EnvironmentFindings findings;
  std::vector<std::string> refused;
  for (const auto& [variable, value] : variables) {
    if (!absl::StartsWith(variable, kPrefix)) continue;
    const std::string name = variable.substr(sizeof(kPrefix) - 1);
    if (known_set.count(name) > 0 || IsForTests(name) || IsServiceLink(name, value)) continue;
    const std::string nearest = NearestName(name, known);
    const int distance = nearest.empty() ? 0 : EditDistance(name, nearest);
    if (!nearest.empty() && distance <= 2 && 4 * distance <= static_cast<int>(name.size())) {
      refused.push_back(absl::StrCat(variable, " is no setting; did you mean ", kPrefix, nearest, "?"));
    } else {
      findings.warnings.push_back(
          absl::StrCat(variable, " is no setting and has no effect",
                       nearest.empty() ? std::string() : absl::StrCat("; did you mean ", kPrefix, nearest, "?")));
    }
  }
  if (!refused.empty()) {
    findings.status = absl::InvalidArgumentError(absl::StrCat("environment: ", absl::StrJoin(refused, " ")));
  }
  return findings;
}

std::vector<std::pair<std::string, std::string>> EnvironmentVariables() {
  std::vector<std::pair<std::string, std::string>> variables;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string::npos) variables.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  return variables;
}

}  // namespace outrider
