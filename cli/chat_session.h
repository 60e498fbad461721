// ChatSession is one conversation of `outrider chat`: its messages, the parameters that were set, and what each line
// that was typed means. Pure: it prints and sends nothing.
//
// Thread safety: none.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "proto/inference.pb.h"

namespace outrider {

// Lines as typed into whole inputs: a line that ends in a backslash goes on in the next; one that begins with """ opens
// a block that ends with a line that ends in """.
class InputAssembler {
 public:
  // True when `line` completes an input, which is then in input().
  bool Add(const std::string& line);
  const std::string& input() const { return input_; }
  // More lines belong to it.
  bool IsOpen() const { return in_block_ || continues_; }
  // What was begun is forgotten.
  void Drop();

 private:
  std::string text_, input_;
  bool in_block_ = false, continues_ = false;
};

class ChatSession {
 public:
  enum class Action {
    kNothing,   // `text` is to be shown, if there is any
    kGenerate,  // Request() is to be sent, then OnAnswer or OnFailure called
    kSave,      // ToJson() is to be written to the file `text`
    kLoad,      // FromJson is to be called with what is in the file `text`
    kExit,
  };
  struct Step {
    Action action = Action::kNothing;
    std::string text;
  };

  // `defaults`: a system message and parameters; what /new goes back to.
  explicit ChatSession(v1::GenerateRequest defaults, bool shows_stats = false, bool shows_drafts = false);

  // `input`: a message, or a command that begins with a slash. Commands that are wrong say so in `text`.
  Step OnInput(const std::string& input);
  // What the model said to the last message, whole or as far as it came.
  void OnAnswer(const std::string& text);
  // Takes the last message back.
  void OnFailure();

  const v1::GenerateRequest& Request() const { return request_; }
  bool shows_stats() const { return shows_stats_; }
  bool shows_drafts() const { return shows_drafts_; }

  // {"messages": [...], parameters...}: a GenerateRequest, so a line for `outrider generate --input` when on one.
  std::string ToJson() const;
  // INVALID_ARGUMENT naming what is wrong; nothing is changed then.
  absl::Status FromJson(const std::string& json);

 private:
  Step Set(const std::string& name, const std::string& value);
  Step Show() const;
  bool Undo();

  const v1::GenerateRequest defaults_;
  v1::GenerateRequest request_;
  bool shows_stats_, shows_drafts_;
};

// `text` without what a terminal would obey: control characters but tab and newline become U+FFFD.
std::string TerminalSafe(const std::string& text);

}  // namespace outrider
