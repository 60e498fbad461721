#include "cli/bench_client.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "base/mutex.h"

namespace outrider {
namespace {

// Answers a request with max_tokens messages of one token, or fails it if it says so; holds answers back while closed.
class FakeService final : public v1::Inference::Service {
 public:
  grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    {
      MutexLock lock(mu_);
      ++num_inside_;
      most_inside_ = std::max(most_inside_, num_inside_);
      changed_.NotifyAll();
      while (num_inside_ < wait_for_) changed_.Wait(mu_);
      wait_for_ = 0;
    }
    v1::GenerateResponse response;
    response.mutable_started()->add_prompt_token_ids(1);
    writer->Write(response);
    for (uint32_t i = 0; i < request->max_tokens(); ++i) {
      response.mutable_delta()->clear_token_ids();
      response.mutable_delta()->add_token_ids(7);
      if (i == 1) response.mutable_delta()->add_token_ids(8);
      response.mutable_delta()->set_text("x");
      writer->Write(response);
    }
    if (request->prompt() != "cut") {
      response.mutable_finished()->mutable_usage()->set_rounds(2);
      response.mutable_finished()->mutable_usage()->set_draft_tokens(3);
      response.mutable_finished()->mutable_usage()->set_accepted_tokens(1);
      writer->Write(response);
    }
    MutexLock lock(mu_);
    --num_inside_;
    if (request->prompt() == "fail") return {grpc::StatusCode::UNAVAILABLE, "gone"};
    return grpc::Status::OK;
  }
  // The first answers wait until so many requests are here.
  void WaitFor(int count) {
    MutexLock lock(mu_);
    wait_for_ = count;
  }
  int most_inside() {
    MutexLock lock(mu_);
    return most_inside_;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  int num_inside_ ABSL_GUARDED_BY(mu_) = 0;
  int most_inside_ ABSL_GUARDED_BY(mu_) = 0;
  int wait_for_ ABSL_GUARDED_BY(mu_) = 0;
};

class BenchClient : public testing::Test {
 protected:
  BenchClient() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    server_ = builder.BuildAndStart();
    stub_ = v1::Inference::NewStub(
        grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  }
  ~BenchClient() override { server_->Shutdown(); }
  static v1::GenerateRequest Request(const std::string& prompt) {
    v1::GenerateRequest request;
    request.set_prompt(prompt);
    request.set_max_tokens(3);
    return request;
  }
  FakeService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(BenchClient, RecordsWhatCameAndWhatFailed) {
  int done = 0, failed = 0;
  const OpenLoopResult result =
      RunOpenLoop(*stub_, {}, {Request("a"), Request("fail"), Request("cut")}, {0, 0, 0.01}, [&](int d, int f) {
        done = d;
        failed = f;
      });
  ASSERT_EQ(result.records.size(), 3u);
  EXPECT_EQ(done, 3);
  EXPECT_EQ(failed, 2);
  const BenchRecord& good = result.records[0];
  EXPECT_TRUE(good.success) << good.error;
  EXPECT_EQ(good.prompt_tokens, 1);
  EXPECT_EQ(good.output_tokens, 4);
  EXPECT_EQ(good.message_tokens, (std::vector<int>{1, 2, 1}));
  EXPECT_EQ(good.itl_s.size(), 2u);
  EXPECT_EQ(good.text, "xxx");
  EXPECT_EQ(good.num_drafts, 2);
  EXPECT_EQ(good.draft_tokens, 3);
  EXPECT_EQ(good.accepted_tokens, 1);
  EXPECT_GE(good.latency_s, good.ttft_s);
  EXPECT_EQ(result.records[1].error, "UNAVAILABLE: gone");
  EXPECT_EQ(result.records[2].error, "the stream ended before each choice had finished");
  EXPECT_GE(result.records[2].start_s, 0.01);
  EXPECT_GE(result.duration_s, result.records[2].start_s);
}

TEST_F(BenchClient, DoesNotWaitForAnswersBeforeItSendsTheNext) {
  service_.WaitFor(5);  // nobody is answered before all are there
  const std::vector<v1::GenerateRequest> requests(5, Request("a"));
  const OpenLoopResult result = RunOpenLoop(*stub_, {}, requests, {0, 0.001, 0.002, 0.003, 0.004}, [](int, int) {});
  for (const BenchRecord& record : result.records) EXPECT_TRUE(record.success) << record.error;
  EXPECT_EQ(service_.most_inside(), 5);
}

TEST_F(BenchClient, KeepsToTheConcurrencyAndCountsTheWait) {
  const std::vector<v1::GenerateRequest> requests(30, Request("a"));
  const OpenLoopResult result =
      RunOpenLoop(*stub_, {.max_concurrency = 2}, requests, std::vector<double>(30, 0), [](int, int) {});
  EXPECT_LE(service_.most_inside(), 2);
  double before = 0;
  for (const BenchRecord& record : result.records) {
    EXPECT_TRUE(record.success) << record.error;
    EXPECT_EQ(record.queue_s, record.start_s);  // all were due at 0
    EXPECT_GE(record.start_s, before);
    before = record.start_s;
  }
}

TEST_F(BenchClient, ARequestWithoutAnAnswerEndsAtItsTimeout) {
  service_.WaitFor(2);
  const OpenLoopResult result = RunOpenLoop(*stub_, {.timeout_s = 0.05}, {Request("a")}, {0}, [](int, int) {});
  EXPECT_EQ(result.records[0].error.find("DEADLINE_EXCEEDED"), 0u) << result.records[0].error;
  service_.WaitFor(0);
  RunOpenLoop(*stub_, {}, {Request("a")}, {0}, [](int, int) {});  // lets the first handler go
}

}  // namespace
}  // namespace outrider
