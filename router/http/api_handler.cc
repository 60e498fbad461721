#include "router/http/api_handler.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/status_macros.h"
#include "base/version.h"
#include "router/current_load.h"
#include "router/error_reason.h"
#include "router/http/api_error.h"
#include "router/http/generation_exchange.h"
#include "router/http/generation_request.h"
#include "router/http/json_writer.h"
#include "router/http/message_json.h"
#include "router/http/page.h"
#include "router/proto_conversions.h"
#include "router/request_validation.h"
#include "text/utf8.h"

namespace outrider::router {
namespace {

constexpr absl::string_view kChat = "/v1/chat/completions";
constexpr absl::string_view kCompletions = "/v1/completions";
constexpr absl::string_view kModels = "/v1/models";
// Names of unknown fields that are remembered as told.
constexpr size_t kMaxTold = 256;

struct Path {
  absl::string_view path;
  bool is_post;
};
constexpr Path kPaths[] = {
    {kChat, true},    {kCompletions, true}, {"/tokenize", true}, {"/detokenize", true}, {"/apply-template", true},
    {kModels, false}, {"/health", false},   {"/ping", false},    {"/metrics", false},   {"/version", false},
    {"/load", false}, {"/cluster", false},  {"/", false}};

void AppendIds(const std::vector<TokenId>& ids, std::string* out) {
  out->push_back('[');
  for (size_t i = 0; i < ids.size(); ++i) absl::StrAppend(out, i == 0 ? "" : ",", ids[i]);
  out->push_back(']');
}

std::string WithString(absl::string_view name, absl::string_view value) {
  std::string out = "{";
  AppendJsonKey(name, &out);
  AppendJsonString(value, &out);
  out += "}";
  return out;
}

HttpResponse NoSuchPath(const HttpRequest& request) {
  return ErrorResponse(404,
                       absl::StrCat("there is no ", request.method.substr(0, 16), " ",
                                    text::ReplaceInvalidUtf8(request.path.substr(0, 128)),
                                    " here; see the API reference in docs/http.md"),
                       "unknown_url");
}

bool IsGet(const HttpRequest& request) { return request.method == "GET" || request.method == "HEAD"; }

// What anyone may ask, with keys or without: whether this lives, and the page, which asks its user for a key.
bool IsOpen(const HttpRequest& request) {
  if (request.path == "/health" || request.path == "/ping") return true;
  return IsGet(request) && AnswerPage(request.path, /*if_none_match=*/"").has_value();
}

// The chat prompt that `fields` describe, as text.
absl::StatusOr<std::string> ReadAndRender(FieldReader& fields, const ServedModel& model) {
  v1::GenerateRequest request;
  ReadChat(fields, &request);
  RETURN_IF_ERROR(fields.status());
  const RequestInput input = ViewOf(request);
  RETURN_IF_ERROR(CheckMessages(input.messages));
  RETURN_IF_ERROR(CheckChatOptions(input.chat, /*has_messages=*/true));
  return model.RenderChat(input.messages, input.chat);
}

}  // namespace

ApiHandler::ApiHandler(Options options)
    : options_(std::move(options)), created_(static_cast<int64_t>(std::time(nullptr))) {}

HttpResponse ApiHandler::Refuse(int status, const std::string& why) const { return ErrorResponse(status, why); }

std::shared_ptr<HttpExchange> ApiHandler::Handle(HttpRequest request, std::shared_ptr<HttpStream> stream) {
  if (!IsOpen(request)) {
    const absl::Status known =
        options_.environment.access->Authenticate({.authorization = request.authorization}).status();
    if (!known.ok()) {
      stream->Send(ErrorResponse(ToApiError(known)));
      return nullptr;
    }
  }
  const bool generates = request.path == kChat || request.path == kCompletions;
  if (!generates || request.method != "POST") {
    stream->Send(Answer(request));
    return nullptr;
  }
  absl::StatusOr<std::shared_ptr<HttpExchange>> exchange = Generate(request, stream);
  if (exchange.ok()) return *std::move(exchange);
  stream->Send(ErrorResponse(ToApiError(exchange.status(), request.path == kChat ? "messages" : "prompt")));
  return nullptr;
}

HttpResponse ApiHandler::Answer(const HttpRequest& request) {
  const std::string& path = request.path;
  const bool is_get = IsGet(request);
  if (absl::StartsWith(path, absl::StrCat(kModels, "/")) && is_get) return Models(path.substr(kModels.size() + 1));
  if (is_get) {
    if (std::optional<HttpResponse> page = AnswerPage(path, request.if_none_match); page.has_value()) return *page;
  }
  const Path* const found =
      std::find_if(std::begin(kPaths), std::end(kPaths), [&](const Path& p) { return p.path == path; });
  if (found == std::end(kPaths)) return NoSuchPath(request);
  if (found->is_post ? request.method != "POST" : !is_get) {
    const char* const allowed = found->is_post ? "POST" : "GET, HEAD";
    HttpResponse response = ErrorResponse(405, absl::StrCat(path, " takes ", allowed), "method_not_allowed");
    response.headers.emplace_back("Allow", allowed);
    return response;
  }
  if (path == kModels) return Models("");
  if (path == "/cluster") return Cluster();
  if (path == "/health" || path == "/ping") return Health();
  if (path == "/metrics") return {.content_type = kMetricsContentType, .body = options_.metrics_text()};
  if (path == "/version") return {.body = WithString("version", kProgramVersion)};
  if (path == "/load") return {.body = absl::StrCat("{\"server_load\":", options_.environment.calls->num_open(), "}")};

  const absl::StatusOr<ApiAccess::Grant> granted =
      options_.environment.access->Admit({.authorization = request.authorization});
  if (!granted.ok()) return ErrorResponse(ToApiError(granted.status()));
  const absl::StatusOr<Json> body = ParseObject(request.body);
  if (!body.ok()) return ErrorResponse(ToApiError(body.status()));
  const absl::StatusOr<std::string> answer = path == "/tokenize"     ? Tokenize(*body)
                                             : path == "/detokenize" ? Detokenize(*body)
                                                                     : ApplyTemplate(*body);
  if (!answer.ok()) return ErrorResponse(ToApiError(answer.status()));
  return {.body = *answer};
}

absl::StatusOr<ApiHandler::Served> ApiHandler::ModelFor(const std::string& asked) const {
  Served served{.model = options_.environment.dispatcher->model(), .name = asked};
  if (served.model == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("no model is known yet: ", options_.environment.dispatcher->WhyNotServing()));
  }
  const std::vector<std::string>& names = options_.model_names;
  const std::string& shown = names.empty() ? served.model->name : names[0];
  if (asked.empty()) served.name = shown;
  if (served.name == shown || std::find(names.begin(), names.end(), served.name) != names.end()) return served;
  const std::string quoted =
      asked.size() <= 128 ? absl::StrCat("'", asked, "'") : absl::StrCat("of ", asked.size(), " bytes");
  return WithField(
      WithReason(absl::NotFoundError(absl::StrCat("the model ", quoted, " does not exist; '", shown, "' is served")),
                 "model_not_found"),
      "model");
}

