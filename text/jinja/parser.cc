#include "text/jinja/parser.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/lexer.h"

namespace outrider::text::jinja {
namespace {

using ExpressionOr = absl::StatusOr<ExpressionPointer>;
using StatementOr = absl::StatusOr<std::unique_ptr<Statement>>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<Block> ParseTemplate() {
    ASSIGN_OR_RETURN(Block block, ParseBlock({}));
    return block;
  }

 private:
  // --- tokens

  const Token& Current() const { return tokens_[next_]; }
  const Token& Peek() const { return tokens_[std::min(next_ + 1, tokens_.size() - 1)]; }
  void Skip() {
    if (next_ + 1 < tokens_.size()) ++next_;
  }
  bool AtOperator(absl::string_view text) const {
    return Current().kind == Token::Kind::kOperator && Current().text == text;
  }
  bool AtName(absl::string_view text) const { return Current().kind == Token::Kind::kName && Current().text == text; }
  bool SkipOperator(absl::string_view text) {
    if (!AtOperator(text)) return false;
    Skip();
    return true;
  }
  bool SkipName(absl::string_view text) {
    if (!AtName(text)) return false;
    Skip();
    return true;
  }
  absl::Status Error(absl::string_view message) const { return TemplateError(Current().line, message); }
  std::string Describe(const Token& token) const {
    switch (token.kind) {
      case Token::Kind::kEnd:
        return "the end of the template";
      case Token::Kind::kBlockEnd:
        return "'%}'";
      case Token::Kind::kOutputEnd:
        return "'}}'";
      default:
        return absl::StrCat("'", absl::CHexEscape(absl::string_view(token.text).substr(0, 40)), "'");
    }
  }
  absl::Status Unexpected(absl::string_view wanted) const {
    return Error(absl::StrCat("expected ", wanted, ", found ", Describe(Current())));
  }
  absl::Status Expect(absl::string_view operator_text) {
    if (SkipOperator(operator_text)) return absl::OkStatus();
    return Unexpected(absl::StrCat("'", operator_text, "'"));
  }
  absl::StatusOr<std::string> ExpectName() {
    if (Current().kind != Token::Kind::kName) return Unexpected("a name");
    std::string name = Current().text;
    Skip();
    return name;
  }
  absl::Status ExpectBlockEnd() {
    if (Current().kind != Token::Kind::kBlockEnd) return Unexpected("'%}'");
    Skip();
    return absl::OkStatus();
  }

  // --- nodes

  ExpressionPointer New(Expression::Kind kind, int line) {
    auto node = std::make_unique<Expression>();
    node->kind = kind;
    node->line = line;
    return node;
  }
  static int DepthOf(const ArgumentList& arguments) {
    int depth = 0;
    for (const auto& e : arguments.positional) depth = std::max(depth, e->depth);
    for (const auto& [name, e] : arguments.named) depth = std::max(depth, e->depth);
    if (arguments.star != nullptr) depth = std::max(depth, arguments.star->depth);
    if (arguments.double_star != nullptr) depth = std::max(depth, arguments.double_star->depth);
    return depth;
  }
  // Sets the depth, when all operands are in place.
  ExpressionOr Finish(ExpressionPointer node) {
    int depth = DepthOf(node->arguments);
    for (const auto& operand : node->operands) {
      if (operand != nullptr) depth = std::max(depth, operand->depth);
    }
    node->depth = depth + 1;
    if (node->depth > kMaxExpressionDepth) {
      return TemplateError(node->line, absl::StrCat("expression is deeper than ", kMaxExpressionDepth));
    }
    return node;
  }
  template <typename... Operands>
  ExpressionOr Make(Expression::Kind kind, int line, absl::string_view name, Operands... operands) {
    ExpressionPointer node = New(kind, line);
    node->name = std::string(name);
    (node->operands.push_back(std::move(operands)), ...);
    return Finish(std::move(node));
  }
  ExpressionPointer Literal(int line, Value value) {
    ExpressionPointer node = New(Expression::Kind::kLiteral, line);
    node->literal = std::move(value);
    return node;
  }

