#include "text/jinja/methods.h"

#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "text/utf8.h"

namespace outrider::text::jinja {
namespace {

using ValueOr = absl::StatusOr<Value>;

// --- characters

template <typename Map>
std::string MapCharacters(absl::string_view text, Map map) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    if (step.kind == Utf8Step::Kind::kCharacter) {
      map(step.code_point, &out);
    } else {
      out.append(text.data(), step.num_bytes);
    }
    text.remove_prefix(step.num_bytes);
  }
  return out;
}

void AppendUpper(char32_t c, std::string* out) {
  if (c == 0xDF) {
    *out += "SS";
  } else {
    AppendUtf8(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))), out);
  }
}

void AppendLower(char32_t c, std::string* out) {
  AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
}

bool IsLetter(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}
bool IsDigit(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_ND; }
bool IsNumeric(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}
bool IsUpperLetter(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_LU; }
bool IsLowerLetter(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_LL; }

// Whether `text` is not empty and all its characters are of the class.
template <typename Class>
bool AllOf(absl::string_view text, Class is_member) {
  if (text.empty()) return false;
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    if (step.kind != Utf8Step::Kind::kCharacter || !is_member(step.code_point)) return false;
    text.remove_prefix(step.num_bytes);
  }
  return true;
}

// isupper and islower: some letter has a case, and none has the other one.
bool HasOnlyCase(absl::string_view text, bool upper) {
  bool any = false;
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    if (step.kind == Utf8Step::Kind::kCharacter) {
      if (upper ? IsLowerLetter(step.code_point) : IsUpperLetter(step.code_point)) return false;
      any |= upper ? IsUpperLetter(step.code_point) : IsLowerLetter(step.code_point);
    }
    text.remove_prefix(step.num_bytes);
  }
  return any;
}

// str.title: a letter after what is no letter is upper, one after a letter lower.
std::string Title(absl::string_view text) {
  bool after_letter = false;
  return MapCharacters(text, [&](char32_t c, std::string* out) {
    after_letter ? AppendLower(c, out) : AppendUpper(c, out);
    after_letter = IsLetter(c);
  });
}

// Whether character `c` (its bytes) is one of those of `set`.
bool IsOneOf(absl::string_view c, absl::string_view set) {
  while (!set.empty()) {
    const size_t num_bytes = DecodeUtf8(set).num_bytes;
    if (set.substr(0, num_bytes) == c) return true;
    set.remove_prefix(num_bytes);
  }
  return false;
}

// --- str

enum Side { kLeft = 1, kRight = 2, kBoth = 3 };

ValueOr Strip(Runtime& runtime, absl::string_view name, absl::string_view text, Side side, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, name, {"chars"}, 0, std::move(arguments)));
  if (!args.Has(0)) {
    if (side & kLeft) text = StripLeft(text);
    if (side & kRight) text = StripRight(text);
    return runtime.NewString(std::string(text));
  }
  ASSIGN_OR_RETURN(const std::string chars, args.String(0, ""));
  RETURN_IF_ERROR(runtime.Step(1 + text.size() / 64 * (1 + chars.size())));
  if (side & kLeft) {
    while (!text.empty()) {
      const size_t num_bytes = DecodeUtf8(text).num_bytes;
      if (!IsOneOf(text.substr(0, num_bytes), chars)) break;
      text.remove_prefix(num_bytes);
    }
  }
  if (side & kRight) {
    while (!text.empty()) {
      size_t first = text.size() - 1;
      while (first > 0 && text.size() - first < 4 && (static_cast<uint8_t>(text[first]) & 0xC0) == 0x80) --first;
      if (!IsOneOf(text.substr(first), chars)) break;
      text.remove_suffix(text.size() - first);
    }
  }
  return runtime.NewString(std::string(text));
}

ValueOr StringsToList(Runtime& runtime, const std::vector<absl::string_view>& parts) {
  std::vector<Value> items;
  for (const absl::string_view part : parts) {
    ASSIGN_OR_RETURN(Value item, runtime.NewString(std::string(part)));
    items.push_back(std::move(item));
  }
  return runtime.NewList(std::move(items));
}