HttpResponse ApiHandler::Models(const std::string& id) const {
  const absl::StatusOr<Served> served = ModelFor(id);
  if (!served.ok()) return ErrorResponse(ToApiError(served.status()));
  std::string list;
  const auto add = [&](const std::string& name) {
    if (!list.empty()) list += ",";
    list += "{";
    AppendJsonKey("id", &list);
    AppendJsonString(name, &list);
    absl::StrAppend(&list, ",\"object\":\"model\",\"created\":", created_, ",\"owned_by\":\"outrider\",\"root\":");
    AppendJsonString(served->model->name, &list);
    absl::StrAppend(&list,
                    ",\"parent\":null,\"max_model_len\":", options_.environment.dispatcher->MaxModelLen(*served->model),
                    ",\"permission\":[]}");
  };
  if (!id.empty() || options_.model_names.empty()) {
    add(served->name);
  } else {
    for (const std::string& name : options_.model_names) add(name);
  }
  return {.body = id.empty() ? absl::StrCat("{\"object\":\"list\",\"data\":[", list, "]}") : list};
}

HttpResponse ApiHandler::Cluster() const {
  v1::ClusterLoad load = CurrentLoad(options_.environment);
  if (!load.model().empty() && !options_.model_names.empty()) load.set_model(options_.model_names[0]);
  HttpResponse response{.headers = {{"Cache-Control", "no-store"}}};
  AppendMessageJson(load, &response.body);
  return response;
}

HttpResponse ApiHandler::Health() const {
  const std::string reason = options_.why_not_ready();
  if (reason.empty()) return {.body = "{\"status\":\"ok\"}"};
  return ErrorResponse(503, absl::StrCat("not ready: ", reason), "not_ready");
}

