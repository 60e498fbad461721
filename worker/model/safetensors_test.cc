#include "worker/model/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

namespace outrider {
namespace {

std::string FileOf(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> Parse(const std::string& bytes) {
  return SafetensorsFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()),
                                "test.safetensors");
}

constexpr char kTwo[] = R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[6,14]},)"
                        R"("a":{"dtype":"BF16","shape":[3,1],"data_offsets":[0,6]}})";

void ExpectError(const std::string& bytes, absl::StatusCode code, const std::string& part) {
  const auto file = Parse(bytes);
  ASSERT_FALSE(file.ok()) << "wanted an error with: " << part;
  EXPECT_EQ(file.status().code(), code) << file.status();
  EXPECT_NE(std::string(file.status().message()).find(part), std::string::npos) << file.status();
  EXPECT_NE(std::string(file.status().message()).find("test.safetensors"), std::string::npos) << file.status();
}

TEST(SafetensorsFile, ReadsTensorsInTheOrderOfTheirBytes) {
  const std::string bytes = FileOf(kTwo, "aaaaaabbbbbbbb");
  const auto file = Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->tensors().size(), 2);
  const Safetensor& a = (*file)->tensors()[0];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, "BF16");
  EXPECT_EQ(a.shape, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(a.bytes, 6);
  EXPECT_EQ(std::memcmp(a.data, "aaaaaa", 6), 0);
  EXPECT_EQ((*file)->Find("b")->ShapeString(), "[2]");
  EXPECT_EQ((*file)->Find("c"), nullptr);
}

TEST(SafetensorsFile, NamesWhatIsWrong) {
  using absl::StatusCode;
  const std::string good = FileOf(kTwo, "aaaaaabbbbbbbb");
  ExpectError("abc", StatusCode::kDataLoss, "3 bytes are no safetensors file");
  ExpectError("GGUFabcdefgh", StatusCode::kInvalidArgument, "not a safetensors file");
  ExpectError(good.substr(0, 40), StatusCode::kDataLoss, "truncated");
  ExpectError(good.substr(0, good.size() - 1), StatusCode::kDataLoss, "tensor 'b' ends at byte 14");
  ExpectError(good + "x", StatusCode::kInvalidArgument, "fill 14 bytes");
  ExpectError(FileOf("[]", ""), StatusCode::kDataLoss, "not a JSON object");
  ExpectError(FileOf(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                     R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                     "aaaa"),
              StatusCode::kInvalidArgument, "the key 'a' twice");
  const auto one = [](const std::string& entry) { return FileOf("{\"a\":" + entry + "}", "aaaa"); };
  ExpectError(one("3"), StatusCode::kInvalidArgument, "lacks dtype");
  ExpectError(one(R"({"dtype":"F33","shape":[1],"data_offsets":[0,4]})"), StatusCode::kInvalidArgument,
              "unknown dtype 'F33'");
  ExpectError(one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"), StatusCode::kInvalidArgument,
              "a dimension that is no size");
  ExpectError(one(R"({"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]})"),
              StatusCode::kInvalidArgument, "more elements than can be");
  ExpectError(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"), StatusCode::kInvalidArgument,
              "takes 8 bytes, but its data_offsets are 0 and 4");
  ExpectError(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"), StatusCode::kInvalidArgument,
              "takes 4 bytes");
  ExpectError(one(R"({"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551616]})"),
              StatusCode::kInvalidArgument, "not two sizes");
  ExpectError(FileOf(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                     R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                     "aaa"),
              StatusCode::kInvalidArgument, "those of another end at 2");
  ExpectError(FileOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "aa"), StatusCode::kInvalidArgument,
              "nothing fills it from 0");
}

TEST(SafetensorsFile, NeverReadsOutsideADamagedFile) {
  const char* text = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 10) : 20261123;
  std::printf("seed %lu\n", static_cast<unsigned long>(seed));
  std::mt19937_64 random(seed);
  const std::string good = FileOf(kTwo, "aaaaaabbbbbbbb");
  int num_read = 0;
  for (int i = 0; i < 20000; ++i) {
    // In memory of its own size, so that a sanitizer sees any step beyond it.
    std::vector<char> bytes(good.begin(), good.begin() + static_cast<long>(random() % (good.size() + 1)));
    if (i % 2 == 0) bytes.assign(good.begin(), good.end());
    for (size_t flips = 1 + random() % 3; flips > 0 && !bytes.empty(); --flips) {
      bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
    }
    const auto file = SafetensorsFile::Parse(
        absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "test.safetensors");
    if (!file.ok()) continue;
    ++num_read;
    int64_t sum = 0;
    for (const Safetensor& tensor : (*file)->tensors()) {
      for (int64_t b = 0; b < tensor.bytes; ++b) sum += static_cast<int64_t>(tensor.data[b]);
    }
    EXPECT_GE(sum, 0);
  }
  EXPECT_GT(num_read, 100) << "some flips leave a file that can be read";
}

class SafetensorsSetTest : public testing::Test {
 protected:
  SafetensorsSetTest() { std::filesystem::create_directories(folder_); }
  ~SafetensorsSetTest() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
  }
  const std::string folder_ = testing::TempDir() + "/checkpoint_" + std::to_string(::getpid());
};

TEST_F(SafetensorsSetTest, ReadsOneFile) {
  Write("model.safetensors", FileOf(kTwo, "aaaaaabbbbbbbb"));
  const auto set = SafetensorsSet::Open(folder_);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_NE((*set)->Find("a"), nullptr);
}

TEST_F(SafetensorsSetTest, ReadsShardsAsOne) {
  Write("one.safetensors", FileOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "a"));
  Write("two.safetensors", FileOf(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "b"));
  Write("model.safetensors.index.json", R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const auto set = SafetensorsSet::Open(folder_);
  ASSERT_TRUE(set.ok()) << set.status();
  const SafetensorsFile* file = nullptr;
  ASSERT_NE((*set)->Find("b", &file), nullptr);
  EXPECT_EQ(file->path(), folder_ + "/two.safetensors");
  EXPECT_EQ((*set)->Find("c"), nullptr);
}

TEST_F(SafetensorsSetTest, RefusesAnIndexThatDoesNotFit) {
  Write("one.safetensors", FileOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "a"));
  const auto message = [&](const std::string& index) {
    Write("model.safetensors.index.json", index);
    const auto set = SafetensorsSet::Open(folder_);
    return set.ok() ? std::string() : std::string(set.status().message());
  };
  EXPECT_NE(message(R"({"weight_map":{"b":"one.safetensors"}})").find("'b' is not in one.safetensors"),
            std::string::npos);
  EXPECT_NE(message(R"({"weight_map":{"a":"../one.safetensors"}})").find("no file's name"), std::string::npos);
  EXPECT_NE(message(R"({"weight_map":{"a":"two.safetensors"}})").find("two.safetensors: No such file"),
            std::string::npos);
  EXPECT_NE(message("{}").find("'weight_map' is missing"), std::string::npos);
  EXPECT_NE(message("nonsense").find("not a JSON object"), std::string::npos);
}

TEST_F(SafetensorsSetTest, SaysThatAFolderHoldsNoCheckpoint) {
  EXPECT_EQ(SafetensorsSet::Open(folder_).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace outrider
