#include "router/http/generation_exchange.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "router/http/api_error.h"

namespace outrider::router {

// One prompt's call, and its side of the wire.
class GenerationExchange::PromptCall final : public ClientStream {
 public:
  PromptCall(GenerationExchange* exchange, const v1::GenerateRequest& m, uint32_t first_choice)
      : message(m), choices(m.has_n() ? m.n() : 1), num_characters(choices.size()), exchange_(exchange) {
    for (uint32_t i = 0; i < choices.size(); ++i) choices[i].index = first_choice + i;
  }

  // ClientStream: from any thread, with the call's lock held.
  void Write(v1::GenerateResponse& response, bool last) override {
    exchange_->stream_->Post([exchange = exchange_->shared_from_this(), this, &response, last] {
      exchange->OnWrite(*this, response, last);
    });
  }
  void Finish(const absl::Status& status) override {
    exchange_->stream_->Post(
        [exchange = exchange_->shared_from_this(), this, status] { exchange->OnFinish(*this, status); });
  }
  void Cut() override {
    exchange_->stream_->Post([exchange = exchange_->shared_from_this()] {
      exchange->stream_->Cut();
      exchange->OnClientGone();
    });
  }

  const v1::GenerateRequest& message;  // the exchange's
  std::shared_ptr<GenerateCall> call;
  bool ended = false;
  // Of a stream's choices only what is new; of a whole answer all.
  std::vector<ChoicePart> choices;
  std::vector<int64_t> num_characters;  // by choice: of the tokens shown
  std::vector<TokenId> prompt_token_ids;
  std::string prompt;  // text before the answer, with echo
  int64_t num_output_tokens = 0;
  int64_t num_cached_tokens = 0;
  int64_t num_prediction_tokens = 0;
  int64_t num_accepted_prediction_tokens = 0;
  std::shared_ptr<PromptLogprobs> prompt_logprobs;  // null: none are asked for, or there is but one token
  v1::Usage speculation;                            // of the choice that ended last

