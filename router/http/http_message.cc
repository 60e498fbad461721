#include "router/http/http_message.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace outrider::router {
namespace {

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

absl::string_view ReasonPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Payload Too Large";
    case 415:
      return "Unsupported Media Type";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
  }
  return "Unknown";
}

std::string RenderHead(const ResponseHead& head) {
  std::string out = absl::StrCat("HTTP/1.1 ", head.status, " ", ReasonPhrase(head.status), "\r\nDate: ", head.date,
                                 "\r\nServer: outrider\r\nContent-Type: ", head.content_type, "\r\n");
  if (head.status == 304) {
    // Its length would be that of what is not sent.
  } else if (head.content_length >= 0) {
    absl::StrAppend(&out, "Content-Length: ", head.content_length, "\r\n");
  } else if (head.chunked) {
    absl::StrAppend(&out, "Transfer-Encoding: chunked\r\n");
  }
  if (!head.keep_alive) {
    absl::StrAppend(&out, "Connection: close\r\n");
  } else if (head.http_1_0) {
    absl::StrAppend(&out, "Connection: keep-alive\r\n");
  }
  if (head.headers != nullptr) {
    for (const auto& [name, value] : *head.headers) absl::StrAppend(&out, name, ": ", value, "\r\n");
  }
  absl::StrAppend(&out, "\r\n");
  return out;
}

std::string RenderChunk(absl::string_view data) { return absl::StrCat(absl::Hex(data.size()), "\r\n", data, "\r\n"); }

std::string DecodePath(absl::string_view target) {
  const absl::string_view path = target.substr(0, target.find_first_of("?#"));
  if (path.empty() || path[0] != '/') return "";
  std::string decoded;
  decoded.reserve(path.size());
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i] != '%') {
      decoded.push_back(path[i]);
      continue;
    }
    const int high = i + 2 < path.size() ? HexValue(path[i + 1]) : -1;
    const int low = i + 2 < path.size() ? HexValue(path[i + 2]) : -1;
    if (high < 0 || low < 0) return "";
    decoded.push_back(static_cast<char>(high << 4 | low));
    i += 2;
  }
  return decoded;
}

bool IsRequestId(absl::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           absl::string_view("-_.:/+=").find(c) != absl::string_view::npos;
  });
}

}  // namespace outrider::router
