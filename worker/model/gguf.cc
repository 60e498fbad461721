#include "worker/model/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

// Name, elements a block, bytes a block: ggml/src/ggml.c, type_traits.
constexpr GgmlType kGgmlTypes[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
};

// Bytes of a scalar; 0 for strings, arrays and unknown types.
uint64_t ScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    default:
      return 0;
  }
}

bool IsKnown(GgufType type) { return static_cast<uint32_t>(type) <= static_cast<uint32_t>(GgufType::kFloat64); }

template <typename T>
T LoadAt(absl::Span<const std::byte> bytes, uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// A name as it may be shown: printable, bounded.
std::string Quoted(absl::string_view name) {
  constexpr size_t kShown = 64;
  return absl::StrCat("'", absl::CHexEscape(name.substr(0, kShown)), name.size() > kShown ? "...'" : "'");
}

// Reads front to back and never past the end. Every error says where and in what.
class Cursor {
 public:
  Cursor(const std::string& path, absl::Span<const std::byte> bytes) : path_(path), bytes_(bytes) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }

  absl::Status Truncated(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat(path_, ": truncated: the file ends at byte ", bytes_.size(), " inside ",
                                            what, ", which begins at byte ", offset_,
                                            "; fetch the file again and compare its checksum"));
  }

  template <typename T>
  absl::StatusOr<T> Read(absl::string_view what) {
    if (remaining() < sizeof(T)) return Truncated(what);
    const T value = LoadAt<T>(bytes_, offset_);
    offset_ += sizeof(T);
    return value;
  }

  absl::StatusOr<absl::string_view> ReadString(absl::string_view what, uint64_t max_bytes) {
    const uint64_t at = offset_;
    ASSIGN_OR_RETURN(const uint64_t size, Read<uint64_t>(what));
    if (size > max_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what, " at byte ", at, " claims ", size,
                                                     " bytes, more than the ", max_bytes,
                                                     " allowed; the file is damaged or not GGUF"));
    }
    if (size > remaining()) return Truncated(absl::StrCat(what, " of ", size, " bytes"));
    const absl::string_view value(reinterpret_cast<const char*>(bytes_.data() + offset_), size);
    offset_ += size;
    return value;
  }

  absl::Status Skip(uint64_t size, absl::string_view what) {
    if (size > remaining()) return Truncated(absl::StrCat(what, " of ", size, " bytes"));
    offset_ += size;
    return absl::OkStatus();
  }

 private:
  const std::string& path_;
  const absl::Span<const std::byte> bytes_;
  uint64_t offset_ = 0;
};

// Moves past `count` items of `type`, checking all that they claim.
absl::Status SkipItems(const std::string& path, Cursor& cursor, GgufType type, uint64_t count, int depth,
                       absl::string_view key) {
  const std::string what = absl::StrCat("the value of key ", Quoted(key));
  if (const uint64_t size = ScalarBytes(type); size > 0) {
    if (count > cursor.remaining() / size) {
      return cursor.Truncated(absl::StrCat(what, " (", count, " items of ", GgufTypeName(type), ")"));
    }
    return cursor.Skip(count * size, what);
  }
  // Strings and arrays take at least 8 and 12 bytes each, so a lying count ends at the end of the file.
  for (uint64_t i = 0; i < count; ++i) {
    if (type == GgufType::kString) {
      RETURN_IF_ERROR(cursor.ReadString(what, std::numeric_limits<uint64_t>::max()).status());
      continue;
    }
    if (depth >= kMaxGgufArrayDepth) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": ", what, " nests arrays more than ", kMaxGgufArrayDepth, " deep"));
    }
    ASSIGN_OR_RETURN(const uint32_t item_type, cursor.Read<uint32_t>(what));
    ASSIGN_OR_RETURN(const uint64_t num_items, cursor.Read<uint64_t>(what));
    if (!IsKnown(static_cast<GgufType>(item_type))) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": ", what, " is an array of unknown type ", item_type, "; the types are 0 to 12"));
    }
    if (num_items > kMaxGgufArrayItems) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", what, " claims ", num_items, " items, more than the ",
                                                     kMaxGgufArrayItems, " allowed"));
    }
    RETURN_IF_ERROR(SkipItems(path, cursor, static_cast<GgufType>(item_type), num_items, depth + 1, key));
  }
  return absl::OkStatus();
}

}  // namespace

