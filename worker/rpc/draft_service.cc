#include "worker/rpc/draft_service.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "worker/rpc/proto_conversions.h"
#include "worker/rpc/server_stream.h"
#include "worker/rpc/status_conversions.h"

namespace outrider {
namespace {

// Proposals that wait for a target to read; older ones are stale by then and go first.
constexpr size_t kMaxWaitingProposals = 4096;

grpc::Status Refusal(grpc::StatusCode code, std::string message) {
  LogWarning("draft stream refused: ", message);
  return grpc::Status(code, std::move(message));
}

}  // namespace

class DraftService::Call final : public ServerStream<v1::DraftCommands, v1::DraftEvents> {
 public:
  explicit Call(DraftService& service) : service_(service) {}

 protected:
  void OnMessage(v1::DraftCommands& request) override {
    switch (request.hello_or_batch_case()) {
      case v1::DraftCommands::kHello:
        return OnHello(request.hello());
      case v1::DraftCommands::kBatch:
        return OnBatch(request.batch());
      case v1::DraftCommands::kPing:
        return OnPing(request.ping());
      case v1::DraftCommands::HELLO_OR_BATCH_NOT_SET:
        return Finish(Refusal(grpc::StatusCode::INVALID_ARGUMENT, "a frame is neither hello nor batch nor ping"));
    }
  }

  bool NextMessage(v1::DraftEvents* response) override {
    MutexLock lock(client_->mu);
    if (client_->hello) {
      *response->mutable_hello() = *std::exchange(client_->hello, std::nullopt);
      return true;
    }
    if (client_->pong) {
      response->mutable_pong()->set_id(*std::exchange(client_->pong, std::nullopt));
      return true;
    }
    if (client_->proposals.empty() && !client_->load) return false;
    for (const DraftProposal& proposal : client_->proposals) {
      ProposalToProto(proposal, response->mutable_batch()->add_proposals());
    }
    client_->proposals.clear();
    if (client_->load)
      LoadToProto(*std::exchange(client_->load, std::nullopt), response->mutable_batch()->mutable_load());
    return true;
  }

  void OnEnd() override {
    if (id_) service_.drafter_.Detach(*id_);
    MutexLock lock(client_->mu);
    client_->call = nullptr;
  }

 private:
  // What the drafter holds. It may outlive the call; the call never outlives OnEnd, which takes it away.
  struct Client final : public DraftClient {
    explicit Client(DrafterMetrics& m) : metrics(m) {}

    void Send(std::vector<DraftProposal> from_turn, const DrafterLoad* new_load) override {
      std::shared_ptr<Call> to;
      {
        MutexLock lock(mu);
        for (DraftProposal& proposal : from_turn) proposals.push_back(std::move(proposal));
        while (proposals.size() > kMaxWaitingProposals) {
          metrics.Dropped(DrafterDropReason::kSlowReader);
          proposals.erase(proposals.begin());
        }
        if (new_load != nullptr) load = *new_load;
        to = Target();
      }
      if (to != nullptr) to->Write();
    }

    void BatchesTaken(int count) override {
      std::shared_ptr<Call> to;
      {
        MutexLock lock(mu);
        num_waiting_batches -= count;
        if (!std::exchange(reading_paused, false)) return;
        to = Target();
      }
      if (to != nullptr) to->Read();
    }

    std::shared_ptr<Call> Target() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
      return call == nullptr ? nullptr : std::static_pointer_cast<Call>(call->shared_from_this());
    }

    DrafterMetrics& metrics;
    Mutex mu;
    Call* call ABSL_GUARDED_BY(mu) = nullptr;
    std::optional<v1::DraftHello> hello ABSL_GUARDED_BY(mu);
    std::vector<DraftProposal> proposals ABSL_GUARDED_BY(mu);
    std::optional<DrafterLoad> load ABSL_GUARDED_BY(mu);
    std::optional<uint64_t> pong ABSL_GUARDED_BY(mu);  // of several pings the last is answered
    int num_waiting_batches ABSL_GUARDED_BY(mu) = 0;
    bool reading_paused ABSL_GUARDED_BY(mu) = false;
  };

  void OnHello(const v1::TargetHello& hello) {
    if (id_) return Finish(Refusal(grpc::StatusCode::INVALID_ARGUMENT, "a second hello"));
    if (grpc::Status status = service_.Check(hello); !status.ok()) return Finish(std::move(status));
    std::vector<std::shared_ptr<Call>> ended;
    const auto self = std::static_pointer_cast<Call>(shared_from_this());
    if (grpc::Status status = service_.Enter(hello, self, ended); !status.ok()) return Finish(std::move(status));
    for (const std::shared_ptr<Call>& call : ended) {
      call->Finish(Refusal(grpc::StatusCode::FAILED_PRECONDITION,
                           absl::StrCat("target ", hello.target_id(), " has begun a new life")));
    }
    {
      MutexLock lock(client_->mu);
      client_->call = this;
      client_->hello.emplace();
      client_->hello->set_protocol_version(kDraftProtocolVersion);
      client_->hello->set_draft_id(service_.options_.draft_id);
      client_->hello->set_incarnation(service_.options_.incarnation);
      client_->hello->set_tokenizer_fingerprint(service_.options_.tokenizer_fingerprint);
      client_->hello->set_vocab_size(static_cast<uint32_t>(service_.options_.vocab_size));
      client_->hello->set_max_model_len(static_cast<uint32_t>(service_.options_.max_model_len));
      client_->hello->set_max_sequences(static_cast<uint32_t>(service_.options_.max_sequences));
      client_->hello->set_runs_ahead(service_.options_.runs_ahead);
    }
    const auto id = service_.drafter_.Attach(client_);
    if (!id.ok()) return Finish(ToGrpcStatus(id.status()));
    id_ = *id;
    LogInfo("target ", hello.target_id(), " connected");
    Write();
    Read();
  }

