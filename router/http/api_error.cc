#include "router/http/api_error.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "router/error_reason.h"
#include "router/http/json_writer.h"
#include "router/request_validation.h"
#include "router/retry_after.h"

namespace outrider::router {
namespace {

struct Kind {
  int status;
  const char* type;
  const char* code;
};

Kind KindOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
      return {400, "invalid_request_error", ""};
    case absl::StatusCode::kUnauthenticated:
      return {401, "invalid_request_error", "invalid_api_key"};
    case absl::StatusCode::kNotFound:
      return {404, "invalid_request_error", ""};
    case absl::StatusCode::kResourceExhausted:
      return {429, "rate_limit_error", "rate_limit_exceeded"};
    case absl::StatusCode::kUnavailable:
      return {503, "unavailable_error", "server_overloaded"};
    case absl::StatusCode::kDeadlineExceeded:
      return {504, "timeout_error", "timeout"};
    case absl::StatusCode::kCancelled:
      return {499, "invalid_request_error", "request_cancelled"};
    default:
      return {500, "server_error", "internal_error"};
  }
}

}  // namespace

ApiError ToApiError(const absl::Status& status, absl::string_view prompt_field) {
  const Kind kind = KindOf(status.code());
  ApiError error{.status = kind.status,
                 .message = std::string(status.message()),
                 .type = kind.type,
                 .param = FieldOf(status),
                 .code = ReasonOf(status)};
  if (error.code.empty()) error.code = kind.code;
  if (kind.status == 400) {
    if (error.param == "prompt_token_ids" || error.param == "prompt" || error.code == kContextLengthExceeded) {
      error.param = std::string(prompt_field);
    }
  }
  if (kind.status == 429 || kind.status == 503) error.retry_after = RetryAfterOf(status).value_or(kRetryAfterDefault);
  return error;
}

std::string RenderError(const ApiError& error) {
  std::string out = "{\"error\":{\"message\":";
  AppendJsonString(error.message, &out);
  out += ",\"type\":";
  AppendJsonString(error.type, &out);
  out += ",\"param\":";
  if (error.param.empty()) {
    out += "null";
  } else {
    AppendJsonString(error.param, &out);
  }
  out += ",\"code\":";
  if (error.code.empty()) {
    out += "null";
  } else {
    AppendJsonString(error.code, &out);
  }
  out += "}}";
  return out;
}

HttpResponse ErrorResponse(const ApiError& error) {
  HttpResponse response{.status = error.status, .body = RenderError(error)};
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.retry_after.has_value()) {
    const auto ms =
        std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::milliseconds>(*error.retry_after).count());
    response.headers.emplace_back("Retry-After", absl::StrCat((ms + 999) / 1000));
    response.headers.emplace_back("Retry-After-Ms", absl::StrCat(ms));
  }
  return response;
}

HttpResponse ErrorResponse(int status, const std::string& message, const std::string& code) {
  ApiError error{.status = status, .message = message, .type = "invalid_request_error", .code = code};
  if (status >= 500) error.type = status == 503 ? "unavailable_error" : "server_error";
  if (status == 503) error.retry_after = kRetryAfterDefault;
  return ErrorResponse(error);
}

}  // namespace outrider::router
