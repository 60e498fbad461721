#include "text/jinja/filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "text/jinja/methods.h"
#include "text/utf8.h"

namespace outrider::text::jinja {
namespace {

using ValueOr = absl::StatusOr<Value>;

// item.a.b.0, as Jinja's make_attrgetter; `path` may be an integer too. Undefined where something is missing.
ValueOr GetPath(Runtime& runtime, const Value& item, const Value& path) {
  if (!path.IsString()) return runtime.GetItem(item, path);
  Value value = item;
  for (const absl::string_view part : absl::StrSplit(path.string(), '.')) {
    int64_t index = 0;
    const bool is_index =
        !part.empty() && std::all_of(part.begin(), part.end(), absl::ascii_isdigit) && absl::SimpleAtoi(part, &index);
    ASSIGN_OR_RETURN(value, runtime.GetItem(value, is_index ? Value(index) : Value::String(std::string(part))));
  }
  return value;
}

// What sorting, unique and the like compare: without regard to case unless asked.
ValueOr SortKey(Runtime& runtime, const Value& item, const Value* path, bool case_sensitive) {
  Value key = item;
  if (path != nullptr) {
    ASSIGN_OR_RETURN(key, GetPath(runtime, item, *path));
  }
  if (!case_sensitive && key.IsString()) return runtime.NewString(ToLower(key.string()));
  return key;
}

// Indices of `keys` in their order; equal ones stay in place.
absl::StatusOr<std::vector<size_t>> SortedOrder(Runtime& runtime, const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> order(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  absl::Status status;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (!status.ok()) return false;
    const absl::StatusOr<int> compared = runtime.Compare(keys[a], keys[b]);
    if (!compared.ok()) {
      status = compared.status();
      return false;
    }
    return reverse ? *compared > 0 : *compared < 0;
  });
  RETURN_IF_ERROR(status);
  return order;
}

std::string EscapeHtml(absl::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

std::string EncodeUrl(absl::string_view text) {
  std::string out;
  for (const char c : text) {
    if (absl::ascii_isalnum(c) || absl::string_view("_.-~/").find(c) != absl::string_view::npos) {
      out.push_back(c);
    } else {
      out.push_back('%');
      out.push_back("0123456789ABCDEF"[static_cast<uint8_t>(c) >> 4]);
      out.push_back("0123456789ABCDEF"[static_cast<uint8_t>(c) & 15]);
    }
  }
  return out;
}

ValueOr ToJson(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0,
                                        std::move(arguments)));
  JsonStyle style;
  style.ensure_ascii = args.Truth(0, false);
  style.sort_keys = args.Truth(3, false);
  if (args.Has(1)) {
    if (args[1].IsString()) {
      style.indent = 0;
      style.indent_text = args[1].string();
    } else {
      ASSIGN_OR_RETURN(const int64_t indent, args.Integer(1, 0));
      style.indent = static_cast<int>(std::clamp<int64_t>(indent, 0, 100));
    }
    style.item_separator = std::string(",");
  }
  if (args.Has(2)) {
    if (!args[2].IsList() || args[2].items().size() != 2 || !args[2].items()[0].IsString() ||
        !args[2].items()[1].IsString()) {
      return runtime.Fail("tojson: separators are two strings");
    }
    style.item_separator = args[2].items()[0].string();
    style.key_separator = args[2].items()[1].string();
  }
  std::string out;
  if (const absl::Status status = AppendJson(value, style, runtime.remaining_value_bytes(), &out); !status.ok()) {
    return runtime.Fail(status.message());
  }
  return runtime.NewString(std::move(out));
}

