// The bodies of POST /tokenize, /detokenize and /apply-template.
//
// Errors: as generation_request.h has them.
//
// Thread safety: pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "proto/inference.pb.h"
#include "router/http/json_reader.h"

namespace outrider::router {

struct TokenizeRequest {
  std::string model;                  // as asked for; empty: the one that is served
  std::optional<std::string> prompt;  // else `chat`
  v1::GenerateRequest chat;
  bool add_special_tokens = true;  // to a prompt
  bool return_token_strs = false;
};
absl::StatusOr<TokenizeRequest> ParseTokenizeRequest(FieldReader& fields);

struct DetokenizeRequest {
  std::string model;
  std::vector<TokenId> tokens;
};
absl::StatusOr<DetokenizeRequest> ParseDetokenizeRequest(FieldReader& fields);

struct TemplateRequest {
  std::string model;
  v1::GenerateRequest chat;
};
absl::StatusOr<TemplateRequest> ParseTemplateRequest(FieldReader& fields);

}  // namespace outrider::router
