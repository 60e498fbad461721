#include "worker/model/gguf.h"

#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "worker/model/gguf_checkpoint.h"
#include "worker/model/gguf_tokenizer.h"
#include "worker/model/model_config.h"
#include "worker/model/shard_plan.h"
#include "worker/model/testing/gguf_writer.h"
#include "worker/model/weights.h"

namespace outrider {
namespace {

using kernels::DType;

absl::StatusOr<std::unique_ptr<GgufFile>> Parse(const std::string& bytes) {
  return GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()),
                         "test.gguf");
}

uint64_t Seed() {
  const char* seed = std::getenv("OUTRIDER_TEST_SEED");
  return seed != nullptr ? std::strtoull(seed, nullptr, 10) : 20261122;
}

template <typename T>
void Overwrite(std::string& bytes, size_t offset, T value) {
  ASSERT_LE(offset + sizeof(T), bytes.size());
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

// Offset of the first byte after the only occurrence of `needle`.
size_t After(const std::string& bytes, absl::string_view needle) {
  const size_t at = bytes.find(needle.data(), 0, needle.size());
  EXPECT_NE(at, std::string::npos) << needle;
  return at + needle.size();
}

void ExpectError(const std::string& bytes, absl::StatusCode code, absl::string_view part) {
  const auto file = Parse(bytes);
  ASSERT_FALSE(file.ok()) << "wanted an error with: " << part;
  EXPECT_EQ(file.status().code(), code) << file.status();
  EXPECT_TRUE(absl::StrContains(file.status().message(), part)) << file.status();
  EXPECT_TRUE(absl::StrContains(file.status().message(), "test.gguf")) << file.status();
}

GgufWriter Small() {
  GgufWriter writer;
  writer.String("general.architecture", "llama");
  writer.Uint32("a.count", 7);
  writer.Int64("a.negative", -3);
  writer.Float32("a.ratio", 0.5f);
  writer.Bool("a.flag", true);
  writer.Strings("a.names", {"x", "", "yz"});
  writer.Int32s("a.ids", {1, -2, 3});
  writer.Tensor("first", {4, 2}, DType::kF32, {1, 2, 3, 4, 5, 6, 7, 8});
  writer.Tensor("second", {32}, DType::kQ8_0, std::vector<float>(32, 1.0f));
  return writer;
}

TEST(GgufFile, ReadsWhatTheWriterWrote) {
  const std::string bytes = Small().Finish();
  const auto opened = Parse(bytes);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const GgufFile& file = **opened;
  EXPECT_EQ(file.version(), 3);
  EXPECT_EQ(*file.GetString("general.architecture"), "llama");
  EXPECT_EQ(*file.GetInt("a.count"), 7);
  EXPECT_EQ(*file.GetFloat("a.count"), 7.0);
  EXPECT_EQ(*file.GetInt("a.negative"), -3);
  EXPECT_EQ(*file.GetFloat("a.ratio"), 0.5);
  EXPECT_TRUE(*file.GetBool("a.flag"));
  EXPECT_EQ(*file.GetStrings("a.names"), (std::vector<absl::string_view>{"x", "", "yz"}));
  EXPECT_EQ(*file.GetInts("a.ids"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(*file.GetInt("a.missing", 5), 5);
  ASSERT_EQ(file.tensors().size(), 2);
  const GgufTensor* first = file.FindTensor("first");
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->ShapeString(), "[4, 2]");
  float value;
  std::memcpy(&value, first->data + 7 * 4, 4);
  EXPECT_EQ(value, 8.0f);
  EXPECT_EQ(file.FindTensor("second")->bytes, 34);
  EXPECT_EQ(file.FindTensor("third"), nullptr);
  EXPECT_EQ(file.ValueString("a.names"), "[\"x\", \"\", \"yz\"]");
}

TEST(GgufFile, ReadsVersionTwo) {
  GgufWriter writer(2);
  writer.Uint32("a", 1);
  EXPECT_TRUE(Parse(writer.Finish()).ok());
}

TEST(GgufFile, NamesWrongTypesAndMissingKeys) {
  const std::string bytes = Small().Finish();
  const auto opened = Parse(bytes);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const GgufFile& file = **opened;
  EXPECT_EQ(file.GetInt("nothing").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(file.GetInt("general.architecture").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file.GetString("a.count").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file.GetBool("a.count").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file.GetStrings("a.ids").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file.GetInts("a.names").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file.GetFloat("a.flag").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(file.GetInt("general.architecture").status().message(), "'general.architecture'"));
}

TEST(GgufFile, RefusesWhatIsNotGguf) {
  ExpectError("MZ\x90 this is no model at all", absl::StatusCode::kInvalidArgument, "not a GGUF file");
  ExpectError("GG", absl::StatusCode::kDataLoss, "truncated");
  std::string bytes = Small().Finish();
  Overwrite<uint32_t>(bytes, 4, 1);
  ExpectError(bytes, absl::StatusCode::kInvalidArgument, "version 1");
  Overwrite<uint32_t>(bytes, 4, 0x03000000);
  ExpectError(bytes, absl::StatusCode::kInvalidArgument, "big endian");
}

TEST(GgufFile, OpenNamesMissingEmptyAndIrregularFiles) {
  EXPECT_EQ(GgufFile::Open("/no/such/file.gguf").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(GgufFile::Open("/").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GgufFile::Open(WriteTestFile("empty.gguf", "")).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(GgufFile::Open(WriteTestFile("good.gguf", Small().Finish())).ok());
}

TEST(GgufFile, RefusesLyingCountsBeforeReservingMemory) {
  for (const uint64_t count : {uint64_t{1} << 20, uint64_t{1} << 40, std::numeric_limits<uint64_t>::max()}) {
    std::string bytes = Small().Finish();
    Overwrite<uint64_t>(bytes, 8, count);
    ExpectError(bytes, absl::StatusCode::kInvalidArgument, "tensors");
    bytes = Small().Finish();
    Overwrite<uint64_t>(bytes, 16, count);
    ExpectError(bytes, absl::StatusCode::kInvalidArgument, "metadata keys");
    bytes = Small().Finish();
    Overwrite<uint64_t>(bytes, After(bytes, "a.names") + 8, count);
    EXPECT_FALSE(Parse(bytes).ok());
    bytes = Small().Finish();
    Overwrite<uint64_t>(bytes, After(bytes, "a.ids") + 8, count);
    EXPECT_FALSE(Parse(bytes).ok());
  }
}

TEST(GgufFile, RefusesLyingStringLengths) {
  for (const uint64_t length :
       {uint64_t{1} << 30, std::numeric_limits<uint64_t>::max(), std::numeric_limits<uint64_t>::max() - 7}) {
    std::string bytes = Small().Finish();
    Overwrite<uint64_t>(bytes, After(bytes, "general.architecture") + 4, length);
    ExpectError(bytes, absl::StatusCode::kDataLoss, "general.architecture");
    bytes = Small().Finish();
    Overwrite<uint64_t>(bytes, bytes.find("a.count") - 8, length);
    ExpectError(bytes, absl::StatusCode::kInvalidArgument, "metadata key");
  }
}

TEST(GgufFile, RefusesUnknownTypes) {
  std::string bytes = Small().Finish();
  Overwrite<uint32_t>(bytes, After(bytes, "a.count"), 13);
  ExpectError(bytes, absl::StatusCode::kInvalidArgument, "unknown type 13");
  bytes = Small().Finish();
  Overwrite<uint32_t>(bytes, After(bytes, "a.ids") + 4, 99);
  ExpectError(bytes, absl::StatusCode::kInvalidArgument, "array of unknown type 99");
  GgufWriter writer;
  writer.RawTensor("odd", {32}, 4, std::string(32, 'x'));  // Q4_2, removed from ggml
  ExpectError(writer.Finish(), absl::StatusCode::kInvalidArgument, "unknown element type 4");
}

TEST(GgufFile, RefusesArraysNestedTooDeep) {
  std::string nested;
  for (int i = 0; i < 100; ++i) {
    const uint32_t type = 9;
    const uint64_t count = 1;
    nested.append(reinterpret_cast<const char*>(&type), 4);
    nested.append(reinterpret_cast<const char*>(&count), 8);
  }
  GgufWriter writer;
  writer.Raw("deep", GgufType::kArray, nested);
  ExpectError(writer.Finish(), absl::StatusCode::kInvalidArgument, "nests");
}

TEST(GgufFile, RefusesDuplicates) {
  GgufWriter keys;
  keys.Uint32("twin", 1);
  keys.Uint32("twin", 2);
  ExpectError(keys.Finish(), absl::StatusCode::kInvalidArgument, "'twin' occurs twice");
  GgufWriter tensors;
  tensors.Tensor("same", {1}, DType::kF32, {1});
  tensors.Tensor("same", {1}, DType::kF32, {2});
  ExpectError(tensors.Finish(), absl::StatusCode::kInvalidArgument, "'same' occurs twice");
}

TEST(GgufFile, RefusesImpossibleShapesAndOffsets) {
  const auto with_dims = [](std::vector<int64_t> dims) {
    GgufWriter writer;
    writer.RawTensor("t", dims, 0, std::string(64, 'x'));
    return writer.Finish();
  };
  ExpectError(with_dims({0}), absl::StatusCode::kInvalidArgument, "dimension 0 = 0");
  ExpectError(with_dims({int64_t{1} << 40, int64_t{1} << 40}), absl::StatusCode::kInvalidArgument, "dimension 1");
  ExpectError(with_dims({int64_t{1} << 32, int64_t{1} << 16, 32, 2}), absl::StatusCode::kInvalidArgument,
              "dimension 3");
  ExpectError(with_dims({-1}), absl::StatusCode::kInvalidArgument, "dimension 0");
  ExpectError(with_dims({}), absl::StatusCode::kInvalidArgument, "0 dimensions");
  ExpectError(with_dims({1, 1, 1, 1, 1}), absl::StatusCode::kInvalidArgument, "5 dimensions");
  ExpectError(with_dims({17}), absl::StatusCode::kDataLoss, "needs 68 bytes");
  GgufWriter ragged;
  ragged.RawTensor("t", {33}, 8, std::string(68, 'x'));
  ExpectError(ragged.Finish(), absl::StatusCode::kInvalidArgument, "not a multiple of 32");

  const std::string good = Small().Finish();
  const size_t offset_at = After(good, "second") + 4 + 8 + 4;
  std::string bytes = good;
  Overwrite<uint64_t>(bytes, offset_at, 33);
  ExpectError(bytes, absl::StatusCode::kInvalidArgument, "alignment");
  bytes = good;
  Overwrite<uint64_t>(bytes, offset_at, std::numeric_limits<uint64_t>::max() - 31);
  ExpectError(bytes, absl::StatusCode::kDataLoss, "'second'");
  bytes = good;
  Overwrite<uint64_t>(bytes, offset_at, 0);
  ExpectError(bytes, absl::StatusCode::kInvalidArgument, "overlap");
}

TEST(GgufFile, RefusesAlignmentsThatAreNone) {
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 30}) {
    std::string bytes = Small().Finish();
    Overwrite<uint32_t>(bytes, After(bytes, "general.alignment") + 4, alignment);
    EXPECT_FALSE(Parse(bytes).ok()) << alignment;
  }
}

// Everything that can be asked of a file, as a loader would; the answers do not matter, only that asking is safe.
void ReadEverything(const std::string& bytes) {
  auto opened = Parse(bytes);
  if (!opened.ok()) return;
  const GgufFile& file = **opened;
  uint64_t sum = 0;
  for (const absl::string_view key : file.keys()) {
    (void)file.GetInt(key);
    (void)file.GetFloat(key);
    (void)file.GetInts(key);
    (void)file.GetFloats(key);
    (void)file.GetStrings(key);
    sum += file.ValueString(key).size();
  }
  for (const GgufTensor& tensor : file.tensors()) {
    for (int64_t i = 0; i < tensor.bytes; ++i) sum += static_cast<uint64_t>(tensor.data[i]);
  }
  EXPECT_GE(sum, 0);
  (void)TokenizerFromGguf(file);
  const auto config = ModelConfigFromGguf(file);
  // A file may truthfully ask for more memory than this test should take.
  if (!config.ok() || config->hidden_size > 1024 || config->vocab_size > 4096 || config->head_dim > 256) return;
  const auto plan = PlanShards(*config, 1);
  if (!plan.ok()) return;
  const std::unique_ptr<Checkpoint> checkpoint = MakeGgufCheckpoint(*std::move(opened));
  for (const Numerics numerics : {Numerics::kInvariant, Numerics::kReference}) {
    (void)LoadWeights(*checkpoint, *config, plan->ranks[0], numerics);
  }
}

TinyModelOptions FuzzModel() {
  return {.num_layers = 1,
          .hidden_size = 32,
          .intermediate_size = 32,
          .num_heads = 3,
          .num_kv_heads = 1,
          .head_dim = 32,
          .rope = TinyModelOptions::Rope::kFactors};
}

TEST(GgufFuzz, TruncationAnywhereIsAnError) {
  std::vector<size_t> fields;
  const std::string bytes = TinyModel(FuzzModel()).Finish(&fields);
  ASSERT_TRUE(Parse(bytes).ok());
  fields.push_back(bytes.size() - 1);
  for (size_t field : fields) {
    for (const size_t end : {field - 1, field, field + 1}) {
      if (end >= bytes.size()) continue;
      // A copy of exactly that size, so that AddressSanitizer sees a read beyond it.
      const std::string truncated = bytes.substr(0, end);
      EXPECT_FALSE(Parse(truncated).ok()) << "truncated to " << end;
    }
  }
}

TEST(GgufFuzz, FlippedBitsNeverCrash) {
  const uint64_t seed = Seed();
  SCOPED_TRACE(absl::StrCat("OUTRIDER_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  std::vector<size_t> fields;
  const std::string good = TinyModel(FuzzModel()).Finish(&fields);
  const size_t metadata_end = fields.back();
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = good;
    const int num_flips = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < num_flips; ++i) {
      // Mostly near the beginnings of fields, where numbers are; sometimes anywhere before the tensor data.
      size_t at = random() % 4 == 0 ? random() % metadata_end : fields[random() % fields.size()] + random() % 9;
      at = std::min(at, bytes.size() - 1);
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << (random() % 8)));
    }
    ReadEverything(bytes);
  }
}

TEST(GgufFuzz, RandomFieldsNeverCrash) {
  const uint64_t seed = Seed();
  SCOPED_TRACE(absl::StrCat("OUTRIDER_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  std::vector<size_t> fields;
  const std::string good = TinyModel(FuzzModel()).Finish(&fields);
  static constexpr uint64_t kNasty[] = {0,
                                        1,
                                        0x7f,
                                        0xff,
                                        0x7fffffff,
                                        0x80000000,
                                        0xffffffff,
                                        uint64_t{1} << 32,
                                        uint64_t{1} << 61,
                                        ~uint64_t{0},
                                        ~uint64_t{0} - 8,
                                        uint64_t{1} << 63};
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = good;
    const size_t at = fields[random() % fields.size()];
    const size_t size = random() % 2 == 0 ? 4 : 8;
    if (at + size > bytes.size()) continue;
    std::memcpy(bytes.data() + at, &kNasty[random() % std::size(kNasty)], size);
    ReadEverything(bytes);
  }
}

}  // namespace
}  // namespace outrider
