#include "worker/step/step_plan.h"

#include <algorithm>

namespace outrider {

absl::Span<const TokenId> UsableDraft(const DraftPath& path, absl::Span<const TokenId> committed) {
  const int num_committed = static_cast<int>(committed.size());
  if (path.base_position < 0 || path.base_position > num_committed) return {};
  const absl::Span<const TokenId> since_base = committed.subspan(path.base_position);
  if (path.tokens.size() < since_base.size() ||
      !std::equal(since_base.begin(), since_base.end(), path.tokens.begin())) {
    return {};
  }
  return absl::MakeConstSpan(path.tokens).subspan(since_base.size());
}

ResolvedSpan ResolveSpan(const Span& span, absl::Span<const TokenId> committed) {
  ResolvedSpan resolved;
  resolved.num_committed_tokens = span.num_committed_tokens;
  resolved.first_position = span.predecessor == StepId() ? span.first_position : static_cast<int>(committed.size()) - 1;
  for (const DraftPath& path : span.paths) {
    absl::Span<const TokenId> draft = UsableDraft(path, committed);
    draft = draft.subspan(0, std::min<size_t>(draft.size(), span.lookahead));
    if (draft.size() > resolved.draft.size()) resolved.draft = draft;
  }
  return resolved;
}

}  // namespace outrider
