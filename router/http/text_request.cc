#include "router/http/text_request.h"

#include "base/status_macros.h"
#include "router/http/generation_request.h"

namespace outrider::router {

absl::StatusOr<TokenizeRequest> ParseTokenizeRequest(FieldReader& fields) {
  TokenizeRequest request;
  request.model = fields.String("model").value_or("");
  request.return_token_strs = fields.Bool("return_token_strs").value_or(false);
  request.add_special_tokens = fields.Bool("add_special_tokens").value_or(true);
  request.prompt = fields.String("prompt");
  if (fields.Any("messages") != nullptr) {
    if (request.prompt.has_value()) fields.Fail("prompt", "and messages are both given; give one of them");
    ReadChat(fields, &request.chat);
  } else if (!request.prompt.has_value()) {
    fields.Fail("prompt", "is missing; give it as a string, or messages", "missing_required_parameter");
  }
  RETURN_IF_ERROR(fields.status());
  return request;
}

absl::StatusOr<DetokenizeRequest> ParseDetokenizeRequest(FieldReader& fields) {
  DetokenizeRequest request;
  request.model = fields.String("model").value_or("");
  if (fields.Any("tokens") == nullptr) {
    fields.Fail("tokens", "is missing; it takes an array of token ids", "missing_required_parameter");
  }
  request.tokens = fields.Ids("tokens");
  RETURN_IF_ERROR(fields.status());
  return request;
}

absl::StatusOr<TemplateRequest> ParseTemplateRequest(FieldReader& fields) {
  TemplateRequest request;
  request.model = fields.String("model").value_or("");
  ReadChat(fields, &request.chat);
  RETURN_IF_ERROR(fields.status());
  return request;
}

}  // namespace outrider::router