std::string GgufTypeName(GgufType type) {
  static constexpr const char* kNames[] = {"uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
                                           "bool",  "string", "array",  "uint64", "int64",  "float64"};
  if (!IsKnown(type)) return absl::StrCat("type ", static_cast<uint32_t>(type));
  return kNames[static_cast<uint32_t>(type)];
}

const GgmlType* FindGgmlType(uint32_t id) {
  for (const GgmlType& type : kGgmlTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

std::string GgufTensor::ShapeString() const {
  return absl::StrCat("[", absl::StrJoin(absl::MakeConstSpan(dims, num_dims), ", "), "]");
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapping, MappedFile::Open(path, "GGUF"));
  const absl::Span<const std::byte> bytes = mapping->bytes();
  std::unique_ptr<GgufFile> file(new GgufFile(path, bytes, std::move(mapping)));
  RETURN_IF_ERROR(file->ReadAll());
  return file;
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Parse(absl::Span<const std::byte> bytes, const std::string& name) {
  std::unique_ptr<GgufFile> file(new GgufFile(name, bytes, nullptr));
  RETURN_IF_ERROR(file->ReadAll());
  return file;
}

GgufFile::~GgufFile() = default;

absl::Status GgufFile::ReadAll() {
  Cursor cursor(path_, bytes_);
  ASSIGN_OR_RETURN(const uint32_t magic, cursor.Read<uint32_t>("the header"));
  if (magic != 0x46554747) {  // "GGUF", little endian
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": not a GGUF file: it begins with ",
                     Quoted(absl::string_view(reinterpret_cast<const char*>(bytes_.data()), 4)), ", not 'GGUF'"));
  }
  ASSIGN_OR_RETURN(const uint32_t version, cursor.Read<uint32_t>("the header"));
  if (version != 2 && version != 3) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": GGUF version ", version, (version & 0xffff) == 0 ? " (the file is big endian)" : "",
                     " is not supported; versions 2 and 3 are: convert the file with a current llama.cpp"));
  }
  version_ = static_cast<int>(version);
  ASSIGN_OR_RETURN(const uint64_t num_tensors, cursor.Read<uint64_t>("the header"));
  ASSIGN_OR_RETURN(const uint64_t num_entries, cursor.Read<uint64_t>("the header"));
  // A key takes at least 13 bytes (length, type, one byte), a tensor at least 32.
  if (num_entries > kMaxGgufEntries || num_entries > cursor.remaining() / 13) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": the header claims ", num_entries,
                                                   " metadata keys, more than the file can hold or the ",
                                                   kMaxGgufEntries, " allowed"));
  }
  if (num_tensors > kMaxGgufTensors || num_tensors > cursor.remaining() / 32) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": the header claims ", num_tensors,
                                                   " tensors, more than the file can hold or the ", kMaxGgufTensors,
                                                   " allowed"));
  }

  entries_.reserve(num_entries);
  keys_.reserve(num_entries);
  for (uint64_t i = 0; i < num_entries; ++i) {
    ASSIGN_OR_RETURN(const absl::string_view key,
                     cursor.ReadString(absl::StrCat("metadata key ", i), kMaxGgufNameBytes));
    if (key.empty()) return absl::InvalidArgumentError(absl::StrCat(path_, ": metadata key ", i, " has no name"));
    const std::string what = absl::StrCat("the value of key ", Quoted(key));
    ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>(what));
    Entry entry{.type = static_cast<GgufType>(type), .item_type = static_cast<GgufType>(type)};
    if (!IsKnown(entry.type)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": ", what, " has unknown type ", type, "; the types are 0 to 12"));
    }
    if (entry.type == GgufType::kArray) {
      ASSIGN_OR_RETURN(const uint32_t item_type, cursor.Read<uint32_t>(what));
      ASSIGN_OR_RETURN(entry.num_items, cursor.Read<uint64_t>(what));
      entry.item_type = static_cast<GgufType>(item_type);
      if (!IsKnown(entry.item_type)) {
        return absl::InvalidArgumentError(
            absl::StrCat(path_, ": ", what, " is an array of unknown type ", item_type, "; the types are 0 to 12"));
      }
      if (entry.num_items > kMaxGgufArrayItems) {
        return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what, " claims ", entry.num_items,
                                                       " items, more than the ", kMaxGgufArrayItems, " allowed"));
      }
    }
    entry.offset = cursor.offset();
    RETURN_IF_ERROR(SkipItems(path_, cursor, entry.item_type, entry.num_items, 1, key));
    if (!entries_.emplace(key, entry).second) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": metadata key ", Quoted(key), " occurs twice"));
    }
    keys_.push_back(key);
  }

  tensors_.reserve(num_tensors);
  tensor_index_.reserve(num_tensors);
  std::vector<uint64_t> offsets;
  offsets.reserve(num_tensors);
  for (uint64_t i = 0; i < num_tensors; ++i) {
    GgufTensor tensor;
    ASSIGN_OR_RETURN(tensor.name, cursor.ReadString(absl::StrCat("the name of tensor ", i), kMaxGgufNameBytes));
    if (tensor.name.empty()) return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor ", i, " has no name"));
    const std::string what = absl::StrCat("tensor ", Quoted(tensor.name));
    ASSIGN_OR_RETURN(const uint32_t num_dims, cursor.Read<uint32_t>(what));
    if (num_dims < 1 || num_dims > 4) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": ", what, " claims ", num_dims, " dimensions; 1 to 4 are possible"));
    }
    tensor.num_dims = static_cast<int>(num_dims);
    // Elements stay below 2^53, so no product below can overflow.
    constexpr uint64_t kMaxElements = uint64_t{1} << 53;
    uint64_t num_elements = 1;
    for (uint32_t d = 0; d < num_dims; ++d) {
      ASSIGN_OR_RETURN(const uint64_t dim, cursor.Read<uint64_t>(what));
      if (dim == 0 || dim > kMaxElements / num_elements) {
        return absl::InvalidArgumentError(
            absl::StrCat(path_, ": ", what, " claims dimension ", d, " = ", dim, ", which no file can hold"));
      }
      tensor.dims[d] = static_cast<int64_t>(dim);
      num_elements *= dim;
    }
    ASSIGN_OR_RETURN(const uint32_t type_id, cursor.Read<uint32_t>(what));
    const GgmlType* type = FindGgmlType(type_id);
    if (type == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what, " has unknown element type ", type_id));
    }
    tensor.type = *type;
    if (tensor.dims[0] % type->block_size != 0) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what, " of type ", type->name, " has rows of ",
                                                     tensor.dims[0], " elements, not a multiple of ",
                                                     type->block_size));
    }
    // At most 2^53 * 8 bytes: fits.
    tensor.bytes = static_cast<int64_t>(num_elements / type->block_size * type->block_bytes);
    ASSIGN_OR_RETURN(const uint64_t offset, cursor.Read<uint64_t>(what));
    if (!tensor_index_.emplace(tensor.name, static_cast<int>(i)).second) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what, " occurs twice"));
    }
    offsets.push_back(offset);
    tensors_.push_back(tensor);
  }

  ASSIGN_OR_RETURN(const int64_t alignment, GetInt("general.alignment", 32));
  if (alignment < 1 || alignment > (1 << 20) || (alignment & (alignment - 1)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": key 'general.alignment' is ", alignment, ", not a power of two up to ", 1 << 20));
  }
  if (num_tensors == 0) return absl::OkStatus();
  const uint64_t align = static_cast<uint64_t>(alignment);
  const uint64_t data_begin = (cursor.offset() + align - 1) / align * align;
  if (data_begin > bytes_.size()) return cursor.Truncated("the padding before the tensor data");
  const uint64_t data_bytes = bytes_.size() - data_begin;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    GgufTensor& tensor = tensors_[i];
    const std::string what = absl::StrCat("tensor ", Quoted(tensor.name));
    if (offsets[i] % align != 0) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what, " begins at offset ", offsets[i],
                                                     ", not a multiple of the file's alignment ", align));
    }
    if (offsets[i] > data_bytes || static_cast<uint64_t>(tensor.bytes) > data_bytes - offsets[i]) {
      return absl::DataLossError(absl::StrCat(path_, ": ", what, " needs ", tensor.bytes, " bytes at offset ",
                                              offsets[i], " of the data, which has ", data_bytes,
                                              "; the file is truncated or lies: fetch it again and compare its "
                                              "checksum"));
    }
    tensor.data = bytes_.data() + data_begin + offsets[i];
  }

  std::vector<int> order(tensors_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return offsets[a] < offsets[b]; });
  for (size_t i = 1; i < order.size(); ++i) {
    const int before = order[i - 1];
    const int after = order[i];
    if (offsets[before] + static_cast<uint64_t>(tensors_[before].bytes) > offsets[after]) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": tensors ", Quoted(tensors_[before].name), " and ",
                                                     Quoted(tensors_[after].name), " overlap at offset ",
                                                     offsets[after]));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<const GgufFile::Entry*> GgufFile::Find(absl::string_view key) const {
  const auto it = entries_.find(key);
  if (it == entries_.end()) {
    return absl::NotFoundError(absl::StrCat(path_, ": metadata key '", key, "' is missing"));
  }
  return &it->second;
}