ValueOr Sort(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "sort", {"reverse", "case_sensitive", "attribute"}, 0,
                                                         std::move(arguments)));
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(value));
  std::vector<Value> keys;
  for (const Value& item : items) {
    // "a,b" sorts by several attributes.
    if (args.Has(2) && args[2].IsString() && args[2].string().find(',') != std::string::npos) {
      std::vector<Value> parts;
      for (const absl::string_view path : absl::StrSplit(args[2].string(), ',')) {
        const Value path_value = Value::String(std::string(path));
        ASSIGN_OR_RETURN(Value part, SortKey(runtime, item, &path_value, args.Truth(1, false)));
        parts.push_back(std::move(part));
      }
      ASSIGN_OR_RETURN(Value key, runtime.NewList(std::move(parts)));
      keys.push_back(std::move(key));
    } else {
      ASSIGN_OR_RETURN(Value key, SortKey(runtime, item, args.Has(2) ? &args[2] : nullptr, args.Truth(1, false)));
      keys.push_back(std::move(key));
    }
  }
  ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(runtime, keys, args.Truth(0, false)));
  std::vector<Value> sorted;
  for (const size_t i : order) sorted.push_back(items[i]);
  return runtime.NewList(std::move(sorted));
}

ValueOr DictSort(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "dictsort", {"case_sensitive", "by", "reverse"}, 0,
                                                         std::move(arguments)));
  ASSIGN_OR_RETURN(const std::string by, args.String(1, "key"));
  if (by != "key" && by != "value") return runtime.Fail("dictsort: by is 'key' or 'value'");
  if (!value.IsDict()) return runtime.Fail("dictsort needs a mapping, not ", value.TypeName());
  ASSIGN_OR_RETURN(const Value pairs, CallMethod(runtime, value, "items", {}));
  std::vector<Value> keys;
  for (const Value& pair : pairs.items()) {
    ASSIGN_OR_RETURN(Value key, SortKey(runtime, pair.items()[by == "key" ? 0 : 1], nullptr, args.Truth(0, false)));
    keys.push_back(std::move(key));
  }
  ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(runtime, keys, args.Truth(2, false)));
  std::vector<Value> sorted;
  for (const size_t i : order) sorted.push_back(pairs.items()[i]);
  return runtime.NewList(std::move(sorted));
}

ValueOr GroupBy(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "groupby", {"attribute", "default", "case_sensitive"},
                                                         1, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(value));
  std::vector<Value> labels;
  std::vector<Value> keys;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value label, GetPath(runtime, item, args[0]));
    if (label.IsUndefined() && args.Given(1)) label = args[1];
    ASSIGN_OR_RETURN(Value key, SortKey(runtime, label, nullptr, args.Truth(2, false)));
    labels.push_back(std::move(label));
    keys.push_back(std::move(key));
  }
  ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(runtime, keys, false));
  std::vector<Value> groups;
  for (size_t first = 0; first < order.size();) {
    std::vector<Value> members;
    size_t end = first;
    for (; end < order.size(); ++end) {
      ASSIGN_OR_RETURN(const bool same, runtime.Equal(keys[order[first]], keys[order[end]]));
      if (!same) break;
      members.push_back(items[order[end]]);
    }
    ASSIGN_OR_RETURN(Value list, runtime.NewList(std::move(members)));
    ASSIGN_OR_RETURN(Value pair, runtime.NewList({labels[order[first]], std::move(list)}, /*is_tuple=*/true));
    groups.push_back(std::move(pair));
    first = end;
  }
  return runtime.NewList(std::move(groups));
}

ValueOr Unique(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, "unique", {"case_sensitive", "attribute"}, 0, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(value));
  std::vector<Value> kept;
  std::vector<Value> keys;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value key, SortKey(runtime, item, args.Has(1) ? &args[1] : nullptr, args.Truth(0, false)));
    bool seen = false;
    for (const Value& other : keys) {
      ASSIGN_OR_RETURN(seen, runtime.Equal(key, other));
      if (seen) break;
    }
    if (seen) continue;
    keys.push_back(std::move(key));
    kept.push_back(item);
  }
  return runtime.NewList(std::move(kept));
}

ValueOr MinMax(Runtime& runtime, absl::string_view name, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, name, {"case_sensitive", "attribute"}, 0, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(value));
  if (items.empty()) return Value::UndefinedNamed("item of an empty sequence");
  size_t best = 0;
  Value best_key;
  for (size_t i = 0; i < items.size(); ++i) {
    ASSIGN_OR_RETURN(Value key, SortKey(runtime, items[i], args.Has(1) ? &args[1] : nullptr, args.Truth(0, false)));
    if (i > 0) {
      ASSIGN_OR_RETURN(const int order, runtime.Compare(key, best_key));
      if (name == "min" ? order >= 0 : order <= 0) continue;
    }
    best = i;
    best_key = std::move(key);
  }
  return items[best];
}