ValueOr Split(Runtime& runtime, absl::string_view text, bool from_right, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, from_right ? "rsplit" : "split", {"sep", "maxsplit"},
                                                         0, std::move(arguments)));
  ASSIGN_OR_RETURN(int64_t max_splits, args.Integer(1, -1));
  if (max_splits < 0) max_splits = static_cast<int64_t>(text.size()) + 1;
  std::vector<absl::string_view> parts;
  if (args.Has(0)) {
    ASSIGN_OR_RETURN(const std::string separator, args.String(0, ""));
    if (separator.empty()) return runtime.Fail("empty separator");
    while (max_splits-- > 0) {
      const size_t found = from_right ? text.rfind(separator) : text.find(separator);
      if (found == absl::string_view::npos) break;
      if (from_right) {
        parts.push_back(text.substr(found + separator.size()));
        text = text.substr(0, found);
      } else {
        parts.push_back(text.substr(0, found));
        text = text.substr(found + separator.size());
      }
      RETURN_IF_ERROR(runtime.Step());
    }
    parts.push_back(text);
  } else if (from_right) {
    text = StripRight(text);
    while (!text.empty()) {
      RETURN_IF_ERROR(runtime.Step());
      if (max_splits-- == 0) {
        parts.push_back(text);
        break;
      }
      size_t first = text.size();
      // Back to the whitespace before the last word.
      while (first > 0 && StripRight(text.substr(0, first)).size() == first) {
        --first;
        while (first > 0 && (static_cast<uint8_t>(text[first]) & 0xC0) == 0x80) --first;
      }
      parts.push_back(text.substr(first));
      text = StripRight(text.substr(0, first));
    }
  } else {
    text = StripLeft(text);
    while (!text.empty()) {
      RETURN_IF_ERROR(runtime.Step());
      if (max_splits-- == 0) {
        parts.push_back(text);
        break;
      }
      size_t end = 0;
      while (end < text.size()) {
        const Utf8Step step = DecodeUtf8(text.substr(end));
        if (IsSpace(step.code_point)) break;
        end += step.num_bytes;
      }
      parts.push_back(text.substr(0, end));
      text = StripLeft(text.substr(end));
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return StringsToList(runtime, parts);
}

ValueOr SplitLines(Runtime& runtime, absl::string_view text, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "splitlines", {"keepends"}, 0, std::move(arguments)));
  std::vector<absl::string_view> lines;
  size_t first = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = DecodeUtf8(text.substr(i));
    const char32_t c = step.code_point;
    size_t end = i + step.num_bytes;
    const bool is_break =
        (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (is_break) {
      RETURN_IF_ERROR(runtime.Step());
      if (c == '\r' && end < text.size() && text[end] == '\n') ++end;
      lines.push_back(text.substr(first, (args.Truth(0, false) ? end : i) - first));
      first = end;
    }
    i = end;
  }
  if (first < text.size()) lines.push_back(text.substr(first));
  return StringsToList(runtime, lines);
}

ValueOr StartsOrEndsWith(Runtime& runtime, absl::string_view text, bool starts, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, starts ? "startswith" : "endswith", {"prefix"}, 1,
                                                         std::move(arguments)));
  std::vector<Value> options = {args[0]};
  if (args[0].IsList() && args[0].list().is_tuple) options = args[0].items();
  for (const Value& option : options) {
    if (!option.IsString()) return runtime.Fail("startswith and endswith take strings, not ", option.TypeName());
    RETURN_IF_ERROR(runtime.Step());
    if (starts ? absl::StartsWith(text, option.string()) : absl::EndsWith(text, option.string())) return Value(true);
  }
  return Value(false);
}

// The number of characters before the match, or -1.
ValueOr Find(Runtime& runtime, absl::string_view name, absl::string_view text, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, name, {"sub"}, 1, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::string part, args.String(0, ""));
  const size_t found = absl::StartsWith(name, "r") ? text.rfind(part) : text.find(part);
  if (found == absl::string_view::npos) {
    if (absl::EndsWith(name, "index")) return runtime.Fail("substring not found");
    return Value(-1);
  }
  return Value(static_cast<int64_t>(LengthInCodePoints(text.substr(0, found))));
}

