// The paths of the HTTP API: what is routed, and what the OpenAPI document has to describe.
//
// Thread safety: pure functions.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace outrider::router {

enum class Endpoint {
  kChat,
  kCompletions,
  kModels,
  kModel,
  kTokenize,
  kDetokenize,
  kApplyTemplate,
  kHealth,
  kMetrics,
  kVersion,
  kLoad,
  kCluster,
  kOpenApi,
  kPage,
};

struct ApiPath {
  Endpoint endpoint;
  // As OpenAPI has it: {NAME} at the end stands for anything that is not empty.
  absl::string_view path;
  bool is_post;  // else GET, and HEAD
  bool is_open;  // asks nobody for a key
};
absl::Span<const ApiPath> ApiPaths();

// The one that `path` is; null if none.
const ApiPath* FindApiPath(absl::string_view path);

}  // namespace outrider::router
