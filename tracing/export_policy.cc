#include "tracing/export_policy.h"

#include <algorithm>

namespace outrider {
namespace {

bool MayHelpToTryAgain(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

}  // namespace

ExportPolicy::Decision ExportPolicy::OnAnswer(absl::StatusCode code, int64_t num_rejected, int64_t num_spans,
                                              double chance, TimePoint now) {
  if (code == absl::StatusCode::kOk || !MayHelpToTryAgain(code) || num_tries_ + 1 >= kTriesMax) {
    return OnLastAnswer(code, num_rejected, num_spans, now);
  }
  const double factor = (0.5 + 0.5 * std::clamp(chance, 0.0, 1.0)) * (1 << num_tries_);
  ++num_tries_;
  return {.again = FromMillis(ToMillis(kFirstPause) * factor), .tell = Tell(/*failing=*/true, now)};
}

ExportPolicy::Decision ExportPolicy::OnLastAnswer(absl::StatusCode code, int64_t num_rejected, int64_t num_spans,
                                                  TimePoint now) {
  num_tries_ = 0;
  Decision decision;
  if (code == absl::StatusCode::kOk) {
    decision.num_refused = std::clamp<int64_t>(num_rejected, 0, num_spans);
    decision.num_exported = num_spans - decision.num_refused;
  } else if (MayHelpToTryAgain(code)) {
    decision.num_given_up = num_spans;
  } else {
    decision.num_refused = num_spans;
  }
  decision.tell = Tell(decision.num_exported < num_spans, now);
  return decision;
}

bool ExportPolicy::Tell(bool failing, TimePoint now) {
  if (failing == told_failing_ || (told_at_.has_value() && now - *told_at_ < kTellInterval)) return false;
  told_failing_ = failing;
  told_at_ = now;
  return true;
}

}  // namespace outrider
