// What `outrider generate` is asked for, as requests: from flags, or from a JSONL file with the fields of
// GenerateRequest, a line a request, flags being the defaults of what a line leaves out.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/inference.pb.h"

namespace outrider {

inline constexpr int64_t kMaxInputFileBytes = int64_t{1} << 30;
inline constexpr int64_t kMaxInputLineBytes = 16 << 20;

// Token ids from "1,2,3". INVALID_ARGUMENT names the part that is not a number.
absl::StatusOr<std::vector<int32_t>> ParseTokenIds(const std::string& text);

// A request from one line of JSON over `defaults`. A line's prompt, messages or prompt_token_ids replace the defaults'.
// Unknown fields are INVALID_ARGUMENT.
absl::StatusOr<v1::GenerateRequest> ParseRequestLine(const std::string& json, const v1::GenerateRequest& defaults);

// All lines of `path` ("-": standard input); blank ones are skipped. Errors name file:line. `renamed`: fields of a line
// that are meant by other names here, as ours.
absl::StatusOr<std::vector<v1::GenerateRequest>> ReadRequests(const std::string& path,
                                                              const v1::GenerateRequest& defaults,
                                                              const std::map<std::string, std::string>& renamed = {});

}  // namespace outrider
