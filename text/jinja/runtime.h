// What evaluation needs everywhere: the budget of a render, errors with a line, and Python's operations on values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "text/jinja/value.h"

namespace outrider::text::jinja {

struct Limits {
  size_t max_output_bytes;
  size_t max_steps;
  size_t max_value_bytes;
  int max_call_depth;
};

inline constexpr int kMaxValueDepth = 100;         // lists within lists, as Value::depth counts
inline constexpr int64_t kMaxRangeItems = 100000;  // as Jinja's sandbox

// One render. Every operation that costs more than a constant pays for it here, so that no template runs long or grows
// large: RESOURCE_EXHAUSTED names the limit. All errors begin "chat template line N: ".
//
// Thread safety: none.
class Runtime {
 public:
  Runtime(const Limits& limits, const std::optional<std::tm>& now) : limits_(limits), now_(now) {}
  // Namespaces can hold each other; taking them apart here frees them all, and without deep recursion.
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const Limits& limits() const { return limits_; }
  const std::optional<std::tm>& now() const { return now_; }
  // The line being evaluated.
  int line() const { return line_; }
  void set_line(int line) { line_ = line; }

  // INVALID_ARGUMENT at the current line.
  template <typename... Parts>
  absl::Status Fail(const Parts&... parts) const {
    return FailWith(absl::StrCat(parts...));
  }
  absl::Status Exhausted(absl::string_view what, size_t limit) const;

  // Pays for `count` small operations.
  absl::Status Step(size_t count = 1);
  // Pays for reading `num_bytes` of text.
  absl::Status Scan(size_t num_bytes) { return Step(num_bytes / 64); }
  // Pays for values of `num_bytes`; nothing is given back.
  absl::Status Grow(size_t num_bytes);
  size_t remaining_value_bytes() const { return limits_.max_value_bytes - value_bytes_; }

  // New values, paid for.
  absl::StatusOr<Value> NewString(std::string text);
  absl::StatusOr<Value> NewList(std::vector<Value> items, bool is_tuple = false);
  absl::StatusOr<Value> NewDict(Dict dict);
  absl::StatusOr<std::shared_ptr<Namespace>> NewNamespace();

  // str(value).
  absl::StatusOr<std::string> Str(const Value& value);
  absl::StatusOr<bool> Equal(const Value& a, const Value& b);
  // Negative, 0 or positive; an error for what Python does not order.
  absl::StatusOr<int> Compare(const Value& a, const Value& b);
  // `needle in haystack`.
  absl::StatusOr<bool> Contains(const Value& haystack, const Value& needle);
  // What a loop over `value` visits: items, keys of a dict, characters of a string, nothing of what is undefined.
  absl::StatusOr<std::vector<Value>> Iterate(const Value& value);
  absl::StatusOr<int64_t> Length(const Value& value);
  // left `op` right, for + - * / // % **.
  absl::StatusOr<Value> Arithmetic(absl::string_view op, const Value& left, const Value& right);
  absl::StatusOr<Value> Negate(const Value& value);
  // value.name: attributes and methods before items. Undefined when there is none.
  absl::StatusOr<Value> GetAttribute(const Value& value, absl::string_view name);
  // value[key]: items before attributes. Undefined when there is none.
  absl::StatusOr<Value> GetItem(const Value& value, const Value& key);
  absl::StatusOr<Value> Slice(const Value& value, const Value& first, const Value& end, const Value& step);
  absl::StatusOr<Value> Call(const Value& callee, Arguments arguments);

  // Depth of evaluation, which is depth of the C++ stack.
  class Frame {
   public:
    explicit Frame(Runtime* runtime) : runtime_(runtime) { ++runtime_->depth_; }
    ~Frame() { --runtime_->depth_; }
    Frame(const Frame&) = delete;
    // RESOURCE_EXHAUSTED when too deep.
    absl::Status Check() const;

   private:
    Runtime* const runtime_;
  };

 private:
  friend class Frame;
  absl::Status FailWith(std::string message) const;

  const Limits limits_;
  const std::optional<std::tm> now_;
  int line_ = 1;
  int depth_ = 0;
  size_t steps_ = 0;
  size_t value_bytes_ = 0;
  std::vector<std::shared_ptr<Namespace>> namespaces_;  // all that were made
};

// A function's arguments by parameter.
class BoundArguments {
 public:
  // Positional ones first, named ones by name; an error for one too many, unknown, given twice, or missing among the
  // first `num_required`. `callee` is for messages.
  static absl::StatusOr<BoundArguments> Bind(Runtime& runtime, absl::string_view callee,
                                             std::initializer_list<absl::string_view> parameters, size_t num_required,
                                             Arguments arguments);

  // Whether parameter i was given, and is not None.
  bool Has(size_t i) const { return given_[i] && !values_[i].IsNone(); }
  bool Given(size_t i) const { return given_[i]; }
  // Undefined when not given.
  const Value& operator[](size_t i) const { return values_[i]; }
  absl::StatusOr<std::string> String(size_t i, absl::string_view fallback) const;
  absl::StatusOr<int64_t> Integer(size_t i, int64_t fallback) const;
  bool Truth(size_t i, bool fallback) const { return given_[i] ? values_[i].Truth() : fallback; }

 private:
  Runtime* runtime_;
  std::string callee_;
  std::vector<std::string> parameters_;
  std::vector<Value> values_;
  std::vector<bool> given_;
};

}  // namespace outrider::text::jinja