ValueOr Sum(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, "sum", {"attribute", "start"}, 0, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(value));
  Value sum = args.Given(1) ? args[1] : Value(0);
  for (const Value& item : items) {
    Value part = item;
    if (args.Has(0)) {
      ASSIGN_OR_RETURN(part, GetPath(runtime, item, args[0]));
    }
    ASSIGN_OR_RETURN(sum, runtime.Arithmetic("+", sum, part));
  }
  return sum;
}

ValueOr JoinFilter(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "join", {"d", "attribute"}, 0, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(value));
  ASSIGN_OR_RETURN(const std::string separator, args.String(0, ""));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (args.Has(1)) {
      ASSIGN_OR_RETURN(item, GetPath(runtime, item, args[1]));
    }
    if (i > 0) out += separator;
    AppendStr(item, runtime.remaining_value_bytes(), &out);
    if (out.size() > runtime.remaining_value_bytes()) break;
  }
  return runtime.NewString(std::move(out));
}

// map(attribute="a", default=x) and map("filter", arguments...).
ValueOr Map(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(value));
  std::vector<Value> mapped;
  if (arguments.positional.empty()) {
    ASSIGN_OR_RETURN(const auto args,
                     BoundArguments::Bind(runtime, "map", {"attribute", "default"}, 1, std::move(arguments)));
    for (const Value& item : items) {
      ASSIGN_OR_RETURN(Value part, GetPath(runtime, item, args[0]));
      if (part.IsUndefined() && args.Given(1)) part = args[1];
      mapped.push_back(std::move(part));
    }
    return runtime.NewList(std::move(mapped));
  }
  const Value name = arguments.positional[0];
  if (!name.IsString()) return runtime.Fail("map: the filter's name is a string");
  arguments.positional.erase(arguments.positional.begin());
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value part, ApplyFilter(runtime, name.string(), item, arguments));
    mapped.push_back(std::move(part));
  }
  return runtime.NewList(std::move(mapped));
}

// select and reject ("test", arguments...); selectattr and rejectattr ("attribute", "test", arguments...).
ValueOr Select(Runtime& runtime, const Value& value, bool keeps, bool by_attribute, Arguments arguments) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(value));
  auto& positional = arguments.positional;
  Value path;
  if (by_attribute) {
    if (positional.empty()) return runtime.Fail("selectattr and rejectattr need an attribute");
    path = positional[0];
    positional.erase(positional.begin());
  }
  std::optional<Value> test;
  if (!positional.empty()) {
    test = positional[0];
    if (!test->IsString()) return runtime.Fail("select: the test's name is a string");
    positional.erase(positional.begin());
  }
  std::vector<Value> kept;
  for (const Value& item : items) {
    Value subject = item;
    if (by_attribute) {
      ASSIGN_OR_RETURN(subject, GetPath(runtime, item, path));
    }
    bool passes = subject.Truth();
    if (test.has_value()) {
      ASSIGN_OR_RETURN(passes, ApplyTest(runtime, test->string(), subject, arguments));
    }
    if (passes == keeps) kept.push_back(item);
  }
  return runtime.NewList(std::move(kept));
}

ValueOr Batch(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, "batch", {"linecount", "fill_with"}, 1, std::move(arguments)));
  ASSIGN_OR_RETURN(const int64_t size, args.Integer(0, 1));
  if (size < 1 || size > kMaxRangeItems) return runtime.Fail("batch: size ", size, " is out of range");
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(value));
  std::vector<Value> batches;
  std::vector<Value> batch;
  for (size_t i = 0; i < items.size(); ++i) {
    batch.push_back(items[i]);
    if (batch.size() < static_cast<size_t>(size) && i + 1 < items.size()) continue;
    if (args.Has(1)) batch.resize(static_cast<size_t>(size), args[1]);
    ASSIGN_OR_RETURN(Value list, runtime.NewList(std::exchange(batch, {})));
    batches.push_back(std::move(list));
  }
  return runtime.NewList(std::move(batches));
}

