#include "cli/runtime_folder.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

namespace outrider {
namespace {

class RuntimeFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/folders.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    base_ = pattern;
  }
  std::unique_ptr<RuntimeFolder> Make() const {
    auto folder = RuntimeFolder::Make(base_);
    EXPECT_TRUE(folder.ok()) << folder.status();
    return folder.ok() ? *std::move(folder) : nullptr;
  }
  int NumFolders() const {
    int count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(base_)) ++count;
    return count;
  }
  std::string base_;
};

TEST_F(RuntimeFolderTest, GoesWithTheObject) {
  auto folder = Make();
  EXPECT_TRUE(std::filesystem::is_directory(folder->path()));
  folder.reset();
  EXPECT_EQ(NumFolders(), 0);
}

TEST_F(RuntimeFolderTest, LeavesThoseOfTheLivingAlone) {
  const auto first = Make();
  const auto second = Make();
  EXPECT_EQ(NumFolders(), 2);
}

TEST_F(RuntimeFolderTest, RemovesWhatAKilledProcessLeft) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto folder = Make();
    ::kill(::getpid(), SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  ASSERT_EQ(NumFolders(), 1);
  const auto folder = Make();
  EXPECT_EQ(NumFolders(), 1);
  EXPECT_TRUE(std::filesystem::is_directory(folder->path()));
}

TEST_F(RuntimeFolderTest, DoesNotTouchWhatItDidNotMake) {
  std::filesystem::create_directory(base_ + "/outrider-mine");
  std::filesystem::create_directory(base_ + "/others");
  const auto folder = Make();
  EXPECT_EQ(NumFolders(), 3);
}

TEST_F(RuntimeFolderTest, SaysWhereItCouldNotBeMade) {
  const auto folder = RuntimeFolder::Make(base_ + "/nowhere");
  EXPECT_EQ(folder.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(folder.status().message().find(base_), absl::string_view::npos);
}

}  // namespace
}  // namespace outrider