ValueOr Replace(Runtime& runtime, absl::string_view text, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, "replace", {"old", "new", "count"}, 2, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::string from, args.String(0, ""));
  ASSIGN_OR_RETURN(const std::string to, args.String(1, ""));
  ASSIGN_OR_RETURN(int64_t count, args.Integer(2, -1));
  if (count < 0) count = static_cast<int64_t>(text.size()) + 1;
  std::string out;
  while (count-- > 0) {
    size_t found = text.find(from);
    if (found == absl::string_view::npos) break;
    size_t passed = found + from.size();
    if (from.empty()) {  // before every character, and at the end
      out += to;
      if (text.empty()) break;
      passed = DecodeUtf8(text).num_bytes;
      out.append(text.data(), passed);
      if (passed == text.size() && count > 0) {
        out += to;
        count = 0;
      }
    } else {
      out.append(text.data(), found);
      out += to;
    }
    text.remove_prefix(passed);
    if (out.size() > runtime.remaining_value_bytes()) break;  // NewString refuses it
  }
  out.append(text.data(), text.size());
  return runtime.NewString(std::move(out));
}

ValueOr Join(Runtime& runtime, absl::string_view separator, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "join", {"iterable"}, 1, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(args[0]));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].IsString()) return runtime.Fail("join: item ", i, " is ", items[i].TypeName(), ", not str");
    if (i > 0) out.append(separator.data(), separator.size());
    out += items[i].string();
    if (out.size() > runtime.remaining_value_bytes()) break;
  }
  return runtime.NewString(std::move(out));
}

ValueOr Partition(Runtime& runtime, absl::string_view text, bool from_right, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "partition", {"sep"}, 1, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::string separator, args.String(0, ""));
  if (separator.empty()) return runtime.Fail("empty separator");
  const size_t found = from_right ? text.rfind(separator) : text.find(separator);
  std::vector<absl::string_view> parts = {text, "", ""};
  if (found != absl::string_view::npos) {
    parts = {text.substr(0, found), separator, text.substr(found + separator.size())};
  } else if (from_right) {
    parts = {"", "", text};
  }
  ASSIGN_OR_RETURN(const Value list, StringsToList(runtime, parts));
  return runtime.NewList(list.items(), /*is_tuple=*/true);
}

ValueOr Pad(Runtime& runtime, absl::string_view name, absl::string_view text, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, name, {"width", "fillchar"}, 1, std::move(arguments)));
  ASSIGN_OR_RETURN(const int64_t width, args.Integer(0, 0));
  ASSIGN_OR_RETURN(const std::string fill, args.String(1, name == "zfill" ? "0" : " "));
  if (LengthInCodePoints(fill) != 1) return runtime.Fail(name, ": the fill character is not one character");
  const int64_t missing = width - static_cast<int64_t>(LengthInCodePoints(text));
  if (missing <= 0) return runtime.NewString(std::string(text));
  RETURN_IF_ERROR(runtime.Grow(static_cast<size_t>(missing) > (size_t{1} << 40) ? ~size_t{0} : missing * fill.size()));
  int64_t left = name == "ljust" ? 0 : missing;
  if (name == "center") left = missing / 2 + (missing & width & 1);  // as CPython
  std::string out;
  if (name == "zfill" && !text.empty() && (text[0] == '-' || text[0] == '+')) {
    out.push_back(text[0]);
    text.remove_prefix(1);
  }
  for (int64_t i = 0; i < left; ++i) out += fill;
  out.append(text.data(), text.size());
  for (int64_t i = left; i < missing; ++i) out += fill;
  return runtime.NewString(std::move(out));
}

