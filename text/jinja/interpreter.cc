#include "text/jinja/interpreter.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/filters.h"
#include "text/jinja/methods.h"

namespace outrider::text::jinja {
namespace {

using ValueOr = absl::StatusOr<Value>;

// The names set in one scope. Loop bodies, macros and {% with %} open one; {% if %} does not. A macro sees the scope it
// was defined in, as it is when the macro is called.
struct Scope {
  std::shared_ptr<Scope> outer;
  absl::flat_hash_map<absl::string_view, Value> names;  // views of the tree
};
using ScopePointer = std::shared_ptr<Scope>;

enum class Flow { kNext, kBreak, kContinue };

class Interpreter {
 public:
  Interpreter(const absl::flat_hash_map<std::string, Value>& variables, Runtime* runtime)
      : variables_(variables), runtime_(*runtime) {}

  absl::StatusOr<std::string> RenderTemplate(const Block& block) {
    std::string out;
    RETURN_IF_ERROR(Run(block, std::make_shared<Scope>(), &out).status());
    return out;
  }

  // A macro's text for a call. `scope` is where it was defined.
  ValueOr CallMacro(const MacroDefinition& macro, const ScopePointer& scope, Arguments arguments);
  // A loop's text over `items`; `depth0` counts the recursion.
  absl::Status RunLoop(const Statement& loop, const ScopePointer& scope, const Value& items, int depth0,
                       std::string* out);
  Runtime& runtime() { return runtime_; }

 private:
  absl::Status Emit(absl::string_view text, std::string* out) {
    if (text.size() > runtime_.limits().max_output_bytes - std::min(out->size(), runtime_.limits().max_output_bytes)) {
      return runtime_.Exhausted("bytes of output", runtime_.limits().max_output_bytes);
    }
    out->append(text.data(), text.size());
    return absl::OkStatus();
  }

  absl::StatusOr<Flow> Run(const Block& block, const ScopePointer& scope, std::string* out);
  absl::StatusOr<Flow> Run(const Statement& statement, const ScopePointer& scope, std::string* out);
  absl::Status RunCallBlock(const Statement& statement, const ScopePointer& scope, std::string* out);
  // What `block` writes, as a value.
  ValueOr Capture(const Block& block, const ScopePointer& scope);

  ValueOr Evaluate(const Expression& node, const ScopePointer& scope);
  ValueOr EvaluateCompare(const Expression& node, const ScopePointer& scope);
  ValueOr EvaluateCall(const Expression& node, const ScopePointer& scope, Arguments extra);
  // A chain of filters whose innermost operand is null, over `value`.
  ValueOr ApplyFilterChain(const Expression* chain, Value value, const ScopePointer& scope);
  absl::StatusOr<Arguments> EvaluateArguments(const ArgumentList& list, const ScopePointer& scope);
  // The value of `node`, or None where it is left out.
  ValueOr EvaluateOptional(const ExpressionPointer& node, const ScopePointer& scope) {
    if (node == nullptr) return Value(None{});
    return Evaluate(*node, scope);
  }
  Value LookUp(const std::string& name, const ScopePointer& scope) const;
  absl::Status Assign(const Expression& target, const Value& value, const ScopePointer& scope);

  const absl::flat_hash_map<std::string, Value>& variables_;
  Runtime& runtime_;
  int call_depth_ = 0;
};

class Macro final : public Object {
 public:
  Macro(Interpreter* interpreter, const MacroDefinition* definition, const ScopePointer& scope)
      : interpreter_(interpreter), definition_(definition), scope_(scope) {}
  std::string TypeName() const override { return "macro"; }
  std::optional<Value> Attribute(absl::string_view name) const override {
    if (name == "name") return Value::String(definition_->name);
    return std::nullopt;
  }
  ValueOr Call(Runtime& runtime, Arguments arguments) override {
    const ScopePointer scope = scope_.lock();
    if (scope == nullptr) return runtime.Fail("macro '", definition_->name, "' is called outside of its scope");
    return interpreter_->CallMacro(*definition_, scope, std::move(arguments));
  }

 private:
  Interpreter* const interpreter_;  // outlives every value
  const MacroDefinition* const definition_;
  const std::weak_ptr<Scope> scope_;  // weak: the scope holds this macro
};

// The variable `loop`.
class Loop final : public Object {
 public:
  Loop(Interpreter* interpreter, const Statement* statement, const ScopePointer& scope, std::vector<Value> items,
       int depth0)
      : interpreter_(interpreter), statement_(statement), scope_(scope), items_(std::move(items)), depth0_(depth0) {}

