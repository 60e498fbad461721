#include "router/model_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "router/json_depth.h"
#include "router/proto_conversions.h"
#include "router/request_validation.h"

namespace outrider::router {
namespace {

constexpr Duration kFetchBackoff = std::chrono::milliseconds(500);

// What a group recommends has to be what a request could ask for.
absl::StatusOr<SamplingDefaults> ReadDefaults(const v1::SamplingDefaults& told) {
  RequestInput input;
  input.prompt = "any";
  if (told.has_temperature()) input.temperature = told.temperature();
  if (told.has_top_p()) input.top_p = told.top_p();
  if (told.has_top_k()) input.top_k = told.top_k();
  if (told.has_min_p()) input.min_p = told.min_p();
  if (told.has_repetition_penalty()) input.repetition_penalty = told.repetition_penalty();
  RETURN_IF_ERROR(CheckInput(input));
  return SamplingDefaults{.temperature = input.temperature,
                          .top_p = input.top_p,
                          .top_k = input.top_k,
                          .min_p = input.min_p,
                          .repetition_penalty = input.repetition_penalty};
}

absl::Status NoTokenizer(absl::string_view model) {
  return absl::FailedPreconditionError(absl::StrCat("model ", model, " has no tokenizer; send prompt_token_ids"));
}

std::string TextOf(const text::Tokenizer& tokenizer, std::optional<TokenId> id) {
  return id.has_value() ? std::string(tokenizer.TokenBytes(*id)) : std::string();
}

}  // namespace

absl::StatusOr<std::vector<TokenId>> ServedModel::Encode(absl::string_view text, bool add_special_tokens) const {
  if (tokenizer == nullptr) return NoTokenizer(name);
  return tokenizer->Encode(text, {.add_special = add_special_tokens, .parse_special = false});
}

absl::StatusOr<std::string> ServedModel::RenderChat(absl::Span<const RequestInput::ChatMessage> messages,
                                                    const RequestInput::ChatOptions& options) const {
  if (tokenizer == nullptr) return NoTokenizer(name);
  RETURN_IF_ERROR(chat_template.status());
  text::ChatTemplateInput input;
  for (const RequestInput::ChatMessage& message : messages) {
    input.messages.push_back({{"role", std::string(message.role)}, {"content", std::string(message.content)}});
  }
  input.bos_token = TextOf(*tokenizer, tokenizer->definition().bos_id);
  input.eos_token = TextOf(*tokenizer, tokenizer->definition().eos_id);
  const bool continues = options.continue_final_message.value_or(false);
  input.add_generation_prompt = options.add_generation_prompt.value_or(!continues);
  if (options.template_kwargs.has_value()) {
    if (const int depth = JsonDepth(*options.template_kwargs); depth > kMaxJsonDepth) {
      return absl::InvalidArgumentError(
          absl::StrCat("chat_template_kwargs nests ", depth, " deep; at most ", kMaxJsonDepth, " is allowed"));
    }
    input.extra = nlohmann::ordered_json::parse(options.template_kwargs->begin(), options.template_kwargs->end(),
                                                nullptr, /*allow_exceptions=*/false);
    if (!input.extra.is_object()) {
      return absl::InvalidArgumentError("chat_template_kwargs is not a JSON object of variables by name");
    }
  }
  ASSIGN_OR_RETURN(std::string rendered, chat_template->Render(input));
  if (!continues) return rendered;
  // As Hugging Face does it: the text up to the end of the last message's content.
  if (messages.empty()) return absl::InvalidArgumentError("continue_final_message: there are no messages");
  const absl::string_view content = absl::StripAsciiWhitespace(messages.back().content);
  const size_t at = rendered.rfind(content.data(), std::string::npos, content.size());
  if (content.empty() || at == std::string::npos) {
    return absl::InvalidArgumentError(
        "continue_final_message: the last message is empty, or the chat template does not show it as it is");
  }
  rendered.resize(at + content.size());
  return rendered;
}

absl::StatusOr<std::vector<TokenId>> ServedModel::EncodeChat(absl::string_view rendered) const {
  if (tokenizer == nullptr) return NoTokenizer(name);
  return tokenizer->Encode(rendered, {.add_special = false, .parse_special = true});
}

absl::StatusOr<std::shared_ptr<const ServedModel>> BuildServedModel(const ModelKey& key,
                                                                    v1::ModelDescription&& description) {
  constexpr uint32_t kVocabSizeMax = 1 << 24;
  if (description.vocab_size() == 0 || description.vocab_size() > kVocabSizeMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocab_size = ", description.vocab_size(), " is out of range; ", "it is 1 to ", kVocabSizeMax));
  }
  auto model = std::make_shared<ServedModel>();
  model->key = key;
  model->name = description.name();
  model->architecture = description.architecture();
  model->vocab_size = static_cast<int>(description.vocab_size());
  model->max_model_len = static_cast<int>(std::min<uint32_t>(description.max_model_len(), 1u << 30));
  model->end_token_ids.assign(description.end_token_ids().begin(), description.end_token_ids().end());
  ASSIGN_OR_RETURN(model->sampling_defaults, ReadDefaults(description.sampling_defaults()));
  model->chat_template = absl::FailedPreconditionError(
      absl::StrCat("model ", model->name, " has no chat template; send prompt or prompt_token_ids"));
  if (description.tokenizer().tokens_size() == 0) return std::shared_ptr<const ServedModel>(std::move(model));

  ASSIGN_OR_RETURN(text::TokenizerDefinition definition, FromProto(std::move(*description.mutable_tokenizer())));
  const std::string template_source = definition.chat_template;
  ASSIGN_OR_RETURN(model->tokenizer, text::MakeTokenizer(std::move(definition)));
  if (model->tokenizer->fingerprint() != key.tokenizer_fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat("it announced tokenizer ", key.tokenizer_fingerprint,
                                                      ", but describes ", model->tokenizer->fingerprint()));
  }
  for (TokenId id = 0; id < model->tokenizer->vocab_size(); ++id) {
    model->token_bytes_max = std::max(model->token_bytes_max, model->tokenizer->TokenBytes(id).size());
  }
  if (!template_source.empty()) {
    model->chat_template = text::ChatTemplate::Parse(template_source);
    if (!model->chat_template.ok()) {
      model->chat_template = absl::FailedPreconditionError(absl::StrCat(
          "the chat template of model ", model->name, " can not be read: ", model->chat_template.status().message(),
          "; send prompt or prompt_token_ids"));
    }
  }
  return std::shared_ptr<const ServedModel>(std::move(model));
}

