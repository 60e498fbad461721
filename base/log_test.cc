#include "base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <string>

namespace outrider {
namespace {

constexpr int64_t kTime = 1700000000123;  // 2023-11-14T22:13:20.123Z

// Standard error is something else while this lives.
class RedirectedLog {
 public:
  explicit RedirectedLog(int fd) : saved_(::dup(STDERR_FILENO)) { ::dup2(fd, STDERR_FILENO); }
  ~RedirectedLog() {
    ::dup2(saved_, STDERR_FILENO);
    ::close(saved_);
  }

 private:
  const int saved_;
};

TEST(FormatLogLine, IsKeyValueAsText) {
  EXPECT_EQ(FormatLogLine(LogFormat::kText, kTime, LogLevel::kWarning, "group-0/1", "a rank is lost",
                          {{"request_id", "r-7"}, {"num_tokens", 12}}),
            "time=2023-11-14T22:13:20.123Z level=warning process=group-0/1 message=\"a rank is lost\" request_id=r-7 "
            "num_tokens=12\n");
}

TEST(FormatLogLine, IsOneObjectAsJson) {
  EXPECT_EQ(FormatLogLine(LogFormat::kJson, kTime, LogLevel::kInfo, "router", "ends",
                          {{"request_id", "r-7"}, {"seconds", 0.5}}),
            "{\"time\":\"2023-11-14T22:13:20.123Z\",\"level\":\"info\",\"process\":\"router\",\"message\":\"ends\","
            "\"request_id\":\"r-7\",\"seconds\":0.5}\n");
}

TEST(FormatLogLine, KeepsWhateverIsInAFieldOnOneLine) {
  const std::string line =
      FormatLogLine(LogFormat::kText, kTime, LogLevel::kInfo, "p", "a\nlevel=error \"b\" \\ \x01\xff\xc3\xa9", {});
  EXPECT_NE(line.find("message=\"a\\u000alevel=error \\\"b\\\" \\\\ \\u0001\\ufffd\xc3\xa9\"\n"), std::string::npos)
      << line;
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
}

TEST(FormatLogLine, HasABoundWhateverItIsGiven) {
  const std::string long_text(100'000, '\n');
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    EXPECT_LE(FormatLogLine(format, kTime, LogLevel::kInfo, "p", long_text, {{"a", "b"}}).size(), kMaxLogLineBytes);
    EXPECT_LE(FormatLogLine(format, kTime, LogLevel::kInfo, "p", "m", {{"a", long_text}}).size(), kMaxLogLineBytes);
    EXPECT_LE(FormatLogLine(format, kTime, LogLevel::kInfo, long_text, "m", {}).size(), kMaxLogLineBytes);
  }
  const std::string cut = FormatLogLine(LogFormat::kText, kTime, LogLevel::kInfo, "p", std::string(5000, 'x'), {});
  EXPECT_EQ(cut.back(), '\n');
  EXPECT_GT(cut.size(), 500u);
}

TEST(Log, CountsTheLinesThatAFullDiskTakesAndGoesOn) {
  const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  ASSERT_GE(full, 0);
  const int64_t before = NumLogLinesLost();
  {
    RedirectedLog redirected(full);
    for (int i = 0; i < 3; ++i) LogInfo("to nowhere");
  }
  ::close(full);
  EXPECT_EQ(NumLogLinesLost(), before + 3);
}

TEST(Log, GoesOnWhenNobodyReadsOrThePipeIsClosed) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const int64_t before = NumLogLinesLost();
  {
    SetLogProcess("test");
    RedirectedLog redirected(ends[1]);
    // More than the pipe holds.
    for (int i = 0; i < 100; ++i) LogInfo(std::string(3000, 'x'));
    EXPECT_GT(NumLogLinesLost(), before);
    ::close(ends[0]);
    const int64_t blocked = NumLogLinesLost();
    LogInfo("nobody there");
    EXPECT_EQ(NumLogLinesLost(), blocked + 1);
  }
  ::close(ends[1]);
}

TEST(SetLogFormat, NamesAFormatThatIsNone) {
  EXPECT_EQ(SetLogFormat("xml").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(SetLogFormat("text").ok());
}

}  // namespace
}  // namespace outrider
