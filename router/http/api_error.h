// Errors as OpenAI's clients expect them: {"error":{"message","type","param","code"}}, with the HTTP status.
//
//   INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE  400 invalid_request_error
//   UNAUTHENTICATED                                      401 invalid_request_error  with WWW-Authenticate
//   NOT_FOUND                                            404 invalid_request_error
//   RESOURCE_EXHAUSTED                                   429 rate_limit_error       with Retry-After
//   UNAVAILABLE                                          503 unavailable_error      with Retry-After
//   DEADLINE_EXCEEDED                                    504 timeout_error
//   CANCELLED                                            499 (nobody is there to see it)
//   all others                                           500 server_error
//
// Thread safety: pure functions.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "router/http/http_message.h"

namespace outrider::router {

struct ApiError {
  int status = 500;
  std::string message;
  std::string type;
  std::string param;  // empty: null
  std::string code;   // empty: null
  std::optional<Duration> retry_after;
};

// `prompt_field`: what the caller's API calls the prompt ("prompt", "messages"), where the router names its own fields.
// REQUIRES: !status.ok().
ApiError ToApiError(const absl::Status& status, absl::string_view prompt_field = "prompt");

// {"error":{...}}
std::string RenderError(const ApiError& error);
HttpResponse ErrorResponse(const ApiError& error);
// What never became a request of the API: `status` and what to say.
HttpResponse ErrorResponse(int status, const std::string& message, const std::string& code = "");

}  // namespace outrider::router
