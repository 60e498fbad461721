#include "router/api_access.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace outrider::router {
namespace {

using std::chrono::seconds;

class ApiAccessTest : public testing::Test {
 protected:
  ~ApiAccessTest() override { std::filesystem::remove(path_); }

  // The key that is drawn for `name`, always the same.
  static NewApiKey Draw(const std::string& name, const KeyLimits& limits = {}) {
    std::array<uint8_t, 32> bytes{};
    bytes[0] = static_cast<uint8_t>(name[0]);
    return *MakeApiKey(name, limits, bytes);
  }
  // As an operator should: another file moved over it.
  void Write(const std::string& text) {
    std::ofstream(path_ + ".new") << text;
    std::filesystem::rename(path_ + ".new", path_);
  }
  std::unique_ptr<ApiAccess> Open() {
    absl::StatusOr<std::unique_ptr<ApiAccess>> access = ApiAccess::Open(path_, &clock_);
    EXPECT_TRUE(access.ok()) << access.status();
    return *std::move(access);
  }
  static std::string Bearer(const NewApiKey& key) { return "Bearer " + key.key; }

  ManualClock clock_;
  const std::string path_ = testing::TempDir() + "/api_keys_" + std::to_string(::getpid());
};

TEST_F(ApiAccessTest, WithoutAFileLetsEveryoneIn) {
  const auto access = ApiAccess::Open("", &clock_);
  ASSERT_TRUE(access.ok());
  EXPECT_FALSE((*access)->asks_for_keys());
  EXPECT_TRUE((*access)->Authenticate({}).ok());
  absl::StatusOr<ApiAccess::Grant> grant = (*access)->Admit({.authorization = "Bearer x"});
  ASSERT_TRUE(grant.ok());
  grant->Charge(5);
  EXPECT_EQ(grant->key_name(), "");
}

TEST_F(ApiAccessTest, LetsInWhoHasAKey) {
  const NewApiKey alice = Draw("alice");
  Write(alice.line);
  const auto access = Open();
  EXPECT_TRUE(access->asks_for_keys());
  EXPECT_EQ(access->Authenticate({.authorization = Bearer(alice)}).value(), "alice");
  EXPECT_EQ(access->Authenticate({.authorization = "bearer  " + alice.key + " "}).value(), "alice");
  EXPECT_EQ(access->Admit({.authorization = Bearer(alice)})->key_name(), "alice");
  const std::string bob = Bearer(Draw("bob"));
  for (const absl::string_view wrong :
       {absl::string_view(), absl::string_view("Bearer"), absl::string_view("Bearer "), absl::string_view(alice.key),
        absl::string_view("Basic YTpi"), absl::string_view(bob)}) {
    const absl::Status status = access->Authenticate({.authorization = wrong}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << wrong;
    EXPECT_EQ(access->Admit({.authorization = wrong}).status(), status);
    // What was sent is no business of the log's.
    if (wrong.size() > 10) {
      EXPECT_EQ(status.message().find(wrong.substr(7)), absl::string_view::npos);
    }
  }
}

TEST_F(ApiAccessTest, HoldsEachKeyToItsOwnLimits) {
  const NewApiKey alice = Draw("alice", {.tokens_per_minute = 60, .max_concurrent_requests = 1}), bob = Draw("bob");
  Write(absl::StrCat(alice.line, "\n", bob.line));
  const auto access = Open();
  {
    absl::StatusOr<ApiAccess::Grant> first = access->Admit({.authorization = Bearer(alice)});
    ASSERT_TRUE(first.ok());
    EXPECT_EQ(access->Admit({.authorization = Bearer(alice)}).status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_TRUE(access->Authenticate({.authorization = Bearer(alice)}).ok()) << "looking costs nothing";
    EXPECT_TRUE(access->Admit({.authorization = Bearer(bob)}).ok());
    first->Charge(61);
    ApiAccess::Grant moved = *std::move(first);
    moved = ApiAccess::Grant();
  }
  EXPECT_NE(access->Admit({.authorization = Bearer(alice)}).status().message().find("tokens_per_minute"),
            absl::string_view::npos);
  clock_.Advance(seconds(2));
  EXPECT_TRUE(access->Admit({.authorization = Bearer(alice)}).ok());
}

TEST_F(ApiAccessTest, TakesOnWhatTheFileSaysNow) {
  const NewApiKey alice = Draw("alice", {.max_concurrent_requests = 1}), bob = Draw("bob");
  Write(alice.line);
  const auto access = Open();
  absl::StatusOr<ApiAccess::Grant> open = access->Admit({.authorization = Bearer(alice)});
  ASSERT_TRUE(open.ok());
  Write(absl::StrCat(bob.line, "\n", Draw("alice", {.max_concurrent_requests = 2}).line));
  EXPECT_FALSE(access->Authenticate({.authorization = Bearer(bob)}).ok()) << "not looked at again so soon";
  clock_.Advance(seconds(1));
  EXPECT_TRUE(access->Authenticate({.authorization = Bearer(bob)}).ok());
  absl::StatusOr<ApiAccess::Grant> second = access->Admit({.authorization = Bearer(alice)});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(access->Admit({.authorization = Bearer(alice)}).ok()) << "what was open before counts";

  Write(bob.line);
  clock_.Advance(seconds(1));
  EXPECT_EQ(access->Admit({.authorization = Bearer(alice)}).status().code(), absl::StatusCode::kUnauthenticated);
  second->Charge(5);  // it goes on
}

TEST_F(ApiAccessTest, KeepsTheKeysItHasOverAFileThatIsWrong) {
  const NewApiKey alice = Draw("alice");
  Write(alice.line);
  const auto access = Open();
  for (const char* wrong : {"", "nonsense\n"}) {
    Write(wrong);
    clock_.Advance(seconds(1));
    EXPECT_TRUE(access->Authenticate({.authorization = Bearer(alice)}).ok()) << wrong;
  }
  std::filesystem::remove(path_);
  clock_.Advance(seconds(1));
  EXPECT_TRUE(access->Authenticate({.authorization = Bearer(alice)}).ok());
}

TEST_F(ApiAccessTest, DoesNotStartWithoutKeys) {
  EXPECT_NE(ApiAccess::Open(path_, &clock_).status().message().find("can not be read"), absl::string_view::npos);
  EXPECT_NE(ApiAccess::Open(testing::TempDir(), &clock_).status().message().find("can not be read"),
            absl::string_view::npos);
  Write("alice sha256:1\n");
  EXPECT_NE(ApiAccess::Open(path_, &clock_).status().message().find(path_ + ":1: sha256:"), absl::string_view::npos);
}

}  // namespace
}  // namespace outrider::router
