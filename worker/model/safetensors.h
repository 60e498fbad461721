// SafetensorsFile reads the tensors of Hugging Face checkpoints (https://github.com/huggingface/safetensors, Format)
// through a mapping of the file: eight bytes of header length, a header in JSON, the tensors' bytes without gaps.
// SafetensorsSet reads a checkpoint's one file, or the shards that model.safetensors.index.json lists, as one.
//
// The files are not trusted: lengths, offsets, shapes and names are checked against each other and the bytes that are
// there. Errors name file and tensor: DATA_LOSS for a truncated or damaged file, INVALID_ARGUMENT for one that is not
// of this format or lies about its content, NOT_FOUND for one that does not exist.
//
// Thread safety: constant after construction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/model/mapped_file.h"

namespace outrider {

struct Safetensor {
  std::string name;
  std::string dtype;           // as the file spells it: "BF16"
  std::vector<int64_t> shape;  // the last dimension is contiguous; a scalar has none
  const std::byte* data = nullptr;
  int64_t bytes = 0;

  // "[1536, 576]"
  std::string ShapeString() const;
};

// Bounds on a file; a larger claim is refused.
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the format's own
inline constexpr size_t kMaxSafetensors = 1 << 18;
inline constexpr size_t kMaxSafetensorDims = 8;
inline constexpr size_t kMaxSafetensorsShards = 4096;

class SafetensorsFile {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  // The same over bytes in memory, which outlive the result; `name` stands for the path in errors.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Parse(absl::Span<const std::byte> bytes,
                                                                const std::string& name);

  const std::string& path() const { return path_; }
  absl::Span<const std::byte> bytes() const { return bytes_; }
  // In the order of their bytes.
  const std::vector<Safetensor>& tensors() const { return tensors_; }
  // Null if there is none of this name.
  const Safetensor* Find(absl::string_view name) const;

 private:
  SafetensorsFile(std::string path, absl::Span<const std::byte> bytes, std::unique_ptr<MappedFile> mapping)
      : path_(std::move(path)), bytes_(bytes), mapping_(std::move(mapping)) {}
  absl::Status ReadHeader();

  const std::string path_;
  const absl::Span<const std::byte> bytes_;
  const std::unique_ptr<MappedFile> mapping_;  // null for Parse
  std::vector<Safetensor> tensors_;
  absl::flat_hash_map<absl::string_view, size_t> index_;
};

class SafetensorsSet {
 public:
  // `folder` holds model.safetensors, or else model.safetensors.index.json and the files that it names. A tensor that
  // two of them hold is INVALID_ARGUMENT naming both.
  static absl::StatusOr<std::unique_ptr<SafetensorsSet>> Open(const std::string& folder);

  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }
  // Null if there is none of this name. `file`, if not null, gets the file that holds it.
  const Safetensor* Find(absl::string_view name, const SafetensorsFile** file = nullptr) const;

 private:
  SafetensorsSet() = default;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
};

}  // namespace outrider
