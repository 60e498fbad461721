#include "cli/generate_requests.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

namespace outrider {
namespace {

TEST(GenerateRequests, ReadsTokenIdsAndNamesWhatIsNone) {
  EXPECT_EQ(*ParseTokenIds("1,2, 3"), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_NE(ParseTokenIds("1,x").status().message().find("'x'"), absl::string_view::npos);
  EXPECT_NE(ParseTokenIds("-4").status().message().find("'-4'"), absl::string_view::npos);
  EXPECT_FALSE(ParseTokenIds("1,,2").ok());
}

TEST(GenerateRequests, LineReplacesThePromptAndKeepsTheDefaults) {
  v1::GenerateRequest defaults;
  defaults.set_prompt("default");
  defaults.set_temperature(0);
  defaults.add_stop("x");
  const auto request = ParseRequestLine(
      R"({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stop": ["a", "b"], "seed": 7})", defaults);
  ASSERT_TRUE(request.ok()) << request.status().message();
  EXPECT_FALSE(request->has_prompt());
  EXPECT_EQ(request->messages(0).content(), "hi");
  EXPECT_EQ(request->max_tokens(), 5);
  EXPECT_EQ(request->temperature(), 0);
  EXPECT_EQ(request->stop_size(), 2);
  EXPECT_EQ(request->seed(), 7);
}

TEST(GenerateRequests, NamesTheNearestFieldOfAnUnknownOne) {
  const auto message = [](const std::string& line) {
    return std::string(ParseRequestLine(line, {}).status().message());
  };
  EXPECT_EQ(message(R"({"prompt": "a", "max_token": 5})"), "unknown field 'max_token'; did you mean 'max_tokens'?");
  EXPECT_EQ(message(R"({"messages": [{"role": "user", "content": "a"}, {"rol": "user"}]})"),
            "unknown field 'messages[1].rol'; did you mean 'role'?");
  EXPECT_EQ(message(R"({"prompt": "a", "frequency": 440})"),
            "unknown field 'frequency'; GenerateRequest in proto/inference.proto lists them");
  EXPECT_EQ(message(R"({"prompt": "a", "maxTokens": 5})"), "");  // the other spelling of JSON
  EXPECT_NE(message(R"({"prompt": "a", "max_tokens": "many"})").find("not a GenerateRequest"), std::string::npos);
  EXPECT_NE(message(R"({"prompt": )").find("not a GenerateRequest"), std::string::npos);
  EXPECT_NE(message("[1]").find("not a GenerateRequest"), std::string::npos);
}

TEST(GenerateRequests, NamesTheLineAndTheFieldThatAreWrong) {
  const std::string path = ::testing::TempDir() + "/requests_" + std::to_string(::getpid()) + ".jsonl";
  std::ofstream(path) << "{\"prompt\": \"a\"}\n\n{\"promt\": \"b\"}\n";
  const auto requests = ReadRequests(path, {});
  ASSERT_FALSE(requests.ok());
  EXPECT_NE(requests.status().message().find(":3: "), absl::string_view::npos) << requests.status().message();
  EXPECT_NE(requests.status().message().find("promt"), absl::string_view::npos) << requests.status().message();
  EXPECT_FALSE(ReadRequests("/nowhere.jsonl", {}).ok());
}

}  // namespace
}  // namespace outrider