absl::Status GgufFile::WrongType(absl::string_view key, const Entry& entry, absl::string_view wanted) const {
  return absl::InvalidArgumentError(absl::StrCat(path_, ": metadata key '", key, "' is ",
                                                 entry.type == GgufType::kArray
                                                     ? absl::StrCat("an array of ", GgufTypeName(entry.item_type))
                                                     : GgufTypeName(entry.type),
                                                 ", not ", wanted));
}

absl::StatusOr<int64_t> GgufFile::IntAt(absl::string_view key, GgufType type, uint64_t offset) const {
  switch (type) {
    case GgufType::kUint8:
      return LoadAt<uint8_t>(bytes_, offset);
    case GgufType::kInt8:
      return LoadAt<int8_t>(bytes_, offset);
    case GgufType::kUint16:
      return LoadAt<uint16_t>(bytes_, offset);
    case GgufType::kInt16:
      return LoadAt<int16_t>(bytes_, offset);
    case GgufType::kUint32:
      return LoadAt<uint32_t>(bytes_, offset);
    case GgufType::kInt32:
      return LoadAt<int32_t>(bytes_, offset);
    case GgufType::kInt64:
      return LoadAt<int64_t>(bytes_, offset);
    case GgufType::kUint64: {
      const uint64_t value = LoadAt<uint64_t>(bytes_, offset);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return absl::InvalidArgumentError(
            absl::StrCat(path_, ": metadata key '", key, "' is ", value, ", out of range"));
      }
      return static_cast<int64_t>(value);
    }
    default:
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": metadata key '", key, "' is ", GgufTypeName(type), ", not an integer"));
  }
}

