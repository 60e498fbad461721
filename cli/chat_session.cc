#include "cli/chat_session.h"

#include <google/protobuf/util/json_util.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cli/config_schema.h"  // NearestName
#include "cli/generate_requests.h"
#include "text/utf8.h"

namespace outrider {
namespace {

constexpr char kHelp[] =
    "/new              begin anew, parameters as they were at the start\n"
    "/system [TEXT]    set the system message; without TEXT: remove it\n"
    "/set NAME VALUE   set a parameter: temperature, top_p, max_tokens, seed, draft, lookahead, ...\n"
    "/show             the conversation and its parameters\n"
    "/undo             take the last message and its answer back\n"
    "/retry            ask the last message again\n"
    "/stats            tell after each answer what it took, or stop telling\n"
    "/drafts           colour the accepted draft tokens, or stop colouring\n"
    "/save FILE        write the conversation; /load FILE reads it again\n"
    "/exit             leave; so does Ctrl-D\n"
    "A line that ends in \\ goes on; lines between \"\"\" and \"\"\" are one message. A message that begins with a "
    "slash is "
    "written with two.\n"
    "Ctrl-C stops an answer, or drops the line that is being typed.";

const std::vector<std::string>& Commands() {
  static const auto* const commands =
      new std::vector<std::string>{"/help",  "/new",    "/system", "/set",  "/show", "/undo", "/retry",
                                   "/stats", "/drafts", "/save",   "/load", "/exit", "/quit"};
  return *commands;
}

// Scalar fields that are parameters, not input.
std::vector<std::string> Parameters() {
  std::vector<std::string> names;
  const auto& message = *v1::GenerateRequest::descriptor();
  for (int i = 0; i < message.field_count(); ++i) {
    const std::string& name = message.field(i)->name();
    if (!message.field(i)->is_repeated() && name != "prompt" && name != "n") names.push_back(name);
  }
  return names;
}

std::string Json(const v1::GenerateRequest& request) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  CHECK(google::protobuf::util::MessageToJsonString(request, &json, options).ok());  // it holds no Any
  return json;
}

std::string Strip(const std::string& text) { return std::string(absl::StripAsciiWhitespace(text)); }

}  // namespace

bool InputAssembler::Add(const std::string& line) {
  constexpr char kMark[] = "\"\"\"";
  std::string rest = line;
  if (!in_block_ && !continues_) {
    text_.clear();
    if (absl::StartsWith(rest, kMark)) {
      in_block_ = true;
      rest.erase(0, 3);
      if (rest.empty()) return false;
    }
  }
  if (in_block_) {
    const bool ends = absl::EndsWith(rest, kMark);
    if (ends) rest.resize(rest.size() - 3);
    if (!(ends && rest.empty())) absl::StrAppend(&text_, text_.empty() ? "" : "\n", rest);
    if (!ends) return false;
  } else {
    const bool goes_on = absl::EndsWith(rest, "\\");
    if (goes_on) rest.pop_back();
    absl::StrAppend(&text_, continues_ ? "\n" : "", rest);
    continues_ = goes_on;
    if (goes_on) return false;
  }
  input_ = text_;
  Drop();
  return true;
}

void InputAssembler::Drop() {
  text_.clear();
  in_block_ = continues_ = false;
}

ChatSession::ChatSession(v1::GenerateRequest defaults, bool shows_stats, bool shows_drafts)
    : defaults_(std::move(defaults)), request_(defaults_), shows_stats_(shows_stats), shows_drafts_(shows_drafts) {}

