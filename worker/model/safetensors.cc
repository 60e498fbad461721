#include "worker/model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "worker/model/json_object.h"

namespace outrider {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kLengthBytes = 8;

struct DtypeBytes {
  const char* name;
  int bytes;
};
constexpr DtypeBytes kDtypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
                                  {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                                  {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};

// 0 for one that the format does not know.
int BytesOf(const std::string& dtype) {
  for (const DtypeBytes& known : kDtypes) {
    if (dtype == known.name) return known.bytes;
  }
  return 0;
}

// One entry of the header but for the bytes that it names: [*begin, *end) of the data.
absl::StatusOr<Safetensor> ReadEntry(const std::string& path, const std::string& name, const Json& entry,
                                     uint64_t* begin, uint64_t* end) {
  const auto wrong = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", Shown(name), " ", what));
  };
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets")) {
    return wrong("lacks dtype, shape or data_offsets");
  }
  const Json& dtype = entry["dtype"];
  const Json& shape = entry["shape"];
  const Json& offsets = entry["data_offsets"];
  Safetensor tensor{.name = name};
  if (!dtype.is_string()) return wrong("has a dtype that is no text");
  tensor.dtype = dtype.get<std::string>();
  const int element_bytes = BytesOf(tensor.dtype);
  if (element_bytes == 0) return wrong(absl::StrCat("has the unknown dtype ", Shown(tensor.dtype)));
  if (!shape.is_array() || shape.size() > kMaxSafetensorDims) {
    return wrong(absl::StrCat("has no shape of at most ", kMaxSafetensorDims, " dimensions"));
  }
  uint64_t bytes = static_cast<uint64_t>(element_bytes);
  for (const Json& dim : shape) {
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > uint64_t{1} << 40) {
      return wrong("has a dimension that is no size");
    }
    const uint64_t size = dim.get<uint64_t>();
    if (size != 0 && bytes > (uint64_t{1} << 60) / size) return wrong("has more elements than can be");
    bytes *= size;
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return wrong("has data_offsets that are not two sizes");
  }
  *begin = offsets[0].get<uint64_t>();
  *end = offsets[1].get<uint64_t>();
  if (*begin > *end || *end - *begin != bytes) {
    return wrong(absl::StrCat("of ", tensor.dtype, " ", tensor.ShapeString(), " takes ", bytes,
                              " bytes, but its data_offsets are ", *begin, " and ", *end));
  }
  tensor.bytes = static_cast<int64_t>(bytes);
  return tensor;
}

}  // namespace

std::string Safetensor::ShapeString() const { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapping, MappedFile::Open(path, "safetensors"));
  const absl::Span<const std::byte> bytes = mapping->bytes();
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(path, bytes, std::move(mapping)));
  RETURN_IF_ERROR(file->ReadHeader());
  return file;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Parse(absl::Span<const std::byte> bytes,
                                                                        const std::string& name) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(name, bytes, nullptr));
  RETURN_IF_ERROR(file->ReadHeader());
  return file;
}

absl::Status SafetensorsFile::ReadHeader() {
  if (bytes_.size() < kLengthBytes) {
    return absl::DataLossError(absl::StrCat(path_, ": ", bytes_.size(), " bytes are no safetensors file"));
  }
  uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes_.data(), kLengthBytes);  // little endian
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": not a safetensors file: its header would have ",
                                                   header_bytes, " bytes, beyond the format's ",
                                                   kMaxSafetensorsHeaderBytes));
  }
  if (header_bytes > bytes_.size() - kLengthBytes) {
    return absl::DataLossError(absl::StrCat(path_, ": truncated: the header has ", header_bytes, " bytes, the file ",
                                            bytes_.size(), "; fetch the file again"));
  }
  const absl::string_view text(reinterpret_cast<const char*>(bytes_.data()) + kLengthBytes, header_bytes);
  ASSIGN_OR_RETURN(const Json header, ParseJsonObject(path_, "the header", text));
  if (header.size() > kMaxSafetensors) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", header.size(), " tensors; at most ", kMaxSafetensors, " are allowed"));
  }
  const std::byte* const data = bytes_.data() + kLengthBytes + header_bytes;
  const uint64_t data_bytes = bytes_.size() - kLengthBytes - header_bytes;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    uint64_t begin = 0, end = 0;
    ASSIGN_OR_RETURN(Safetensor tensor, ReadEntry(path_, name, entry, &begin, &end));
    if (end > data_bytes) {
      return absl::DataLossError(absl::StrCat(path_, ": truncated: tensor ", Shown(name), " ends at byte ", end,
                                              " of the data, which has ", data_bytes, "; fetch the file again"));
    }
    tensor.data = data + begin;
    ranges.emplace_back(begin, end);
    tensors_.push_back(std::move(tensor));
  }
  // Without gaps: whatever a file holds beyond its tensors, nobody would have looked at it.
  std::sort(ranges.begin(), ranges.end());
  uint64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != at) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": a tensor's bytes begin at ", begin, " of the data, but ",
                                                     begin < at ? "those of another end at " : "nothing fills it from ",
                                                     at));
    }
    at = end;
  }
  if (at != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": the tensors fill ", at, " bytes of the data, which has ", data_bytes));
  }
  std::stable_sort(tensors_.begin(), tensors_.end(),
                   [](const Safetensor& a, const Safetensor& b) { return a.data < b.data; });
  for (size_t i = 0; i < tensors_.size(); ++i) index_[tensors_[i].name] = i;
  return absl::OkStatus();
}

