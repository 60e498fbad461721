// GgufFile reads GGUF version 2 and 3, the single-file model format of llama.cpp
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), through a mapping of the file.
//
// The file is not trusted. Everything that it claims - counts, lengths, types, shapes, offsets, names - is checked
// against the bytes that are there before memory is reserved for it or an address is formed from it. Errors name the
// file, the key or tensor, the value, and what to do: DATA_LOSS for a damaged or truncated file, INVALID_ARGUMENT for
// one that is not GGUF, not of a known version, or lies about its content, NOT_FOUND for one that does not exist.
//
// Thread safety: constant after construction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/model/mapped_file.h"

namespace outrider {

enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// "uint32", "string", ...; "type 77" for a number outside the list.
std::string GgufTypeName(GgufType type);

// Element type of a tensor as ggml numbers them, its block geometry and whether a forward pass can use it.
struct GgmlType {
  uint32_t id = 0;
  const char* name = nullptr;  // "Q4_1"
  int block_size = 0;          // elements
  int block_bytes = 0;
};
// Null for a number that ggml has never used.
const GgmlType* FindGgmlType(uint32_t id);

struct GgufTensor {
  absl::string_view name;
  // As ggml counts: dims[0] is contiguous. A matrix of `dims[1]` output features reads `dims[0]` input features a row.
  int num_dims = 0;
  int64_t dims[4] = {1, 1, 1, 1};
  GgmlType type;
  const std::byte* data = nullptr;  // `bytes` bytes inside the mapping, at any alignment
  int64_t bytes = 0;

  int64_t num_elements() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
  // "[576, 1536]"
  std::string ShapeString() const;
};

// Bounds on a file; a larger claim is refused.
inline constexpr uint64_t kMaxGgufEntries = 1 << 16;  // metadata keys; published files have below 100
inline constexpr uint64_t kMaxGgufTensors = 1 << 18;
inline constexpr uint64_t kMaxGgufNameBytes = 65535;  // of a key (the format's bound) or tensor
inline constexpr uint64_t kMaxGgufArrayItems = 1 << 24;
inline constexpr int kMaxGgufArrayDepth = 4;

class GgufFile {
 public:
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  // The same over bytes in memory, which must outlive the result; `name` stands for the path in errors.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Parse(absl::Span<const std::byte> bytes, const std::string& name);

  ~GgufFile();
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  const std::string& path() const { return path_; }
  int version() const { return version_; }
  absl::Span<const std::byte> bytes() const { return bytes_; }

  // Metadata. Getters return NOT_FOUND for a missing key and INVALID_ARGUMENT for one of another type or range.
  // Integers of every width serve as integers, integers and both float types as floats.
  bool Has(absl::string_view key) const { return entries_.contains(key); }
  absl::StatusOr<int64_t> GetInt(absl::string_view key) const;
  absl::StatusOr<double> GetFloat(absl::string_view key) const;
  absl::StatusOr<bool> GetBool(absl::string_view key) const;
  absl::StatusOr<absl::string_view> GetString(absl::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> GetInts(absl::string_view key) const;
  absl::StatusOr<std::vector<float>> GetFloats(absl::string_view key) const;
  absl::StatusOr<std::vector<absl::string_view>> GetStrings(absl::string_view key) const;
  // The same with a default for a missing key.
  absl::StatusOr<int64_t> GetInt(absl::string_view key, int64_t if_missing) const;
  absl::StatusOr<double> GetFloat(absl::string_view key, double if_missing) const;
  absl::StatusOr<bool> GetBool(absl::string_view key, bool if_missing) const;
  absl::StatusOr<absl::string_view> GetString(absl::string_view key, absl::string_view if_missing) const;

  // Keys in file order.
  const std::vector<absl::string_view>& keys() const { return keys_; }
  // A value as text, long arrays and strings shortened. REQUIRES: Has(key).
  std::string ValueString(absl::string_view key) const;

  // Tensors in file order.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  // Null if there is none of this name.
  const GgufTensor* FindTensor(absl::string_view name) const;

 private:
  struct Entry {
    GgufType type;
    GgufType item_type;      // of an array
    uint64_t num_items = 1;  // of an array
    uint64_t offset;         // of the value's first byte; of an array, of its first item
  };

  GgufFile(std::string path, absl::Span<const std::byte> bytes, std::unique_ptr<MappedFile> mapping)
      : path_(std::move(path)), bytes_(bytes), mapping_(std::move(mapping)) {}
  absl::Status ReadAll();
  absl::StatusOr<const Entry*> Find(absl::string_view key) const;
  absl::Status WrongType(absl::string_view key, const Entry& entry, absl::string_view wanted) const;
  absl::StatusOr<int64_t> IntAt(absl::string_view key, GgufType type, uint64_t offset) const;
  absl::StatusOr<double> FloatAt(absl::string_view key, GgufType type, uint64_t offset) const;
  absl::string_view StringAt(uint64_t offset, uint64_t* end) const;

  const std::string path_;
  const absl::Span<const std::byte> bytes_;
  const std::unique_ptr<MappedFile> mapping_;  // null for Parse
  int version_ = 0;
  absl::flat_hash_map<absl::string_view, Entry> entries_;  // keys view the file
  std::vector<absl::string_view> keys_;
  std::vector<GgufTensor> tensors_;
  absl::flat_hash_map<absl::string_view, int> tensor_index_;
};

}  // namespace outrider
