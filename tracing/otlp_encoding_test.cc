#include "tracing/otlp_encoding.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/escaping.h"

namespace outrider {
namespace {

// As the package opentelemetry-proto 1.45 (PyPI) writes the two spans below, its own message types and deterministic
// serialization.
constexpr char kGolden[] =
    "0af7020a84010a210a0c736572766963652e6e616d6512110a0f6f757472696465722d726f757465720a1c0a137365727669"
    "63652e696e7374616e63652e696412050a03722d310a200a1274656c656d657472792e73646b2e6e616d65120a0a086f7574"
    "72696465720a1f0a1674656c656d657472792e73646b2e6c616e677561676512050a0363707012ed010a0a0a086f75747269"
    "64657212a3010a104bf92f3577b34da6a3ce929d0e0e473612080102030405060708220800f067aa0ba902b72a0663686174"
    "206d30023901002a36fe9c97174102cac471fe9c97174a070a0162120210014a100a0169120b18f9ffffffffffffffff014a"
    "0e0a0164120921000000000000d03f4a090a017312040a02c3a94a190a016112142a120a060a0473746f700a080a066c656e"
    "6774687a081204676f6e65180285010103000012390a104bf92f3577b34da6a3ce929d0e0e4736120811121314151617182a"
    "01783001390500000000000000410600000000000000850101010000";

std::vector<TraceSpan> TwoSpans() {
  const TraceId trace{0x4bf92f3577b34da6, 0xa3ce929d0e0e4736};
  return {{.trace = trace,
           .id = 0x0102030405060708,
           .parent = 0x00f067aa0ba902b7,
           .parent_is_remote = true,
           .kind = SpanKind::kServer,
           .name = "chat m",
           .start_unix_ns = 1700000000000000001,
           .end_unix_ns = 1700000001000000002,
           .attributes = {{"b", true},
                          {"i", int64_t{-7}},
                          {"d", 0.25},
                          {"s", std::string("\xc3\xa9")},
                          {"a", std::vector<std::string>{"stop", "length"}}},
           .failed = true,
           .error = "gone"},
          {.trace = trace, .id = 0x1112131415161718, .name = "x", .start_unix_ns = 5, .end_unix_ns = 6}};
}

TEST(OtlpEncoding, WritesWhatTheStandardsOwnTypesWrite) {
  otlp::ExportTraceServiceRequest request;
  SpansToOtlp({.service = "outrider-router", .instance = "r-1"}, TwoSpans(), &request);
  EXPECT_EQ(absl::BytesToHexString(request.SerializeAsString()), kGolden);
}

TEST(OtlpEncoding, ReadsThePartialSuccessOfTheStandardsOwnTypes) {
  otlp::ExportTraceServiceResponse response;
  ASSERT_TRUE(response.ParseFromString(absl::HexStringToBytes("0a06080312026e6f")));
  EXPECT_EQ(response.partial_success().rejected_spans(), 3);
  EXPECT_EQ(response.partial_success().error_message(), "no");
}

TEST(OtlpEncoding, IsTheServiceThatCollectorsServe) {
  EXPECT_EQ(otlp::ExportTraceServiceRequest::descriptor()->full_name(),
            "opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest");
}

TEST(MendText, LeavesWhatIsUtf8AndMendsWhatIsNot) {
  EXPECT_EQ(MendText("abc \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"), "abc \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
  const std::string mark = "\xef\xbf\xbd";
  EXPECT_EQ(MendText("a\xff"), "a" + mark);
  EXPECT_EQ(MendText("\xc3"), mark);                                   // cut off
  EXPECT_EQ(MendText("\xc0\xaf"), mark + mark);                        // too long a form
  EXPECT_EQ(MendText("\xed\xa0\x80"), mark + mark + mark);             // a surrogate
  EXPECT_EQ(MendText("\xf4\x90\x80\x80"), mark + mark + mark + mark);  // beyond the last character
  EXPECT_EQ(MendText(std::string("a\0b", 3)), std::string("a\0b", 3));
}

TEST(MendText, CutsBetweenCharacters) {
  std::string text(kMaxTextBytes - 1, 'a');
  EXPECT_EQ(MendText(text + "\xe2\x82\xac"), text);
  EXPECT_EQ(MendText(text + "bc"), text + "b");
}

}  // namespace
}  // namespace outrider