  std::string TypeName() const override { return "loop"; }
  bool IsCallable() const override { return statement_->is_recursive; }
  const std::vector<Value>& items() const { return items_; }
  void set_index(size_t index) { index_ = index; }

  std::optional<Value> Attribute(absl::string_view name) const override {
    const int64_t index = static_cast<int64_t>(index_);
    const int64_t length = static_cast<int64_t>(items_.size());
    if (name == "index") return Value(index + 1);
    if (name == "index0") return Value(index);
    if (name == "revindex") return Value(length - index);
    if (name == "revindex0") return Value(length - index - 1);
    if (name == "first") return Value(index == 0);
    if (name == "last") return Value(index == length - 1);
    if (name == "length") return Value(length);
    if (name == "depth") return Value(depth0_ + 1);
    if (name == "depth0") return Value(depth0_);
    if (name == "previtem" && index > 0) return items_[index_ - 1];
    if (name == "nextitem" && index + 1 < length) return items_[index_ + 1];
    if (name == "cycle") return Value(std::shared_ptr<Object>(std::make_shared<Cycle>(index_)));
    if (name == "changed") return Value(std::shared_ptr<Object>(std::make_shared<Changed>(last_seen_)));
    return std::nullopt;
  }

  ValueOr Call(Runtime& runtime, Arguments arguments) override {
    const ScopePointer scope = scope_.lock();
    if (!statement_->is_recursive || scope == nullptr) return runtime.Fail("loop is not recursive");
    ASSIGN_OR_RETURN(const auto args, BoundArguments::Bind(runtime, "loop", {"iterable"}, 1, std::move(arguments)));
    std::string out;
    RETURN_IF_ERROR(interpreter_->RunLoop(*statement_, scope, args[0], depth0_ + 1, &out));
    return runtime.NewString(std::move(out));
  }

 private:
  class Cycle final : public Object {
   public:
    explicit Cycle(size_t index) : index_(index) {}
    std::string TypeName() const override { return "method"; }
    ValueOr Call(Runtime& runtime, Arguments arguments) override {
      if (arguments.positional.empty()) return runtime.Fail("loop.cycle needs items");
      return arguments.positional[index_ % arguments.positional.size()];
    }

   private:
    const size_t index_;
  };
  class Changed final : public Object {
   public:
    explicit Changed(std::shared_ptr<std::optional<Value>> last_seen) : last_seen_(std::move(last_seen)) {}
    std::string TypeName() const override { return "method"; }
    ValueOr Call(Runtime& runtime, Arguments arguments) override {
      ASSIGN_OR_RETURN(const Value seen, runtime.NewList(std::move(arguments.positional), /*is_tuple=*/true));
      if (last_seen_->has_value()) {
        ASSIGN_OR_RETURN(const bool same, runtime.Equal(**last_seen_, seen));
        if (same) return Value(false);
      }
      *last_seen_ = seen;
      return Value(true);
    }

   private:
    const std::shared_ptr<std::optional<Value>> last_seen_;
  };