ModelStore::ModelStore(const Clock* clock, std::function<void()> on_ready)
    : clock_(clock), on_ready_(std::move(on_ready)), thread_([this] { Run(); }) {}

ModelStore::~ModelStore() {
  {
    MutexLock lock(mailbox_->mu);
    mailbox_->stopped = true;
    mailbox_->changed.NotifyAll();
  }
  thread_.join();
}

void ModelStore::Want(const ModelKey& key, const std::shared_ptr<TargetClient>& client) {
  {
    MutexLock lock(mu_);
    if (key != wanted_) {
      wanted_ = key;
      model_.reset();
      fetch_after_ = TimePoint{};
    }
    if (model_ != nullptr || fetching_ || clock_->Now() < fetch_after_) return;
    fetching_ = true;
  }
  client->FetchModel(
      [mailbox = mailbox_, key, group_id = client->group_id()](absl::StatusOr<v1::ModelDescription> description) {
        MutexLock lock(mailbox->mu);
        mailbox->fetched.emplace(Fetched{key, group_id, std::move(description)});
        mailbox->changed.NotifyAll();
      });
}

void ModelStore::Run() {
  while (true) {
    std::optional<Fetched> fetched;
    {
      MutexLock lock(mailbox_->mu);
      while (!mailbox_->stopped && !mailbox_->fetched.has_value()) mailbox_->changed.Wait(mailbox_->mu);
      if (mailbox_->stopped) return;
      fetched.swap(mailbox_->fetched);
    }
    const absl::StatusOr<std::shared_ptr<const ServedModel>> built =
        fetched->description.ok() ? BuildServedModel(fetched->key, *std::move(fetched->description))
                                  : fetched->description.status();
    bool ready = false;
    {
      MutexLock lock(mu_);
      fetching_ = false;
      fetch_after_ = clock_->Now() + kFetchBackoff;
      if (built.ok() && (*built)->key == wanted_) {
        model_ = *built;
        ready = true;
      }
    }
    if (!built.ok()) {
      LogError("the model description of group ", fetched->group_id, " can not be used: ", built.status().message());
    }
    if (ready) {
      LogInfo("model ", (*built)->name, " with tokenizer ", (*built)->key.tokenizer_fingerprint, " from group ",
              fetched->group_id, ": ", (*built)->vocab_size, " ids, context ", (*built)->max_model_len);
      on_ready_();
    }
  }
}

std::shared_ptr<const ServedModel> ModelStore::model() const {
  MutexLock lock(mu_);
  return model_;
}

}  // namespace outrider::router
