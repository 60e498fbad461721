// Which pieces of an answer's text were drafted: the origins of its tokens against its text, as both come. Pure.
//
// Thread safety: none.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "proto/inference.pb.h"

namespace outrider {

class DraftMarks {
 public:
  struct Piece {
    std::string text;
    bool draft = false;  // of accepted draft tokens
  };
  // The text of the next delta of a choice, in pieces that differ from their neighbours. Text may come later than the
  // origin of its token; what no origin covers counts as the target's own.
  std::vector<Piece> Take(const v1::Delta& delta);

 private:
  std::deque<v1::TokenOrigin> open_;  // whose text has not all come
};

}  // namespace outrider