// str.format with {}, {0} and {name}; no format specifications.
ValueOr Format(Runtime& runtime, absl::string_view text, const Arguments& arguments) {
  std::string out;
  size_t next = 0;
  while (!text.empty()) {
    if (absl::ConsumePrefix(&text, "{{")) {
      out.push_back('{');
    } else if (absl::ConsumePrefix(&text, "}}")) {
      out.push_back('}');
    } else if (text[0] == '}') {
      return runtime.Fail("format: single '}'");
    } else if (text[0] == '{') {
      const size_t end = text.find('}');
      if (end == absl::string_view::npos) return runtime.Fail("format: '{' is not closed");
      const absl::string_view field = text.substr(1, end - 1);
      text.remove_prefix(end + 1);
      const Value* value = nullptr;
      if (field.empty() || AllOf(field, IsDigit)) {
        size_t index = next;
        if (field.empty()) {
          ++next;
        } else if (field.size() > 4 || std::sscanf(std::string(field).c_str(), "%zu", &index) != 1) {
          return runtime.Fail("format: bad index");
        }
        if (index < arguments.positional.size()) value = &arguments.positional[index];
      } else {
        for (const auto& [name, named] : arguments.named) {
          if (name == field) value = &named;
        }
      }
      if (value == nullptr) return runtime.Fail("format: no argument for {", field.substr(0, 40), "}");
      ASSIGN_OR_RETURN(const std::string shown, runtime.Str(*value));
      out += shown;
    } else {
      out.push_back(text[0]);
      text.remove_prefix(1);
    }
    if (out.size() > runtime.remaining_value_bytes()) break;
  }
  return runtime.NewString(std::move(out));
}

constexpr absl::string_view kStringMethods[] = {
    "strip",     "lstrip",     "rstrip",     "split",    "rsplit",   "splitlines", "startswith",   "endswith",
    "find",      "rfind",      "index",      "rindex",   "replace",  "join",       "count",        "upper",
    "lower",     "title",      "capitalize", "swapcase", "casefold", "isdigit",    "isdecimal",    "isnumeric",
    "isalpha",   "isalnum",    "isspace",    "isupper",  "islower",  "isascii",    "removeprefix", "removesuffix",
    "partition", "rpartition", "ljust",      "rjust",    "center",   "zfill",      "format"};
constexpr absl::string_view kDictMethods[] = {"get", "items", "keys", "values", "copy"};
constexpr absl::string_view kListMethods[] = {"index", "count", "copy"};
// Would change their object: Jinja's immutable sandbox, which Hugging Face uses, refuses them too.
constexpr absl::string_view kChangingDictMethods[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr absl::string_view kChangingListMethods[] = {"append", "clear",  "extend",  "insert",
                                                      "pop",    "remove", "reverse", "sort"};

template <size_t kSize>
bool IsIn(absl::string_view name, const absl::string_view (&names)[kSize]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

ValueOr CallStringMethod(Runtime& runtime, const std::string& text, absl::string_view name, Arguments arguments) {
  RETURN_IF_ERROR(runtime.Scan(text.size()));
  if (name == "strip") return Strip(runtime, name, text, kBoth, std::move(arguments));
  if (name == "lstrip") return Strip(runtime, name, text, kLeft, std::move(arguments));
  if (name == "rstrip") return Strip(runtime, name, text, kRight, std::move(arguments));
  if (name == "split") return Split(runtime, text, /*from_right=*/false, std::move(arguments));
  if (name == "rsplit") return Split(runtime, text, /*from_right=*/true, std::move(arguments));
  if (name == "splitlines") return SplitLines(runtime, text, std::move(arguments));
  if (name == "startswith") return StartsOrEndsWith(runtime, text, /*starts=*/true, std::move(arguments));
  if (name == "endswith") return StartsOrEndsWith(runtime, text, /*starts=*/false, std::move(arguments));
  if (name == "find" || name == "rfind" || name == "index" || name == "rindex") {
    return Find(runtime, name, text, std::move(arguments));
  }
  if (name == "replace") return Replace(runtime, text, std::move(arguments));
  if (name == "join") return Join(runtime, text, std::move(arguments));
  if (name == "partition") return Partition(runtime, text, /*from_right=*/false, std::move(arguments));
  if (name == "rpartition") return Partition(runtime, text, /*from_right=*/true, std::move(arguments));
  if (name == "ljust" || name == "rjust" || name == "center" || name == "zfill") {
    return Pad(runtime, name, text, std::move(arguments));
  }
  if (name == "format") return Format(runtime, text, arguments);
  if (name == "count" || name == "removeprefix" || name == "removesuffix") {
    ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, name, {"text"}, 1, std::move(arguments)));
    ASSIGN_OR_RETURN(const std::string part, args.String(0, ""));
    if (name == "removeprefix") return runtime.NewString(std::string(absl::StripPrefix(text, part)));
    if (name == "removesuffix") return runtime.NewString(std::string(absl::StripSuffix(text, part)));
    if (part.empty()) return Value(static_cast<int64_t>(LengthInCodePoints(text)) + 1);
    int64_t count = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
    return Value(count);
  }
  RETURN_IF_ERROR(BoundArguments::Bind(runtime, name, {}, 0, std::move(arguments)).status());
  if (name == "upper") return runtime.NewString(ToUpper(text));
  if (name == "lower" || name == "casefold") return runtime.NewString(ToLower(text));
  if (name == "title") return runtime.NewString(Title(text));
  if (name == "capitalize") return runtime.NewString(Capitalize(text));
  if (name == "swapcase") {
    return runtime.NewString(MapCharacters(
        text, [](char32_t c, std::string* out) { IsUpperLetter(c) ? AppendLower(c, out) : AppendUpper(c, out); }));
  }
  if (name == "isdigit" || name == "isdecimal") return Value(AllOf(text, IsDigit));
  if (name == "isnumeric") return Value(AllOf(text, IsNumeric));
  if (name == "isalpha") return Value(AllOf(text, IsLetter));
  if (name == "isalnum") return Value(AllOf(text, [](char32_t c) { return IsLetter(c) || IsNumeric(c); }));
  if (name == "isspace") return Value(AllOf(text, IsSpace));
  if (name == "isupper") return Value(HasOnlyCase(text, /*upper=*/true));
  if (name == "islower") return Value(HasOnlyCase(text, /*upper=*/false));
  return Value(text.empty() || AllOf(text, [](char32_t c) { return c < 0x80; }));  // isascii
}

