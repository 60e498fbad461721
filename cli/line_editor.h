// LineEditor reads lines as they are typed: with editing and a history on a terminal (libedit; docs/decisions), as they
// are from anything else.
//
// Thread safety: none.
#pragma once

#include <memory>
#include <string>

namespace outrider {

class LineEditor {
 public:
  enum class Event {
    kLine,
    kInterrupt,  // Ctrl-C while typing; what was typed is dropped
    kEnd,        // Ctrl-D on an empty line, or the end of the input
  };
  // Lines kept and read again at the next start, at most.
  static constexpr int kMaxHistory = 1000;

  // Of standard input and output. `history_file`: read now, written by Remember; empty: none. A file that can not be
  // read or written costs the history, nothing else.
  static std::unique_ptr<LineEditor> Make(const std::string& history_file);
  virtual ~LineEditor() = default;

  // `prompt` is shown on a terminal only, in bold where there are colours. Pasted text of several lines is one line
  // here, with newlines in it, on terminals that mark what is pasted (all but the oldest).
  virtual Event Read(const std::string& prompt, std::string* line) = 0;
  virtual void Remember(const std::string& line) = 0;
};

}  // namespace outrider
