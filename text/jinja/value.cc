#include "text/jinja/value.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/utf8.h"

namespace outrider::text::jinja {

std::optional<Value> Object::Attribute(absl::string_view) const { return std::nullopt; }

namespace {

// Equal keys that are no strings have equal names: 1, 1.0 and true are one key in Python.
std::string OtherKeyName(const Value& key) {
  if (key.IsNone()) return "None";
  if (!key.IsFloat()) return absl::StrCat(key.integer());
  const double number = key.number();
  if (std::abs(number) < 9e15 && number == std::floor(number)) return absl::StrCat(static_cast<int64_t>(number));
  return FloatRepr(number);
}

}  // namespace

void Dict::Set(Value key, Value value) {
  depth = std::max(depth, 1 + value.depth());
  const auto [entry, inserted] = key.IsString() ? strings_.try_emplace(key.string(), entries_.size())
                                                : others_.try_emplace(OtherKeyName(key), entries_.size());
  if (inserted) {
    entries_.emplace_back(std::move(key), std::move(value));
  } else {
    entries_[entry->second].second = std::move(value);
  }
}

const Value* Dict::Find(absl::string_view key) const {
  const auto found = strings_.find(key);
  return found == strings_.end() ? nullptr : &entries_[found->second].second;
}

const Value* Dict::Find(const Value& key) const {
  if (key.IsString()) return Find(absl::string_view(key.string()));
  if (!key.IsScalar() || others_.empty()) return nullptr;
  const auto found = others_.find(OtherKeyName(key));
  return found == others_.end() ? nullptr : &entries_[found->second].second;
}

Value Value::UndefinedNamed(absl::string_view name) {
  return Value(Undefined{std::make_shared<const std::string>(name)});
}

absl::string_view Value::undefined_name() const {
  const auto& name = std::get<Undefined>(rep_).name;
  return name == nullptr ? absl::string_view("value") : absl::string_view(*name);
}

bool Value::Truth() const {
  if (IsBool()) return boolean();
  if (IsInteger()) return integer() != 0;
  if (IsFloat()) return number() != 0;
  if (IsString()) return !string().empty();
  if (IsList()) return !items().empty();
  if (IsDict()) return !dict().entries().empty();
  return IsNamespace() || IsObject();
}

std::string Value::TypeName() const {
  if (IsUndefined()) return "undefined";
  if (IsNone()) return "None";
  if (IsBool()) return "bool";
  if (IsInteger()) return "int";
  if (IsFloat()) return "float";
  if (IsString()) return "str";
  if (IsList()) return list().is_tuple ? "tuple" : "list";
  if (IsDict()) return "dict";
  if (IsNamespace()) return "namespace";
  return object().TypeName();
}

int Value::depth() const {
  if (IsList()) return list().depth;
  if (IsDict()) return dict().depth;
  return 1;
}

bool Equals(const Value& a, const Value& b, size_t* budget) {
  if (*budget == 0) return false;
  --*budget;
  if (a.IsNumber() && b.IsNumber()) {
    if (!a.IsFloat() && !b.IsFloat()) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.IsString() && b.IsString()) {
    if (a.string().size() != b.string().size()) return false;
    *budget -= std::min(*budget, a.string().size() / 64);
    return a.string() == b.string();
  }
  if (a.IsNone() && b.IsNone()) return true;
  if (a.IsUndefined() && b.IsUndefined()) return true;
  if (a.IsList() && b.IsList()) {
    if (&a.list() == &b.list()) return true;
    if (a.list().is_tuple != b.list().is_tuple || a.items().size() != b.items().size()) return false;
    for (size_t i = 0; i < a.items().size(); ++i) {
      if (!Equals(a.items()[i], b.items()[i], budget)) return false;
    }
    return true;
  }
  if (a.IsDict() && b.IsDict()) {
    if (&a.dict() == &b.dict()) return true;
    if (a.dict().entries().size() != b.dict().entries().size()) return false;
    for (const auto& [key, value] : a.dict().entries()) {
      const Value* other = b.dict().Find(key);
      if (other == nullptr || !Equals(value, *other, budget)) return false;
    }
    return true;
  }
  return (a.IsNamespace() || a.IsObject()) && a.SameAs(b);
}

bool Value::SameAs(const Value& other) const {
  if (rep_.index() != other.rep_.index()) return false;
  if (IsList()) return &list() == &other.list();
  if (IsDict()) return &dict() == &other.dict();
  if (IsNamespace()) return &name_space() == &other.name_space();
  if (IsObject()) return &object() == &other.object();
  size_t budget = ~size_t{0};
  return Equals(*this, other, &budget);
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  CHECK(error == std::errc());
  absl::string_view text(buffer, end - buffer);
  std::string out;
  if (text[0] == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + e + 1 + (text[e + 1] == '+'), text.data() + text.size(), exponent);
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c != '.') digits.push_back(c);
  }
  // Python writes an exponent below 1e-4 and from 1e16 on.
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (digits.size() > 1) absl::StrAppend(&out, ".", digits.substr(1));
    const int magnitude = std::abs(exponent);
    absl::StrAppend(&out, exponent < 0 ? "e-" : "e+", magnitude < 10 ? "0" : "", magnitude);
  } else if (exponent < 0) {
    absl::StrAppend(&out, "0.", std::string(-exponent - 1, '0'), digits);
  } else {
    const size_t num_whole = exponent + 1;
    if (digits.size() < num_whole) digits.append(num_whole - digits.size(), '0');
    absl::StrAppend(&out, digits.substr(0, num_whole), ".",
                    digits.size() > num_whole ? digits.substr(num_whole) : std::string("0"));
  }
  return out;
}

