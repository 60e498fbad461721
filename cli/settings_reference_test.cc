#include "cli/settings_reference.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace outrider {
namespace {

TEST(SettingsReference, DocsSettingsIsWhatConfigProtoSays) {
  std::ifstream file("docs/settings.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(text.str() == SettingsReference())
      << "docs/settings.md is old; write it anew: bazel-bin/outrider config reference > docs/settings.md";
}

TEST(SettingsReference, NamesSettingsOfAllProcesses) {
  const std::string text = SettingsReference();
  for (const char* const expected :
       {"## outrider router\n", "| `max_queued_requests` | `4096` | Requests that wait for a group;",
        "| `lookahead` | `auto` | Draft tokens a round: auto (measured) or 0..32. |", "| `lease_ms` | `60000` |",
        "0 &lt;= rank &lt; tensor_parallel_size"}) {
    EXPECT_NE(text.find(expected), std::string::npos) << expected;
  }
}

}  // namespace
}  // namespace outrider