ValueOr SliceFilter(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, "slice", {"slices", "fill_with"}, 1, std::move(arguments)));
  ASSIGN_OR_RETURN(const int64_t num_slices, args.Integer(0, 1));
  if (num_slices < 1 || num_slices > kMaxRangeItems) return runtime.Fail("slice: ", num_slices, " is out of range");
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(value));
  const size_t num_each = items.size() / num_slices;
  const size_t num_longer = items.size() % num_slices;
  std::vector<Value> slices;
  size_t first = 0;
  for (size_t i = 0; i < static_cast<size_t>(num_slices); ++i) {
    const size_t end = first + num_each + (i < num_longer ? 1 : 0);
    std::vector<Value> part(items.begin() + first, items.begin() + end);
    if (args.Has(1) && i >= num_longer && num_longer > 0) part.push_back(args[1]);
    ASSIGN_OR_RETURN(Value list, runtime.NewList(std::move(part)));
    slices.push_back(std::move(list));
    first = end;
  }
  return runtime.NewList(std::move(slices));
}

ValueOr Indent(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, "indent", {"width", "first", "blank"}, 0, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::string text, runtime.Str(value));
  std::string indentation;
  if (args.Has(0) && args[0].IsString()) {
    indentation = args[0].string();
  } else {
    ASSIGN_OR_RETURN(const int64_t width, args.Integer(0, 4));
    if (width < 0 || width > 1000) return runtime.Fail("indent: width ", width, " is out of range");
    indentation.assign(static_cast<size_t>(width), ' ');
  }
  std::string out;
  bool first = true;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const bool indents = first ? args.Truth(1, false) : !line.empty() || args.Truth(2, false);
    if (!first) out.push_back('\n');
    first = false;
    if (indents) out += indentation;
    out.append(line.data(), line.size());
    if (out.size() > runtime.remaining_value_bytes()) break;
  }
  return runtime.NewString(std::move(out));
}

ValueOr Truncate(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "truncate", {"length", "killwords", "end", "leeway"},
                                                         0, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::string text, runtime.Str(value));
  ASSIGN_OR_RETURN(const int64_t length, args.Integer(0, 255));
  ASSIGN_OR_RETURN(const std::string end, args.String(2, "..."));
  ASSIGN_OR_RETURN(const int64_t leeway, args.Integer(3, 5));
  const int64_t end_length = static_cast<int64_t>(LengthInCodePoints(end));
  if (length < end_length || leeway < 0) return runtime.Fail("truncate: length ", length, " is out of range");
  if (static_cast<int64_t>(LengthInCodePoints(text)) <= length + std::min<int64_t>(leeway, 1 << 20)) {
    return runtime.NewString(text);
  }
  absl::string_view rest = text;
  for (int64_t i = 0; i < length - end_length; ++i) rest.remove_prefix(DecodeUtf8(rest).num_bytes);
  absl::string_view kept = absl::string_view(text).substr(0, text.size() - rest.size());
  if (!args.Truth(1, false)) kept = kept.substr(0, kept.rfind(' '));
  return runtime.NewString(absl::StrCat(kept, end));
}

ValueOr Round(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args,
                   BoundArguments::Bind(runtime, "round", {"precision", "method"}, 0, std::move(arguments)));
  ASSIGN_OR_RETURN(const int64_t precision, args.Integer(0, 0));
  ASSIGN_OR_RETURN(const std::string method, args.String(1, "common"));
  if (!value.IsNumber()) return runtime.Fail("round needs a number, not ", value.TypeName());
  if (precision < 0 || precision > 15) return runtime.Fail("round: precision ", precision, " is out of range");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = value.number() * scale;
  if (method == "common") return Value(std::nearbyint(scaled) / scale);
  if (method == "ceil") return Value(std::ceil(scaled) / scale);
  if (method == "floor") return Value(std::floor(scaled) / scale);
  return runtime.Fail("round: method is common, ceil or floor");
}