  // One level deeper for as long as it lives.
  class Nesting {
   public:
    explicit Nesting(int* level) : level_(level) { ++*level_; }
    ~Nesting() { --*level_; }

   private:
    int* level_;
  };

  // --- expressions, loosest binding first

  ExpressionOr ParseExpression() {
    const Nesting nesting(&expression_nesting_);
    if (expression_nesting_ > kMaxExpressionNesting) {
      return Error(absl::StrCat("expression is nested deeper than ", kMaxExpressionNesting));
    }
    const int line = Current().line;
    ASSIGN_OR_RETURN(ExpressionPointer value, ParseOr());
    while (SkipName("if")) {
      ASSIGN_OR_RETURN(ExpressionPointer condition, ParseOr());
      ExpressionPointer otherwise;
      if (SkipName("else")) {
        ASSIGN_OR_RETURN(otherwise, ParseExpression());
      }
      ASSIGN_OR_RETURN(value, Make(Expression::Kind::kConditional, line, "", std::move(value), std::move(condition),
                                   std::move(otherwise)));
    }
    return value;
  }

  ExpressionOr ParseOr() { return ParseJunction(Expression::Kind::kOr, "or"); }

  ExpressionOr ParseJunction(Expression::Kind kind, absl::string_view word) {
    const auto parse_operand = [&] {
      return kind == Expression::Kind::kOr ? ParseJunction(Expression::Kind::kAnd, "and") : ParseNot();
    };
    const int line = Current().line;
    ASSIGN_OR_RETURN(ExpressionPointer first, parse_operand());
    if (!AtName(word)) return first;
    ExpressionPointer node = New(kind, line);
    node->operands.push_back(std::move(first));
    while (SkipName(word)) {
      ASSIGN_OR_RETURN(ExpressionPointer operand, parse_operand());
      node->operands.push_back(std::move(operand));
    }
    return Finish(std::move(node));
  }

  ExpressionOr ParseNot() {
    if (!AtName("not")) return ParseCompare();
    const Nesting nesting(&expression_nesting_);
    if (expression_nesting_ > kMaxExpressionNesting) {
      return Error(absl::StrCat("expression is nested deeper than ", kMaxExpressionNesting));
    }
    const int line = Current().line;
    Skip();
    ASSIGN_OR_RETURN(ExpressionPointer operand, ParseNot());
    return Make(Expression::Kind::kNot, line, "", std::move(operand));
  }

  ExpressionOr ParseCompare() {
    const int line = Current().line;
    ASSIGN_OR_RETURN(ExpressionPointer first, ParseSum());
    ExpressionPointer node;
    while (true) {
      std::string op;
      if (Current().kind == Token::Kind::kOperator) {
        for (const absl::string_view known : {"==", "!=", "<", "<=", ">", ">="}) {
          if (Current().text == known) op = std::string(known);
        }
        if (op.empty()) break;
        Skip();
      } else if (SkipName("in")) {
        op = "in";
      } else if (AtName("not") && Peek().kind == Token::Kind::kName && Peek().text == "in") {
        Skip();
        Skip();
        op = "not in";
      } else {
        break;
      }
      if (node == nullptr) {
        node = New(Expression::Kind::kCompare, line);
        node->operands.push_back(std::move(first));
      }
      node->operators.push_back(std::move(op));
      ASSIGN_OR_RETURN(ExpressionPointer operand, ParseSum());
      node->operands.push_back(std::move(operand));
    }
    if (node == nullptr) return first;
    return Finish(std::move(node));
  }

  // Left-associative operators of one strength.
  template <typename Operand>
  ExpressionOr ParseChain(std::initializer_list<absl::string_view> operators, Operand parse_operand) {
    const int line = Current().line;
    ASSIGN_OR_RETURN(ExpressionPointer left, parse_operand());
    while (Current().kind == Token::Kind::kOperator &&
           std::find(operators.begin(), operators.end(), absl::string_view(Current().text)) != operators.end()) {
      const std::string op = Current().text;
      Skip();
      ASSIGN_OR_RETURN(ExpressionPointer right, parse_operand());
      ASSIGN_OR_RETURN(left, Make(Expression::Kind::kBinary, line, op, std::move(left), std::move(right)));
    }
    return left;
  }

