#include "cli/draft_marks.h"

#include <gtest/gtest.h>

#include <utility>

namespace outrider {
namespace {

using Pieces = std::vector<std::pair<std::string, bool>>;

Pieces Take(DraftMarks& marks, const std::string& text, const std::vector<std::pair<int, bool>>& origins) {
  v1::Delta delta;
  delta.set_text(text);
  for (const auto& [bytes, draft] : origins) {
    v1::TokenOrigin* const origin = delta.add_origins();
    origin->set_text_bytes(static_cast<uint32_t>(bytes));
    origin->set_draft(draft);
  }
  Pieces pieces;
  for (const DraftMarks::Piece& piece : marks.Take(delta)) pieces.emplace_back(piece.text, piece.draft);
  return pieces;
}

TEST(DraftMarks, TextIsSplitWhereItsOriginChanges) {
  DraftMarks marks;
  EXPECT_EQ(Take(marks, "one two three", {{3, true}, {4, true}, {0, false}, {6, false}}),
            (Pieces{{"one two", true}, {" three", false}}));
  EXPECT_EQ(Take(marks, " x", {{2, true}}), (Pieces{{" x", true}}));
}

TEST(DraftMarks, TextThatIsHeldBackKeepsItsOrigin) {
  DraftMarks marks;
  EXPECT_EQ(Take(marks, "ab", {{3, true}, {2, false}}), (Pieces{{"ab", true}}));
  EXPECT_EQ(Take(marks, "", {}), Pieces{});
  EXPECT_EQ(Take(marks, "cde", {}), (Pieces{{"c", true}, {"de", false}}));
}

TEST(DraftMarks, TextWithoutOriginsIsTheTargets) {
  DraftMarks marks;
  EXPECT_EQ(Take(marks, "all", {}), (Pieces{{"all", false}}));
  EXPECT_EQ(Take(marks, "more than told", {{4, true}}), (Pieces{{"more", true}, {" than told", false}}));
}

}  // namespace
}  // namespace outrider