  void OnPing(const v1::Ping& ping) {
    if (!id_) return Finish(Refusal(grpc::StatusCode::INVALID_ARGUMENT, "a ping before the hello"));
    {
      MutexLock lock(client_->mu);
      client_->pong = ping.id();
    }
    Write();
    Read();
  }

  void OnBatch(const v1::DraftCommandBatch& batch) {
    if (!id_) return Finish(Refusal(grpc::StatusCode::INVALID_ARGUMENT, "commands before the hello"));
    if (batch.commands_size() > kMaxDraftCommandsPerBatch) {
      return Finish(Refusal(
          grpc::StatusCode::INVALID_ARGUMENT,
          absl::StrCat("a batch of ", batch.commands_size(), " commands; at most ", kMaxDraftCommandsPerBatch)));
    }
    std::vector<DraftCommand> commands;
    commands.reserve(batch.commands_size());
    for (const v1::DraftCommand& proto : batch.commands()) {
      if (auto command = DraftCommandFromProto(proto)) {
        commands.push_back(*std::move(command));
      } else {
        service_.metrics_.Dropped(DrafterDropReason::kBadParams);
      }
    }
    bool read_on;
    {
      MutexLock lock(client_->mu);
      read_on = ++client_->num_waiting_batches < Drafter::kMaxWaitingBatches;
      client_->reading_paused = !read_on;
    }
    if (absl::Status status = service_.drafter_.Post(*id_, std::move(commands)); !status.ok()) {
      return Finish(ToGrpcStatus(status));
    }
    if (read_on) Read();
  }

  DraftService& service_;
  const std::shared_ptr<Client> client_ = std::make_shared<Client>(service_.metrics_);
  std::optional<DraftClientId> id_;  // set by the reader, read by it and by OnEnd after the last read
};

DraftService::DraftService(Options options, Drafter& drafter, DrafterMetrics& metrics)
    : options_(std::move(options)), drafter_(drafter), metrics_(metrics) {}

grpc::ServerBidiReactor<v1::DraftCommands, v1::DraftEvents>* DraftService::Connect(grpc::CallbackServerContext*) {
  return Call::Open(std::make_shared<Call>(*this));
}

grpc::Status DraftService::Enter(const v1::TargetHello& hello, const std::shared_ptr<Call>& call,
                                 std::vector<std::shared_ptr<Call>>& ended) {
  MutexLock lock(mu_);
  const auto prune = [](TargetLife& life) {
    std::erase_if(life.calls, [](const std::weak_ptr<Call>& known) { return known.expired(); });
    return life.calls.empty();
  };
  for (auto target = targets_.begin(); targets_.size() >= kMaxTargets && target != targets_.end();) {
    target = prune(target->second) ? targets_.erase(target) : std::next(target);
  }
  TargetLife& life = targets_[hello.target_id()];
  prune(life);
  if (hello.incarnation() < life.incarnation) {
    return Refusal(grpc::StatusCode::FAILED_PRECONDITION,
                   absl::StrCat("target ", hello.target_id(), " is of a past life: incarnation ", hello.incarnation(),
                                ", ", life.incarnation, " is known"));
  }
  if (hello.incarnation() > life.incarnation) {
    for (const std::weak_ptr<Call>& known : life.calls) {
      if (std::shared_ptr<Call> past = known.lock()) ended.push_back(std::move(past));
    }
    life.calls.clear();
    life.incarnation = hello.incarnation();
  }
  life.calls.push_back(call);
  return grpc::Status::OK;
}

grpc::Status DraftService::Check(const v1::TargetHello& hello) const {
  if (hello.protocol_version() != kDraftProtocolVersion) {
    return Refusal(
        grpc::StatusCode::FAILED_PRECONDITION,
        absl::StrCat("target ", hello.target_id(), " speaks version ", hello.protocol_version(),
                     " of the draft protocol, draft worker ", options_.draft_id, " version ", kDraftProtocolVersion));
  }
  if (hello.tokenizer_fingerprint() != options_.tokenizer_fingerprint ||
      hello.vocab_size() != static_cast<uint32_t>(options_.vocab_size)) {
    return Refusal(grpc::StatusCode::FAILED_PRECONDITION,
                   absl::StrCat("tokenizers differ: target ", hello.target_id(), " has fingerprint ",
                                hello.tokenizer_fingerprint(), " and ", hello.vocab_size(), " tokens; draft model ",
                                options_.model, " of ", options_.draft_id, " has ", options_.tokenizer_fingerprint,
                                " and ", options_.vocab_size));
  }
  return grpc::Status::OK;
}

}  // namespace outrider
