#include "text/jinja/runtime.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "base/status_macros.h"
#include "text/jinja/lexer.h"  // TemplateError
#include "text/jinja/methods.h"
#include "text/utf8.h"

namespace outrider::text::jinja {
namespace {

// Of Frame: an expression within an expression, a statement within a block, a macro's body within its call.
constexpr int kMaxEvaluationDepth = 1200;
// What a value costs beside its text.
constexpr size_t kValueBytes = 64;

bool IsAscii(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// The characters of `text`, as views of it.
std::vector<absl::string_view> Characters(absl::string_view text) {
  std::vector<absl::string_view> characters;
  while (!text.empty()) {
    const size_t num_bytes = DecodeUtf8(text).num_bytes;
    characters.push_back(text.substr(0, num_bytes));
    text.remove_prefix(num_bytes);
  }
  return characters;
}

// x - floor(x / y) * y, with the sign of y, as Python's %.
double FloatModulo(double x, double y) {
  const double remainder = std::fmod(x, y);
  return remainder != 0 && (remainder < 0) != (y < 0) ? remainder + y : remainder;
}

}  // namespace

Runtime::~Runtime() {
  std::vector<Value> attributes;
  for (const auto& space : namespaces_) {
    for (auto& [name, value] : space->attributes) attributes.push_back(std::move(value));
    space->attributes.clear();
  }
}

absl::Status Runtime::FailWith(std::string message) const { return TemplateError(line_, message); }

absl::Status Runtime::Exhausted(absl::string_view what, size_t limit) const {
  return absl::ResourceExhaustedError(absl::StrCat("chat template line ", line_, ": more than ", limit, " ", what));
}

absl::Status Runtime::Frame::Check() const {
  if (runtime_->depth_ <= kMaxEvaluationDepth) return absl::OkStatus();
  return runtime_->Exhausted("levels of evaluation", kMaxEvaluationDepth);
}

absl::Status Runtime::Step(size_t count) {
  if (count > limits_.max_steps - steps_) return Exhausted("steps", limits_.max_steps);
  steps_ += count;
  return absl::OkStatus();
}

absl::Status Runtime::Grow(size_t num_bytes) {
  if (num_bytes > limits_.max_value_bytes - value_bytes_) {
    return Exhausted("bytes of values", limits_.max_value_bytes);
  }
  value_bytes_ += num_bytes;
  return absl::OkStatus();
}

absl::StatusOr<Value> Runtime::NewString(std::string text) {
  RETURN_IF_ERROR(Grow(kValueBytes + text.size()));
  return Value::String(std::move(text));
}

absl::StatusOr<Value> Runtime::NewList(std::vector<Value> items, bool is_tuple) {
  RETURN_IF_ERROR(Grow(kValueBytes + items.size() * sizeof(Value)));
  auto list = std::make_shared<List>();
  list->is_tuple = is_tuple;
  for (const Value& item : items) list->depth = std::max(list->depth, 1 + item.depth());
  list->items = std::move(items);
  if (list->depth > kMaxValueDepth) return Exhausted("levels of nested values", kMaxValueDepth);
  return Value(std::shared_ptr<const List>(std::move(list)));
}

absl::StatusOr<Value> Runtime::NewDict(Dict dict) {
  size_t num_bytes = kValueBytes;
  for (const auto& [key, value] : dict.entries()) {
    num_bytes += 2 * kValueBytes + 2 * sizeof(Value) + (key.IsString() ? key.string().size() : 0);
  }
  RETURN_IF_ERROR(Grow(num_bytes));
  if (dict.depth > kMaxValueDepth) return Exhausted("levels of nested values", kMaxValueDepth);
  return Value(std::shared_ptr<const Dict>(std::make_shared<Dict>(std::move(dict))));
}

absl::StatusOr<std::shared_ptr<Namespace>> Runtime::NewNamespace() {
  RETURN_IF_ERROR(Grow(4 * kValueBytes));
  namespaces_.push_back(std::make_shared<Namespace>());
  return namespaces_.back();
}

absl::StatusOr<std::string> Runtime::Str(const Value& value) {
  RETURN_IF_ERROR(Step());
  std::string out;
  AppendStr(value, remaining_value_bytes(), &out);
  RETURN_IF_ERROR(Grow(out.size()));
  return out;
}

absl::StatusOr<bool> Runtime::Equal(const Value& a, const Value& b) {
  const size_t available = limits_.max_steps - steps_;
  size_t budget = available;
  const bool equal = Equals(a, b, &budget);
  if (budget == 0) return Exhausted("steps", limits_.max_steps);
  steps_ += available - budget;
  return equal;
}

absl::StatusOr<int> Runtime::Compare(const Value& a, const Value& b) {
  RETURN_IF_ERROR(Step());
  if (a.IsNumber() && b.IsNumber()) {
    if (!a.IsFloat() && !b.IsFloat()) return a.integer() < b.integer() ? -1 : a.integer() > b.integer();
    return a.number() < b.number() ? -1 : a.number() > b.number();
  }
  if (a.IsString() && b.IsString()) {
    RETURN_IF_ERROR(Scan(std::min(a.string().size(), b.string().size())));
    return a.string().compare(b.string());
  }
  if (a.IsList() && b.IsList()) {
    for (size_t i = 0; i < std::min(a.items().size(), b.items().size()); ++i) {
      ASSIGN_OR_RETURN(const int order, Compare(a.items()[i], b.items()[i]));
      if (order != 0) return order;
    }
    return a.items().size() < b.items().size() ? -1 : a.items().size() > b.items().size();
  }
  return Fail("can not order ", a.TypeName(), " and ", b.TypeName());
}

absl::StatusOr<bool> Runtime::Contains(const Value& haystack, const Value& needle) {
  if (haystack.IsString()) {
    if (!needle.IsString()) return Fail("'in <string>' requires a string, not ", needle.TypeName());
    RETURN_IF_ERROR(Scan(haystack.string().size()));
    return absl::StrContains(haystack.string(), needle.string());
  }
  if (haystack.IsList()) {
    for (const Value& item : haystack.items()) {
      ASSIGN_OR_RETURN(const bool equal, Equal(item, needle));
      if (equal) return true;
    }
    return false;
  }
  if (haystack.IsDict()) return haystack.dict().Find(needle) != nullptr;
  if (haystack.IsUndefined()) return false;
  return Fail(haystack.TypeName(), " can not be searched with 'in'");
}

absl::StatusOr<std::vector<Value>> Runtime::Iterate(const Value& value) {
  std::vector<Value> items;
  if (value.IsUndefined()) return items;
  if (value.IsList()) {
    RETURN_IF_ERROR(Step(value.items().size()));
    return value.items();
  }
  if (value.IsDict()) {
    RETURN_IF_ERROR(Step(value.dict().entries().size()));
    for (const auto& [key, item] : value.dict().entries()) items.push_back(key);
    return items;
  }
  if (value.IsString()) {
    RETURN_IF_ERROR(Grow(value.string().size() * kValueBytes));
    for (const absl::string_view character : Characters(value.string())) {
      items.push_back(Value::String(std::string(character)));
    }
    return items;
  }
  return Fail(value.TypeName(), " can not be iterated");
}

absl::StatusOr<int64_t> Runtime::Length(const Value& value) {
  if (value.IsString()) {
    RETURN_IF_ERROR(Scan(value.string().size()));
    return static_cast<int64_t>(LengthInCodePoints(value.string()));
  }
  if (value.IsList()) return static_cast<int64_t>(value.items().size());
  if (value.IsDict()) return static_cast<int64_t>(value.dict().entries().size());
  if (value.IsUndefined()) return int64_t{0};
  return Fail(value.TypeName(), " has no length");
}

absl::StatusOr<Value> Runtime::Arithmetic(absl::string_view op, const Value& left, const Value& right) {
  if (left.IsUndefined() || right.IsUndefined()) {
    return Fail("'", (left.IsUndefined() ? left : right).undefined_name(), "' is undefined");
  }
  const auto unsupported = [&] {
    return Fail("unsupported operands for ", op, ": ", left.TypeName(), " and ", right.TypeName());
  };
  if (op == "+" && left.IsString() && right.IsString()) {
    return NewString(absl::StrCat(left.string(), right.string()));
  }
  if (op == "+" && left.IsList() && right.IsList() && left.list().is_tuple == right.list().is_tuple) {
    RETURN_IF_ERROR(Grow((left.items().size() + right.items().size()) * sizeof(Value)));
    std::vector<Value> items = left.items();
    items.insert(items.end(), right.items().begin(), right.items().end());
    return NewList(std::move(items), left.list().is_tuple);
  }
  if (op == "*" && left.IsNumber() && !left.IsFloat() && (right.IsString() || right.IsList())) {
    return Arithmetic(op, right, left);
  }
  if (op == "*" && (left.IsString() || left.IsList()) && right.IsNumber() && !right.IsFloat()) {
    const size_t count = static_cast<size_t>(std::max<int64_t>(0, right.integer()));
    const size_t size = left.IsString() ? left.string().size() : left.items().size() * sizeof(Value);
    if (size > 0 && count > remaining_value_bytes() / size) {
      return Exhausted("bytes of values", limits_.max_value_bytes);
    }
    if (left.IsString()) {
      std::string text;
      text.reserve(size * count);
      for (size_t i = 0; size > 0 && i < count; ++i) text += left.string();
      return NewString(std::move(text));
    }
    std::vector<Value> items;
    for (size_t i = 0; size > 0 && i < count; ++i) items.insert(items.end(), left.items().begin(), left.items().end());
    return NewList(std::move(items), left.list().is_tuple);
  }
  if (op == "%" && left.IsString()) {
    ASSIGN_OR_RETURN(
        std::string text,
        PercentFormat(*this, left.string(),
                      right.IsList() && right.list().is_tuple ? right.items() : std::vector<Value>{right}));
    return NewString(std::move(text));
  }
  if (!left.IsNumber() || !right.IsNumber()) return unsupported();

  if (left.IsFloat() || right.IsFloat() || op == "/") {
    const double a = left.number();
    const double b = right.number();
    if (op == "+") return Value(a + b);
    if (op == "-") return Value(a - b);
    if (op == "*") return Value(a * b);
    if (op == "**") return Value(std::pow(a, b));
    if (b == 0) return Fail("division by zero");
    if (op == "/") return Value(a / b);
    if (op == "//") return Value(std::floor(a / b));
    if (op == "%") return Value(FloatModulo(a, b));
    return unsupported();
  }
  const int64_t a = left.integer();
  const int64_t b = right.integer();
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "//" || op == "%") {
    if (b == 0) return Fail("division by zero");
    if (b == -1) {
      overflow = op == "//" && __builtin_sub_overflow(int64_t{0}, a, &result);
    } else {
      int64_t quotient = a / b;
      int64_t remainder = a % b;
      if (remainder != 0 && (remainder < 0) != (b < 0)) {
        --quotient;
        remainder += b;
      }
      result = op == "//" ? quotient : remainder;
    }
  } else if (op == "**") {
    if (b < 0) return Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
    result = 1;
    if (a == 0 || a == 1 || a == -1) {
      result = b == 0 ? 1 : a == -1 ? (b % 2 == 0 ? 1 : -1) : a;
    } else {
      // |a| >= 2: overflows before the 64th round.
      for (int64_t i = 0; i < b && !overflow; ++i) overflow = __builtin_mul_overflow(result, a, &result);
    }
  } else {
    return unsupported();
  }
  if (overflow) return Fail("integer overflow in ", a, " ", op, " ", b);
  return Value(result);
}

absl::StatusOr<Value> Runtime::Negate(const Value& value) {
  if (value.IsFloat()) return Value(-value.number());
  if (!value.IsNumber()) return Fail("bad operand for unary -: ", value.TypeName());
  return Arithmetic("-", Value(int64_t{0}), value);
}

absl::StatusOr<Value> Runtime::GetAttribute(const Value& value, absl::string_view name) {
  if (value.IsUndefined()) {
    return Fail("'", value.undefined_name(), "' is undefined, so it has no attribute '", name, "'");
  }
  if (value.IsNamespace()) {
    const auto found = value.name_space().attributes.find(name);
    return found == value.name_space().attributes.end() ? Value::UndefinedNamed(name) : found->second;
  }
  if (value.IsObject()) return value.object().Attribute(name).value_or(Value::UndefinedNamed(name));
  if (HasMethod(value, name)) return BindMethod(value, name);
  if (value.IsDict()) {
    const Value* item = value.dict().Find(name);
    if (item != nullptr) return *item;
  }
  return Value::UndefinedNamed(name);
}

absl::StatusOr<Value> Runtime::GetItem(const Value& value, const Value& key) {
  if (value.IsUndefined()) return Fail("'", value.undefined_name(), "' is undefined, so it has no items");
  if (value.IsDict()) {
    const Value* item = value.dict().Find(key);
    if (item != nullptr) return *item;
  }
  if ((value.IsList() || value.IsString()) && key.IsNumber() && !key.IsFloat()) {
    ASSIGN_OR_RETURN(const int64_t length, Length(value));
    int64_t index = key.integer();
    if (index < 0) index += length;
    if (index < 0 || index >= length) return Value::UndefinedNamed("item out of range");
    if (value.IsList()) return value.items()[static_cast<size_t>(index)];
    absl::string_view rest = value.string();
    for (; index > 0; --index) rest.remove_prefix(DecodeUtf8(rest).num_bytes);
    return NewString(std::string(rest.substr(0, DecodeUtf8(rest).num_bytes)));
  }
  if (key.IsString()) return GetAttribute(value, key.string());
  return Value::UndefinedNamed("item");
}

absl::StatusOr<Value> Runtime::Slice(const Value& value, const Value& first, const Value& end, const Value& step) {
  if (value.IsUndefined()) return Fail("'", value.undefined_name(), "' is undefined, so it can not be sliced");
  if (!value.IsList() && !value.IsString()) return Value::UndefinedNamed("slice");
  for (const Value* bound : {&first, &end, &step}) {
    if (!bound->IsNone() && (bound->IsFloat() || !bound->IsNumber())) {
      return Fail("slice bounds are integers, not ", bound->TypeName());
    }
  }
  const int64_t stride = step.IsNone() ? 1 : step.integer();
  if (stride == 0) return Fail("slice step is 0");
  ASSIGN_OR_RETURN(const int64_t length, Length(value));
  // As CPython's PySlice_AdjustIndices.
  const auto adjust = [&](const Value& bound, int64_t fallback) {
    if (bound.IsNone()) return fallback;
    const int64_t low = stride < 0 ? -1 : 0;
    const int64_t high = stride < 0 ? length - 1 : length;
    const int64_t index = bound.integer() < 0 ? bound.integer() + length : bound.integer();
    return std::clamp(index, low, high);
  };
  const int64_t begin = adjust(first, stride < 0 ? length - 1 : 0);
  const int64_t stop = adjust(end, stride < 0 ? -1 : length);
  std::vector<size_t> indices;
  for (int64_t i = begin; stride > 0 ? i < stop : i > stop;) {
    indices.push_back(static_cast<size_t>(i));
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  RETURN_IF_ERROR(Step(indices.size() / 16));
  if (value.IsList()) {
    std::vector<Value> items;
    items.reserve(indices.size());
    for (const size_t i : indices) items.push_back(value.items()[i]);
    return NewList(std::move(items), value.list().is_tuple);
  }
  std::string text;
  if (IsAscii(value.string())) {
    for (const size_t i : indices) text.push_back(value.string()[i]);
  } else {
    RETURN_IF_ERROR(Grow(value.string().size() * sizeof(absl::string_view)));
    const std::vector<absl::string_view> characters = Characters(value.string());
    for (const size_t i : indices) text.append(characters[i].data(), characters[i].size());
  }
  return NewString(std::move(text));
}

absl::StatusOr<Value> Runtime::Call(const Value& callee, Arguments arguments) {
  if (callee.IsUndefined()) return Fail("'", callee.undefined_name(), "' is undefined, so it can not be called");
  if (!callee.IsObject() || !callee.object().IsCallable()) return Fail(callee.TypeName(), " can not be called");
  const Frame frame(this);
  RETURN_IF_ERROR(frame.Check());
  const std::shared_ptr<Object> keep_alive = callee.object_pointer();
  return keep_alive->Call(*this, std::move(arguments));
}

absl::StatusOr<BoundArguments> BoundArguments::Bind(Runtime& runtime, absl::string_view callee,
                                                    std::initializer_list<absl::string_view> parameters,
                                                    size_t num_required, Arguments arguments) {
  BoundArguments bound;
  bound.runtime_ = &runtime;
  bound.callee_ = std::string(callee);
  for (const absl::string_view parameter : parameters) bound.parameters_.emplace_back(parameter);
  bound.values_.resize(parameters.size());
  bound.given_.resize(parameters.size(), false);
  if (arguments.positional.size() > parameters.size()) {
    return runtime.Fail(callee, " takes at most ", parameters.size(), " arguments, not ", arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    bound.values_[i] = std::move(arguments.positional[i]);
    bound.given_[i] = true;
  }
  for (auto& [name, value] : arguments.named) {
    const auto found = std::find(bound.parameters_.begin(), bound.parameters_.end(), name);
    if (found == bound.parameters_.end()) return runtime.Fail(callee, " has no parameter '", name, "'");
    const size_t i = static_cast<size_t>(found - bound.parameters_.begin());
    if (bound.given_[i]) return runtime.Fail(callee, " is given '", name, "' twice");
    bound.values_[i] = std::move(value);
    bound.given_[i] = true;
  }
  for (size_t i = 0; i < num_required; ++i) {
    if (!bound.given_[i]) return runtime.Fail(callee, " needs '", bound.parameters_[i], "'");
  }
  return bound;
}

absl::StatusOr<std::string> BoundArguments::String(size_t i, absl::string_view fallback) const {
  if (!given_[i]) return std::string(fallback);
  if (!values_[i].IsString()) {
    return runtime_->Fail(callee_, ": '", parameters_[i], "' is a string, not ", values_[i].TypeName());
  }
  return values_[i].string();
}

absl::StatusOr<int64_t> BoundArguments::Integer(size_t i, int64_t fallback) const {
  if (!Has(i)) return fallback;
  if (!values_[i].IsNumber() || values_[i].IsFloat()) {
    return runtime_->Fail(callee_, ": '", parameters_[i], "' is an integer, not ", values_[i].TypeName());
  }
  return values_[i].integer();
}

}  // namespace outrider::text::jinja