  Interpreter* const interpreter_;
  const Statement* const statement_;
  const std::weak_ptr<Scope> scope_;  // around the loop
  const std::vector<Value> items_;
  const int depth0_;
  size_t index_ = 0;
  const std::shared_ptr<std::optional<Value>> last_seen_ = std::make_shared<std::optional<Value>>();
};

absl::StatusOr<Flow> Interpreter::Run(const Block& block, const ScopePointer& scope, std::string* out) {
  const Runtime::Frame frame(&runtime_);
  RETURN_IF_ERROR(frame.Check());
  for (const auto& statement : block) {
    runtime_.set_line(statement->line);
    RETURN_IF_ERROR(runtime_.Step());
    ASSIGN_OR_RETURN(const Flow flow, Run(*statement, scope, out));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

absl::StatusOr<Flow> Interpreter::Run(const Statement& statement, const ScopePointer& scope, std::string* out) {
  switch (statement.kind) {
    case Statement::Kind::kText:
      RETURN_IF_ERROR(Emit(statement.text, out));
      return Flow::kNext;
    case Statement::Kind::kOutput: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expression, scope));
      if (value.IsString()) {
        RETURN_IF_ERROR(Emit(value.string(), out));
      } else {
        ASSIGN_OR_RETURN(const std::string text, runtime_.Str(value));
        RETURN_IF_ERROR(Emit(text, out));
      }
      return Flow::kNext;
    }
    case Statement::Kind::kSet: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expression, scope));
      RETURN_IF_ERROR(Assign(*statement.target, value, scope));
      return Flow::kNext;
    }
    case Statement::Kind::kSetBlock: {
      auto inner = std::make_shared<Scope>();
      inner->outer = scope;
      ASSIGN_OR_RETURN(Value value, Capture(statement.body, inner));
      ASSIGN_OR_RETURN(value, ApplyFilterChain(statement.expression.get(), std::move(value), scope));
      RETURN_IF_ERROR(Assign(*statement.target, value, scope));
      return Flow::kNext;
    }
    case Statement::Kind::kIf:
      for (const auto& [condition, body] : statement.branches) {
        ASSIGN_OR_RETURN(const Value value, Evaluate(*condition, scope));
        if (value.Truth()) return Run(body, scope, out);
      }
      return Run(statement.body, scope, out);
    case Statement::Kind::kFor: {
      ASSIGN_OR_RETURN(const Value items, Evaluate(*statement.expression, scope));
      RETURN_IF_ERROR(RunLoop(statement, scope, items, 0, out));
      return Flow::kNext;
    }
    case Statement::Kind::kMacro:
      RETURN_IF_ERROR(runtime_.Grow(128));
      scope->names[statement.macro->name] =
          Value(std::shared_ptr<Object>(std::make_shared<Macro>(this, statement.macro.get(), scope)));
      return Flow::kNext;
    case Statement::Kind::kCallBlock:
      RETURN_IF_ERROR(RunCallBlock(statement, scope, out));
      return Flow::kNext;
    case Statement::Kind::kFilterBlock: {
      auto inner = std::make_shared<Scope>();
      inner->outer = scope;
      ASSIGN_OR_RETURN(Value value, Capture(statement.body, inner));
      ASSIGN_OR_RETURN(value, ApplyFilterChain(statement.expression.get(), std::move(value), scope));
      ASSIGN_OR_RETURN(const std::string text, runtime_.Str(value));
      RETURN_IF_ERROR(Emit(text, out));
      return Flow::kNext;
    }
    case Statement::Kind::kWith: {
      auto inner = std::make_shared<Scope>();
      inner->outer = scope;
      for (const auto& [target, expression] : statement.assignments) {
        // Values see the names outside, not each other.
        ASSIGN_OR_RETURN(const Value value, Evaluate(*expression, scope));
        RETURN_IF_ERROR(Assign(*target, value, inner));
      }
      return Run(statement.body, inner, out);
    }
    case Statement::Kind::kGroup:
      return Run(statement.body, scope, out);
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

ValueOr Interpreter::Capture(const Block& block, const ScopePointer& scope) {
  std::string text;
  RETURN_IF_ERROR(Run(block, scope, &text).status());
  return runtime_.NewString(std::move(text));
}