const Safetensor* SafetensorsFile::Find(absl::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

absl::StatusOr<std::unique_ptr<SafetensorsSet>> SafetensorsSet::Open(const std::string& folder) {
  namespace fs = std::filesystem;
  std::unique_ptr<SafetensorsSet> set(new SafetensorsSet());
  const std::string index_path = (fs::path(folder) / "model.safetensors.index.json").string();
  const std::string single_path = (fs::path(folder) / "model.safetensors").string();
  std::error_code ignored;
  // The single file goes first, as in transformers.
  if (fs::exists(single_path, ignored) || !fs::exists(index_path, ignored)) {
    if (!fs::exists(single_path, ignored)) {
      return absl::NotFoundError(absl::StrCat(folder, ": neither model.safetensors nor model.safetensors.index.json",
                                              " is there; fetch or convert the weights to safetensors"));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, SafetensorsFile::Open(single_path));
    set->files_.push_back(std::move(file));
    return set;
  }
  ASSIGN_OR_RETURN(const Json json, ReadJsonObject(index_path, kMaxSafetensorsHeaderBytes));
  if (!json.contains("weight_map") || !json["weight_map"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": 'weight_map' is missing"));
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    // A plain name: a checkpoint reads nothing outside its folder.
    if (name.empty() || name.find('/') != std::string::npos || name == "..") {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": tensor ", Shown(tensor), " is in ", Shown(name), ", which is no file's name"));
    }
    names.insert(name);
  }
  if (names.size() > kMaxSafetensorsShards) {
    return absl::InvalidArgumentError(
        absl::StrCat(index_path, ": ", names.size(), " files; at most ", kMaxSafetensorsShards, " are allowed"));
  }
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, SafetensorsFile::Open((fs::path(folder) / name).string()));
    set->files_.push_back(std::move(file));
  }
  absl::flat_hash_map<absl::string_view, const SafetensorsFile*> holders;
  for (const auto& file : set->files_) {
    for (const Safetensor& tensor : file->tensors()) {
      const auto [holder, is_new] = holders.try_emplace(tensor.name, file.get());
      if (!is_new) {
        return absl::InvalidArgumentError(absl::StrCat(file->path(), ": tensor ", Shown(tensor.name), " is also in ",
                                                       holder->second->path(), "; a checkpoint has each tensor once"));
      }
    }
  }
  for (const auto& [tensor, name] : json["weight_map"].items()) {
    const SafetensorsFile* file = nullptr;
    if (set->Find(tensor, &file) == nullptr || fs::path(file->path()).filename() != name.get<std::string>()) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": tensor ", Shown(tensor), " is not in ", name.get<std::string>()));
    }
  }
  return set;
}

const Safetensor* SafetensorsSet::Find(absl::string_view name, const SafetensorsFile** holder) const {
  for (const auto& file : files_) {
    if (const Safetensor* tensor = file->Find(name); tensor != nullptr) {
      if (holder != nullptr) *holder = file.get();
      return tensor;
    }
  }
  return nullptr;
}

}  // namespace outrider
