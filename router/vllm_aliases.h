// VllmAliases shows a router's numbers under the names of vLLM's metrics, for the tools that know those: benchmarks,
// dashboards, autoscalers and gateways.
//
// Read off the router's own page at each scrape, so nothing is counted twice and the two can not disagree. Buckets are
// vLLM's, exactly: the native histograms have them among theirs (router/latency_buckets.h). Groups are summed up as one
// engine "0"; the model is that of the first group in the order of ids. Before any group is known there is no model and
// nothing is shown.
//
// Names: v0.26 of vLLM. Not shown are vllm:estimated_*_per_gpu_total, which vLLM shows on request only.
// Pure.
#pragma once

#include <string>

namespace outrider::router {

// `page`: what the metrics registry of a router shows. Text format 0.0.4, TYPE and HELP included.
std::string VllmAliases(const std::string& page);

}  // namespace outrider::router
