// FetchPages asks several servers for a page each over HTTP, all at once and within one bound: the other end of
// page_server.h. A server that is slow, silent or gone costs its own page and at most the bound.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/page_server.h"  // Page

namespace outrider {

// Of an answer; longer ones are RESOURCE_EXHAUSTED.
inline constexpr size_t kMaxPageBytes = 8 << 20;

struct PageRequest {
  std::string address;  // unix:PATH, or ADDRESS:PORT in digits
  std::string path;     // "/metrics"
};

// The pages, in order, whatever their status. UNAVAILABLE: nobody there, or no HTTP. DEADLINE_EXCEEDED: not within
// `bound`.
std::vector<absl::StatusOr<Page>> FetchPages(const std::vector<PageRequest>& requests, Duration bound);

}  // namespace outrider
