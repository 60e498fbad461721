#include "router/generate_reactor.h"

#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "router/error_details.h"
#include "router/grpc_caller.h"
#include "router/grpc_message.h"
#include "router/retry_after.h"

namespace outrider::router {

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateReactor::Begin(const CallEnvironment& environment,
                                                                   grpc::CallbackServerContext* context,
                                                                   const grpc::ByteBuffer& request) {
  absl::StatusOr<ApiAccess::Grant> granted = environment.access->Admit(CredentialsOf(*context));
  v1::GenerateRequest message;
  if (granted.ok()) {
    if (const absl::Status parsed = ParseMessage(request, message); !parsed.ok()) granted = parsed;
  }
  auto* const reactor = new GenerateReactor(context);
  // Its own hold: gRPC may be done with the reactor before Arrive returns.
  const std::shared_ptr<GenerateCall> call = GenerateCall::Make(
      environment, reactor, DeadlineOf(*context, environment.clock->Now()), std::move(message), TraceOf(*context));
  reactor->call_ = call;
  context->AddInitialMetadata(kRequestIdKey, call->request_name());
  call->Arrive(std::move(granted));
  return reactor;
}

void GenerateReactor::OnWriteDone(bool ok) { call_->OnWriteDone(ok); }

void GenerateReactor::OnCancel() { call_->OnClientGone(); }

void GenerateReactor::OnDone() {
  call_->OnDone();
  delete this;
}

void GenerateReactor::Write(v1::GenerateResponse& response, bool last) {
  bytes_ = SerializeMessage(response);
  // Without a buffer hint: a write that is held back is not done either, and nothing would follow to push it out.
  if (last) {
    StartWriteAndFinish(&bytes_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    StartWrite(&bytes_);
  }
}

void GenerateReactor::Finish(const absl::Status& status) {
  if (const std::optional<Duration> after = RetryAfterOf(status); after.has_value()) {
    context_->AddTrailingMetadata(kRetryPushbackKey,
                                  absl::StrCat(std::chrono::duration_cast<std::chrono::milliseconds>(*after).count()));
  }
  Reactor::Finish(ToClientStatus(status));
}

void GenerateReactor::Cut() { context_->TryCancel(); }

}  // namespace outrider::router