absl::Status Interpreter::RunLoop(const Statement& loop, const ScopePointer& scope, const Value& value, int depth0,
                                  std::string* out) {
  ASSIGN_OR_RETURN(std::vector<Value> items, runtime_.Iterate(value));
  if (loop.condition != nullptr) {
    std::vector<Value> kept;
    for (Value& item : items) {
      auto inner = std::make_shared<Scope>();
      inner->outer = scope;
      RETURN_IF_ERROR(Assign(*loop.target, item, inner));
      ASSIGN_OR_RETURN(const Value passes, Evaluate(*loop.condition, inner));
      if (passes.Truth()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  if (items.empty()) return Run(loop.otherwise, scope, out).status();
  RETURN_IF_ERROR(runtime_.Grow(items.size() * sizeof(Value)));
  const auto state = std::make_shared<Loop>(this, &loop, scope, std::move(items), depth0);
  const Value loop_value{std::shared_ptr<Object>(state)};
  for (size_t i = 0; i < state->items().size(); ++i) {
    RETURN_IF_ERROR(runtime_.Step());
    state->set_index(i);
    auto inner = std::make_shared<Scope>();  // nothing set in one round is seen in the next
    inner->outer = scope;
    inner->names["loop"] = loop_value;
    RETURN_IF_ERROR(Assign(*loop.target, state->items()[i], inner));
    ASSIGN_OR_RETURN(const Flow flow, Run(loop.body, inner, out));
    if (flow == Flow::kBreak) break;
  }
  return absl::OkStatus();
}

ValueOr Interpreter::CallMacro(const MacroDefinition& macro, const ScopePointer& scope, Arguments arguments) {
  if (call_depth_ >= runtime_.limits().max_call_depth) {
    return runtime_.Exhausted("levels of macro calls", runtime_.limits().max_call_depth);
  }
  RETURN_IF_ERROR(runtime_.Step());
  auto inner = std::make_shared<Scope>();
  inner->outer = scope;
  const size_t num_parameters = macro.parameters.size();
  std::vector<bool> given(num_parameters, false);
  std::vector<Value> varargs;
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    if (i < num_parameters) {
      inner->names[macro.parameters[i]] = std::move(arguments.positional[i]);
      given[i] = true;
    } else if (macro.uses_varargs) {
      varargs.push_back(std::move(arguments.positional[i]));
    } else {
      return runtime_.Fail("macro '", macro.name, "' takes at most ", num_parameters, " arguments, not ",
                           arguments.positional.size());
    }
  }
  Dict kwargs;
  for (auto& [name, value] : arguments.named) {
    const auto found = std::find(macro.parameters.begin(), macro.parameters.end(), name);
    if (found != macro.parameters.end()) {
      const size_t i = static_cast<size_t>(found - macro.parameters.begin());
      if (given[i]) return runtime_.Fail("macro '", macro.name, "' is given '", name, "' twice");
      inner->names[macro.parameters[i]] = std::move(value);
      given[i] = true;
    } else if (name == "caller" && macro.uses_caller) {
      inner->names["caller"] = std::move(value);
    } else if (macro.uses_kwargs) {
      kwargs.Set(Value::String(name), std::move(value));
    } else {
      return runtime_.Fail("macro '", macro.name, "' has no parameter '", name, "'");
    }
  }
  for (size_t i = 0; i < num_parameters; ++i) {
    if (given[i]) continue;
    const size_t first_default = num_parameters - macro.defaults.size();
    if (i < first_default) {
      inner->names[macro.parameters[i]] = Value::UndefinedNamed(macro.parameters[i]);
    } else {
      ASSIGN_OR_RETURN(inner->names[macro.parameters[i]], Evaluate(*macro.defaults[i - first_default], inner));
    }
  }
  if (macro.uses_varargs) {
    ASSIGN_OR_RETURN(inner->names["varargs"], runtime_.NewList(std::move(varargs), /*is_tuple=*/true));
  }
  if (macro.uses_kwargs) {
    ASSIGN_OR_RETURN(inner->names["kwargs"], runtime_.NewDict(std::move(kwargs)));
  }
  ++call_depth_;
  ValueOr text = Capture(macro.body, inner);
  --call_depth_;
  return text;
}

absl::Status Interpreter::RunCallBlock(const Statement& statement, const ScopePointer& scope, std::string* out) {
  Arguments extra;
  extra.named.emplace_back("caller",
                           Value(std::shared_ptr<Object>(std::make_shared<Macro>(this, statement.macro.get(), scope))));
  ASSIGN_OR_RETURN(const Value value, EvaluateCall(*statement.expression, scope, std::move(extra)));
  ASSIGN_OR_RETURN(const std::string text, runtime_.Str(value));
  return Emit(text, out);
}

Value Interpreter::LookUp(const std::string& name, const ScopePointer& scope) const {
  for (const Scope* s = scope.get(); s != nullptr; s = s->outer.get()) {
    const auto found = s->names.find(name);
    if (found != s->names.end()) return found->second;
  }
  const auto variable = variables_.find(name);
  if (variable != variables_.end()) return variable->second;
  return FindFunction(runtime_, name).value_or(Value::UndefinedNamed(name));
}

absl::Status Interpreter::Assign(const Expression& target, const Value& value, const ScopePointer& scope) {
  if (target.kind == Expression::Kind::kName) {
    scope->names[target.name] = value;
    return absl::OkStatus();
  }
  if (target.kind == Expression::Kind::kAttribute) {
    const Value space = LookUp(target.operands[0]->name, scope);
    if (!space.IsNamespace()) {
      return runtime_.Fail("can not set an attribute of '", target.operands[0]->name, "': it is no namespace");
    }
    const auto [entry, inserted] = space.name_space().attributes.try_emplace(target.name);
    if (inserted) RETURN_IF_ERROR(runtime_.Grow(sizeof(Value) + target.name.size() + 64));
    entry->second = value;
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime_.Iterate(value));
  if (items.size() != target.operands.size()) {
    return runtime_.Fail("can not unpack ", items.size(), " values into ", target.operands.size(), " names");
  }
  for (size_t i = 0; i < items.size(); ++i) RETURN_IF_ERROR(Assign(*target.operands[i], items[i], scope));
  return absl::OkStatus();
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const ArgumentList& list, const ScopePointer& scope) {
  Arguments arguments;
  for (const auto& expression : list.positional) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expression, scope));
    arguments.positional.push_back(std::move(value));
  }
  if (list.star != nullptr) {
    ASSIGN_OR_RETURN(const Value star, Evaluate(*list.star, scope));
    ASSIGN_OR_RETURN(const std::vector<Value> items, runtime_.Iterate(star));
    arguments.positional.insert(arguments.positional.end(), items.begin(), items.end());
  }
  for (const auto& [name, expression] : list.named) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expression, scope));
    arguments.named.emplace_back(name, std::move(value));
  }
  if (list.double_star != nullptr) {
    ASSIGN_OR_RETURN(const Value mapping, Evaluate(*list.double_star, scope));
    if (!mapping.IsDict()) return runtime_.Fail("** needs a mapping, not ", mapping.TypeName());
    RETURN_IF_ERROR(runtime_.Step(mapping.dict().entries().size()));
    for (const auto& [key, value] : mapping.dict().entries()) {
      if (!key.IsString()) return runtime_.Fail("** needs string keys");
      arguments.named.emplace_back(key.string(), value);
    }
  }
  return arguments;
}

