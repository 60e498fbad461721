// A whole cluster over TCP with certificates, each part a process: its ids are those of one without, and strangers come
// to nothing at each of its servers.

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/cluster.grpc.pb.h"
#include "proto/draft.grpc.pb.h"
#include "proto/inference.grpc.pb.h"
#include "proto/target.grpc.pb.h"
#include "security/testing/certificates.h"
#include "tests/integration/cluster_fixture.h"
#include "tests/integration/processes.h"
#include "tests/integration/streams.h"

namespace outrider {
namespace {

using Args = std::vector<std::string>;

std::unique_ptr<grpc::ClientContext> Bounded() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  return context;
}

Args With(Args args, const TlsFiles& files) {
  args.insert(args.end(), {absl::StrCat("--link-certificate=", files.certificate),
                           absl::StrCat("--link-private-key=", files.private_key),
                           absl::StrCat("--link-authorities=", files.authorities)});
  return args;
}

TEST(Tls, AClusterOverTcpServesWhatOneOnSocketsDoesAndNoStranger) {
  TestAuthority cluster("cluster"), edge("edge"), strange("strange");
  const std::string folder = RuntimeFolder();
  const TlsFiles public_files = edge.Issue("public", "127.0.0.1");
  const Process router(With({"router", "--grpc-port=0", "--http-port=0", "--metrics-port=0", "--cluster-host=127.0.0.1",
                             "--cluster-port=0", absl::StrCat("--tls-certificate=", public_files.certificate),
                             absl::StrCat("--tls-private-key=", public_files.private_key),
                             absl::StrCat("--address-file=", folder, "/tls-router")},
                            cluster.Issue("router", "router")));
  const auto address = [&](const std::string& of, const std::string& key) {
    std::string found;
    Await(
        absl::StrCat(of, " listens"),
        [&] { return !(found = AddressIn(absl::StrCat(folder, "/tls-", of), key)).empty(); }, std::chrono::seconds(60));
    return found;
  };
  const std::string registry = address("router", "cluster");
  const auto worker = [&](const std::string& name, Args args) {
    args.insert(args.end(), {absl::StrCat("--model=", SmallModelPath()), "--threads=1", "--max-model-len=512",
                             "--metrics-port=0", absl::StrCat("--address-file=", folder, "/tls-", name)});
    return std::make_unique<Process>(With(std::move(args), cluster.Issue(name, name)));
  };
  const auto leader = worker("leader", {"target", "--group-id=group", "--tensor-parallel-size=2", "--lookahead=4",
                                        absl::StrCat("--router-address=", registry)});
  const std::string leader_address = address("leader", "grpc");
  const auto follower = worker("follower", {"target", "--group-id=group", "--tensor-parallel-size=2", "--rank=1",
                                            absl::StrCat("--leader-address=", leader_address)});
  const auto draft = worker("draft", {"draft", absl::StrCat("--router-address=", registry)});
  const std::string metrics = address("router", "metrics");
  ASSERT_TRUE(Await("group and draft worker are there", [&] {
    return MetricSum(metrics, "outrider_groups_serving") == 1 && MetricSum(metrics, "outrider_draft_workers") == 1;
  }));
  ASSERT_TRUE(Await("they speak to each other",
                    [&] { return MetricSum(address("leader", "metrics"), "outrider_draft_connections_total") >= 1; }));

  const auto open = grpc::InsecureChannelCredentials();
  const auto named = TlsChannel({.authorities = public_files.authorities}, TlsPeer::kNamed);
  const auto stub = v1::Inference::NewStub(grpc::CreateChannel(address("router", "grpc"), named));
  Processes sockets;
  sockets.StartGroup("group", 1, 2);
  ASSERT_TRUE(sockets.AwaitGroups(1));
  const auto socket_stub = v1::Inference::NewStub(grpc::CreateChannel(sockets.grpc_address(), open));
  for (int i = 0; i < 4; ++i) {
    const v1::GenerateRequest request = TestRequest(i, /*greedy=*/i % 2 == 0, 32);
    const StreamOutcome outcome = RunStream(*stub, request);
    EXPECT_EQ(outcome.code, 0) << outcome.message;
    EXPECT_EQ(outcome.token_ids.size(), 32u);
    EXPECT_EQ(outcome.token_ids, RunStream(*socket_stub, request).token_ids);
  }
  EXPECT_GE(MetricSum(address("leader", "metrics"), "outrider_draft_round_trip_seconds_count"), 1)
      << "no draft came over the link";

  // Whoever calls without what is asked for reaches no method, at any of the servers.
  const auto stranger = TlsChannel(strange.Issue("stranger", "127.0.0.1"), TlsPeer::kAnyOfAuthorities);
  const auto believing = TlsChannel({.authorities = cluster.folder() + "/authority.crt"}, TlsPeer::kAnyOfAuthorities);
  for (const auto& credentials : {open, stranger, believing, named}) {
    v1::HeartbeatResponse beat;
    EXPECT_EQ(v1::Cluster::NewStub(grpc::CreateChannel(registry, credentials))
                  ->Heartbeat(Bounded().get(), v1::HeartbeatRequest(), &beat)
                  .error_code(),
              grpc::StatusCode::UNAVAILABLE);
    v1::ModelDescription model;
    EXPECT_EQ(v1::Target::NewStub(grpc::CreateChannel(leader_address, credentials))
                  ->GetModel(Bounded().get(), v1::GetModelRequest(), &model)
                  .error_code(),
              grpc::StatusCode::UNAVAILABLE);
    const auto context = Bounded();
    const auto draft_stream =
        v1::Draft::NewStub(grpc::CreateChannel(address("draft", "grpc"), credentials))->Connect(context.get());
    EXPECT_EQ(draft_stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  // Nor does anybody register at the public server, or speak to it openly.
  v1::HeartbeatResponse beat;
  EXPECT_EQ(v1::Cluster::NewStub(grpc::CreateChannel(address("router", "grpc"), named))
                ->Heartbeat(Bounded().get(), v1::HeartbeatRequest(), &beat)
                .error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  v1::ModelInfo info;
  EXPECT_EQ(v1::Inference::NewStub(grpc::CreateChannel(address("router", "grpc"), open))
                ->GetModelInfo(Bounded().get(), v1::GetModelInfoRequest(), &info)
                .error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST(Tls, WhatOtherMachinesReachIsNotOpenedUnasked) {
  const std::string model = absl::StrCat("--model=", SmallModelPath());
  for (const Args& args :
       {Args{"router", "--host=0.0.0.0", "--grpc-port=0", "--http-port=0", "--metrics-port=0"},
        Args{"router", "--cluster-host=0.0.0.0", "--grpc-port=0", "--http-port=0", "--metrics-port=0"},
        Args{"router", "--tls-certificate=/nowhere"}, Args{"target", "--host=0.0.0.0", model},
        Args{"draft", "--host=0.0.0.0", model}, Args{"draft", "--link-certificate=/nowhere", model}}) {
    Process process(args);
    EXPECT_EQ(ExitCode(process.Wait()), 2) << args[0] << " " << args[1];
  }
}

}  // namespace
}  // namespace outrider