ValueOr ToInteger(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "int", {"default", "base"}, 0, std::move(arguments)));
  const Value fallback = args.Given(0) ? args[0] : Value(0);
  ASSIGN_OR_RETURN(const int64_t base, args.Integer(1, 10));
  if (value.IsNumber() && !value.IsFloat()) return Value(value.integer());
  if (value.IsFloat()) return std::abs(value.number()) < 9e18 ? Value(static_cast<int64_t>(value.number())) : fallback;
  if (!value.IsString() || base < 2 || base > 36) return fallback;
  absl::string_view text = StripLeft(StripRight(value.string()));
  const bool negative = !text.empty() && text[0] == '-';
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  if (text.size() > 1 && text[0] == '0') {
    const char mark = absl::ascii_tolower(text[1]);
    if ((base == 16 && mark == 'x') || (base == 8 && mark == 'o') || (base == 2 && mark == 'b')) text.remove_prefix(2);
  }
  int64_t integer = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), integer, static_cast<int>(base));
  if (result.ec == std::errc() && result.ptr == text.data() + text.size() && !text.empty() && text[0] != '-') {
    return Value(negative ? -integer : integer);
  }
  double number = 0;
  if (absl::SimpleAtod(text, &number) && std::abs(number) < 9e18) {
    return Value(static_cast<int64_t>(negative ? -number : number));
  }
  return fallback;
}

ValueOr ToFloat(Runtime& runtime, const Value& value, Arguments arguments) {
  ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "float", {"default"}, 0, std::move(arguments)));
  if (value.IsNumber()) return Value(value.number());
  double number = 0;
  if (value.IsString() && absl::SimpleAtod(StripLeft(StripRight(value.string())), &number)) return Value(number);
  return args.Given(0) ? args[0] : Value(0.0);
}

// Jinja's title: words begin at the start and after space, -, (, {, [ and <.
std::string TitleFilter(absl::string_view text) {
  std::string out;
  std::string word;
  const auto flush = [&] {
    out += Capitalize(word);
    word.clear();
  };
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    const absl::string_view character = text.substr(0, step.num_bytes);
    if (IsSpace(step.code_point) || absl::string_view("-({[<").find(character) != absl::string_view::npos) {
      flush();
      out.append(character.data(), character.size());
    } else {
      word.append(character.data(), character.size());
    }
    text.remove_prefix(step.num_bytes);
  }
  flush();
  return out;
}

ValueOr FirstOrLast(Runtime& runtime, const Value& value, bool first) {
  if (value.IsString()) {
    RETURN_IF_ERROR(runtime.Scan(value.string().size()));
    if (value.string().empty()) return Value::UndefinedNamed("item of an empty sequence");
    return runtime.GetItem(value, Value(first ? 0 : -1));
  }
  if (value.IsList()) {
    if (value.items().empty()) return Value::UndefinedNamed("item of an empty sequence");
    return first ? value.items().front() : value.items().back();
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.Iterate(value));
  if (items.empty()) return Value::UndefinedNamed("item of an empty sequence");
  return first ? items.front() : items.back();
}

ValueOr Reverse(Runtime& runtime, const Value& value) {
  if (value.IsString()) return runtime.Slice(value, None{}, None{}, Value(-1));
  ASSIGN_OR_RETURN(std::vector<Value> items, runtime.Iterate(value));
  std::reverse(items.begin(), items.end());
  return runtime.NewList(std::move(items));
}

bool IsIn(absl::string_view name, std::initializer_list<absl::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Filters that take no arguments and turn text into text.
std::optional<std::string> ApplyTextFilter(absl::string_view name, absl::string_view text) {
  if (name == "upper") return ToUpper(text);
  if (name == "lower") return ToLower(text);
  if (name == "capitalize") return Capitalize(text);
  if (name == "title") return TitleFilter(text);
  if (name == "escape" || name == "e" || name == "forceescape") return EscapeHtml(text);
  if (name == "urlencode") return EncodeUrl(text);
  if (name == "string" || name == "safe") return std::string(text);
  return std::nullopt;
}

}  // namespace

