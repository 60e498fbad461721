#include "router/http/api_paths.h"

#include <algorithm>

#include "absl/strings/match.h"

namespace outrider::router {

absl::Span<const ApiPath> ApiPaths() {
  static constexpr ApiPath kPaths[] = {
      {Endpoint::kChat, "/v1/chat/completions", /*is_post=*/true, /*is_open=*/false},
      {Endpoint::kCompletions, "/v1/completions", true, false},
      {Endpoint::kModels, "/v1/models", false, false},
      {Endpoint::kModel, "/v1/models/{model}", false, false},
      {Endpoint::kTokenize, "/tokenize", true, false},
      {Endpoint::kDetokenize, "/detokenize", true, false},
      {Endpoint::kApplyTemplate, "/apply-template", true, false},
      {Endpoint::kHealth, "/health", false, true},
      {Endpoint::kHealth, "/ping", false, true},
      {Endpoint::kMetrics, "/metrics", false, false},
      {Endpoint::kVersion, "/version", false, false},
      {Endpoint::kLoad, "/load", false, false},
      {Endpoint::kCluster, "/cluster", false, false},
      {Endpoint::kOpenApi, "/openapi.json", false, true},
      {Endpoint::kPage, "/", false, true},
      {Endpoint::kPage, "/page/{file}", false, true},
  };
  return kPaths;
}

const ApiPath* FindApiPath(absl::string_view path) {
  const auto paths = ApiPaths();
  const auto found = std::find_if(paths.begin(), paths.end(), [&](const ApiPath& known) {
    const size_t open = known.path.find('{');
    if (open == absl::string_view::npos) return known.path == path;
    return path.size() > open && absl::StartsWith(path, known.path.substr(0, open));
  });
  return found == paths.end() ? nullptr : &*found;
}

}  // namespace outrider::router
