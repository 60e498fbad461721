// ModelStore holds what the router knows of the model that is served: tokenizer, chat template, end tokens. The router
// has no model file; a group is asked once a model, and what it says is built into a tokenizer on a thread of the
// store.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/target.pb.h"
#include "router/cluster_snapshot.h"
#include "router/request.h"
#include "router/target_client.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace outrider::router {

// Immutable once made.
struct ServedModel {
  ModelKey key;
  std::string name;
  std::string architecture;
  int vocab_size = 0;
  int max_model_len = 0;  // of the group that told; groups may differ
  std::vector<TokenId> end_token_ids;
  SamplingDefaults sampling_defaults;
  // Null if the model has none: then requests carry token ids and get no text.
  std::unique_ptr<const text::Tokenizer> tokenizer;
  size_t token_bytes_max = 1;  // of the longest token
  // FAILED_PRECONDITION saying why if the model has no chat template, or one that can not be read.
  absl::StatusOr<text::ChatTemplate> chat_template = absl::FailedPreconditionError("no chat template");

  // Ids of text that a user wrote: special tokens in it are plain text. FAILED_PRECONDITION without a tokenizer.
  absl::StatusOr<std::vector<TokenId>> Encode(absl::string_view text, bool add_special_tokens) const;
  // The prompt that the chat template makes of messages, as text and as ids. INVALID_ARGUMENT with the template's own
  // words if it refuses them, or if the options can not be followed. REQUIRES: CheckChatOptions is OK.
  absl::StatusOr<std::string> RenderChat(absl::Span<const RequestInput::ChatMessage> messages,
                                         const RequestInput::ChatOptions& options = {}) const;
  absl::StatusOr<std::vector<TokenId>> EncodeChat(absl::string_view rendered) const;
};

// Errors: FAILED_PRECONDITION if the described tokenizer is not the announced one, and those of text::MakeTokenizer.
absl::StatusOr<std::shared_ptr<const ServedModel>> BuildServedModel(const ModelKey& key,
                                                                    v1::ModelDescription&& description);

class ModelStore {
 public:
  // `on_ready` is called once a new model is there, from the store's thread.
  ModelStore(const Clock* clock, std::function<void()> on_ready);
  ~ModelStore();
  ModelStore(const ModelStore&) = delete;
  ModelStore& operator=(const ModelStore&) = delete;

  // Makes `key` the served model: asks `client` for it unless it is there or on its way. To be called with each
  // heartbeat; after a failure, nothing happens for a back-off.
  void Want(const ModelKey& key, const std::shared_ptr<TargetClient>& client);

  // The model asked for last, or null until it is there.
  std::shared_ptr<const ServedModel> model() const;

 private:
  struct Fetched {
    ModelKey key;
    std::string group_id;
    absl::StatusOr<v1::ModelDescription> description;
  };
  // Shared with fetches under way, which may outlive the store.
  struct Mailbox {
    Mutex mu;
    CondVar changed;
    bool stopped ABSL_GUARDED_BY(mu) = false;
    std::optional<Fetched> fetched ABSL_GUARDED_BY(mu);
  };
  void Run();

  const Clock* const clock_;
  const std::function<void()> on_ready_;
  const std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();

  mutable Mutex mu_;
  ModelKey wanted_ ABSL_GUARDED_BY(mu_);
  bool fetching_ ABSL_GUARDED_BY(mu_) = false;
  TimePoint fetch_after_ ABSL_GUARDED_BY(mu_){};
  std::shared_ptr<const ServedModel> model_ ABSL_GUARDED_BY(mu_);

  std::thread thread_;
};

}  // namespace outrider::router
