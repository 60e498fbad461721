// The values of a template: Python's, as far as chat templates can see them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace outrider::text::jinja {

class Runtime;
class Value;
struct Arguments;

// What a name or key that is not there evaluates to: false, empty, prints as nothing, and an error to look into.
struct Undefined {
  std::shared_ptr<const std::string> name;
};
struct None {};

struct List {
  std::vector<Value> items;
  bool is_tuple = false;
  int depth = 1;  // of nesting, itself included; bounded, so that recursion over values is
};

// Keeps the order of insertion, as Python does. Keys are scalars: strings, numbers, None.
class Dict {
 public:
  // Replaces the value of an equal key. REQUIRES: key.IsScalar().
  void Set(Value key, Value value);
  const Value* Find(const Value& key) const;
  const Value* Find(absl::string_view key) const;
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  int depth = 1;  // as List::depth

 private:
  std::vector<std::pair<Value, Value>> entries_;
  absl::flat_hash_map<std::string, size_t> strings_;  // index into entries_ by string key
  absl::flat_hash_map<std::string, size_t> others_;   // and by repr, equal numbers being written alike
};

// namespace(...): the only thing a template can change after it was made.
struct Namespace {
  absl::flat_hash_map<std::string, Value> attributes;
};

// Things with behaviour: macros, loop, methods bound to a value, functions.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string TypeName() const = 0;
  virtual std::optional<Value> Attribute(absl::string_view name) const;
  virtual bool IsCallable() const { return true; }
  virtual absl::StatusOr<Value> Call(Runtime& runtime, Arguments arguments) = 0;
};

// Cheap to copy: everything large is shared and, but for namespaces, never changes.
class Value {
 public:
  Value() : rep_(Undefined{}) {}
  Value(Undefined undefined) : rep_(std::move(undefined)) {}           // NOLINT: values are what they hold
  Value(None none) : rep_(none) {}                                     // NOLINT
  Value(bool value) : rep_(value) {}                                   // NOLINT
  Value(int64_t value) : rep_(value) {}                                // NOLINT
  Value(int value) : rep_(static_cast<int64_t>(value)) {}              // NOLINT
  Value(double value) : rep_(value) {}                                 // NOLINT
  Value(std::shared_ptr<const List> list) : rep_(std::move(list)) {}   // NOLINT
  Value(std::shared_ptr<const Dict> dict) : rep_(std::move(dict)) {}   // NOLINT
  Value(std::shared_ptr<Namespace> space) : rep_(std::move(space)) {}  // NOLINT
  Value(std::shared_ptr<Object> object) : rep_(std::move(object)) {}   // NOLINT
  static Value String(std::string text) { return Value(std::make_shared<const std::string>(std::move(text)), 0); }
  static Value UndefinedNamed(absl::string_view name);

  bool IsUndefined() const { return Is<Undefined>(); }
  bool IsNone() const { return Is<None>(); }
  bool IsBool() const { return Is<bool>(); }
  bool IsInteger() const { return Is<int64_t>(); }
  bool IsFloat() const { return Is<double>(); }
  bool IsNumber() const { return IsBool() || IsInteger() || IsFloat(); }  // as Python counts
  bool IsString() const { return Is<StringPointer>(); }
  bool IsList() const { return Is<std::shared_ptr<const List>>(); }
  bool IsDict() const { return Is<std::shared_ptr<const Dict>>(); }
  bool IsNamespace() const { return Is<std::shared_ptr<Namespace>>(); }
  bool IsObject() const { return Is<std::shared_ptr<Object>>(); }

  // REQUIRES: the value is of that kind.
  bool boolean() const { return std::get<bool>(rep_); }
  int64_t integer() const { return IsBool() ? boolean() : std::get<int64_t>(rep_); }
  double number() const { return IsFloat() ? std::get<double>(rep_) : static_cast<double>(integer()); }
  const std::string& string() const { return *std::get<StringPointer>(rep_); }
  const std::vector<Value>& items() const { return std::get<std::shared_ptr<const List>>(rep_)->items; }
  const List& list() const { return *std::get<std::shared_ptr<const List>>(rep_); }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(rep_); }
  Namespace& name_space() const { return *std::get<std::shared_ptr<Namespace>>(rep_); }
  Object& object() const { return *std::get<std::shared_ptr<Object>>(rep_); }
  std::shared_ptr<Object> object_pointer() const { return std::get<std::shared_ptr<Object>>(rep_); }
  absl::string_view undefined_name() const;

  // Python's truth.
  bool Truth() const;
  // "str", "int", ...: for messages.
  std::string TypeName() const;
  // 1 for what holds nothing, else 1 + that of the deepest item. Namespaces and objects count as 1.
  int depth() const;

  bool IsScalar() const { return IsString() || IsNumber() || IsNone(); }

  // Whether both are the very same object (the test `sameas`).
  bool SameAs(const Value& other) const;

 private:
  using StringPointer = std::shared_ptr<const std::string>;
  Value(StringPointer text, int) : rep_(std::move(text)) {}
  template <typename T>
  bool Is() const {
    return std::holds_alternative<T>(rep_);
  }
  std::variant<Undefined, None, bool, int64_t, double, StringPointer, std::shared_ptr<const List>,
               std::shared_ptr<const Dict>, std::shared_ptr<Namespace>, std::shared_ptr<Object>>
      rep_;
};

// Python's ==: 1 == 1.0 == true; different kinds are unequal. Lists that share their items can take exponentially many
// comparisons, so each one counts against `budget`; at 0 the answer is false and means nothing.
bool Equals(const Value& a, const Value& b, size_t* budget);

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// str(value) and repr(value) as Python has them. Append at most `max_bytes` and then stop; the caller checks sizes.
void AppendStr(const Value& value, size_t max_bytes, std::string* out);
void AppendRepr(const Value& value, size_t max_bytes, std::string* out);
// repr of a float: the shortest digits that read back the same.
std::string FloatRepr(double value);

struct JsonStyle {
  std::optional<int> indent;  // spaces a level; nothing: one line
  std::string indent_text;    // instead of spaces, when indent is set and this is not empty
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
  bool ensure_ascii = false;
};
// json.dumps. INVALID_ARGUMENT names a value that JSON has no form for; stops growing past `max_bytes`.
absl::Status AppendJson(const Value& value, const JsonStyle& style, size_t max_bytes, std::string* out);

// Text as Python sees it: a list of code points. Bytes that are not UTF-8 count as one each.
size_t LengthInCodePoints(absl::string_view text);
bool IsSpace(char32_t code_point);  // str.isspace
absl::string_view StripLeft(absl::string_view text);
absl::string_view StripRight(absl::string_view text);

}  // namespace outrider::text::jinja