ValueOr CallDictMethod(Runtime& runtime, const Value& self, absl::string_view name, Arguments arguments) {
  const Dict& dict = self.dict();
  if (name == "get") {
    ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, name, {"key", "default"}, 1, std::move(arguments)));
    const Value* found = dict.Find(args[0]);
    if (found != nullptr) return *found;
    return args.Given(1) ? args[1] : Value(None{});
  }
  RETURN_IF_ERROR(BoundArguments::Bind(runtime, name, {}, 0, std::move(arguments)).status());
  if (name == "copy") return self;
  RETURN_IF_ERROR(runtime.Step(dict.entries().size()));
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries()) {
    if (name == "keys") {
      items.push_back(key);
    } else if (name == "values") {
      items.push_back(value);
    } else {
      ASSIGN_OR_RETURN(Value pair, runtime.NewList({key, value}, /*is_tuple=*/true));
      items.push_back(std::move(pair));
    }
  }
  return runtime.NewList(std::move(items));
}

ValueOr CallListMethod(Runtime& runtime, const Value& self, absl::string_view name, Arguments arguments) {
  if (name == "copy") {
    RETURN_IF_ERROR(BoundArguments::Bind(runtime, name, {}, 0, std::move(arguments)).status());
    return self;
  }
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, name, {"value"}, 1, std::move(arguments)));
  int64_t count = 0;
  for (size_t i = 0; i < self.items().size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal, runtime.Equal(self.items()[i], args[0]));
    if (!equal) continue;
    if (name == "index") return Value(static_cast<int64_t>(i));
    ++count;
  }
  if (name == "index") return runtime.Fail("value is not in the list");
  return Value(count);
}

class BoundMethod final : public Object {
 public:
  BoundMethod(Value self, std::string name) : self_(std::move(self)), name_(std::move(name)) {}
  std::string TypeName() const override { return "method"; }
  ValueOr Call(Runtime& runtime, Arguments arguments) override {
    return CallMethod(runtime, self_, name_, std::move(arguments));
  }

 private:
  const Value self_;
  const std::string name_;
};

// --- functions

using FunctionBody = ValueOr (*)(Runtime&, Arguments);

class Function final : public Object {
 public:
  explicit Function(FunctionBody body) : body_(body) {}
  std::string TypeName() const override { return "function"; }
  ValueOr Call(Runtime& runtime, Arguments arguments) override { return body_(runtime, std::move(arguments)); }

 private:
  const FunctionBody body_;
};

