#include "router/inference_service.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "router/current_load.h"
#include "router/error_details.h"
#include "router/generate_reactor.h"
#include "router/grpc_caller.h"
#include "router/grpc_message.h"
#include "router/proto_conversions.h"
#include "router/request_validation.h"

namespace outrider::router {
namespace {

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToClientStatus(status));
  return reactor;
}

absl::StatusOr<std::shared_ptr<const ServedModel>> ModelOf(const Dispatcher& dispatcher) {
  std::shared_ptr<const ServedModel> model = dispatcher.model();
  if (model == nullptr) {
    return absl::UnavailableError(absl::StrCat("no model is known yet: ", dispatcher.WhyNotServing()));
  }
  return model;
}

absl::Status DoTokenize(const Dispatcher& dispatcher, const v1::TokenizeRequest& request,
                        v1::TokenizeResponse* response) {
  if (request.has_text() == (request.messages_size() > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("give either text or messages (text: ", request.has_text() ? "yes" : "no",
                     ", messages: ", request.messages_size(), ")"));
  }
  const std::vector<RequestInput::ChatMessage> messages = ViewOf(request.messages());
  RETURN_IF_ERROR(CheckMessages(messages));
  RETURN_IF_ERROR(CheckUtf8("text", request.text()));
  ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, ModelOf(dispatcher));
  std::vector<TokenId> ids;
  if (request.has_text()) {
    const bool add_special_tokens = !request.has_add_special_tokens() || request.add_special_tokens();
    ASSIGN_OR_RETURN(ids, model->Encode(request.text(), add_special_tokens));
  } else {
    ASSIGN_OR_RETURN(const std::string rendered, model->RenderChat(messages));
    ASSIGN_OR_RETURN(ids, model->EncodeChat(rendered));
  }
  response->mutable_token_ids()->Add(ids.begin(), ids.end());
  return absl::OkStatus();
}

absl::Status DoDetokenize(const Dispatcher& dispatcher, const v1::DetokenizeRequest& request,
                          v1::DetokenizeResponse* response) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, ModelOf(dispatcher));
  if (model->tokenizer == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("model ", model->name, " has no tokenizer"));
  }
  for (int i = 0; i < request.token_ids_size(); ++i) {
    const TokenId id = request.token_ids(i);
    if (id < 0 || id >= model->vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token_ids[", i, "] = ", id, " is not a token id; the vocabulary has ids 0 to ", model->vocab_size - 1));
    }
  }
  response->set_text(model->tokenizer->Decode(absl::MakeConstSpan(request.token_ids().data(), request.token_ids_size()),
                                              request.skip_special_tokens()));
  return absl::OkStatus();
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                                       const grpc::ByteBuffer* request) {
  return GenerateReactor::Begin(environment_, context, *request);
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const v1::GetModelInfoRequest*, v1::ModelInfo* response) {
  const absl::Status known = environment_.access->Authenticate(CredentialsOf(*context)).status();
  if (!known.ok()) return Finish(context, known);
  const Dispatcher& dispatcher = *environment_.dispatcher;
  const ClusterCounts counts = dispatcher.Counts();
  response->set_num_groups(counts.num_groups_serving);
  response->set_num_draft_workers(counts.num_draft_workers);
  for (const std::string& numerics_id : counts.numerics_ids) response->add_numerics_ids(numerics_id);
  if (const std::shared_ptr<const ServedModel> model = dispatcher.model(); model != nullptr) {
    response->set_model(model->name);
    response->set_architecture(model->architecture);
    response->set_vocab_size(model->vocab_size);
    response->set_max_model_len(dispatcher.MaxModelLen(*model));
    response->set_tokenizer_fingerprint(model->key.tokenizer_fingerprint);
    response->mutable_end_token_ids()->Add(model->end_token_ids.begin(), model->end_token_ids.end());
    response->set_has_chat_template(model->chat_template.ok());
  }
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::GetLoad(grpc::CallbackServerContext* context, const v1::GetLoadRequest*,
                                                    v1::ClusterLoad* response) {
  const absl::Status known = environment_.access->Authenticate(CredentialsOf(*context)).status();
  if (known.ok()) *response = CurrentLoad(environment_);
  return Finish(context, known);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  v1::TokenizeRequest message;
  v1::TokenizeResponse answer;
  absl::Status status = environment_.access->Admit(CredentialsOf(*context)).status();
  if (status.ok()) status = ParseMessage(*request, message);
  if (status.ok()) status = DoTokenize(*environment_.dispatcher, message, &answer);
  *response = SerializeMessage(answer);
  return Finish(context, status);
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  absl::Status status = environment_.access->Admit(CredentialsOf(*context)).status();
  if (status.ok()) status = DoDetokenize(*environment_.dispatcher, *request, response);
  return Finish(context, status);
}

grpc::ServerUnaryReactor* InferenceService::Abort(grpc::CallbackServerContext* context, const v1::AbortRequest* request,
                                                  v1::AbortResponse* response) {
  const absl::StatusOr<std::string> key_name = environment_.access->Authenticate(CredentialsOf(*context));
  if (!key_name.ok()) return Finish(context, key_name.status());
  for (const std::string& request_id : request->request_ids()) {
    const std::shared_ptr<OpenCall> call = environment_.calls->Find(request_id);
    if (call == nullptr || call->key_name() != *key_name) continue;
    call->EndWith(absl::CancelledError("the request was aborted"));
    response->add_aborted_request_ids(request_id);
  }
  return Finish(context, absl::OkStatus());
}

}  // namespace outrider::router
