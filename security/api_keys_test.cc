#include "security/api_keys.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace outrider {
namespace {

std::array<uint8_t, 32> Bytes(uint8_t first) {
  std::array<uint8_t, 32> bytes{};
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(first + i);
  return bytes;
}

std::string Message(absl::string_view text) { return std::string(ApiKeys::Parse("keys", text).status().message()); }

TEST(ApiKeys, KnowsTheKeysThatWereMadeForItsLines) {
  const auto alice = MakeApiKey("alice", {}, Bytes(1));
  const auto bob = MakeApiKey(
      "bob", {.requests_per_minute = 60, .tokens_per_minute = 100000, .max_concurrent_requests = 8}, Bytes(2));
  ASSERT_TRUE(alice.ok() && bob.ok());
  EXPECT_EQ(alice->key.size(), 3u + 64u);
  EXPECT_EQ(alice->line.find(alice->key), std::string::npos);
  const auto keys =
      ApiKeys::Parse("keys", absl::StrCat("# who may come\n\n", alice->line, "\r\n  ", bob->line, " # two\n"));
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_NE(keys->Find(alice->key), nullptr);
  EXPECT_EQ(keys->Find(alice->key)->name, "alice");
  EXPECT_EQ(keys->Find(alice->key)->limits, KeyLimits{});
  ASSERT_NE(keys->Find(bob->key), nullptr);
  EXPECT_EQ(keys->Find(bob->key)->name, "bob");
  EXPECT_EQ(keys->Find(bob->key)->limits,
            (KeyLimits{.requests_per_minute = 60, .tokens_per_minute = 100000, .max_concurrent_requests = 8}));
}

TEST(ApiKeys, KnowsNoOthers) {
  const auto alice = MakeApiKey("alice", {}, Bytes(1));
  const auto keys = ApiKeys::Parse("keys", alice->line);
  ASSERT_TRUE(keys.ok());
  std::string other = alice->key;
  other.back() = other.back() == '0' ? '1' : '0';
  for (const std::string& wrong : {std::string(), other, alice->key + " ", alice->line, std::string(1000, 'x'),
                                   alice->key.substr(0, alice->key.size() - 1)}) {
    EXPECT_EQ(keys->Find(wrong), nullptr) << wrong;
  }
}

TEST(ApiKeys, DigestsAreSha256) {
  // The first test vector of FIPS 180-2.
  const KeyDigest digest = DigestOf("abc");
  EXPECT_EQ(digest[0], 0xba);
  EXPECT_EQ(digest[1], 0x78);
  EXPECT_EQ(digest[31], 0xad);
}

TEST(ApiKeys, NamesTheLineThatIsWrong) {
  const std::string good = MakeApiKey("a", {}, Bytes(1))->line;
  const std::string hex = good.substr(good.find(':') + 1);
  EXPECT_NE(Message("").find("keys: holds no key"), std::string::npos);
  EXPECT_NE(Message("# none\n").find("outrider key NAME >> FILE"), std::string::npos);
  EXPECT_NE(Message(good + "\nb").find("keys:2: expected NAME sha256:HEX"), std::string::npos);
  EXPECT_NE(Message("b or-secret").find("keys:1: expected NAME"), std::string::npos);
  EXPECT_EQ(Message("b or-secret").find("secret"), std::string::npos) << "a key in the file must not reach the log";
  EXPECT_NE(Message("b sha256:12").find("64 hexadecimal digits"), std::string::npos);
  EXPECT_NE(Message("b sha256:" + std::string(64, 'g')).find("64 hexadecimal digits"), std::string::npos);
  EXPECT_NE(Message("b/c sha256:" + hex).find("'b/c' is no name"), std::string::npos);
  EXPECT_NE(Message(good + " rpm=5").find("'rpm=5' is no limit"), std::string::npos);
  for (const char* value : {"", "0", "-1", "x", "1.5", "99999999999999999999"}) {
    EXPECT_NE(Message(absl::StrCat(good, " tokens_per_minute=", value)).find("no whole number above 0"),
              std::string::npos)
        << value;
  }
  EXPECT_NE(Message(good + " tokens_per_minute=1 tokens_per_minute=2").find("set twice"), std::string::npos);
  EXPECT_NE(Message(good + "\n" + good).find("keys:2: there is a key 'a' above"), std::string::npos);
  EXPECT_NE(Message(good + "\nb sha256:" + hex).find("the key of a name above"), std::string::npos);
}

TEST(ApiKeys, NamesAreShortAndPlain) {
  for (const std::string& name : {std::string(), std::string("a b"), std::string(65, 'a'), std::string("\n")}) {
    EXPECT_EQ(MakeApiKey(name, {}, Bytes(1)).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(ApiKeys, TakesABoundedNumber) {
  std::string text;
  for (size_t i = 0; i <= ApiKeys::kMaxKeys; ++i) {
    std::array<uint8_t, 32> bytes{};
    bytes[0] = static_cast<uint8_t>(i);
    bytes[1] = static_cast<uint8_t>(i >> 8);
    absl::StrAppend(&text, MakeApiKey(absl::StrCat("k", i), {}, bytes)->line, "\n");
  }
  EXPECT_NE(Message(text).find("more than 10000 keys"), std::string::npos);
}

}  // namespace
}  // namespace outrider
