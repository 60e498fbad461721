#include "text/jinja/lexer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "text/jinja/value.h"  // IsSpace, StripLeft, StripRight
#include "text/utf8.h"

namespace outrider::text::jinja {
namespace {

// "\r\n" and "\r" become "\n", and one newline at the end goes.
std::string NormalizeNewlines(absl::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
    } else {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool IsNameStart(char c) { return absl::ascii_isalpha(c) || c == '_' || static_cast<unsigned char>(c) >= 0x80; }
bool IsNamePart(char c) { return IsNameStart(c) || absl::ascii_isdigit(c); }

class Lexer {
 public:
  explicit Lexer(absl::string_view source) : source_(source) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (position_ < source_.size()) RETURN_IF_ERROR(LexTextAndTag());
    Emit(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::string_view Rest() const { return source_.substr(position_); }
  bool At(absl::string_view text) const { return absl::StartsWith(Rest(), text); }
  void Advance(size_t num_bytes) {
    const absl::string_view passed = source_.substr(position_, num_bytes);
    line_ += static_cast<int>(std::count(passed.begin(), passed.end(), '\n'));
    position_ += passed.size();
  }
  void SkipSpace() { Advance(Rest().size() - StripLeft(Rest()).size()); }
  void Emit(Token::Kind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }
  absl::Status Error(absl::string_view message) const { return TemplateError(line_, message); }

  // Passes the end of a tag, `mark` being "%}", "}}" or "#}", and the whitespace its sign takes; false when not at one.
  bool LexTagEnd(absl::string_view mark) {
    const size_t first = position_;
    const bool is_output = mark == "}}";
    if (At(absl::StrCat("-", mark))) {
      Advance(3);
      SkipSpace();
    } else if (!is_output && At(absl::StrCat("+", mark))) {
      Advance(3);
    } else if (At(mark)) {
      Advance(2);
      if (!is_output && At("\n")) Advance(1);  // trim_blocks
    } else {
      return false;
    }
    at_line_start_ = position_ > first && source_[position_ - 1] == '\n';
    return true;
  }

  // Text as the tag after it leaves it.
  absl::string_view StripBeforeTag(absl::string_view text, char sign, bool is_output) const {
    if (sign == '-') return StripRight(text);
    if (sign == '+' || is_output) return text;
    const size_t newline = text.rfind('\n');  // lstrip_blocks
    const size_t line_first = newline == absl::string_view::npos ? 0 : newline + 1;
    if (line_first == 0 && !at_line_start_) return text;
    return StripLeft(text.substr(line_first)).empty() ? text.substr(0, line_first) : text;
  }

  absl::Status LexTextAndTag() {
    size_t tag = position_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == absl::string_view::npos || tag + 1 >= source_.size()) {
        Emit(Token::Kind::kText, std::string(Rest()));
        Advance(Rest().size());
        return absl::OkStatus();
      }
      const char second = source_[tag + 1];
      if (second == '{' || second == '%' || second == '#') break;
      ++tag;
    }
    const char second = source_[tag + 1];
    char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign != '-' && sign != '+') sign = '\0';
    const absl::string_view text = StripBeforeTag(source_.substr(position_, tag - position_), sign, second == '{');
    if (!text.empty()) Emit(Token::Kind::kText, std::string(text));
    Advance(tag - position_);
    const int tag_line = line_;
    Advance(sign == '\0' ? 2 : 3);
    at_line_start_ = false;
    if (second == '#') return LexComment(tag_line);
    if (second == '%' && LexRawBegin()) return LexRaw(tag_line);
    Emit(second == '{' ? Token::Kind::kOutputBegin : Token::Kind::kBlockBegin, "");
    return LexTag(second == '{', tag_line);
  }

