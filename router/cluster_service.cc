#include "router/cluster_service.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "router/grpc_status.h"
#include "router/proto_conversions.h"

namespace outrider::router {
namespace {

absl::Status Hear(Dispatcher& dispatcher, const v1::HeartbeatRequest& request, v1::HeartbeatResponse* response) {
  switch (request.role_case()) {
    case v1::HeartbeatRequest::kTargetGroup: {
      ASSIGN_OR_RETURN(const std::vector<DraftWorkerView> draft_workers, dispatcher.Heartbeat(ToGroupReport(request)));
      for (const DraftWorkerView& worker : draft_workers) {
        v1::DraftAssignment& assignment = *response->add_draft_workers();
        assignment.set_worker_id(worker.id);
        assignment.set_incarnation(worker.incarnation);
        assignment.set_address(worker.address);
      }
      return absl::OkStatus();
    }
    case v1::HeartbeatRequest::kDraftWorker:
      return dispatcher.Heartbeat(ToDraftWorkerReport(request));
    case v1::HeartbeatRequest::ROLE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat("heartbeat of '", request.worker_id().substr(0, kMaxNameBytes),
                                                 "' has no role; set target_group or draft_worker"));
}

}  // namespace

grpc::ServerUnaryReactor* ClusterService::Heartbeat(grpc::CallbackServerContext* context,
                                                    const v1::HeartbeatRequest* request,
                                                    v1::HeartbeatResponse* response) {
  response->set_interval_ms(heartbeat_interval_ms_);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(Hear(*dispatcher_, *request, response)));
  return reactor;
}

}  // namespace outrider::router