ValueOr Interpreter::ApplyFilterChain(const Expression* chain, Value value, const ScopePointer& scope) {
  if (chain == nullptr) return value;
  const Runtime::Frame frame(&runtime_);
  RETURN_IF_ERROR(frame.Check());
  ASSIGN_OR_RETURN(value, ApplyFilterChain(chain->operands[0].get(), std::move(value), scope));
  ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(chain->arguments, scope));
  runtime_.set_line(chain->line);
  return ApplyFilter(runtime_, chain->name, value, std::move(arguments));
}

ValueOr Interpreter::EvaluateCompare(const Expression& node, const ScopePointer& scope) {
  ASSIGN_OR_RETURN(Value left, Evaluate(*node.operands[0], scope));
  for (size_t i = 0; i < node.operators.size(); ++i) {
    const std::string& op = node.operators[i];
    ASSIGN_OR_RETURN(Value right, Evaluate(*node.operands[i + 1], scope));
    runtime_.set_line(node.line);
    bool holds = false;
    if (op == "==" || op == "!=") {
      ASSIGN_OR_RETURN(const bool equal, runtime_.Equal(left, right));
      holds = equal == (op == "==");
    } else if (op == "in" || op == "not in") {
      ASSIGN_OR_RETURN(const bool contained, runtime_.Contains(right, left));
      holds = contained == (op == "in");
    } else {
      ASSIGN_OR_RETURN(const int order, runtime_.Compare(left, right));
      holds = op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
    }
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

ValueOr Interpreter::EvaluateCall(const Expression& node, const ScopePointer& scope, Arguments extra) {
  const Expression& callee = *node.operands[0];
  // A method of a value is called without making an object of it first.
  std::optional<Value> self;
  Value function;
  if (callee.kind == Expression::Kind::kAttribute) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*callee.operands[0], scope));
    runtime_.set_line(node.line);
    if (HasMethod(value, callee.name)) {
      self = std::move(value);
    } else {
      ASSIGN_OR_RETURN(function, runtime_.GetAttribute(value, callee.name));
    }
  } else {
    ASSIGN_OR_RETURN(function, Evaluate(callee, scope));
  }
  ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(node.arguments, scope));
  for (auto& named : extra.named) arguments.named.push_back(std::move(named));
  runtime_.set_line(node.line);
  if (self.has_value()) return CallMethod(runtime_, *self, callee.name, std::move(arguments));
  return runtime_.Call(function, std::move(arguments));
}

