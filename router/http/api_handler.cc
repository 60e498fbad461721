#include "router/http/api_handler.h"

#include <algorithm>
#include <ctime>
#include <utility>

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
#include "router/http/openapi.h"
#include "router/http/page.h"
#include "router/http/text_request.h"
#include "router/proto_conversions.h"
#include "router/request_validation.h"
#include "text/utf8.h"

namespace outrider::router {
namespace {

// Names of unknown fields that are remembered as told.
constexpr size_t kMaxTold = 256;

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

// The chat prompt that `chat` describes, as text.
absl::StatusOr<std::string> Render(const v1::GenerateRequest& chat, const ServedModel& model) {
  const RequestInput input = ViewOf(chat);
  RETURN_IF_ERROR(CheckMessages(input.messages));
  RETURN_IF_ERROR(CheckChatOptions(input.chat, /*has_messages=*/true));
  return model.RenderChat(input.messages, input.chat);
}

}  // namespace

ApiHandler::ApiHandler(Options options)
    : options_(std::move(options)), created_(static_cast<int64_t>(std::time(nullptr))) {}

HttpResponse ApiHandler::Refuse(int status, const std::string& why) const { return ErrorResponse(status, why); }

std::shared_ptr<HttpExchange> ApiHandler::Handle(HttpRequest request, std::shared_ptr<HttpStream> stream) {
  const ApiPath* const path = FindApiPath(request.path);
  if (path == nullptr || !path->is_open || !IsGet(request)) {
    const absl::Status known =
        options_.environment.access->Authenticate({.authorization = request.authorization}).status();
    if (!known.ok()) {
      stream->Send(ErrorResponse(ToApiError(known)));
      return nullptr;
    }
  }
  if (path == nullptr) {
    stream->Send(NoSuchPath(request));
    return nullptr;
  }
  if (path->is_post ? request.method != "POST" : !IsGet(request)) {
    const char* const allowed = path->is_post ? "POST" : "GET, HEAD";
    HttpResponse response = ErrorResponse(405, absl::StrCat(path->path, " takes ", allowed), "method_not_allowed");
    response.headers.emplace_back("Allow", allowed);
    stream->Send(std::move(response));
    return nullptr;
  }
  const bool is_chat = path->endpoint == Endpoint::kChat;
  if (!is_chat && path->endpoint != Endpoint::kCompletions) {
    stream->Send(Answer(*path, request));
    return nullptr;
  }
  absl::StatusOr<std::shared_ptr<HttpExchange>> exchange = Generate(is_chat, request, stream);
  if (exchange.ok()) return *std::move(exchange);
  stream->Send(ErrorResponse(ToApiError(exchange.status(), is_chat ? "messages" : "prompt")));
  return nullptr;
}

HttpResponse ApiHandler::Answer(const ApiPath& path, const HttpRequest& request) {
  switch (path.endpoint) {
    case Endpoint::kModels:
      return Models("");
    case Endpoint::kModel:
      return Models(request.path.substr(path.path.find('{')));
    case Endpoint::kHealth:
      return Health();
    case Endpoint::kMetrics:
      return {.content_type = kMetricsContentType, .body = options_.metrics_text()};
    case Endpoint::kVersion:
      return {.body = WithString("version", kProgramVersion)};
    case Endpoint::kLoad:
      return {.body = absl::StrCat("{\"server_load\":", options_.environment.calls->num_open(), "}")};
    case Endpoint::kCluster:
      return Cluster();
    case Endpoint::kOpenApi:
      return {.body = std::string(OpenApiDocument())};
    case Endpoint::kPage:
      return AnswerPage(request.path, request.if_none_match).value_or(NoSuchPath(request));
    case Endpoint::kTokenize:
    case Endpoint::kDetokenize:
    case Endpoint::kApplyTemplate:
      return AboutText(path.endpoint, request);
    case Endpoint::kChat:
    case Endpoint::kCompletions:
      break;  // Generate's
  }
  return NoSuchPath(request);
}

HttpResponse ApiHandler::AboutText(Endpoint endpoint, const HttpRequest& request) {
  const absl::StatusOr<ApiAccess::Grant> granted =
      options_.environment.access->Admit({.authorization = request.authorization});
  if (!granted.ok()) return ErrorResponse(ToApiError(granted.status()));
  const absl::StatusOr<Json> body = ParseObject(request.body);
  if (!body.ok()) return ErrorResponse(ToApiError(body.status()));
  FieldReader fields(*body);
  const absl::StatusOr<std::string> answer = endpoint == Endpoint::kTokenize     ? Tokenize(fields)
                                             : endpoint == Endpoint::kDetokenize ? Detokenize(fields)
                                                                                 : ApplyTemplate(fields);
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

absl::StatusOr<std::string> ApiHandler::Tokenize(FieldReader& fields) const {
  ASSIGN_OR_RETURN(const TokenizeRequest request, ParseTokenizeRequest(fields));
  ASSIGN_OR_RETURN(const Served served, ModelFor(request.model));
  const ServedModel& model = *served.model;
  std::vector<TokenId> ids;
  if (request.prompt.has_value()) {
    ASSIGN_OR_RETURN(ids, model.Encode(*request.prompt, request.add_special_tokens));
  } else {
    ASSIGN_OR_RETURN(const std::string rendered, Render(request.chat, model));
    ASSIGN_OR_RETURN(ids, model.EncodeChat(rendered));
  }
  std::string out =
      absl::StrCat("{\"count\":", ids.size(),
                   ",\"max_model_len\":", options_.environment.dispatcher->MaxModelLen(model), ",\"tokens\":");
  AppendIds(ids, &out);
  out += ",\"token_strs\":";
  if (request.return_token_strs) {
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

absl::StatusOr<std::string> ApiHandler::Detokenize(FieldReader& fields) const {
  ASSIGN_OR_RETURN(const DetokenizeRequest request, ParseDetokenizeRequest(fields));
  ASSIGN_OR_RETURN(const Served served, ModelFor(request.model));
  const ServedModel& model = *served.model;
  for (size_t i = 0; i < request.tokens.size() && fields.ok(); ++i) {
    if (request.tokens[i] >= model.vocab_size) {
      fields.Fail("tokens", absl::StrCat("has ", request.tokens[i], " at ", i, "; the vocabulary has ids 0 to ",
                                         model.vocab_size - 1));
    }
  }
  RETURN_IF_ERROR(fields.status());
  if (model.tokenizer == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("model ", model.name, " has no tokenizer"));
  }
  return WithString("prompt", model.tokenizer->Decode(request.tokens, /*skip_special_tokens=*/false));
}

absl::StatusOr<std::string> ApiHandler::ApplyTemplate(FieldReader& fields) const {
  ASSIGN_OR_RETURN(const TemplateRequest request, ParseTemplateRequest(fields));
  ASSIGN_OR_RETURN(const Served served, ModelFor(request.model));
  ASSIGN_OR_RETURN(const std::string rendered, Render(request.chat, *served.model));
  return WithString("prompt", text::ReplaceInvalidUtf8(rendered));
}

absl::StatusOr<std::shared_ptr<HttpExchange>> ApiHandler::Generate(bool is_chat, const HttpRequest& request,
                                                                   const std::shared_ptr<HttpStream>& stream) {
  ASSIGN_OR_RETURN(const Json body, ParseObject(request.body));
  FieldReader fields(body);
  ASSIGN_OR_RETURN(GenerationRequest parsed, is_chat ? ParseChatRequest(fields) : ParseCompletionRequest(fields));
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