  ExpressionOr ParseSum() {
    return ParseChain({"+", "-"}, [this] { return ParseConcatenation(); });
  }

  ExpressionOr ParseConcatenation() {
    const int line = Current().line;
    ASSIGN_OR_RETURN(ExpressionPointer first, ParseProduct());
    if (!AtOperator("~")) return first;
    ExpressionPointer node = New(Expression::Kind::kConcatenate, line);
    node->operands.push_back(std::move(first));
    while (SkipOperator("~")) {
      ASSIGN_OR_RETURN(ExpressionPointer operand, ParseProduct());
      node->operands.push_back(std::move(operand));
    }
    return Finish(std::move(node));
  }

  ExpressionOr ParseProduct() {
    return ParseChain({"*", "/", "//", "%"}, [this] { return ParsePower(); });
  }

  ExpressionOr ParsePower() {
    return ParseChain({"**"}, [this] { return ParseUnary(/*with_filters=*/true); });
  }

  ExpressionOr ParseUnary(bool with_filters) {
    const int line = Current().line;
    ExpressionPointer node;
    if (AtOperator("-") || AtOperator("+")) {
      const Nesting nesting(&expression_nesting_);
      if (expression_nesting_ > kMaxExpressionNesting) {
        return Error(absl::StrCat("expression is nested deeper than ", kMaxExpressionNesting));
      }
      const bool negates = AtOperator("-");
      Skip();
      ASSIGN_OR_RETURN(ExpressionPointer operand, ParseUnary(/*with_filters=*/false));
      ASSIGN_OR_RETURN(
          node, Make(negates ? Expression::Kind::kNegate : Expression::Kind::kPlus, line, "", std::move(operand)));
    } else {
      ASSIGN_OR_RETURN(node, ParsePrimary());
      ASSIGN_OR_RETURN(node, ParsePostfix(std::move(node)));
    }
    if (!with_filters) return node;
    return ParseFilters(std::move(node));
  }

  ExpressionOr ParsePrimary() {
    const Token& token = Current();
    const int line = token.line;
    switch (token.kind) {
      case Token::Kind::kName: {
        const std::string name = token.text;
        Skip();
        if (name == "true" || name == "True") return Literal(line, true);
        if (name == "false" || name == "False") return Literal(line, false);
        if (name == "none" || name == "None") return Literal(line, None{});
        if (!macros_.empty()) {
          macros_.back()->uses_varargs |= name == "varargs";
          macros_.back()->uses_kwargs |= name == "kwargs";
          macros_.back()->uses_caller |= name == "caller";
        }
        return Make(Expression::Kind::kName, line, name);
      }
      case Token::Kind::kString: {
        std::string text;
        while (Current().kind == Token::Kind::kString) {
          text += Current().text;
          Skip();
        }
        return Literal(line, Value::String(std::move(text)));
      }
      case Token::Kind::kInteger: {
        int64_t value = 0;
        const auto result = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
        if (result.ec != std::errc()) return Error(absl::StrCat("integer ", Describe(token), " is too large"));
        Skip();
        return Literal(line, value);
      }
      case Token::Kind::kFloat: {
        double value = 0;
        std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
        Skip();
        return Literal(line, value);
      }
      case Token::Kind::kOperator:
        if (token.text == "(") {
          Skip();
          ASSIGN_OR_RETURN(ExpressionPointer node, ParseTuple(/*in_parentheses=*/true));
          RETURN_IF_ERROR(Expect(")"));
          return node;
        }
        if (token.text == "[") return ParseList();
        if (token.text == "{") return ParseDict();
        break;
      default:
        break;
    }
    return Unexpected("an expression");
  }

