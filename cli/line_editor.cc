#include "cli/line_editor.h"

#include <histedit.h>
#include <langinfo.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "absl/strings/match.h"
#include "cli/terminal.h"

namespace outrider {
namespace {

constexpr size_t kMaxPasteBytes = 1 << 20;
// Of terminals, since xterm: pasted text comes between two marks.
constexpr char kPasteOn[] = "\x1b[?2004h", kPasteOff[] = "\x1b[?2004l", kPasteEnd[] = "\x1b[201~";

// Of control characters tabs and newlines alone; terminals send newlines as Return is.
std::string PastedText(const std::string& pasted) {
  std::string text;
  for (const char c : pasted) {
    if (c == '\r') {
      text += '\n';
    } else if (c == '\n' || c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f)) {
      text += c;
    }
  }
  return text;
}

class PlainLines final : public LineEditor {
 public:
  Event Read(const std::string&, std::string* line) override {
    return std::getline(std::cin, *line) ? Event::kLine : Event::kEnd;
  }
  void Remember(const std::string&) override {}
};

class Editor final : public LineEditor {
 public:
  explicit Editor(std::string history_file)
      : history_file_(std::move(history_file)),
        colour_(UseColour(STDOUT_FILENO)),
        pastes_(ObeysEscapes(STDOUT_FILENO)) {
    // Characters of several bytes are edited as one only in a locale that knows them.
    if (std::setlocale(LC_CTYPE, "") == nullptr || std::strcmp(::nl_langinfo(CODESET), "UTF-8") != 0) {
      std::setlocale(LC_CTYPE, "C.UTF-8");
    }
    edit_ = ::el_init("outrider", stdin, stdout, stderr);
    history_ = ::history_init();
    HistEvent event;
    ::history(history_, &event, H_SETSIZE, kMaxHistory);
    ::history(history_, &event, H_SETUNIQUE, 1);
    if (!history_file_.empty()) ::history(history_, &event, H_LOAD, history_file_.c_str());
    ::el_set(edit_, EL_CLIENTDATA, this);
    ::el_set(edit_, EL_EDITOR, "emacs");
    ::el_set(edit_, EL_HIST, ::history, history_);
    ::el_set(edit_, EL_PROMPT_ESC, &Editor::Prompt, '\1');
    ::el_set(edit_, EL_SIGNAL, 1);  // a new size, SIGTSTP, SIGTERM: the terminal is left as it was found
    // Ctrl-C and Ctrl-Z are keys while a line is edited and signals at all other times.
    ::el_set(edit_, EL_SETTY, "-d", "-isig", nullptr);
    ::el_set(edit_, EL_ADDFN, "outrider-interrupt", "Drop the line", &Editor::Interrupt);
    ::el_set(edit_, EL_BIND, "^C", "outrider-interrupt", nullptr);
    ::el_set(edit_, EL_ADDFN, "outrider-suspend", "Stop as a job", &Editor::Suspend);
    ::el_set(edit_, EL_BIND, "^Z", "outrider-suspend", nullptr);
    ::el_set(edit_, EL_ADDFN, "outrider-paste", "Take what is pasted as one text", &Editor::Paste);
    ::el_set(edit_, EL_BIND, "\\e[200~", "outrider-paste", nullptr);
    ::el_set(edit_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    ::el_set(edit_, EL_BIND, "\\e[1~", "ed-move-to-beg", nullptr);
    ::el_set(edit_, EL_BIND, "\\e[4~", "ed-move-to-end", nullptr);
    ::el_set(edit_, EL_BIND, "\\e[3~", "ed-delete-next-char", nullptr);
    ::el_set(edit_, EL_BIND, "\\e[1;5D", "ed-prev-word", nullptr);
    ::el_set(edit_, EL_BIND, "\\e[1;5C", "em-next-word", nullptr);
  }
  ~Editor() override {
    ::history_end(history_);
    ::el_end(edit_);
  }

  Event Read(const std::string& prompt, std::string* line) override {
    prompt_ = prompt;
    // What is between \1 takes no room and goes with a character behind it: bold ends before the prompt's last one.
    if (colour_ && !prompt_.empty()) prompt_ = "\1\x1b[1m\1" + prompt_.insert(prompt_.size() - 1, "\1\x1b[0m\1");
    interrupted_ = false;
    int size = 0;
    // Keys are ours from before the prompt is seen; el_gets by itself shows it first.
    ::el_set(edit_, EL_PREP_TERM, 1);
    ShowMode(kPasteOn);
    const char* const text = ::el_gets(edit_, &size);
    ShowMode(kPasteOff);
    if (interrupted_ || text == nullptr || size <= 0) {
      std::fputc('\n', stdout);
      std::fflush(stdout);
      if (interrupted_) ::el_reset(edit_);
      return interrupted_ ? Event::kInterrupt : Event::kEnd;
    }
    line->assign(text, static_cast<size_t>(size));
    if (!line->empty() && line->back() == '\n') line->pop_back();
    return Event::kLine;
  }

  void Remember(const std::string& line) override {
    HistEvent event;
    ::history(history_, &event, H_ENTER, line.c_str());
    if (history_file_.empty()) return;
    const mode_t mask = ::umask(077);  // what people ask is their own
    ::history(history_, &event, H_SAVE, history_file_.c_str());
    ::umask(mask);
  }

 private:
  static Editor& Of(EditLine* edit) {
    void* self = nullptr;
    ::el_get(edit, EL_CLIENTDATA, &self);
    return *static_cast<Editor*>(self);
  }
  static char* Prompt(EditLine* edit) { return Of(edit).prompt_.data(); }
  static unsigned char Interrupt(EditLine* edit, int) {
    Of(edit).interrupted_ = true;
    return CC_EOF;
  }
  static unsigned char Suspend(EditLine*, int) {
    ::raise(SIGTSTP);
    return CC_REDISPLAY;
  }

  // Text between marks that the terminal puts around it: its newlines do not send it.
  static unsigned char Paste(EditLine* edit, int) {
    std::string text;
    char c = 0;
    while (!absl::EndsWith(text, kPasteEnd)) {
      if (::el_getc(edit, &c) != 1) return CC_EOF;
      text += c;
    }
    text.resize(text.size() - std::strlen(kPasteEnd));
    text = PastedText(text);
    if (text.empty()) return CC_REFRESH;
    return text.size() <= kMaxPasteBytes && ::el_insertstr(edit, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  }
  void ShowMode(const char* sequence) const {
    if (!pastes_) return;
    std::fputs(sequence, stdout);
    std::fflush(stdout);
  }

  const std::string history_file_;
  const bool colour_, pastes_;
  EditLine* edit_;
  History* history_;
  std::string prompt_;
  bool interrupted_ = false;
};

}  // namespace

std::unique_ptr<LineEditor> LineEditor::Make(const std::string& history_file) {
  if (!IsTerminal(STDIN_FILENO) || !IsTerminal(STDOUT_FILENO)) return std::make_unique<PlainLines>();
  if (!history_file.empty()) {
    std::error_code error;  // without a folder there is no history
    std::filesystem::create_directories(std::filesystem::path(history_file).parent_path(), error);
  }
  return std::make_unique<Editor>(history_file);
}

}  // namespace outrider