absl::StatusOr<Value> ApplyFilter(Runtime& runtime, absl::string_view name, const Value& value, Arguments arguments) {
  RETURN_IF_ERROR(runtime.Step());
  const Runtime::Frame frame(&runtime);
  RETURN_IF_ERROR(frame.Check());
  if (name == "default" || name == "d") {
    ASSIGN_OR_RETURN(const auto args,
                     BoundArguments::Bind(runtime, name, {"default_value", "boolean"}, 0, std::move(arguments)));
    const bool use_default = value.IsUndefined() || (args.Truth(1, false) && !value.Truth());
    return use_default ? (args.Given(0) ? args[0] : Value::String("")) : value;
  }
  if (name == "tojson") return ToJson(runtime, value, std::move(arguments));
  if (name == "join") return JoinFilter(runtime, value, std::move(arguments));
  if (name == "map") return Map(runtime, value, std::move(arguments));
  if (name == "select" || name == "reject") {
    return Select(runtime, value, name == "select", /*by_attribute=*/false, std::move(arguments));
  }
  if (name == "selectattr" || name == "rejectattr") {
    return Select(runtime, value, name == "selectattr", /*by_attribute=*/true, std::move(arguments));
  }
  if (name == "sort") return Sort(runtime, value, std::move(arguments));
  if (name == "dictsort") return DictSort(runtime, value, std::move(arguments));
  if (name == "groupby") return GroupBy(runtime, value, std::move(arguments));
  if (name == "unique") return Unique(runtime, value, std::move(arguments));
  if (name == "min" || name == "max") return MinMax(runtime, name, value, std::move(arguments));
  if (name == "sum") return Sum(runtime, value, std::move(arguments));
  if (name == "batch") return Batch(runtime, value, std::move(arguments));
  if (name == "slice") return SliceFilter(runtime, value, std::move(arguments));
  if (name == "indent") return Indent(runtime, value, std::move(arguments));
  if (name == "truncate") return Truncate(runtime, value, std::move(arguments));
  if (name == "round") return Round(runtime, value, std::move(arguments));
  if (name == "int") return ToInteger(runtime, value, std::move(arguments));
  if (name == "float") return ToFloat(runtime, value, std::move(arguments));
  if (name == "attr") {
    ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, name, {"name"}, 1, std::move(arguments)));
    ASSIGN_OR_RETURN(const std::string attribute, args.String(0, ""));
    return runtime.GetAttribute(value, attribute);
  }
  if (name == "trim" || name == "replace" || name == "center") {
    ASSIGN_OR_RETURN(std::string text, runtime.Str(value));
    if (name == "center" && arguments.positional.empty() && arguments.named.empty()) {
      arguments.positional.emplace_back(80);
    }
    return CallMethod(runtime, Value::String(std::move(text)), name == "trim" ? "strip" : name, std::move(arguments));
  }
  if (name == "format") {
    ASSIGN_OR_RETURN(const std::string text, runtime.Str(value));
    ASSIGN_OR_RETURN(std::string formatted, PercentFormat(runtime, text, arguments.positional));
    return runtime.NewString(std::move(formatted));
  }

  // The rest take no arguments.
  if (IsIn(name,
           {"upper", "lower", "capitalize", "title", "escape", "e", "forceescape", "urlencode", "string", "safe"})) {
    RETURN_IF_ERROR(BoundArguments::Bind(runtime, name, {}, 0, std::move(arguments)).status());
    if (value.IsString() && IsIn(name, {"string", "safe"})) return value;
    ASSIGN_OR_RETURN(const std::string text, runtime.Str(value));
    RETURN_IF_ERROR(runtime.Scan(text.size()));
    return runtime.NewString(*ApplyTextFilter(name, text));
  }
  if (!IsIn(name, {"length", "count", "first", "last", "reverse", "list", "items", "abs", "wordcount"})) {
    return runtime.Fail("no filter named '", name.substr(0, 40), "'");
  }
  RETURN_IF_ERROR(BoundArguments::Bind(runtime, name, {}, 0, std::move(arguments)).status());
  if (name == "length" || name == "count") {
    ASSIGN_OR_RETURN(const int64_t length, runtime.Length(value));
    return Value(length);
  }
  if (name == "first" || name == "last") return FirstOrLast(runtime, value, name == "first");
  if (name == "reverse") return Reverse(runtime, value);
  if (name == "list") {
    ASSIGN_OR_RETURN(std::vector<Value> items, runtime.Iterate(value));
    return runtime.NewList(std::move(items));
  }
  if (name == "items") {
    if (value.IsUndefined()) return runtime.NewList({});
    if (!value.IsDict()) return runtime.Fail("items needs a mapping, not ", value.TypeName());
    return CallMethod(runtime, value, "items", {});
  }
  if (name == "abs") {
    if (!value.IsNumber()) return runtime.Fail("abs needs a number, not ", value.TypeName());
    if (value.IsFloat()) return Value(std::abs(value.number()));
    return value.integer() < 0 ? runtime.Negate(value) : ValueOr(Value(value.integer()));
  }
  ASSIGN_OR_RETURN(std::string text, runtime.Str(value));  // wordcount
  ASSIGN_OR_RETURN(const Value words, CallMethod(runtime, Value::String(std::move(text)), "split", {}));
  return Value(static_cast<int64_t>(words.items().size()));
}