ChatSession::Step ChatSession::OnInput(const std::string& input) {
  if (Strip(input).empty()) return {};
  if (const auto offset = text::FirstInvalidUtf8(input)) {
    return {.text = absl::StrCat("that is not UTF-8 at byte ", *offset, "; is the terminal set to UTF-8?")};
  }
  if (input[0] != '/' || absl::StartsWith(input, "//")) {
    v1::ChatMessage* const message = request_.add_messages();
    message->set_role("user");
    message->set_content(input[0] == '/' ? input.substr(1) : input);
    return {.action = Action::kGenerate};
  }
  const size_t space = input.find_first_of(" \t\n");
  const std::string command = input.substr(0, space);
  const std::string rest = space == std::string::npos ? "" : Strip(input.substr(space + 1));
  if (command == "/help") return {.text = kHelp};
  if (command == "/exit" || command == "/quit") return {.action = Action::kExit};
  if (command == "/show") return Show();
  if (command == "/new") {
    request_ = defaults_;
    return {.text = "a new conversation"};
  }
  if (command == "/system") {
    if (request_.messages_size() > 0 && request_.messages(0).role() == "system") {
      request_.mutable_messages()->DeleteSubrange(0, 1);
    }
    if (rest.empty()) return {.text = "no system message"};
    v1::ChatMessage system;
    system.set_role("system");
    system.set_content(rest);
    *request_.add_messages() = system;
    for (int i = request_.messages_size() - 1; i > 0; --i) request_.mutable_messages()->SwapElements(i, i - 1);
    return {.text = "the system message is set"};
  }
  if (command == "/set") {
    const size_t end = rest.find_first_of(" \t");
    if (end == std::string::npos) return {.text = "/set takes a name and a value: /set temperature 0.7"};
    return Set(rest.substr(0, end), Strip(rest.substr(end)));
  }
  if (command == "/undo") return {.text = Undo() ? "taken back" : "there is nothing to take back"};
  if (command == "/retry") {
    const int last = request_.messages_size() - 1;
    if (last < 0 || request_.messages(last).role() != "assistant") return {.text = "there is nothing to ask again"};
    request_.mutable_messages()->RemoveLast();
    return {.action = Action::kGenerate};
  }
  if (command == "/stats") {
    shows_stats_ = !shows_stats_;
    return {.text = shows_stats_ ? "figures are told after each answer" : "figures are told no more"};
  }
  if (command == "/drafts") {
    shows_drafts_ = !shows_drafts_;
    return {.text = shows_drafts_ ? "what drafts guessed right is green" : "drafts are not shown any more"};
  }
  if (command == "/save" || command == "/load") {
    if (rest.empty()) return {.text = absl::StrCat(command, " takes a file")};
    return {.action = command == "/save" ? Action::kSave : Action::kLoad, .text = rest};
  }
  const std::string nearest = NearestName(command, Commands());
  return {.text = absl::StrCat("unknown command '", command, "'",
                               nearest.empty() ? "; /help lists them" : absl::StrCat("; did you mean '", nearest, "'?"),
                               " A message that begins with a slash is written with two.")};
}

void ChatSession::OnAnswer(const std::string& text) {
  v1::ChatMessage* const message = request_.add_messages();
  message->set_role("assistant");
  message->set_content(text);
}

void ChatSession::OnFailure() {
  if (request_.messages_size() > 0) request_.mutable_messages()->RemoveLast();
}

ChatSession::Step ChatSession::Set(const std::string& name, const std::string& value) {
  const std::vector<std::string> names = Parameters();
  bool known = false;
  for (const std::string& one : names) known |= one == name;
  if (!known) {
    const std::string nearest = NearestName(name, names);
    return {.text = absl::StrCat("no parameter '", name, "'",
                                 nearest.empty() ? std::string() : absl::StrCat("; did you mean '", nearest, "'?"))};
  }
  if (value == "default") {
    request_.GetReflection()->ClearField(&request_, v1::GenerateRequest::descriptor()->FindFieldByName(name));
    return {.text = absl::StrCat(name, " is the model's")};
  }
  // JSON knows every type of the message; what is no JSON, such as names of enums, is a string.
  nlohmann::json parsed = nlohmann::json::parse(value, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) parsed = value;
  absl::StatusOr<v1::GenerateRequest> set = ParseRequestLine(nlohmann::json{{name, parsed}}.dump(), request_);
  if (!set.ok()) return {.text = absl::StrCat("'", value, "' is no value of ", name)};
  request_ = *std::move(set);
  return {.text = absl::StrCat(name, " = ", value)};
}

ChatSession::Step ChatSession::Show() const {
  std::string text;
  for (const v1::ChatMessage& message : request_.messages()) {
    absl::StrAppend(&text, message.role(), ": ", message.content(), "\n");
  }
  v1::GenerateRequest parameters = request_;
  parameters.clear_messages();
  return {.text = absl::StrCat(text, "parameters: ", Json(parameters))};
}

bool ChatSession::Undo() {
  int last = request_.messages_size() - 1;
  if (last >= 0 && request_.messages(last).role() == "assistant") --last;
  if (last < 0 || request_.messages(last).role() != "user") return false;
  request_.mutable_messages()->DeleteSubrange(last, request_.messages_size() - last);
  return true;
}

std::string ChatSession::ToJson() const { return Json(request_) + "\n"; }

absl::Status ChatSession::FromJson(const std::string& json) {
  ASSIGN_OR_RETURN(v1::GenerateRequest loaded, ParseRequestLine(json, {}));
  if (loaded.messages_size() == 0) return absl::InvalidArgumentError("no messages in it");
  request_ = std::move(loaded);
  return absl::OkStatus();
}

std::string TerminalSafe(const std::string& text) {
  constexpr char kReplacement[] = "\xef\xbf\xbd";
  std::string safe;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (byte == 0xc2 && next >= 0x80 && next < 0xa0) {  // U+0080 to U+009F: some terminals obey these too
      safe += kReplacement;
      ++i;
    } else if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f) {
      safe += kReplacement;
    } else {
      safe += text[i];
    }
  }
  return safe;
}

}  // namespace outrider