  // a, b, c: a tuple where there is a comma (or, in parentheses, nothing at all).
  ExpressionOr ParseTuple(bool in_parentheses) {
    const int line = Current().line;
    const auto at_end = [this] {
      return AtOperator(")") || AtOperator("=") || Current().kind == Token::Kind::kBlockEnd ||
             Current().kind == Token::Kind::kOutputEnd;
    };
    ExpressionPointer tuple;
    ExpressionPointer first;
    if (!(in_parentheses && at_end())) {
      ASSIGN_OR_RETURN(first, ParseExpression());
      if (!AtOperator(",")) return first;
    }
    tuple = New(Expression::Kind::kTuple, line);
    if (first != nullptr) tuple->operands.push_back(std::move(first));
    while (SkipOperator(",")) {
      if (at_end()) break;
      ASSIGN_OR_RETURN(ExpressionPointer item, ParseExpression());
      tuple->operands.push_back(std::move(item));
    }
    return Finish(std::move(tuple));
  }

  ExpressionOr ParseList() {
    ExpressionPointer node = New(Expression::Kind::kList, Current().line);
    Skip();
    while (!AtOperator("]")) {
      if (!node->operands.empty()) RETURN_IF_ERROR(Expect(","));
      if (AtOperator("]")) break;
      ASSIGN_OR_RETURN(ExpressionPointer item, ParseExpression());
      node->operands.push_back(std::move(item));
    }
    Skip();
    return Finish(std::move(node));
  }

  ExpressionOr ParseDict() {
    ExpressionPointer node = New(Expression::Kind::kDict, Current().line);
    Skip();
    while (!AtOperator("}")) {
      if (!node->operands.empty()) RETURN_IF_ERROR(Expect(","));
      if (AtOperator("}")) break;
      ASSIGN_OR_RETURN(ExpressionPointer key, ParseExpression());
      RETURN_IF_ERROR(Expect(":"));
      ASSIGN_OR_RETURN(ExpressionPointer value, ParseExpression());
      node->operands.push_back(std::move(key));
      node->operands.push_back(std::move(value));
    }
    Skip();
    return Finish(std::move(node));
  }

  ExpressionOr ParsePostfix(ExpressionPointer node) {
    while (Current().kind == Token::Kind::kOperator) {
      const int line = Current().line;
      if (SkipOperator(".")) {
        if (Current().kind == Token::Kind::kInteger) {
          ASSIGN_OR_RETURN(ExpressionPointer index, ParsePrimary());
          ASSIGN_OR_RETURN(node, Make(Expression::Kind::kItem, line, "", std::move(node), std::move(index)));
        } else {
          ASSIGN_OR_RETURN(const std::string name, ExpectName());
          ASSIGN_OR_RETURN(node, Make(Expression::Kind::kAttribute, line, name, std::move(node)));
        }
      } else if (SkipOperator("[")) {
        ASSIGN_OR_RETURN(node, ParseSubscript(line, std::move(node)));
      } else if (AtOperator("(")) {
        ASSIGN_OR_RETURN(node, ParseCall(std::move(node)));
      } else {
        break;
      }
    }
    return node;
  }

  // After "[".
  ExpressionOr ParseSubscript(int line, ExpressionPointer node) {
    ExpressionPointer bounds[3];
    if (!AtOperator(":")) {
      ASSIGN_OR_RETURN(bounds[0], ParseExpression());
      if (AtOperator(",")) {
        ExpressionPointer tuple = New(Expression::Kind::kTuple, line);
        tuple->operands.push_back(std::move(bounds[0]));
        while (SkipOperator(",")) {
          ASSIGN_OR_RETURN(ExpressionPointer item, ParseExpression());
          tuple->operands.push_back(std::move(item));
        }
        ASSIGN_OR_RETURN(bounds[0], Finish(std::move(tuple)));
      }
      if (SkipOperator("]")) {
        return Make(Expression::Kind::kItem, line, "", std::move(node), std::move(bounds[0]));
      }
    }
    for (int i = 1; i < 3 && SkipOperator(":"); ++i) {
      if (AtOperator(":") || AtOperator("]")) continue;
      ASSIGN_OR_RETURN(bounds[i], ParseExpression());
    }
    RETURN_IF_ERROR(Expect("]"));
    return Make(Expression::Kind::kSlice, line, "", std::move(node), std::move(bounds[0]), std::move(bounds[1]),
                std::move(bounds[2]));
  }