namespace {

bool IsPrintable(char32_t code_point) {
  if (code_point == ' ') return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

void AppendHex(uint32_t value, int num_digits, std::string* out) {
  for (int shift = 4 * (num_digits - 1); shift >= 0; shift -= 4)
    out->push_back("0123456789abcdef"[value >> shift & 15]);
}

void AppendStringRepr(absl::string_view text, std::string* out) {
  const bool has_single = text.find('\'') != absl::string_view::npos;
  const bool has_double = text.find('"') != absl::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out->push_back(quote);
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    const char32_t c = step.code_point;
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out->push_back('\\');
      out->push_back(static_cast<char>(c));
    } else if (c == '\n') {
      *out += "\\n";
    } else if (c == '\r') {
      *out += "\\r";
    } else if (c == '\t') {
      *out += "\\t";
    } else if (IsPrintable(c)) {
      AppendUtf8(c, out);
    } else if (c < 0x100) {
      *out += "\\x";
      AppendHex(c, 2, out);
    } else if (c < 0x10000) {
      *out += "\\u";
      AppendHex(c, 4, out);
    } else {
      *out += "\\U";
      AppendHex(c, 8, out);
    }
    text.remove_prefix(step.num_bytes);
  }
  out->push_back(quote);
}

void AppendJsonString(absl::string_view text, bool ensure_ascii, std::string* out) {
  out->push_back('"');
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    const char32_t c = step.code_point;
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      case '\b':
        *out += "\\b";
        break;
      case '\f':
        *out += "\\f";
        break;
      default:
        if (c >= 0x20 && (c < 0x7F || !ensure_ascii)) {
          AppendUtf8(c, out);
        } else if (c < 0x10000) {
          *out += "\\u";
          AppendHex(c, 4, out);
        } else {
          *out += "\\u";
          AppendHex(0xD800 + ((c - 0x10000) >> 10), 4, out);
          *out += "\\u";
          AppendHex(0xDC00 + ((c - 0x10000) & 0x3FF), 4, out);
        }
    }
    text.remove_prefix(step.num_bytes);
  }
  out->push_back('"');
}

void AppendJsonNewline(const JsonStyle& style, int level, std::string* out) {
  if (!style.indent.has_value()) return;
  out->push_back('\n');
  for (int i = 0; i < level; ++i) {
    if (style.indent_text.empty()) {
      out->append(*style.indent, ' ');
    } else {
      *out += style.indent_text;
    }
  }
}

absl::StatusOr<std::string> JsonKey(const Value& key) {
  if (key.IsString()) return key.string();
  if (key.IsNone()) return std::string("null");
  if (key.IsBool()) return std::string(key.boolean() ? "true" : "false");
  if (key.IsInteger()) return absl::StrCat(key.integer());
  if (key.IsFloat()) return FloatRepr(key.number());
  return absl::InvalidArgumentError(absl::StrCat("JSON keys can not be ", key.TypeName()));
}

