#include "cli/environment_check.h"

#include <unistd.h>

#include <cstddef>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/config_schema.h"
#include "proto/config.pb.h"

namespace outrider {
namespace {

constexpr char kPrefix[] = "OUTRIDER_";

// Names without the prefix that a setting of any process has, or a flag of a client (client_access.h).
std::vector<std::string> KnownNames() {
  std::set<std::string> names = {"API_KEY"};
  for (const auto* message :
       {v1::RouterConfig::descriptor(), v1::TargetConfig::descriptor(), v1::DraftConfig::descriptor()}) {
    for (const Setting& setting : SettingsOf(*message)) names.insert(setting.variable.substr(sizeof(kPrefix) - 1));
  }
  return {names.begin(), names.end()};
}

bool IsForTests(const std::string& name) {
  return absl::StartsWith(name, "TEST_") || name == "SOAK_SECONDS" || name == "SIMULATION_SEEDS" || name == "MODEL_DIR";
}

bool EndsAsServiceLink(const std::vector<std::string>& words, size_t first) {
  const std::vector<std::string> link(words.begin() + static_cast<std::ptrdiff_t>(first), words.end());
  if (link.size() < 2) return false;
  if (link[0] == "SERVICE") return (link[1] == "HOST" && link.size() == 2) || link[1] == "PORT";
  static const auto* const protocols = new std::set<std::string>{"TCP", "UDP", "SCTP"};
  static const auto* const parts = new std::set<std::string>{"ADDR", "PORT", "PROTO"};
  int port = 0;
  return link[0] == "PORT" && (link.size() == 3 || link.size() == 4) && absl::SimpleAtoi(link[1], &port) &&
         protocols->count(link[2]) > 0 && (link.size() == 3 || parts->count(link[3]) > 0);
}

// kubernetes.io/docs/tutorials/services/connect-applications-service, "environment variables" of a service:
// ..._SERVICE_HOST, ..._SERVICE_PORT with the port's name or without, ..._PORT=tcp://..., ..._PORT_80_TCP with ADDR,
// PORT or PROTO behind it or without.
bool IsServiceLink(const std::string& name, const std::string& value) {
  if (absl::EndsWith(name, "PORT") && absl::StartsWith(value, "tcp://")) return true;
  const std::vector<std::string> words = absl::StrSplit(name, '_');
  for (size_t first = 0; first < words.size(); ++first) {
    if (EndsAsServiceLink(words, first)) return true;
  }
  return false;
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
