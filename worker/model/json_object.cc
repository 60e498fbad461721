#include "worker/model/json_object.h"

#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/model/mapped_file.h"

namespace outrider {

using Json = nlohmann::json;

std::string Shown(absl::string_view text) { return absl::StrCat("'", text.substr(0, 128), "'"); }

absl::StatusOr<Json> ParseJsonObject(const std::string& path, absl::string_view what, absl::string_view text) {
  std::vector<std::set<std::string>> keys;
  std::string twice;
  const auto watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      twice = value.get<std::string>();
    }
    return true;
  };
  Json json = Json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) {
    return absl::DataLossError(absl::StrCat(path, ": ", what, " is not a JSON object; fetch the file again"));
  }
  if (!twice.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what, " has the key ", Shown(twice), " twice"));
  }
  return json;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t bytes_max) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(path, "JSON"));
  if (file->bytes().size() > bytes_max) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", file->bytes().size(), " bytes; at most ", bytes_max, " are allowed"));
  }
  return std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
}

absl::StatusOr<Json> ReadJsonObject(const std::string& path, size_t bytes_max) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, bytes_max));
  return ParseJsonObject(path, "the file", text);
}

}  // namespace outrider