absl::Status AppendJsonAt(const Value& value, const JsonStyle& style, size_t max_bytes, int level, std::string* out) {
  if (out->size() > max_bytes) return absl::OkStatus();
  if (value.IsNone()) {
    *out += "null";
  } else if (value.IsBool()) {
    *out += value.boolean() ? "true" : "false";
  } else if (value.IsInteger()) {
    absl::StrAppend(out, value.integer());
  } else if (value.IsFloat()) {
    const double number = value.number();
    *out += std::isnan(number)   ? "NaN"
            : std::isinf(number) ? (number > 0 ? "Infinity" : "-Infinity")
                                 : FloatRepr(number);
  } else if (value.IsString()) {
    AppendJsonString(value.string(), style.ensure_ascii, out);
  } else if (value.IsList()) {
    const auto& items = value.items();
    out->push_back('[');
    for (size_t i = 0; i < items.size() && out->size() <= max_bytes; ++i) {
      if (i > 0) *out += style.item_separator;
      AppendJsonNewline(style, level + 1, out);
      RETURN_IF_ERROR(AppendJsonAt(items[i], style, max_bytes, level + 1, out));
    }
    if (!items.empty()) AppendJsonNewline(style, level, out);
    out->push_back(']');
  } else if (value.IsDict()) {
    std::vector<std::pair<std::string, const Value*>> entries;
    for (const auto& [key, item] : value.dict().entries()) {
      ASSIGN_OR_RETURN(std::string name, JsonKey(key));
      entries.emplace_back(std::move(name), &item);
    }
    if (style.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    out->push_back('{');
    for (size_t i = 0; i < entries.size() && out->size() <= max_bytes; ++i) {
      if (i > 0) *out += style.item_separator;
      AppendJsonNewline(style, level + 1, out);
      AppendJsonString(entries[i].first, style.ensure_ascii, out);
      *out += style.key_separator;
      RETURN_IF_ERROR(AppendJsonAt(*entries[i].second, style, max_bytes, level + 1, out));
    }
    if (!entries.empty()) AppendJsonNewline(style, level, out);
    out->push_back('}');
  } else {
    return absl::InvalidArgumentError(absl::StrCat("tojson: JSON has no form for ", value.TypeName()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AppendJson(const Value& value, const JsonStyle& style, size_t max_bytes, std::string* out) {
  return AppendJsonAt(value, style, max_bytes, 0, out);
}

void AppendRepr(const Value& value, size_t max_bytes, std::string* out) {
  if (out->size() > max_bytes) return;
  if (value.IsUndefined()) {
    *out += "Undefined";
  } else if (value.IsNone()) {
    *out += "None";
  } else if (value.IsBool()) {
    *out += value.boolean() ? "True" : "False";
  } else if (value.IsInteger()) {
    absl::StrAppend(out, value.integer());
  } else if (value.IsFloat()) {
    *out += FloatRepr(value.number());
  } else if (value.IsString()) {
    AppendStringRepr(value.string(), out);
  } else if (value.IsList()) {
    const auto& items = value.items();
    const bool is_tuple = value.list().is_tuple;
    out->push_back(is_tuple ? '(' : '[');
    for (size_t i = 0; i < items.size() && out->size() <= max_bytes; ++i) {
      if (i > 0) *out += ", ";
      AppendRepr(items[i], max_bytes, out);
    }
    if (is_tuple && items.size() == 1) out->push_back(',');
    out->push_back(is_tuple ? ')' : ']');
  } else if (value.IsDict()) {
    out->push_back('{');
    bool first = true;
    for (const auto& [key, item] : value.dict().entries()) {
      if (out->size() > max_bytes) return;
      if (!first) *out += ", ";
      first = false;
      AppendRepr(key, max_bytes, out);
      *out += ": ";
      AppendRepr(item, max_bytes, out);
    }
    out->push_back('}');
  } else {
    absl::StrAppend(out, "<", value.TypeName(), ">");
  }
}

void AppendStr(const Value& value, size_t max_bytes, std::string* out) {
  if (value.IsUndefined()) return;
  if (value.IsString()) {
    *out += value.string();
  } else {
    AppendRepr(value, max_bytes, out);
  }
}

size_t LengthInCodePoints(absl::string_view text) {
  size_t length = 0;
  while (!text.empty()) {
    text.remove_prefix(DecodeUtf8(text).num_bytes);
    ++length;
  }
  return length;
}

bool IsSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

absl::string_view StripLeft(absl::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    if (!IsSpace(step.code_point)) break;
    text.remove_prefix(step.num_bytes);
  }
  return text;
}

absl::string_view StripRight(absl::string_view text) {
  while (!text.empty()) {
    size_t first = text.size() - 1;
    while (first > 0 && text.size() - first < 4 && (static_cast<uint8_t>(text[first]) & 0xC0) == 0x80) --first;
    const Utf8Step step = DecodeUtf8(text.substr(first));
    if (first + step.num_bytes != text.size() || !IsSpace(step.code_point)) break;
    text.remove_suffix(step.num_bytes);
  }
  return text;
}

}  // namespace outrider::text::jinja