absl::StatusOr<double> GgufFile::FloatAt(absl::string_view key, GgufType type, uint64_t offset) const {
  if (type == GgufType::kFloat32) return LoadAt<float>(bytes_, offset);
  if (type == GgufType::kFloat64) return LoadAt<double>(bytes_, offset);
  ASSIGN_OR_RETURN(const int64_t value, IntAt(key, type, offset));
  return static_cast<double>(value);
}

absl::string_view GgufFile::StringAt(uint64_t offset, uint64_t* end) const {
  const uint64_t size = LoadAt<uint64_t>(bytes_, offset);
  *end = offset + 8 + size;
  return absl::string_view(reinterpret_cast<const char*>(bytes_.data() + offset + 8), size);
}

absl::StatusOr<int64_t> GgufFile::GetInt(absl::string_view key) const {
  ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  if (entry->type == GgufType::kArray) return WrongType(key, *entry, "an integer");
  return IntAt(key, entry->type, entry->offset);
}

absl::StatusOr<double> GgufFile::GetFloat(absl::string_view key) const {
  ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  if (entry->type == GgufType::kArray || entry->type == GgufType::kString || entry->type == GgufType::kBool) {
    return WrongType(key, *entry, "a number");
  }
  ASSIGN_OR_RETURN(const double value, FloatAt(key, entry->type, entry->offset));
  if (!std::isfinite(value)) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": metadata key '", key, "' is not a finite number"));
  }
  return value;
}

absl::StatusOr<bool> GgufFile::GetBool(absl::string_view key) const {
  ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  if (entry->type != GgufType::kBool) return WrongType(key, *entry, "a bool");
  return LoadAt<uint8_t>(bytes_, entry->offset) != 0;
}

absl::StatusOr<absl::string_view> GgufFile::GetString(absl::string_view key) const {
  ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  if (entry->type != GgufType::kString) return WrongType(key, *entry, "a string");
  uint64_t end;
  return StringAt(entry->offset, &end);
}

