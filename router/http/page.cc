#include "router/http/page.h"

#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "router/http/page_files.h"

namespace outrider::router {
namespace {

// No script, style, image or connection but this server's own, no text made into markup, and in nobody's frame.
constexpr char kContentSecurityPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

}  // namespace

std::optional<HttpResponse> AnswerPage(absl::string_view path, absl::string_view if_none_match) {
  const auto files = PageFiles();
  const auto file = std::find_if(files.begin(), files.end(), [&](const PageFile& f) { return f.path == path; });
  if (file == files.end()) return std::nullopt;
  HttpResponse response{
      .content_type = std::string(file->content_type),
      .headers = {{"ETag", std::string(file->etag)},
                  {"Cache-Control", "no-cache"},  // asked again each time: a new version is seen at once
                  {"Content-Security-Policy", kContentSecurityPolicy},
                  {"X-Content-Type-Options", "nosniff"},
                  {"Referrer-Policy", "no-referrer"}}};
  if (!if_none_match.empty() && (if_none_match == "*" || absl::StrContains(if_none_match, file->etag))) {
    response.status = 304;
  } else {
    response.body = std::string(file->body);
  }
  return response;
}

}  // namespace outrider::router
