#include "router/vllm_engine_service.h"

#include <grpcpp/alarm.h>

#include <chrono>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "router/error_details.h"
#include "router/grpc_caller.h"

namespace outrider::router {
namespace {

// What such routers know an engine by that speaks this service.
constexpr char kServerType[] = "vllm-grpc";

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToClientStatus(status));
  return reactor;
}

}  // namespace

// One Generate call: the wire of a GenerateCall. A write of the call is done once all messages that were made of it
// are.
class VllmEngineService::Generation final : public grpc::ServerWriteReactor<vllm::GenerateResponse>,
                                            public ClientStream,
                                            public std::enable_shared_from_this<Generation> {
 public:
  static grpc::ServerWriteReactor<vllm::GenerateResponse>* Begin(VllmEngineService* service,
                                                                 grpc::CallbackServerContext* context,
                                                                 const vllm::GenerateRequest& request) {
    const CallEnvironment& environment = service->environment_;
    const std::shared_ptr<Generation> generation(new Generation(service, context, request));
    absl::StatusOr<ApiAccess::Grant> granted = environment.access->Admit(CredentialsOf(*context));
    absl::StatusOr<v1::GenerateRequest> message = granted.ok() ? FromVllm(request) : granted.status();
    if (message.ok() && !request.request_id().empty()) {
      if (service->Enter(request.request_id(), generation)) {
        generation->entered_ = true;
      } else {
        message = absl::InvalidArgumentError(
            absl::StrCat("request_id '", request.request_id(), "' is that of a request that is open; give another"));
      }
    }
    generation->key_name_ = granted.ok() ? granted->key_name() : "";
    generation->call_ =
        GenerateCall::Make(environment, generation.get(), DeadlineOf(*context, environment.clock->Now()),
                           message.ok() ? *std::move(message) : v1::GenerateRequest(), TraceOf(*context));
    generation->self_ = generation;
    const std::shared_ptr<GenerateCall> call = generation->call_;
    if (message.ok()) {
      call->Arrive(std::move(granted));
    } else {
      call->Arrive(message.status());
    }
    return generation.get();
  }

  const std::string& key_name() const { return key_name_; }

  void Abort() {
    {
      MutexLock lock(mu_);
      aborted_ = true;
    }
    call_->EndWith(absl::CancelledError("aborted"));
  }

  // ServerWriteReactor.
  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mu_);
      if (ok && !messages_.empty()) {
        messages_.pop_front();
        if (!messages_.empty() || ending_) return Pump();
      }
      if (ending_) return;  // the call ends by itself
    }
    call_->OnWriteDone(ok);
  }
  void OnCancel() override { call_->OnClientGone(); }
  void OnDone() override {
    if (entered_) service_->Leave(request_id_);
    call_->OnDone();
    self_.reset();
  }

  // ClientStream.
  void Write(v1::GenerateResponse& response, bool last) override {
    MutexLock lock(mu_);
    for (vllm::GenerateResponse& message : answers_.Take(response)) messages_.push_back(std::move(message));
    ending_ = last;
    if (!messages_.empty() || ending_) return Pump();
    // Nothing to send, which must not be told from in here.
    alarm_.Set(std::chrono::system_clock::now(), [self = shared_from_this()](bool) { self->call_->OnWriteDone(true); });
  }
  void Finish(const absl::Status& status) override {
    MutexLock lock(mu_);
    if (!aborted_) return Reactor::Finish(ToClientStatus(status));
    for (vllm::GenerateResponse& message : answers_.Abort()) messages_.push_back(std::move(message));
    ending_ = true;
    Pump();
  }
  void Cut() override { context_->TryCancel(); }

 private:
  using Reactor = grpc::ServerWriteReactor<vllm::GenerateResponse>;
  Generation(VllmEngineService* service, grpc::CallbackServerContext* context, const vllm::GenerateRequest& request)
      : service_(service), context_(context), request_id_(request.request_id()), answers_(request.stream()) {}

  // Sends the first of the messages, or the end after the last.
  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (messages_.empty()) {
      Reactor::Finish(grpc::Status::OK);
    } else if (ending_ && messages_.size() == 1) {
      StartWriteAndFinish(&messages_.front(), grpc::WriteOptions(), grpc::Status::OK);
    } else {
      StartWrite(&messages_.front());
    }
  }

  VllmEngineService* const service_;
  grpc::CallbackServerContext* const context_;
  const std::string request_id_;
  bool entered_ = false;
  std::string key_name_;
  std::shared_ptr<Generation> self_;  // until OnDone
  std::shared_ptr<GenerateCall> call_;
  grpc::Alarm alarm_;

  Mutex mu_;
  VllmAnswers answers_ ABSL_GUARDED_BY(mu_);
  std::deque<vllm::GenerateResponse> messages_ ABSL_GUARDED_BY(mu_);  // the first is being written
  bool ending_ ABSL_GUARDED_BY(mu_) = false;                          // after these
  bool aborted_ ABSL_GUARDED_BY(mu_) = false;
};