  absl::Status LexComment(int tag_line) {
    const size_t end = source_.find("#}", position_);
    if (end == absl::string_view::npos) return TemplateError(tag_line, "comment {# is not closed");
    const bool has_sign = end > position_ && (source_[end - 1] == '-' || source_[end - 1] == '+');
    Advance(end - position_ - (has_sign ? 1 : 0));
    LexTagEnd("#}");
    return absl::OkStatus();
  }

  // After "{%": passes "raw %}" when it is there.
  bool LexRawBegin() {
    absl::string_view rest = StripLeft(Rest());
    if (!absl::ConsumePrefix(&rest, "raw") || (!rest.empty() && IsNamePart(rest[0]))) return false;
    rest = StripLeft(rest);
    const bool strips = absl::ConsumePrefix(&rest, "-");
    if (!absl::ConsumePrefix(&rest, "%}")) return false;
    if (strips) rest = StripLeft(rest);
    Advance(Rest().size() - rest.size());
    return true;
  }

  absl::Status LexRaw(int tag_line) {
    size_t tag = position_;
    while ((tag = source_.find("{%", tag)) != absl::string_view::npos) {
      absl::string_view rest = source_.substr(tag + 2);
      char sign = '\0';
      if (!rest.empty() && (rest[0] == '-' || rest[0] == '+')) {
        sign = rest[0];
        rest.remove_prefix(1);
      }
      rest = StripLeft(rest);
      if (absl::ConsumePrefix(&rest, "endraw")) {
        rest = StripLeft(rest);
        const absl::string_view text = StripBeforeTag(source_.substr(position_, tag - position_), sign, false);
        const size_t end = source_.size() - rest.size();
        if (absl::StartsWith(rest, "%}") || absl::StartsWith(rest, "-%}") || absl::StartsWith(rest, "+%}")) {
          if (!text.empty()) Emit(Token::Kind::kText, std::string(text));
          Advance(end - position_);
          LexTagEnd("%}");
          return absl::OkStatus();
        }
      }
      tag += 2;
    }
    return TemplateError(tag_line, "{% raw %} is not closed");
  }

  absl::Status LexTag(bool is_output, int tag_line) {
    const absl::string_view mark = is_output ? "}}" : "%}";
    std::string closers;  // brackets that are open; the tag does not end within
    while (true) {
      SkipSpace();
      if (position_ >= source_.size()) {
        return TemplateError(tag_line, is_output ? "{{ is not closed" : "{% is not closed");
      }
      if (closers.empty()) {
        const int line = line_;
        if (LexTagEnd(mark)) {
          tokens_.push_back({is_output ? Token::Kind::kOutputEnd : Token::Kind::kBlockEnd, line, ""});
          return absl::OkStatus();
        }
      }
      const char c = source_[position_];
      if (IsNameStart(c)) {
        size_t end = position_;
        while (end < source_.size() && IsNamePart(source_[end])) ++end;
        Emit(Token::Kind::kName, std::string(source_.substr(position_, end - position_)));
        Advance(end - position_);
      } else if (absl::ascii_isdigit(c)) {
        LexNumber();
      } else if (c == '"' || c == '\'') {
        RETURN_IF_ERROR(LexString());
      } else {
        RETURN_IF_ERROR(LexOperator(&closers));
      }
    }
  }

  void LexNumber() {
    const bool is_attribute =
        !tokens_.empty() && tokens_.back().kind == Token::Kind::kOperator && tokens_.back().text == ".";
    size_t end = position_;
    const auto pass_digits = [&] {
      while (end < source_.size() &&
             (absl::ascii_isdigit(source_[end]) ||
              (source_[end] == '_' && end + 1 < source_.size() && absl::ascii_isdigit(source_[end + 1])))) {
        ++end;
      }
    };
    pass_digits();
    bool is_float = false;
    if (!is_attribute) {
      if (end + 1 < source_.size() && source_[end] == '.' && absl::ascii_isdigit(source_[end + 1])) {
        is_float = true;
        ++end;
        pass_digits();
      }
      if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
        size_t digit = end + 1;
        if (digit < source_.size() && (source_[digit] == '+' || source_[digit] == '-')) ++digit;
        if (digit < source_.size() && absl::ascii_isdigit(source_[digit])) {
          is_float = true;
          end = digit;
          pass_digits();
        }
      }
    }
    std::string text(source_.substr(position_, end - position_));
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    Emit(is_float ? Token::Kind::kFloat : Token::Kind::kInteger, std::move(text));
    Advance(end - position_);
  }