  // At "(".
  absl::StatusOr<ArgumentList> ParseArguments() {
    ArgumentList arguments;
    Skip();
    bool first = true;
    while (!AtOperator(")")) {
      if (!first) RETURN_IF_ERROR(Expect(","));
      first = false;
      if (AtOperator(")")) break;
      if (SkipOperator("**")) {
        if (arguments.double_star != nullptr) return Error("two ** arguments");
        ASSIGN_OR_RETURN(arguments.double_star, ParseExpression());
      } else if (SkipOperator("*")) {
        if (arguments.star != nullptr) return Error("two * arguments");
        ASSIGN_OR_RETURN(arguments.star, ParseExpression());
      } else if (Current().kind == Token::Kind::kName && Peek().kind == Token::Kind::kOperator && Peek().text == "=") {
        std::string name = Current().text;
        Skip();
        Skip();
        ASSIGN_OR_RETURN(ExpressionPointer value, ParseExpression());
        arguments.named.emplace_back(std::move(name), std::move(value));
      } else {
        if (!arguments.named.empty() || arguments.double_star != nullptr) {
          return Error("positional argument after a named one");
        }
        ASSIGN_OR_RETURN(ExpressionPointer value, ParseExpression());
        arguments.positional.push_back(std::move(value));
      }
    }
    Skip();
    return arguments;
  }

  ExpressionOr ParseCall(ExpressionPointer callee) {
    ExpressionPointer node = New(Expression::Kind::kCall, Current().line);
    node->operands.push_back(std::move(callee));
    ASSIGN_OR_RETURN(node->arguments, ParseArguments());
    return Finish(std::move(node));
  }

  ExpressionOr ParseFilters(ExpressionPointer node) {
    while (true) {
      if (SkipOperator("|")) {
        ASSIGN_OR_RETURN(node, ParseFilter(std::move(node)));
      } else if (SkipName("is")) {
        ASSIGN_OR_RETURN(node, ParseTest(std::move(node)));
      } else if (AtOperator("(")) {
        ASSIGN_OR_RETURN(node, ParseCall(std::move(node)));
      } else {
        return node;
      }
    }
  }

  // After "|". `operand` may be null (filter blocks).
  ExpressionOr ParseFilter(ExpressionPointer operand) {
    ExpressionPointer node = New(Expression::Kind::kFilter, Current().line);
    ASSIGN_OR_RETURN(node->name, ExpectName());
    node->operands.push_back(std::move(operand));
    if (AtOperator("(")) {
      ASSIGN_OR_RETURN(node->arguments, ParseArguments());
    }
    return Finish(std::move(node));
  }

  // After "is".
  ExpressionOr ParseTest(ExpressionPointer operand) {
    const int line = Current().line;
    const bool is_negated = SkipName("not");
    ExpressionPointer node = New(Expression::Kind::kTest, line);
    ASSIGN_OR_RETURN(node->name, ExpectName());
    node->operands.push_back(std::move(operand));
    const Token& next = Current();
    if (AtOperator("(")) {
      ASSIGN_OR_RETURN(node->arguments, ParseArguments());
    } else if (next.kind == Token::Kind::kString || next.kind == Token::Kind::kInteger ||
               next.kind == Token::Kind::kFloat || AtOperator("[") || AtOperator("{") ||
               (next.kind == Token::Kind::kName && next.text != "else" && next.text != "or" && next.text != "and" &&
                next.text != "if" && next.text != "is" && next.text != "in" && next.text != "not")) {
      const Nesting nesting(&expression_nesting_);
      ASSIGN_OR_RETURN(ExpressionPointer argument, ParsePrimary());
      ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
      node->arguments.positional.push_back(std::move(argument));
    }
    ASSIGN_OR_RETURN(node, Finish(std::move(node)));
    if (!is_negated) return node;
    return Make(Expression::Kind::kNot, line, "", std::move(node));
  }