 private:
  GenerationExchange* const exchange_;  // outlives this: it holds it
};

std::shared_ptr<HttpExchange> GenerationExchange::Begin(const CallEnvironment& environment, GenerationRequest request,
                                                        std::shared_ptr<const ServedModel> model,
                                                        std::string model_name, std::string client_request_id,
                                                        const Credentials& credentials,
                                                        const std::optional<TraceContext>& trace,
                                                        std::shared_ptr<HttpStream> stream) {
  const std::shared_ptr<GenerationExchange> exchange(
      new GenerationExchange(std::move(request), std::move(model), std::move(stream)));
  exchange->self_ = exchange;
  exchange->identity_.model = std::move(model_name);
  uint32_t num_choices = 0;
  for (const v1::GenerateRequest& message : exchange->request_.calls) {
    auto call = std::make_unique<PromptCall>(exchange.get(), message, num_choices);
    call->call = GenerateCall::Make(environment, call.get(), /*deadline=*/std::nullopt, message, trace);
    num_choices += static_cast<uint32_t>(call->choices.size());
    exchange->calls_.push_back(std::move(call));
  }
  exchange->num_open_ = exchange->calls_.size();
  exchange->shown_request_id_ =
      client_request_id.empty() ? exchange->calls_[0]->call->request_name() : std::move(client_request_id);
  exchange->identity_.id = absl::StrCat(exchange->identity_.chat ? "chatcmpl-" : "cmpl-", exchange->shown_request_id_);
  // What they say comes by Post, so not before this returns. What is refused at once is known before anything is sent.
  for (const auto& call : exchange->calls_) call->call->Arrive(environment.access->Admit(credentials));
  exchange->stream_->Post([exchange] {
    exchange->begun_ = true;
    exchange->Flush();
  });
  return exchange;
}

GenerationExchange::GenerationExchange(GenerationRequest request, std::shared_ptr<const ServedModel> model,
                                       std::shared_ptr<HttpStream> stream)
    : request_(std::move(request)), model_(std::move(model)), stream_(std::move(stream)) {
  identity_.chat = request_.chat;
  identity_.created = static_cast<int64_t>(std::time(nullptr));
  identity_.show_logprobs = request_.num_logprobs >= 0;
  identity_.show_token_ids = request_.return_token_ids;
  identity_.show_prompt_logprobs = request_.show_prompt_logprobs;
  identity_.show_origins = request_.calls[0].return_token_origins();
  identity_.usage_in_chunks = request_.include_usage;
}

GenerationExchange::~GenerationExchange() = default;

HttpHeaders GenerationExchange::Headers() const { return {{"X-Request-Id", shown_request_id_}}; }

void GenerationExchange::OnWrite(PromptCall& call, v1::GenerateResponse& response, bool last) {
  if (call.ended) return;
  if (failed_ || out_) {
    if (last) {
      EndCall(call);
    } else {
      call.call->OnWriteDone(false);
    }
    return;
  }
  pending_ += Take(call, response);
  if (last) {
    EndCall(call);
  } else if (pending_.empty()) {
    call.call->OnWriteDone(true);
  } else {
    pending_acks_.push_back(&call);
  }
  Flush();
}

void GenerationExchange::OnFinish(PromptCall& call, const absl::Status& status) {
  if (call.ended) return;
  if (!status.ok()) Fail(status);
  EndCall(call);
}

std::string GenerationExchange::Take(PromptCall& call, v1::GenerateResponse& response) {
  switch (response.event_case()) {
    case v1::GenerateResponse::kStarted:
      return OnStarted(call, response.started());
    case v1::GenerateResponse::kPromptLogprobs:
      return OnPromptLogprobs(call, *response.mutable_prompt_logprobs());
    case v1::GenerateResponse::kDelta:
      return OnDelta(call, *response.mutable_delta());
    case v1::GenerateResponse::kFinished:
      return OnFinished(call, response.finished());
    case v1::GenerateResponse::EVENT_NOT_SET:
      break;
  }
  return "";
}

std::string GenerationExchange::OnStarted(PromptCall& call, const v1::Started& started) {
  call.prompt_token_ids.assign(started.prompt_token_ids().begin(), started.prompt_token_ids().end());
  if (request_.echo && model_->tokenizer != nullptr) {
    call.prompt =
        call.message.has_prompt() ? call.message.prompt() : model_->tokenizer->Decode(call.prompt_token_ids, false);
  }
  if (call.message.has_prompt_logprobs()) {
    call.prompt_logprobs = std::make_shared<PromptLogprobs>();
    call.prompt_logprobs->token_ids = call.prompt_token_ids;
  }
  const bool echoes_logprobs = request_.echo && identity_.show_logprobs;
  for (ChoicePart& choice : call.choices) {
    choice.prompt_token_ids = call.prompt_token_ids;
    choice.text = call.prompt;
    choice.prompt_logprobs = call.prompt_logprobs;
    choice.echoes_logprobs = echoes_logprobs;
    choice.num_echoed_top = std::max(0, request_.num_logprobs);
  }
  // The prompt's chunk has them, once they are all there.
  if (echoes_logprobs && call.prompt_token_ids.size() > 1) return "";
  return ShowPrompt(call);
}

std::string GenerationExchange::OnPromptLogprobs(PromptCall& call, v1::PromptLogprobs& prompt) {
  if (call.prompt_logprobs == nullptr) return "";
  std::vector<v1::TokenLogprobs>& logprobs = call.prompt_logprobs->logprobs;
  for (v1::TokenLogprobs& token : *prompt.mutable_logprobs()) logprobs.push_back(std::move(token));
  return call.prompt_logprobs->complete() && request_.echo && identity_.show_logprobs ? ShowPrompt(call) : "";
}

std::string GenerationExchange::ShowPrompt(PromptCall& call) {
  if (!request_.stream) return "";
  const AnswerUsage usage = Usage();
  const AnswerUsage* const shown_usage = request_.continuous_usage ? &usage : nullptr;
  std::string out;
  for (ChoicePart& choice : call.choices) {
    if (identity_.chat) {
      out += SseEvent(RenderRoleChunk(identity_, choice.index, call.prompt_token_ids, shown_usage));
    } else if (request_.echo) {
      out += SseEvent(RenderChunkOf(identity_, model_->tokenizer.get(), choice, shown_usage));
      choice.prompt_token_ids.clear();
      if (choice.echoes_logprobs) {
        call.num_characters[choice.index - call.choices[0].index] =
            NumCharacters(model_->tokenizer.get(), call.prompt_token_ids);
      }
    }
    choice.echoes_logprobs = false;
    if (!identity_.chat && request_.echo && call.prompt_logprobs != nullptr && call.prompt_logprobs->complete()) {
      choice.prompt_logprobs.reset();  // was shown
    }
    choice.text.clear();
  }
  return out;
}

std::string GenerationExchange::OnDelta(PromptCall& call, v1::Delta& delta) {
  if (delta.choice_index() >= call.choices.size()) return "";
  ChoicePart& choice = call.choices[delta.choice_index()];
  call.num_output_tokens += delta.token_ids_size();
  if (delta.token_ids_size() > 0) choice.last_token_id = delta.token_ids(delta.token_ids_size() - 1);
  choice.text += delta.text();
  if (identity_.show_logprobs || identity_.show_token_ids || !request_.stream) {
    choice.token_ids.insert(choice.token_ids.end(), delta.token_ids().begin(), delta.token_ids().end());
  }
  if (identity_.show_logprobs) {
    for (v1::TokenLogprobs& token : *delta.mutable_logprobs()) choice.logprobs.push_back(std::move(token));
  }
  choice.origins.insert(choice.origins.end(), delta.origins().begin(), delta.origins().end());
  // Of a stream: nothing to see in an event without text.
  if (!request_.stream) return "";
  if (choice.text.empty() && choice.logprobs.empty() && !identity_.show_token_ids && !request_.continuous_usage &&
      choice.origins.empty()) {
    return "";
  }
  int64_t& num_characters = call.num_characters[delta.choice_index()];
  choice.first_text_offset = num_characters;
  if (identity_.show_logprobs) num_characters += NumCharacters(model_->tokenizer.get(), choice.token_ids);
  const AnswerUsage usage = Usage();
  std::string out =
      SseEvent(RenderChunkOf(identity_, model_->tokenizer.get(), choice, request_.continuous_usage ? &usage : nullptr));
  choice.prompt_logprobs.reset();
  choice.text.clear();
  choice.token_ids.clear();
  choice.logprobs.clear();
  choice.origins.clear();
  choice.prompt_token_ids.clear();
  return out;
}

std::string GenerationExchange::OnFinished(PromptCall& call, const v1::Finished& finished) {
  if (finished.choice_index() >= call.choices.size()) return "";
  if (finished.finish_reason() == v1::FINISH_REASON_CANCELLED ||
      finished.finish_reason() == v1::FINISH_REASON_UNSPECIFIED) {
    Fail(absl::AbortedError("the cluster ended the answer before it was complete; send the request again"));
    return "";
  }
  ChoicePart& choice = call.choices[finished.choice_index()];
  choice.finish_reason = finished.finish_reason();
  choice.stop_string = finished.stop_string();
  call.num_cached_tokens = std::max<int64_t>(call.num_cached_tokens, finished.usage().cached_tokens());
  call.speculation = finished.usage();
  if (request_.show_prediction) {
    call.num_prediction_tokens += finished.usage().prediction_tokens();
    call.num_accepted_prediction_tokens += finished.usage().accepted_prediction_tokens();
  }
  if (!request_.stream) return "";
  const AnswerUsage usage = Usage();
  return SseEvent(
      RenderChunkOf(identity_, model_->tokenizer.get(), choice, request_.continuous_usage ? &usage : nullptr));
}

void GenerationExchange::EndCall(PromptCall& call) {
  call.ended = true;
  --num_open_;
  if (num_open_ == 0 && !failed_ && !out_ && !answered_) {
    answered_ = true;
    if (request_.stream) {
      if (request_.include_usage) pending_ += SseEvent(RenderUsageChunk(identity_, Usage()));
      pending_.append(kSseDone.data(), kSseDone.size());
      Flush();
    } else {
      SendWhole();
    }
  }
  CompleteIfDone();
}

AnswerUsage GenerationExchange::Usage() const {
  AnswerUsage usage;
  for (const auto& call : calls_) {
    usage.prompt_tokens += static_cast<int64_t>(call->prompt_token_ids.size());
    usage.completion_tokens += call->num_output_tokens;
    usage.cached_tokens += call->num_cached_tokens;
    usage.prediction_tokens += call->num_prediction_tokens;
    usage.accepted_prediction_tokens += call->num_accepted_prediction_tokens;
  }
  usage.show_speculation = calls_.size() == 1 && calls_[0]->choices.size() == 1;
  usage.speculation = calls_[0]->speculation;
  return usage;
}

void GenerationExchange::SendWhole() {
  std::vector<ChoicePart> choices;
  for (const auto& call : calls_) {
    for (ChoicePart& choice : call->choices) choices.push_back(std::move(choice));
  }
  stream_->Send({.headers = Headers(), .body = RenderAnswer(identity_, model_->tokenizer.get(), choices, Usage())});
}

void GenerationExchange::StartStream() {
  if (stream_started_) return;
  stream_started_ = true;
  HttpHeaders headers = Headers();
  headers.emplace_back("Cache-Control", "no-cache");
  headers.emplace_back("X-Accel-Buffering", "no");  // proxies pass events on at once
  stream_->StartStream("text/event-stream; charset=utf-8", headers);
}

void GenerationExchange::Flush() {
  if (!begun_ || write_open_ || pending_.empty() || out_) return;
  StartStream();
  write_open_ = true;
  open_acks_.swap(pending_acks_);
  stream_->WriteStream(std::exchange(pending_, {}));
}

void GenerationExchange::OnWritten() {
  if (out_) return;
  if (!stream_started_) {  // a whole answer, or an error
    out_ = true;
    CompleteIfDone();
    return;
  }
  write_open_ = false;
  for (PromptCall* const call : std::exchange(open_acks_, {})) {
    if (!call->ended) call->call->OnWriteDone(true);
  }
  Flush();
  if (write_open_ || !answered_) return;
  out_ = true;
  stream_->FinishStream();
  CompleteIfDone();
}

void GenerationExchange::OnQuiet() {
  if (!request_.stream || write_open_ || answered_ || out_) return;
  pending_.append(kSseComment.data(), kSseComment.size());
  Flush();
}

void GenerationExchange::OnClientGone() {
  if (out_) return;
  out_ = true;
  GiveUp();
  CompleteIfDone();
}

void GenerationExchange::GiveUp() {
  std::vector<PromptCall*> acks = std::exchange(open_acks_, {});
  acks.insert(acks.end(), pending_acks_.begin(), pending_acks_.end());
  pending_acks_.clear();
  for (const auto& call : calls_) {
    if (!call->ended) call->call->OnClientGone();
  }
  for (PromptCall* const call : acks) {
    if (!call->ended) call->call->OnWriteDone(false);
  }
}

void GenerationExchange::Fail(const absl::Status& status) {
  if (failed_ || out_ || answered_) return;
  failed_ = true;
  answered_ = true;
  const ApiError error = ToApiError(status, request_.chat ? "messages" : "prompt");
  if (stream_started_) {
    // What was rendered stays in front.
    pending_ += SseEvent(RenderError(error));
    Flush();
  } else {
    pending_.clear();
    HttpResponse response = ErrorResponse(error);
    for (auto& header : Headers()) response.headers.push_back(std::move(header));
    stream_->Send(std::move(response));
  }
  GiveUp();
}

void GenerationExchange::CompleteIfDone() {
  if (num_open_ > 0 || !out_ || self_ == nullptr) return;
  const std::shared_ptr<GenerationExchange> self = std::exchange(self_, nullptr);
  for (const auto& call : calls_) {
    call->call->OnDone();
    call->call.reset();
  }
}

}  // namespace outrider::router
