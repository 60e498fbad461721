// The page at / and its files, as answers: no framework, nothing from elsewhere, and nothing but this server may run,
// be shown or be spoken to.
//
// Thread safety: pure functions.
#pragma once

#include <optional>

#include "absl/strings/string_view.h"
#include "router/http/http_message.h"

namespace outrider::router {

// The answer to a GET of `path`; nothing if the page has no such file. `if_none_match`: the request's, empty without
// one; what the client has already is answered with 304.
std::optional<HttpResponse> AnswerPage(absl::string_view path, absl::string_view if_none_match);

}  // namespace outrider::router
