#include "cli/draft_marks.h"

#include <algorithm>

namespace outrider {

std::vector<DraftMarks::Piece> DraftMarks::Take(const v1::Delta& delta) {
  open_.insert(open_.end(), delta.origins().begin(), delta.origins().end());
  std::vector<Piece> pieces;
  for (size_t at = 0; at < delta.text().size();) {
    while (!open_.empty() && open_.front().text_bytes() == 0) open_.pop_front();
    const bool draft = !open_.empty() && open_.front().draft();
    size_t size = delta.text().size() - at;
    if (!open_.empty()) {
      size = std::min<size_t>(size, open_.front().text_bytes());
      open_.front().set_text_bytes(open_.front().text_bytes() - static_cast<uint32_t>(size));
    }
    if (pieces.empty() || pieces.back().draft != draft) pieces.push_back({.text = "", .draft = draft});
    pieces.back().text.append(delta.text(), at, size);
    at += size;
  }
  return pieces;
}

}  // namespace outrider
