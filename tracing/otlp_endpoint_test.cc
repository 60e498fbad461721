#include "tracing/otlp_endpoint.h"

#include <gtest/gtest.h>

namespace outrider {
namespace {

TEST(OtlpEndpoint, IsReadAsCollectorsArePublished) {
  EXPECT_EQ(ParseOtlpEndpoint("collector:4317")->address, "collector:4317");
  EXPECT_FALSE(ParseOtlpEndpoint("collector:4317")->tls);
  EXPECT_EQ(ParseOtlpEndpoint("http://collector:4317/")->address, "collector:4317");
  EXPECT_FALSE(ParseOtlpEndpoint("http://collector:4317")->tls);
  EXPECT_EQ(ParseOtlpEndpoint("https://collector:4317")->address, "collector:4317");
  EXPECT_TRUE(ParseOtlpEndpoint("https://collector:4317")->tls);
  EXPECT_EQ(ParseOtlpEndpoint("[::1]:4317")->address, "[::1]:4317");
  EXPECT_EQ(ParseOtlpEndpoint("unix:/run/collector.sock")->address, "unix:/run/collector.sock");
  for (const char* const wrong : {"collector", ":4317", "collector:", "collector:0", "collector:65536",
                                  "unix:", "http://collector:4318/v1/traces", "https://", "collector:4317x"}) {
    const auto endpoint = ParseOtlpEndpoint(wrong);
    EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_NE(endpoint.status().message().find("otlp_endpoint"), absl::string_view::npos);
  }
}

}  // namespace
}  // namespace outrider