ValueOr Range(Runtime& runtime, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, "range", {"start", "stop", "step"}, 1, std::move(arguments)));
  ASSIGN_OR_RETURN(int64_t first, args.Integer(0, 0));
  ASSIGN_OR_RETURN(int64_t end, args.Integer(1, 0));
  ASSIGN_OR_RETURN(const int64_t step, args.Integer(2, 1));
  if (!args[0].IsNumber()) return runtime.Fail("range takes integers");
  if (!args.Given(1)) {
    end = first;
    first = 0;
  }
  if (step == 0) return runtime.Fail("range: step is 0");
  std::vector<Value> items;
  for (int64_t i = first; step > 0 ? i < end : i > end;) {
    if (items.size() == kMaxRangeItems) return runtime.Exhausted("items in a range", kMaxRangeItems);
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  RETURN_IF_ERROR(runtime.Step(items.size() / 16));
  return runtime.NewList(std::move(items));
}

// dict(mapping or pairs, name=value, ...)
absl::StatusOr<Dict> BuildDict(Runtime& runtime, absl::string_view callee, Arguments arguments) {
  Dict dict;
  if (arguments.positional.size() > 1) return runtime.Fail(callee, " takes at most one positional argument");
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.IsDict()) {
      RETURN_IF_ERROR(runtime.Step(from.dict().entries().size()));
      dict = from.dict();
    } else {
      ASSIGN_OR_RETURN(const std::vector<Value> pairs, runtime.Iterate(from));
      for (const Value& pair : pairs) {
        if (!pair.IsList() || pair.items().size() != 2 || !pair.items()[0].IsScalar()) {
          return runtime.Fail(callee, " takes a mapping or pairs of a key and a value");
        }
        dict.Set(pair.items()[0], pair.items()[1]);
      }
    }
  }
  for (auto& [name, value] : arguments.named) dict.Set(Value::String(name), std::move(value));
  return dict;
}

ValueOr MakeDict(Runtime& runtime, Arguments arguments) {
  ASSIGN_OR_RETURN(Dict dict, BuildDict(runtime, "dict", std::move(arguments)));
  return runtime.NewDict(std::move(dict));
}

ValueOr MakeNamespace(Runtime& runtime, Arguments arguments) {
  ASSIGN_OR_RETURN(const Dict dict, BuildDict(runtime, "namespace", std::move(arguments)));
  ASSIGN_OR_RETURN(const std::shared_ptr<Namespace> space, runtime.NewNamespace());
  for (const auto& [key, value] : dict.entries()) {
    if (!key.IsString()) return runtime.Fail("namespace attributes are named by strings");
    RETURN_IF_ERROR(runtime.Grow(sizeof(Value) + 2 * key.string().size() + 64));
    space->attributes[key.string()] = value;
  }
  return Value(space);
}

class Cycler final : public Object {
 public:
  explicit Cycler(std::vector<Value> items) : state_(std::make_shared<State>()) { state_->items = std::move(items); }
  std::string TypeName() const override { return "cycler"; }
  bool IsCallable() const override { return false; }
  std::optional<Value> Attribute(absl::string_view name) const override {
    if (name == "current") return state_->items[state_->next];
    if (name != "next" && name != "reset") return std::nullopt;
    return Value(std::shared_ptr<Object>(std::make_shared<Method>(state_, name == "reset")));
  }
  ValueOr Call(Runtime& runtime, Arguments) override { return runtime.Fail("cycler can not be called"); }

 private:
  struct State {
    std::vector<Value> items;
    size_t next = 0;
  };
  class Method final : public Object {
   public:
    Method(std::shared_ptr<State> state, bool resets) : state_(std::move(state)), resets_(resets) {}
    std::string TypeName() const override { return "method"; }
    ValueOr Call(Runtime&, Arguments) override {
      if (resets_) {
        state_->next = 0;
        return Value(None{});
      }
      const Value current = state_->items[state_->next];
      state_->next = (state_->next + 1) % state_->items.size();
      return current;
    }

   private:
    const std::shared_ptr<State> state_;
    const bool resets_;
  };
  const std::shared_ptr<State> state_;
};