absl::StatusOr<std::string> ApiHandler::Tokenize(const Json& body) const {
  FieldReader fields(body);
  ASSIGN_OR_RETURN(const Served served, ModelFor(fields.String("model").value_or("")));
  const ServedModel& model = *served.model;
  const bool return_token_strs = fields.Bool("return_token_strs").value_or(false);
  const std::optional<bool> add_special_tokens = fields.Bool("add_special_tokens");
  std::vector<TokenId> ids;
  if (fields.Any("messages") != nullptr) {
    if (fields.Any("prompt") != nullptr) fields.Fail("prompt", "and messages are both given; give one of them");
    ASSIGN_OR_RETURN(const std::string rendered, ReadAndRender(fields, model));
    ASSIGN_OR_RETURN(ids, model.EncodeChat(rendered));
  } else {
    const std::optional<std::string> prompt = fields.String("prompt");
    if (!prompt.has_value()) {
      fields.Fail("prompt", "is missing; give it as a string, or messages", "missing_required_parameter");
    }
    RETURN_IF_ERROR(fields.status());
    ASSIGN_OR_RETURN(ids, model.Encode(*prompt, add_special_tokens.value_or(true)));
  }
  RETURN_IF_ERROR(fields.status());
  std::string out =
      absl::StrCat("{\"count\":", ids.size(),
                   ",\"max_model_len\":", options_.environment.dispatcher->MaxModelLen(model), ",\"tokens\":");
  AppendIds(ids, &out);
  out += ",\"token_strs\":";
  if (return_token_strs) {
    out += "[";
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i > 0) out += ",";
      AppendJsonString(text::ReplaceInvalidUtf8(model.tokenizer->TokenBytes(ids[i])), &out);
    }
    out += "]";
  } else {
    out += "null";
  }
  out += "}";
  return out;
}

absl::StatusOr<std::string> ApiHandler::Detokenize(const Json& body) const {
  FieldReader fields(body);
  ASSIGN_OR_RETURN(const Served served, ModelFor(fields.String("model").value_or("")));
  const ServedModel& model = *served.model;
  if (fields.Any("tokens") == nullptr) {
    fields.Fail("tokens", "is missing; it takes an array of token ids", "missing_required_parameter");
  }
  const std::vector<TokenId> ids = fields.Ids("tokens");
  for (size_t i = 0; i < ids.size() && fields.ok(); ++i) {
    if (ids[i] >= model.vocab_size) {
      fields.Fail("tokens",
                  absl::StrCat("has ", ids[i], " at ", i, "; the vocabulary has ids 0 to ", model.vocab_size - 1));
    }
  }
  RETURN_IF_ERROR(fields.status());
  if (model.tokenizer == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("model ", model.name, " has no tokenizer"));
  }
  return WithString("prompt", model.tokenizer->Decode(ids, /*skip_special_tokens=*/false));
}

absl::StatusOr<std::string> ApiHandler::ApplyTemplate(const Json& body) const {
  FieldReader fields(body);
  ASSIGN_OR_RETURN(const Served served, ModelFor(fields.String("model").value_or("")));
  ASSIGN_OR_RETURN(const std::string rendered, ReadAndRender(fields, *served.model));
  return WithString("prompt", text::ReplaceInvalidUtf8(rendered));
}

absl::StatusOr<std::shared_ptr<HttpExchange>> ApiHandler::Generate(const HttpRequest& request,
                                                                   const std::shared_ptr<HttpStream>& stream) {
  ASSIGN_OR_RETURN(const Json body, ParseObject(request.body));
  ASSIGN_OR_RETURN(GenerationRequest parsed,
                   request.path == kChat ? ParseChatRequest(body) : ParseCompletionRequest(body));
  if (!parsed.unknown_fields.empty()) TellUnknown(request.path, parsed.unknown_fields);
  ASSIGN_OR_RETURN(Served served, ModelFor(parsed.model));
  std::string id = IsRequestId(parsed.request_id) ? parsed.request_id : request.request_id;
  return GenerationExchange::Begin(options_.environment, std::move(parsed), std::move(served.model),
                                   std::move(served.name), std::move(id), {.authorization = request.authorization},
                                   request.trace, stream);
}

void ApiHandler::TellUnknown(const std::string& path, const std::vector<std::string>& fields) {
  MutexLock lock(mu_);
  for (const std::string& field : fields) {
    if (told_.size() >= kMaxTold || !IsRequestId(field) || !told_.insert(field).second) continue;
    LogInfo("field ", field, " of ", path, " is unknown and has no effect; this is told once");
  }
}

}  // namespace outrider::router