  // What may stand left of "=" or "in": names, and in {% set %} an attribute of one.
  ExpressionOr ParseTarget(bool with_attribute) {
    const int line = Current().line;
    ASSIGN_OR_RETURN(ExpressionPointer first, ParseTargetName());
    if (with_attribute && SkipOperator(".")) {
      ASSIGN_OR_RETURN(const std::string attribute, ExpectName());
      return Make(Expression::Kind::kAttribute, line, attribute, std::move(first));
    }
    if (!AtOperator(",")) return first;
    ExpressionPointer tuple = New(Expression::Kind::kTuple, line);
    tuple->operands.push_back(std::move(first));
    while (SkipOperator(",")) {
      if (Current().kind != Token::Kind::kName && !AtOperator("(")) break;
      ASSIGN_OR_RETURN(ExpressionPointer name, ParseTargetName());
      tuple->operands.push_back(std::move(name));
    }
    return Finish(std::move(tuple));
  }

  ExpressionOr ParseTargetName() {
    const int line = Current().line;
    if (SkipOperator("(")) {
      const Nesting nesting(&expression_nesting_);
      if (expression_nesting_ > kMaxExpressionNesting) {
        return Error(absl::StrCat("expression is nested deeper than ", kMaxExpressionNesting));
      }
      ASSIGN_OR_RETURN(ExpressionPointer target, ParseTarget(/*with_attribute=*/false));
      RETURN_IF_ERROR(Expect(")"));
      return target;
    }
    ASSIGN_OR_RETURN(const std::string name, ExpectName());
    for (const char* reserved : {"true", "false", "none", "True", "False", "None", "in", "is", "not", "and", "or"}) {
      if (name == reserved) return TemplateError(line, absl::StrCat("can not assign to '", name, "'"));
    }
    return Make(Expression::Kind::kName, line, name);
  }

  // --- statements

  // Statements up to a tag that one of `ends` begins (that name is then the current token), or the template's end
  // when there are none.
  absl::StatusOr<Block> ParseBlock(std::initializer_list<absl::string_view> ends) {
    const Nesting nesting(&block_nesting_);
    if (block_nesting_ > kMaxBlockNesting) {
      return Error(absl::StrCat("blocks are nested deeper than ", kMaxBlockNesting));
    }
    Block block;
    while (true) {
      const Token& token = Current();
      const int line = token.line;
      switch (token.kind) {
        case Token::Kind::kText: {
          auto text = NewStatement(Statement::Kind::kText, line);
          text->text = token.text;
          Skip();
          block.push_back(std::move(text));
          break;
        }
        case Token::Kind::kOutputBegin: {
          Skip();
          auto output = NewStatement(Statement::Kind::kOutput, line);
          ASSIGN_OR_RETURN(output->expression, ParseTuple(/*in_parentheses=*/false));
          if (Current().kind != Token::Kind::kOutputEnd) return Unexpected("'}}'");
          Skip();
          block.push_back(std::move(output));
          break;
        }
        case Token::Kind::kBlockBegin: {
          Skip();
          if (Current().kind != Token::Kind::kName) return Unexpected("a statement's name");
          if (std::find(ends.begin(), ends.end(), absl::string_view(Current().text)) != ends.end()) return block;
          ASSIGN_OR_RETURN(auto statement, ParseStatement());
          block.push_back(std::move(statement));
          break;
        }
        case Token::Kind::kEnd:
          if (ends.size() == 0) return block;
          return Error(absl::StrCat("the template ends before {% ", *(ends.end() - 1), " %}"));
        default:
          return Unexpected("text or a tag");
      }
    }
  }

  std::unique_ptr<Statement> NewStatement(Statement::Kind kind, int line) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  // "%}", the statements up to {% end %}, and that tag.
  absl::StatusOr<Block> ParseBody(absl::string_view end) {
    RETURN_IF_ERROR(ExpectBlockEnd());
    ASSIGN_OR_RETURN(Block body, ParseBlock({end}));
    Skip();
    RETURN_IF_ERROR(ExpectBlockEnd());
    return body;
  }