ValueOr MakeCycler(Runtime& runtime, Arguments arguments) {
  if (arguments.positional.empty()) return runtime.Fail("cycler needs at least one item");
  RETURN_IF_ERROR(runtime.Grow(256 + arguments.positional.size() * sizeof(Value)));
  return Value(std::shared_ptr<Object>(std::make_shared<Cycler>(std::move(arguments.positional))));
}

class Joiner final : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}
  std::string TypeName() const override { return "joiner"; }
  ValueOr Call(Runtime&, Arguments) override {
    if (used_) return separator_;
    used_ = true;
    return Value::String("");
  }

 private:
  const Value separator_;
  bool used_ = false;
};

ValueOr MakeJoiner(Runtime& runtime, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "joiner", {"sep"}, 0, std::move(arguments)));
  RETURN_IF_ERROR(runtime.Grow(256));
  return Value(std::shared_ptr<Object>(std::make_shared<Joiner>(args.Given(0) ? args[0] : Value::String(", "))));
}

ValueOr RaiseException(Runtime& runtime, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, "raise_exception", {"message"}, 1, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::string message, runtime.Str(args[0]));
  constexpr size_t kShown = 1000;
  return runtime.Fail("the template raised: ", absl::string_view(message).substr(0, kShown));
}

ValueOr StrftimeNow(Runtime& runtime, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "strftime_now", {"format"}, 1, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::string format, args.String(0, ""));
  constexpr size_t kMaxFormatBytes = 256;
  if (format.size() > kMaxFormatBytes) return runtime.Fail("strftime_now: format is longer than ", kMaxFormatBytes);
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] == '\0') return runtime.Fail("strftime_now: format has a zero byte");
    if (format[i] != '%') continue;
    ++i;
    if (i < format.size() && format[i] == '-') ++i;  // no padding, as glibc has it
    if (i >= format.size() ||
        absl::string_view("aAbBcdDeFHIjmMpRSTuUwWxXyYZ%").find(format[i]) == absl::string_view::npos) {
      return runtime.Fail("strftime_now: unknown conversion in the format");
    }
  }
  // A leading character tells an empty result from one that did not fit.
  char buffer[16 * kMaxFormatBytes];
  const size_t size = std::strftime(buffer, sizeof(buffer), absl::StrCat("=", format).c_str(), &*runtime.now());
  if (size == 0) return runtime.Fail("strftime_now: the result is too long");
  return runtime.NewString(std::string(buffer + 1, size - 1));
}

}  // namespace

std::string ToUpper(absl::string_view text) { return MapCharacters(text, AppendUpper); }
std::string ToLower(absl::string_view text) { return MapCharacters(text, AppendLower); }

std::string Capitalize(absl::string_view text) {
  bool first = true;
  return MapCharacters(text, [&first](char32_t c, std::string* out) {
    std::exchange(first, false) ? AppendUpper(c, out) : AppendLower(c, out);
  });
}

bool HasMethod(const Value& self, absl::string_view name) {
  if (self.IsString()) return IsIn(name, kStringMethods);
  if (self.IsDict()) return IsIn(name, kDictMethods) || IsIn(name, kChangingDictMethods);
  if (self.IsList()) {
    return IsIn(name, kListMethods) || (!self.list().is_tuple && IsIn(name, kChangingListMethods));
  }
  return false;
}

absl::StatusOr<Value> CallMethod(Runtime& runtime, const Value& self, absl::string_view name, Arguments arguments) {
  RETURN_IF_ERROR(runtime.Step());
  if (self.IsString()) return CallStringMethod(runtime, self.string(), name, std::move(arguments));
  if (IsIn(name, kChangingDictMethods) || (self.IsList() && IsIn(name, kChangingListMethods))) {
    return runtime.Fail(self.TypeName(), ".", name, " is not allowed: values can not be changed");
  }
  if (self.IsDict()) return CallDictMethod(runtime, self, name, std::move(arguments));
  return CallListMethod(runtime, self, name, std::move(arguments));
}

Value BindMethod(const Value& self, absl::string_view name) {
  return Value(std::shared_ptr<Object>(std::make_shared<BoundMethod>(self, std::string(name))));
}

