#include "cli/generate_requests.h"

#include <google/protobuf/util/json_util.h>

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "cli/json_fields.h"

namespace outrider {
namespace {

// The line with those of its fields renamed that are not there under their new names.
std::string Renamed(const std::string& line, const std::map<std::string, std::string>& names) {
  auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return line;
  for (const auto& [from, to] : names) {
    if (!json.contains(from) || json.contains(to)) continue;
    json[to] = json[from];
    json.erase(from);
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ParseTokenIds(const std::string& text) {
  std::vector<int32_t> ids;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    part = absl::StripAsciiWhitespace(part);
    int32_t id;
    if (!absl::SimpleAtoi(part, &id) || id < 0) {
      return absl::InvalidArgumentError(absl::StrCat("--prompt-ids: '", part, "' is not a token id; write 1,2,3"));
    }
    ids.push_back(id);
  }
  return ids;
}

absl::StatusOr<v1::GenerateRequest> ParseRequestLine(const std::string& json, const v1::GenerateRequest& defaults) {
  // Text that is no JSON at all is left to protobuf, which says where it ends to be.
  const auto parsed = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_discarded()) RETURN_IF_ERROR(CheckJsonFields(parsed, *v1::GenerateRequest::descriptor()));
  v1::GenerateRequest line;
  const auto status = google::protobuf::util::JsonStringToMessage(json, &line);
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a GenerateRequest in JSON (proto/inference.proto has the fields): ",
                     std::string(status.message().data(), status.message().size())));
  }
  v1::GenerateRequest request = defaults;
  if (line.has_prompt() || line.messages_size() > 0 || line.prompt_token_ids_size() > 0) {
    request.clear_prompt();
    request.clear_messages();
    request.clear_prompt_token_ids();
  }
  if (line.stop_size() > 0) request.clear_stop();
  if (line.stop_token_ids_size() > 0) request.clear_stop_token_ids();
  if (line.logit_bias_size() > 0) request.clear_logit_bias();
  request.MergeFrom(line);
  return request;
}

absl::StatusOr<std::vector<v1::GenerateRequest>> ReadRequests(const std::string& path,
                                                              const v1::GenerateRequest& defaults,
                                                              const std::map<std::string, std::string>& renamed) {
  std::ifstream file;
  if (path != "-") {
    file.open(path);
    if (!file) return absl::NotFoundError(absl::StrCat("--input: '", path, "' can not be read"));
  }
  std::istream& in = path == "-" ? std::cin : file;
  std::vector<v1::GenerateRequest> requests;
  std::string line;
  int64_t total_bytes = 0;
  for (int number = 1; std::getline(in, line); ++number) {
    total_bytes += static_cast<int64_t>(line.size());
    if (static_cast<int64_t>(line.size()) > kMaxInputLineBytes || total_bytes > kMaxInputFileBytes) {
      return absl::InvalidArgumentError(absl::StrCat(path, ":", number, ": beyond ", kMaxInputLineBytes,
                                                     " bytes a line or ", kMaxInputFileBytes, " bytes a file"));
    }
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    auto request = ParseRequestLine(renamed.empty() ? line : Renamed(line, renamed), defaults);
    if (!request.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ":", number, ": ", request.status().message()));
    }
    requests.push_back(*std::move(request));
  }
  if (requests.empty()) return absl::InvalidArgumentError(absl::StrCat("--input: '", path, "' holds no request"));
  return requests;
}

}  // namespace outrider
