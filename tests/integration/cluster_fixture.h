// A real cluster of real processes on loopback for a test: router, ranks and draft workers as children of `serve`.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "cli/child_cluster.h"
#include "cli/generate_client.h"

namespace outrider {

// A file of the source tree, by its path there.
std::string SourceFile(const std::string& path);
// The draft model that comes with the project: small enough to be a target too.
std::string SmallModelPath();
// A checkpoint in Hugging Face's layout: a folder of worker/model/testdata/hf.
std::string TestdataFolder(const std::string& name);
// SmolLM2-135M-Instruct, fetched by deploy/setup.sh; empty if it is not there.
std::string TargetModelPath();

// `model` and `draft_model` default to the small model, ports to free ones.
ClusterOptions TestCluster();
// Fails the test if it can not start.
std::unique_ptr<ChildCluster> StartCluster(const ClusterOptions& options);

// Pids of the children of `parent` whose command line contains every one of `words`.
std::vector<pid_t> ChildrenWith(pid_t parent, const std::vector<std::string>& words);

// Outcomes of `requests`, in order, at most `concurrency` at once.
std::vector<RequestOutcome> Generate(const ChildCluster& cluster, const std::vector<v1::GenerateRequest>& requests,
                                     int concurrency = 1);

// A request for a few tokens of prompt `index`, greedy or seeded by it.
v1::GenerateRequest TestRequest(int index, bool greedy, int max_tokens);

// The value of a metric's series (name with labels as the page has them, by prefix), summed; -1 if there is none.
double MetricSum(const std::string& metrics_address, const std::string& prefix);

}  // namespace outrider