absl::StatusOr<bool> ApplyTest(Runtime& runtime, absl::string_view name, const Value& value, Arguments arguments) {
  RETURN_IF_ERROR(runtime.Step());
  const auto one_argument = [&]() -> ValueOr {
    ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, name, {"other"}, 1, std::move(arguments)));
    return args[0];
  };
  if (IsIn(name, {"eq", "equalto", "==", "ne", "!="})) {
    ASSIGN_OR_RETURN(const Value other, one_argument());
    ASSIGN_OR_RETURN(const bool equal, runtime.Equal(value, other));
    return equal != IsIn(name, {"ne", "!="});
  }
  if (IsIn(name, {"lt", "lessthan", "<", "le", "<=", "gt", "greaterthan", ">", "ge", ">="})) {
    ASSIGN_OR_RETURN(const Value other, one_argument());
    ASSIGN_OR_RETURN(const int order, runtime.Compare(value, other));
    if (IsIn(name, {"lt", "lessthan", "<"})) return order < 0;
    if (IsIn(name, {"le", "<="})) return order <= 0;
    if (IsIn(name, {"gt", "greaterthan", ">"})) return order > 0;
    return order >= 0;
  }
  if (name == "in") {
    ASSIGN_OR_RETURN(const Value other, one_argument());
    return runtime.Contains(other, value);
  }
  if (name == "sameas") {
    ASSIGN_OR_RETURN(const Value other, one_argument());
    return value.SameAs(other);
  }
  if (name == "divisibleby") {
    ASSIGN_OR_RETURN(const Value other, one_argument());
    ASSIGN_OR_RETURN(const Value remainder, runtime.Arithmetic("%", value, other));
    return !remainder.Truth();
  }
  RETURN_IF_ERROR(BoundArguments::Bind(runtime, name, {}, 0, std::move(arguments)).status());
  if (name == "defined") return !value.IsUndefined();
  if (name == "undefined") return value.IsUndefined();
  if (name == "none") return value.IsNone();
  if (name == "boolean") return value.IsBool();
  if (name == "true") return value.IsBool() && value.boolean();
  if (name == "false") return value.IsBool() && !value.boolean();
  if (name == "integer") return value.IsInteger();
  if (name == "float") return value.IsFloat();
  if (name == "number") return value.IsNumber();
  if (name == "string") return value.IsString();
  if (name == "mapping") return value.IsDict();
  if (name == "sequence") return value.IsString() || value.IsList() || value.IsDict() || value.IsUndefined();
  if (name == "iterable") return value.IsString() || value.IsList() || value.IsDict() || value.IsUndefined();
  if (name == "callable") return value.IsObject() && value.object().IsCallable();
  if (name == "escaped") return false;
  if (name == "odd" || name == "even") {
    ASSIGN_OR_RETURN(const Value remainder, runtime.Arithmetic("%", value, Value(2)));
    return remainder.Truth() == (name == "odd");
  }
  if (name == "upper" || name == "lower") {
    ASSIGN_OR_RETURN(std::string text, runtime.Str(value));
    ASSIGN_OR_RETURN(const Value result,
                     CallMethod(runtime, Value::String(std::move(text)), name == "upper" ? "isupper" : "islower", {}));
    return result.Truth();
  }
  return runtime.Fail("no test named '", name.substr(0, 40), "'");
}

}  // namespace outrider::text::jinja