  absl::Status LexString() {
    const char quote = source_[position_];
    const int line = line_;
    std::string text;
    size_t i = position_ + 1;
    const auto read_code = [&](size_t num_digits, int base) -> std::optional<char32_t> {
      char32_t code = 0;
      size_t n = 0;
      for (; n < num_digits && i + n < source_.size(); ++n) {
        const char c = source_[i + n];
        const int digit = absl::ascii_isdigit(c) ? c - '0' : absl::ascii_isxdigit(c) ? (c | 0x20) - 'a' + 10 : 99;
        if (digit >= base) break;
        code = code * base + digit;
      }
      if (n == 0 || (base == 16 && n < num_digits)) return std::nullopt;
      i += n;
      return code;
    };
    while (i < source_.size() && source_[i] != quote) {
      if (source_[i] != '\\' || i + 1 >= source_.size()) {
        text.push_back(source_[i++]);
        continue;
      }
      const char escape = source_[i + 1];
      i += 2;
      static constexpr char kFrom[] = "nrtabfv\\'\"";
      static constexpr char kTo[] = "\n\r\t\a\b\f\v\\'\"";
      if (const char* found = escape == '\0' ? nullptr : std::find(kFrom, kFrom + 10, escape);
          found != nullptr && found != kFrom + 10) {
        text.push_back(kTo[found - kFrom]);
        continue;
      }
      if (escape == '\n') continue;
      const size_t num_digits = escape == 'x' ? 2 : escape == 'u' ? 4 : escape == 'U' ? 8 : 0;
      if (num_digits > 0) {
        const std::optional<char32_t> code = read_code(num_digits, 16);
        if (!code.has_value() || *code > 0x10FFFF) {
          return TemplateError(line, absl::StrCat("broken escape \\", std::string(1, escape), " in a string"));
        }
        AppendUtf8(*code, &text);
      } else if (escape >= '0' && escape <= '7') {
        --i;
        AppendUtf8(*read_code(3, 8), &text);
      } else {
        text.push_back('\\');
        text.push_back(escape);
      }
    }
    if (i >= source_.size()) return TemplateError(line, "string is not closed");
    Emit(Token::Kind::kString, std::move(text));
    Advance(i + 1 - position_);
    return absl::OkStatus();
  }

  absl::Status LexOperator(std::string* closers) {
    for (const absl::string_view two : {"//", "**", "==", "!=", ">=", "<="}) {
      if (!At(two)) continue;
      Emit(Token::Kind::kOperator, std::string(two));
      Advance(2);
      return absl::OkStatus();
    }
    const char c = source_[position_];
    if (absl::string_view("+-/*%~[](){}<>=.:|,;").find(c) == absl::string_view::npos) {
      return Error(absl::StrCat("unexpected character '", absl::CHexEscape(source_.substr(position_, 1)), "'"));
    }
    if (c == '(' || c == '[' || c == '{') {
      closers->push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
      if (closers->empty() || closers->back() != c) {
        return Error(absl::StrCat("unexpected '", std::string(1, c), "'"));
      }
      closers->pop_back();
    }
    Emit(Token::Kind::kOperator, std::string(1, c));
    Advance(1);
    return absl::OkStatus();
  }

  const absl::string_view source_;
  size_t position_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::Status TemplateError(int line, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat("chat template line ", line, ": ", message));
}

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source) {
  const std::string normalized = NormalizeNewlines(source);
  return Lexer(normalized).Run();
}

}  // namespace outrider::text::jinja
