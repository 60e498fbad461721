#include "router/current_load.h"

#include "router/cluster_load.h"

namespace outrider::router {

v1::ClusterLoad CurrentLoad(const CallEnvironment& environment) {
  const Dispatcher& dispatcher = *environment.dispatcher;
  RouterOverview overview{.num_requests_open = environment.calls->num_open(),
                          .traffic = environment.metrics->CurrentTraffic()};
  if (const auto model = dispatcher.model(); model != nullptr) {
    overview.model = model->name;
    overview.max_model_len = dispatcher.MaxModelLen(*model);
  }
  if (!dispatcher.Serving()) overview.why_not_serving = dispatcher.WhyNotServing();
  return ToClusterLoad(overview, dispatcher.State());
}

}  // namespace outrider::router
