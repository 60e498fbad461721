#include "cli/environment_check.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

TEST(EnvironmentCheck, RefusesAWrittenWrongSettingAndNamesTheRightOne) {
  const EnvironmentFindings findings = CheckEnvironment({{"OUTRIDER_MAX_MODLE_LEN", "5"}, {"PATH", "/bin"}});
  EXPECT_EQ(findings.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(findings.status.message(),
            "environment: OUTRIDER_MAX_MODLE_LEN is no setting; did you mean OUTRIDER_MAX_MODEL_LEN?");
  EXPECT_TRUE(findings.warnings.empty());
}

TEST(EnvironmentCheck, WarnsOfANameThatIsFarFromAll) {
  const EnvironmentFindings findings = CheckEnvironment({{"OUTRIDER_FLUX_CAPACITOR", "1"}, {"OUTRIDER_HOME", "/x"}});
  EXPECT_TRUE(findings.status.ok()) << findings.status.message();
  ASSERT_EQ(findings.warnings.size(), 2u);
  EXPECT_EQ(findings.warnings[0], "OUTRIDER_FLUX_CAPACITOR is no setting and has no effect");
  EXPECT_EQ(findings.warnings[1], "OUTRIDER_HOME is no setting and has no effect; did you mean OUTRIDER_HOST?");
}

TEST(EnvironmentCheck, KnowsTheSettingsOfAllProcesses) {
  const EnvironmentFindings findings = CheckEnvironment({{"OUTRIDER_MAX_QUEUED_REQUESTS", "5"},
                                                         {"OUTRIDER_DRAFT_WAIT_RATIO", "0.5"},
                                                         {"OUTRIDER_LEASE_MS", "5"},
                                                         {"OUTRIDER_TEST_SEED", "5"}});
  EXPECT_TRUE(findings.status.ok()) << findings.status.message();
  EXPECT_TRUE(findings.warnings.empty());
}

TEST(EnvironmentCheck, KnowsWhatKubernetesSetsForAService) {
  const EnvironmentFindings findings = CheckEnvironment({{"OUTRIDER_ROUTER_SERVICE_HOST", "10.0.0.1"},
                                                         {"OUTRIDER_ROUTER_SERVICE_PORT", "9000"},
                                                         {"OUTRIDER_ROUTER_SERVICE_PORT_GRPC", "9000"},
                                                         {"OUTRIDER_ROUTER_PORT", "tcp://10.0.0.1:9000"},
                                                         {"OUTRIDER_ROUTER_PORT_9000_TCP", "tcp://10.0.0.1:9000"},
                                                         {"OUTRIDER_ROUTER_PORT_9000_TCP_ADDR", "10.0.0.1"},
                                                         {"OUTRIDER_SERVICE_HOST", "10.0.0.1"}});
  EXPECT_TRUE(findings.status.ok()) << findings.status.message();
  EXPECT_TRUE(findings.warnings.empty());
  for (const char* other :
       {"OUTRIDER_ROUTER_SERVICE_HOST_X", "OUTRIDER_ROUTER_PORT_X_TCP", "OUTRIDER_ROUTER_PORT_9_QUIC",
        "OUTRIDER_ROUTER_PORT_9_TCP_ADDR_X", "OUTRIDER_ROUTER_SERVICE"}) {
    EXPECT_EQ(CheckEnvironment({{other, "x"}}).warnings.size(), 1u) << other;
  }
}

}  // namespace
}  // namespace outrider