  StatementOr ParseStatement() {
    const std::string name = Current().text;
    const int line = Current().line;
    Skip();
    if (name == "set") return ParseSet(line);
    if (name == "if") return ParseIf(line);
    if (name == "for") return ParseFor(line);
    if (name == "macro") return ParseMacro(line);
    if (name == "call") return ParseCallBlock(line);
    if (name == "filter") return ParseFilterBlock(line);
    if (name == "with") return ParseWith(line);
    if (name == "generation") {
      auto statement = NewStatement(Statement::Kind::kGroup, line);
      ASSIGN_OR_RETURN(statement->body, ParseBody("endgeneration"));
      return statement;
    }
    if (name == "break" || name == "continue") {
      if (loop_nesting_ == 0) return TemplateError(line, absl::StrCat("{% ", name, " %} outside of a loop"));
      RETURN_IF_ERROR(ExpectBlockEnd());
      return NewStatement(name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue, line);
    }
    return TemplateError(line, absl::StrCat("unknown statement '", absl::CHexEscape(name.substr(0, 40)), "'"));
  }

  StatementOr ParseSet(int line) {
    ASSIGN_OR_RETURN(ExpressionPointer target, ParseTarget(/*with_attribute=*/true));
    auto statement = NewStatement(Statement::Kind::kSet, line);
    statement->target = std::move(target);
    if (SkipOperator("=")) {
      ASSIGN_OR_RETURN(statement->expression, ParseTuple(/*in_parentheses=*/false));
      RETURN_IF_ERROR(ExpectBlockEnd());
      return statement;
    }
    if (statement->target->kind == Expression::Kind::kTuple) return Unexpected("'='");
    statement->kind = Statement::Kind::kSetBlock;
    ExpressionPointer filters;
    while (SkipOperator("|")) {
      ASSIGN_OR_RETURN(filters, ParseFilter(std::move(filters)));
    }
    statement->expression = std::move(filters);
    ASSIGN_OR_RETURN(statement->body, ParseBody("endset"));
    return statement;
  }

  StatementOr ParseIf(int line) {
    auto statement = NewStatement(Statement::Kind::kIf, line);
    while (true) {
      ASSIGN_OR_RETURN(ExpressionPointer condition, ParseTuple(/*in_parentheses=*/false));
      RETURN_IF_ERROR(ExpectBlockEnd());
      ASSIGN_OR_RETURN(Block body, ParseBlock({"elif", "else", "endif"}));
      statement->branches.emplace_back(std::move(condition), std::move(body));
      if (!SkipName("elif")) break;
    }
    if (SkipName("else")) {
      ASSIGN_OR_RETURN(statement->body, ParseBody("endif"));
    } else {
      Skip();
      RETURN_IF_ERROR(ExpectBlockEnd());
    }
    return statement;
  }

  StatementOr ParseFor(int line) {
    auto statement = NewStatement(Statement::Kind::kFor, line);
    ASSIGN_OR_RETURN(statement->target, ParseTarget(/*with_attribute=*/false));
    if (!SkipName("in")) return Unexpected("'in'");
    // Without conditional expressions: the `if` that may follow belongs to the loop.
    ASSIGN_OR_RETURN(statement->expression, ParseLoopItems());
    if (SkipName("if")) {
      ASSIGN_OR_RETURN(statement->condition, ParseExpression());
    }
    statement->is_recursive = SkipName("recursive");
    RETURN_IF_ERROR(ExpectBlockEnd());
    {
      const Nesting nesting(&loop_nesting_);
      ASSIGN_OR_RETURN(statement->body, ParseBlock({"else", "endfor"}));
    }
    if (SkipName("else")) {
      ASSIGN_OR_RETURN(statement->otherwise, ParseBody("endfor"));
    } else {
      Skip();
      RETURN_IF_ERROR(ExpectBlockEnd());
    }
    return statement;
  }

  ExpressionOr ParseLoopItems() {
    const int line = Current().line;
    ASSIGN_OR_RETURN(ExpressionPointer first, ParseOr());
    if (!AtOperator(",")) return first;
    ExpressionPointer tuple = New(Expression::Kind::kTuple, line);
    tuple->operands.push_back(std::move(first));
    while (SkipOperator(",")) {
      if (Current().kind == Token::Kind::kBlockEnd) break;
      ASSIGN_OR_RETURN(ExpressionPointer item, ParseOr());
      tuple->operands.push_back(std::move(item));
    }
    return Finish(std::move(tuple));
  }