bool VllmEngineService::Enter(const std::string& request_id, std::weak_ptr<Generation> generation) {
  MutexLock lock(mu_);
  last_receive_s_ = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  return open_.emplace(request_id, std::move(generation)).second;
}

void VllmEngineService::Leave(const std::string& request_id) {
  MutexLock lock(mu_);
  open_.erase(request_id);
}

grpc::ServerWriteReactor<vllm::GenerateResponse>* VllmEngineService::Generate(grpc::CallbackServerContext* context,
                                                                              const vllm::GenerateRequest* request) {
  return Generation::Begin(this, context, *request);
}

grpc::ServerUnaryReactor* VllmEngineService::Embed(grpc::CallbackServerContext* context, const vllm::EmbedRequest*,
                                                   vllm::EmbedResponse*) {
  const auto known = environment_.access->Authenticate(CredentialsOf(*context));
  return Finish(context, known.ok() ? absl::UnimplementedError("this server generates text; it has no embeddings")
                                    : known.status());
}

grpc::ServerUnaryReactor* VllmEngineService::HealthCheck(grpc::CallbackServerContext* context,
                                                         const vllm::HealthCheckRequest*,
                                                         vllm::HealthCheckResponse* response) {
  response->set_healthy(!environment_.calls->draining() && environment_.dispatcher->Serving());
  if (!response->healthy()) {
    response->set_message(environment_.calls->draining() ? "draining" : environment_.dispatcher->WhyNotServing());
  }
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* VllmEngineService::Abort(grpc::CallbackServerContext* context,
                                                   const vllm::AbortRequest* request, vllm::AbortResponse*) {
  const auto key_name = environment_.access->Authenticate(CredentialsOf(*context));
  if (!key_name.ok()) return Finish(context, key_name.status());
  for (const std::string& request_id : request->request_ids()) {
    std::shared_ptr<Generation> generation;
    {
      MutexLock lock(mu_);
      if (const auto found = open_.find(request_id); found != open_.end()) generation = found->second.lock();
    }
    if (generation != nullptr && generation->key_name() == *key_name) generation->Abort();
  }
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* VllmEngineService::GetModelInfo(grpc::CallbackServerContext* context,
                                                          const vllm::GetModelInfoRequest*,
                                                          vllm::GetModelInfoResponse* response) {
  const auto known = environment_.access->Authenticate(CredentialsOf(*context));
  if (!known.ok()) return Finish(context, known.status());
  const Dispatcher& dispatcher = *environment_.dispatcher;
  const std::shared_ptr<const ServedModel> model = dispatcher.model();
  if (model == nullptr) {
    return Finish(context, absl::UnavailableError(absl::StrCat("no model is known yet: ", dispatcher.WhyNotServing())));
  }
  response->set_model_path(model->name);
  response->set_served_model_name(model->name);
  response->set_is_generation(true);
  response->set_max_context_length(static_cast<uint32_t>(dispatcher.MaxModelLen(*model)));
  response->set_vocab_size(static_cast<uint32_t>(model->vocab_size));
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* VllmEngineService::GetServerInfo(grpc::CallbackServerContext* context,
                                                           const vllm::GetServerInfoRequest*,
                                                           vllm::GetServerInfoResponse* response) {
  const auto known = environment_.access->Authenticate(CredentialsOf(*context));
  if (!known.ok()) return Finish(context, known.status());
  response->set_active_requests(static_cast<uint32_t>(environment_.calls->num_open()));
  response->set_uptime_seconds(ToMillis(environment_.clock->Now() - started_at_) / 1000);
  response->set_server_type(kServerType);
  MutexLock lock(mu_);
  response->set_last_receive_timestamp(last_receive_s_);
  return Finish(context, absl::OkStatus());
}

}  // namespace outrider::router