absl::StatusOr<std::vector<int64_t>> GgufFile::GetInts(absl::string_view key) const {
  ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  const uint64_t item_bytes = ScalarBytes(entry->item_type);
  if (entry->type != GgufType::kArray || item_bytes == 0) return WrongType(key, *entry, "an array of integers");
  std::vector<int64_t> values(entry->num_items);
  for (uint64_t i = 0; i < entry->num_items; ++i) {
    ASSIGN_OR_RETURN(values[i], IntAt(key, entry->item_type, entry->offset + i * item_bytes));
  }
  return values;
}

absl::StatusOr<std::vector<float>> GgufFile::GetFloats(absl::string_view key) const {
  ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  const uint64_t item_bytes = ScalarBytes(entry->item_type);
  if (entry->type != GgufType::kArray || item_bytes == 0 || entry->item_type == GgufType::kBool) {
    return WrongType(key, *entry, "an array of numbers");
  }
  std::vector<float> values(entry->num_items);
  for (uint64_t i = 0; i < entry->num_items; ++i) {
    ASSIGN_OR_RETURN(const double value, FloatAt(key, entry->item_type, entry->offset + i * item_bytes));
    values[i] = static_cast<float>(value);
  }
  return values;
}

absl::StatusOr<std::vector<absl::string_view>> GgufFile::GetStrings(absl::string_view key) const {
  ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  if (entry->type != GgufType::kArray || entry->item_type != GgufType::kString) {
    return WrongType(key, *entry, "an array of strings");
  }
  std::vector<absl::string_view> values(entry->num_items);
  uint64_t offset = entry->offset;
  for (absl::string_view& value : values) value = StringAt(offset, &offset);
  return values;
}

absl::StatusOr<int64_t> GgufFile::GetInt(absl::string_view key, int64_t if_missing) const {
  if (!Has(key)) return if_missing;
  return GetInt(key);
}
absl::StatusOr<double> GgufFile::GetFloat(absl::string_view key, double if_missing) const {
  if (!Has(key)) return if_missing;
  return GetFloat(key);
}
absl::StatusOr<bool> GgufFile::GetBool(absl::string_view key, bool if_missing) const {
  if (!Has(key)) return if_missing;
  return GetBool(key);
}
absl::StatusOr<absl::string_view> GgufFile::GetString(absl::string_view key, absl::string_view if_missing) const {
  if (!Has(key)) return if_missing;
  return GetString(key);
}

std::string GgufFile::ValueString(absl::string_view key) const {
  const Entry& entry = entries_.at(key);
  constexpr uint64_t kItemsShown = 8;
  constexpr size_t kBytesShown = 160;
  uint64_t offset = entry.offset;
  const auto item = [&]() -> std::string {
    if (entry.item_type == GgufType::kString) {
      const absl::string_view value = StringAt(offset, &offset);
      return absl::StrCat("\"", absl::Utf8SafeCHexEscape(value.substr(0, kBytesShown)),
                          value.size() > kBytesShown ? absl::StrCat("\"... (", value.size(), " bytes)") : "\"");
    }
    const uint64_t at = offset;
    offset += ScalarBytes(entry.item_type);
    if (entry.item_type == GgufType::kBool) return LoadAt<uint8_t>(bytes_, at) != 0 ? "true" : "false";
    if (entry.item_type == GgufType::kUint64) return absl::StrCat(LoadAt<uint64_t>(bytes_, at));
    if (entry.item_type == GgufType::kFloat32 || entry.item_type == GgufType::kFloat64) {
      return absl::StrCat(*FloatAt(key, entry.item_type, at));
    }
    return absl::StrCat(*IntAt(key, entry.item_type, at));
  };
  if (entry.type != GgufType::kArray) return item();
  if (entry.item_type == GgufType::kArray) return absl::StrCat("array of ", entry.num_items, " arrays");
  std::string text = "[";
  for (uint64_t i = 0; i < std::min(entry.num_items, kItemsShown); ++i) absl::StrAppend(&text, i ? ", " : "", item());
  if (entry.num_items > kItemsShown) absl::StrAppend(&text, ", ... (", entry.num_items, " items)");
  return text + "]";
}

const GgufTensor* GgufFile::FindTensor(absl::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace outrider