ValueOr Interpreter::Evaluate(const Expression& node, const ScopePointer& scope) {
  const Runtime::Frame frame(&runtime_);
  RETURN_IF_ERROR(frame.Check());
  runtime_.set_line(node.line);
  RETURN_IF_ERROR(runtime_.Step());
  switch (node.kind) {
    case Expression::Kind::kLiteral:
      return node.literal;
    case Expression::Kind::kName:
      return LookUp(node.name, scope);
    case Expression::Kind::kTuple:
    case Expression::Kind::kList: {
      std::vector<Value> items;
      for (const auto& operand : node.operands) {
        ASSIGN_OR_RETURN(Value item, Evaluate(*operand, scope));
        items.push_back(std::move(item));
      }
      return runtime_.NewList(std::move(items), node.kind == Expression::Kind::kTuple);
    }
    case Expression::Kind::kDict: {
      Dict dict;
      for (size_t i = 0; i + 1 < node.operands.size(); i += 2) {
        ASSIGN_OR_RETURN(Value key, Evaluate(*node.operands[i], scope));
        if (!key.IsScalar()) return runtime_.Fail("keys are strings, numbers or none, not ", key.TypeName());
        ASSIGN_OR_RETURN(Value value, Evaluate(*node.operands[i + 1], scope));
        dict.Set(std::move(key), std::move(value));
      }
      return runtime_.NewDict(std::move(dict));
    }
    case Expression::Kind::kAttribute: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*node.operands[0], scope));
      runtime_.set_line(node.line);
      return runtime_.GetAttribute(value, node.name);
    }
    case Expression::Kind::kItem: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*node.operands[0], scope));
      ASSIGN_OR_RETURN(const Value key, Evaluate(*node.operands[1], scope));
      runtime_.set_line(node.line);
      return runtime_.GetItem(value, key);
    }
    case Expression::Kind::kSlice: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*node.operands[0], scope));
      ASSIGN_OR_RETURN(const Value first, EvaluateOptional(node.operands[1], scope));
      ASSIGN_OR_RETURN(const Value end, EvaluateOptional(node.operands[2], scope));
      ASSIGN_OR_RETURN(const Value step, EvaluateOptional(node.operands[3], scope));
      runtime_.set_line(node.line);
      return runtime_.Slice(value, first, end, step);
    }
    case Expression::Kind::kCall:
      return EvaluateCall(node, scope, {});
    case Expression::Kind::kFilter: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*node.operands[0], scope));
      ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(node.arguments, scope));
      runtime_.set_line(node.line);
      return ApplyFilter(runtime_, node.name, value, std::move(arguments));
    }
    case Expression::Kind::kTest: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*node.operands[0], scope));
      ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(node.arguments, scope));
      runtime_.set_line(node.line);
      ASSIGN_OR_RETURN(const bool passes, ApplyTest(runtime_, node.name, value, std::move(arguments)));
      return Value(passes);
    }
    case Expression::Kind::kNot: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*node.operands[0], scope));
      return Value(!value.Truth());
    }
    case Expression::Kind::kNegate: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*node.operands[0], scope));
      return runtime_.Negate(value);
    }
    case Expression::Kind::kPlus: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*node.operands[0], scope));
      if (!value.IsNumber()) return runtime_.Fail("bad operand for unary +: ", value.TypeName());
      return value;
    }
    case Expression::Kind::kBinary: {
      ASSIGN_OR_RETURN(const Value left, Evaluate(*node.operands[0], scope));
      ASSIGN_OR_RETURN(const Value right, Evaluate(*node.operands[1], scope));
      runtime_.set_line(node.line);
      return runtime_.Arithmetic(node.name, left, right);
    }
    case Expression::Kind::kConcatenate: {
      std::string text;
      for (const auto& operand : node.operands) {
        ASSIGN_OR_RETURN(const Value value, Evaluate(*operand, scope));
        ASSIGN_OR_RETURN(const std::string part, runtime_.Str(value));
        text += part;
      }
      return runtime_.NewString(std::move(text));
    }
    case Expression::Kind::kCompare:
      return EvaluateCompare(node, scope);
    case Expression::Kind::kAnd:
    case Expression::Kind::kOr: {
      // The first operand that decides, or the last.
      for (size_t i = 0; i + 1 < node.operands.size(); ++i) {
        ASSIGN_OR_RETURN(Value value, Evaluate(*node.operands[i], scope));
        if (value.Truth() == (node.kind == Expression::Kind::kOr)) return value;
      }
      return Evaluate(*node.operands.back(), scope);
    }
    case Expression::Kind::kConditional: {
      ASSIGN_OR_RETURN(const Value condition, Evaluate(*node.operands[1], scope));
      if (condition.Truth()) return Evaluate(*node.operands[0], scope);
      if (node.operands[2] == nullptr) return Value::UndefinedNamed("the inline if-expression without else");
      return Evaluate(*node.operands[2], scope);
    }
  }
  return Value();
}

}  // namespace

absl::StatusOr<std::string> Render(const Block& block, const absl::flat_hash_map<std::string, Value>& variables,
                                   Runtime* runtime) {
  return Interpreter(variables, runtime).RenderTemplate(block);
}

}  // namespace outrider::text::jinja