  // "(a, b=1)", at "(".
  absl::Status ParseSignature(MacroDefinition* macro) {
    Skip();
    while (!AtOperator(")")) {
      if (!macro->parameters.empty()) RETURN_IF_ERROR(Expect(","));
      if (AtOperator(")")) break;
      ASSIGN_OR_RETURN(std::string parameter, ExpectName());
      macro->parameters.push_back(std::move(parameter));
      if (SkipOperator("=")) {
        ASSIGN_OR_RETURN(ExpressionPointer value, ParseExpression());
        macro->defaults.push_back(std::move(value));
      } else if (!macro->defaults.empty()) {
        return Error("parameter without a default after one with");
      }
    }
    Skip();
    return absl::OkStatus();
  }

  absl::Status ParseMacroBody(absl::string_view end, MacroDefinition* macro) {
    const int loops_outside = std::exchange(loop_nesting_, 0);
    macros_.push_back(macro);
    absl::StatusOr<Block> body = ParseBody(end);
    macros_.pop_back();
    loop_nesting_ = loops_outside;
    if (!body.ok()) return body.status();
    macro->body = *std::move(body);
    return absl::OkStatus();
  }

  StatementOr ParseMacro(int line) {
    auto statement = NewStatement(Statement::Kind::kMacro, line);
    statement->macro = std::make_unique<MacroDefinition>();
    ASSIGN_OR_RETURN(statement->macro->name, ExpectName());
    if (!AtOperator("(")) return Unexpected("'('");
    RETURN_IF_ERROR(ParseSignature(statement->macro.get()));
    RETURN_IF_ERROR(ParseMacroBody("endmacro", statement->macro.get()));
    return statement;
  }

  StatementOr ParseCallBlock(int line) {
    auto statement = NewStatement(Statement::Kind::kCallBlock, line);
    statement->macro = std::make_unique<MacroDefinition>();
    statement->macro->name = "caller";
    if (AtOperator("(")) RETURN_IF_ERROR(ParseSignature(statement->macro.get()));
    ASSIGN_OR_RETURN(statement->expression, ParseExpression());
    if (statement->expression->kind != Expression::Kind::kCall) return TemplateError(line, "{% call %} needs a call");
    RETURN_IF_ERROR(ParseMacroBody("endcall", statement->macro.get()));
    return statement;
  }

  StatementOr ParseFilterBlock(int line) {
    auto statement = NewStatement(Statement::Kind::kFilterBlock, line);
    ExpressionPointer filters;
    do {
      ASSIGN_OR_RETURN(filters, ParseFilter(std::move(filters)));
    } while (SkipOperator("|"));
    statement->expression = std::move(filters);
    ASSIGN_OR_RETURN(statement->body, ParseBody("endfilter"));
    return statement;
  }

  StatementOr ParseWith(int line) {
    auto statement = NewStatement(Statement::Kind::kWith, line);
    while (Current().kind != Token::Kind::kBlockEnd) {
      if (!statement->assignments.empty()) RETURN_IF_ERROR(Expect(","));
      ASSIGN_OR_RETURN(ExpressionPointer target, ParseTargetName());
      RETURN_IF_ERROR(Expect("="));
      ASSIGN_OR_RETURN(ExpressionPointer value, ParseExpression());
      statement->assignments.emplace_back(std::move(target), std::move(value));
    }
    ASSIGN_OR_RETURN(statement->body, ParseBody("endwith"));
    return statement;
  }

  const std::vector<Token> tokens_;
  size_t next_ = 0;
  int expression_nesting_ = 0;
  int block_nesting_ = 0;
  int loop_nesting_ = 0;
  std::vector<MacroDefinition*> macros_;  // being parsed, outermost first
};

}  // namespace

absl::StatusOr<Block> Parse(absl::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).ParseTemplate();
}

}  // namespace outrider::text::jinja