std::optional<Value> FindFunction(const Runtime& runtime, absl::string_view name) {
  struct Named {
    absl::string_view name;
    FunctionBody body;
  };
  static constexpr Named kFunctions[] = {
      {"range", Range},
      {"dict", MakeDict},
      {"namespace", MakeNamespace},
      {"cycler", MakeCycler},
      {"joiner", MakeJoiner},
      {"raise_exception", RaiseException},
      {"strftime_now", StrftimeNow},
  };
  if (name == "strftime_now" && !runtime.now().has_value()) return std::nullopt;
  for (const Named& function : kFunctions) {
    if (function.name == name) return Value(std::shared_ptr<Object>(std::make_shared<Function>(function.body)));
  }
  return std::nullopt;
}

absl::StatusOr<std::string> PercentFormat(Runtime& runtime, absl::string_view format,
                                          const std::vector<Value>& values) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out.push_back(format[i]);
      continue;
    }
    std::string spec = "%";
    ++i;
    while (i < format.size() && absl::string_view("-+0 #").find(format[i]) != absl::string_view::npos) {
      if (spec.size() > 8) return runtime.Fail("format: too many flags");
      spec.push_back(format[i++]);
    }
    const auto read_number = [&] {
      size_t num_digits = 0;
      while (i < format.size() && absl::ascii_isdigit(format[i])) {
        if (++num_digits <= 3) spec.push_back(format[i]);
        ++i;
      }
      return num_digits <= 3;
    };
    bool small = read_number();
    std::optional<size_t> precision;
    if (i < format.size() && format[i] == '.') {
      spec.push_back(format[i++]);
      const size_t first = spec.size();
      small = read_number() && small;
      precision = static_cast<size_t>(std::atoi(spec.c_str() + first));
    }
    if (!small) return runtime.Fail("format: width above 999");
    if (i >= format.size()) return runtime.Fail("format: incomplete conversion");
    const char conversion = format[i];
    if (conversion == '%') {
      out.push_back('%');
      continue;
    }
    if (next >= values.size()) return runtime.Fail("format: not enough values");
    const Value& value = values[next++];
    if (conversion == 's' || conversion == 'r') {
      ASSIGN_OR_RETURN(std::string shown, runtime.Str(value));
      if (conversion == 'r') {
        shown.clear();
        AppendRepr(value, runtime.remaining_value_bytes(), &shown);
      }
      absl::string_view rest = shown;
      size_t num_bytes = 0;
      size_t length = 0;
      for (; !rest.empty() && length < precision.value_or(~size_t{0}); ++length) {
        const size_t n = DecodeUtf8(rest).num_bytes;
        num_bytes += n;
        rest.remove_prefix(n);
      }
      shown.resize(num_bytes);
      const bool left = spec.find('-') != std::string::npos;
      const size_t first_digit = spec.find_first_of("123456789");
      const size_t width =
          first_digit == std::string::npos || first_digit > spec.find('.') ? 0 : std::atoi(spec.c_str() + first_digit);
      if (!left && length < width) out.append(width - length, ' ');
      out += shown;
      if (left && length < width) out.append(width - length, ' ');
    } else if (conversion == 'd' || conversion == 'i' || conversion == 'x' || conversion == 'X') {
      if (!value.IsNumber()) return runtime.Fail("format: %", std::string(1, conversion), " needs a number");
      const double number = value.number();
      if (value.IsFloat() && !(std::abs(number) < 9e18)) return runtime.Fail("format: number is too large");
      const long long integer = value.IsFloat() ? static_cast<long long>(number) : value.integer();
      spec += std::string("ll") + (conversion == 'i' ? 'd' : conversion);
      char buffer[1100];
      out.append(buffer, std::snprintf(buffer, sizeof(buffer), spec.c_str(), integer));
    } else if (conversion == 'f' || conversion == 'F' || conversion == 'e' || conversion == 'g') {
      if (!value.IsNumber()) return runtime.Fail("format: %", std::string(1, conversion), " needs a number");
      spec += conversion;
      char buffer[2100];
      out.append(buffer, std::snprintf(buffer, sizeof(buffer), spec.c_str(), value.number()));
    } else {
      return runtime.Fail("format: unknown conversion");
    }
    if (out.size() > runtime.remaining_value_bytes()) break;
  }
  if (next < values.size()) return runtime.Fail("format: not all values were used");
  return out;
}

}  // namespace outrider::text::jinja
