// The tree of a template.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace outrider::text::jinja {

struct Expression;
struct Statement;
using ExpressionPointer = std::unique_ptr<Expression>;
using Block = std::vector<std::unique_ptr<Statement>>;

// A call's arguments as written. `star` and `double_star` may be null.
struct ArgumentList {
  std::vector<ExpressionPointer> positional;
  std::vector<std::pair<std::string, ExpressionPointer>> named;
  ExpressionPointer star;
  ExpressionPointer double_star;
};

struct Expression {
  enum class Kind : uint8_t {
    kLiteral,      // literal
    kName,         // name
    kTuple,        // operands
    kList,         // operands
    kDict,         // operands: key, value, key, value, ...
    kAttribute,    // operands[0] . name
    kItem,         // operands[0] [ operands[1] ]
    kSlice,        // operands[0] [ operands[1] : operands[2] : operands[3] ], null where left out
    kCall,         // operands[0] ( arguments )
    kFilter,       // operands[0] | name ( arguments ); in filter blocks the innermost operands[0] is null: the body
    kTest,         // operands[0] is name ( arguments )
    kNot,          // operands[0]
    kNegate,       // operands[0]
    kPlus,         // operands[0]
    kBinary,       // operands[0] name operands[1]: + - * / // % **
    kConcatenate,  // operands joined by ~
    kCompare,      // operands[0] operators[0] operands[1] operators[1] operands[2] ...
    kAnd,          // operands
    kOr,           // operands
    kConditional,  // operands[0] if operands[1] else operands[2]; the last may be null
  };
  Kind kind;
  int line;
  int depth = 1;  // 1 + that of the deepest operand; bounded by the parser
  std::string name;
  Value literal;
  std::vector<ExpressionPointer> operands;
  std::vector<std::string> operators;
  ArgumentList arguments;
};

// A macro's or call block's parameters, and its body.
struct MacroDefinition {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPointer> defaults;  // of the last defaults.size() parameters
  Block body;
  bool uses_varargs = false;  // whether the body names them: else too many arguments are an error
  bool uses_kwargs = false;
  bool uses_caller = false;
};

struct Statement {
  enum class Kind : uint8_t {
    kText,         // text
    kOutput,       // expression
    kSet,          // target = expression
    kSetBlock,     // target = what body writes, through the filters of expression if any
    kIf,           // branches; body: else
    kFor,          // for target in expression if condition: body, else: otherwise
    kMacro,        // macro
    kCallBlock,    // expression (a kCall), with caller() = macro
    kFilterBlock,  // what body writes, through the filters of expression
    kWith,         // assignments, body
    kGroup,        // body: a block that changes nothing ({% generation %})
    kBreak,
    kContinue,
  };
  Kind kind;
  int line;
  std::string text;
  // kName, kTuple of names, or (kSet) kAttribute of a name that holds a namespace.
  ExpressionPointer target;
  ExpressionPointer expression;
  ExpressionPointer condition;
  std::vector<std::pair<ExpressionPointer, Block>> branches;
  std::vector<std::pair<ExpressionPointer, ExpressionPointer>> assignments;
  Block body;
  Block otherwise;
  std::unique_ptr<MacroDefinition> macro;
  bool is_recursive = false;  // kFor: the body may call loop(items)
};

}  // namespace outrider::text::jinja
