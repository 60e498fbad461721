// The HTTP API of a cluster of processes: the same ids as over gRPC, with and without drafts, and the stock openai
// package and schemathesis as its clients.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "router/http/testing/http_client.h"
#include "tests/integration/cluster_fixture.h"

namespace outrider {
namespace {

using Json = nlohmann::json;

Json Complete(const std::string& address, const Json& request) {
  const router::HttpReply reply = router::Post(address, "/v1/completions", request.dump());
  EXPECT_EQ(reply.status, 200) << reply.body;
  return Json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
}

TEST(HttpCluster, GivesTheIdsThatGrpcGivesWithAndWithoutDrafts) {
  const auto cluster = StartCluster(TestCluster());
  ASSERT_NE(cluster, nullptr);
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < 4; ++i) {
    requests.push_back(TestRequest(i, /*greedy=*/i % 2 == 0, /*max_tokens=*/32));
    requests.back().set_n(2);
  }
  const std::vector<RequestOutcome> expected = Generate(*cluster, requests);
  ASSERT_EQ(expected.size(), requests.size());
  for (const bool draft : {false, true}) {
    for (size_t i = 0; i < requests.size(); ++i) {
      ASSERT_TRUE(expected[i].status.ok()) << expected[i].status;
      Json request = {{"max_tokens", 32}, {"n", 2}, {"draft", draft}, {"return_token_ids", true}};
      if (requests[i].has_prompt()) {
        request["prompt"] = requests[i].prompt();
      } else {
        request["prompt"] =
            std::vector<int32_t>(requests[i].prompt_token_ids().begin(), requests[i].prompt_token_ids().end());
      }
      if (requests[i].has_temperature()) request["temperature"] = requests[i].temperature();
      if (requests[i].has_ignore_eos()) request["ignore_eos"] = requests[i].ignore_eos();
      if (requests[i].has_top_p()) request["top_p"] = requests[i].top_p();
      request["seed"] = expected[i].started.seed();
      const Json answer = Complete(cluster->http_address(), request);
      for (int choice = 0; choice < 2; ++choice) {
        EXPECT_EQ(answer["choices"][choice]["token_ids"], Json(expected[i].choices[choice].output_token_ids))
            << "request " << i << ", draft " << draft;
        EXPECT_EQ(answer["choices"][choice]["text"], expected[i].choices[choice].text);
      }
    }
  }
}

// Runs a program of this folder, with the packages that deploy/setup.sh fetches, against the cluster.
void RunAgainst(const ChildCluster& cluster, const std::string& program, const std::string& package) {
  const std::string packages = SourceFile(".cache/tools/python");
  ASSERT_EQ(::access(absl::StrCat(packages, "/", package).c_str(), R_OK), 0) << "run deploy/setup.sh tools";
  const std::string command =
      absl::StrCat("PYTHONPATH=", packages, " python3 ", SourceFile("tests/integration/" + program), " http://",
                   cluster.http_address());
  const int status = std::system(command.c_str());
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << command;
}

TEST(HttpCluster, ServesTheStockOpenAiClient) {
  ClusterOptions options = TestCluster();
  if (!TargetModelPath().empty()) {
    options.model = TargetModelPath();
    options.max_model_len = 2048;
  }
  const auto cluster = StartCluster(options);
  ASSERT_NE(cluster, nullptr);
  RunAgainst(*cluster, "openai_client.py", "openai");
}

TEST(HttpCluster, DoesAsItsDescriptionSays) {
  ClusterOptions options = TestCluster();
  options.max_model_len = 128;  // what is drawn at random asks for all of it
  const auto cluster = StartCluster(options);
  ASSERT_NE(cluster, nullptr);
  RunAgainst(*cluster, "openapi_check.py", "schemathesis");
}

}  // namespace
}  // namespace outrider
