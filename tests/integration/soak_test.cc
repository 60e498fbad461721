// Many streams of mixed lengths, some cancelled at a random token, for a while: every request ends exactly once, as it
// should, nothing is left behind, and every process ends in order (under a sanitizer: without a finding).
//
// OUTRIDER_SOAK_SECONDS (default 15) says how long; OUTRIDER_TEST_SEED repeats a run.

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "proto/inference.grpc.pb.h"
#include "tests/integration/cluster_fixture.h"

namespace outrider {
namespace {

constexpr int kNumStreams = 64;

struct Ledger {
  std::atomic<int> started{0}, finished{0}, cancelled{0}, refused{0}, wrong{0};
};

// One request from its start to its end, cancelled after `cancel_after` tokens if that is not negative.
void RunOne(v1::Inference::Stub& stub, const v1::GenerateRequest& request, int cancel_after, Ledger& ledger) {
  ++ledger.started;
  grpc::ClientContext context;
  const auto reader = stub.Generate(&context, request);
  v1::GenerateResponse response;
  int num_tokens = 0, num_finished = 0;
  bool cancelled = false;
  while (reader->Read(&response)) {
    if (response.has_finished()) ++num_finished;
    num_tokens += response.delta().token_ids_size();
    if (num_finished > static_cast<int>(std::max(1u, request.n()))) break;
    if (!cancelled && cancel_after >= 0 && num_tokens >= cancel_after) {
      context.TryCancel();
      cancelled = true;
    }
  }
  const grpc::Status status = reader->Finish();
  const int expected = static_cast<int>(std::max(1u, request.n()));
  if (status.ok() && num_finished == expected) {
    ++ledger.finished;
  } else if (cancelled && status.error_code() == grpc::StatusCode::CANCELLED) {
    ++ledger.cancelled;
  } else if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
    ++ledger.refused;
  } else {
    ++ledger.wrong;
    std::fprintf(stderr, "request ended with code %d '%s', %d of %d choices finished, cancelled %d\n",
                 status.error_code(), status.error_message().c_str(), num_finished, expected, cancelled);
  }
}

TEST(Soak, EveryRequestEndsOnceAndNothingIsLeft) {
  const char* seconds_text = std::getenv("OUTRIDER_SOAK_SECONDS");
  const char* seed_text = std::getenv("OUTRIDER_TEST_SEED");
  const int seconds = seconds_text != nullptr ? std::atoi(seconds_text) : 15;
  const uint64_t seed =
      seed_text != nullptr && *seed_text != '\0' ? std::strtoull(seed_text, nullptr, 10) : std::random_device{}();
  std::printf("seed %lu, %d s\n", seed, seconds);
  ClusterOptions options = TestCluster();
  options.tensor_parallel_size = 2;
  options.max_sequences = 32;
  options.kv_cache_bytes = 4 << 20;  // small enough that blocks run out and sequences are preempted
  const auto cluster = StartCluster(options);
  ASSERT_NE(cluster, nullptr);
  const auto channel = grpc::CreateChannel(cluster->grpc_address(), grpc::InsecureChannelCredentials());
  const auto stub = v1::Inference::NewStub(channel);
  Ledger ledger;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  std::vector<std::thread> streams;
  for (int stream = 0; stream < kNumStreams; ++stream) {
    streams.emplace_back([&, stream] {
      std::mt19937_64 random(seed * 1000003 + stream);
      while (std::chrono::steady_clock::now() < end) {
        const int max_tokens = 1 + static_cast<int>(random() % (random() % 4 == 0 ? 200 : 40));
        v1::GenerateRequest request = TestRequest(static_cast<int>(random() % 40), random() % 2 == 0, max_tokens);
        if (random() % 8 == 0) {  // a long prompt
          std::string text = request.prompt();
          while (text.size() < 600) text += " and " + std::to_string(random() % 1000);
          request.set_prompt(text);
        }
        if (random() % 8 == 0) request.set_n(2);
        request.set_lookahead(static_cast<int>(random() % 6) - 1);
        RunOne(*stub, request, random() % 3 == 0 ? static_cast<int>(random() % max_tokens) : -1, ledger);
      }
    });
  }
  for (std::thread& stream : streams) stream.join();
  std::printf("%d requests: %d finished, %d cancelled, %d refused, %d wrong\n", ledger.started.load(),
              ledger.finished.load(), ledger.cancelled.load(), ledger.refused.load(), ledger.wrong.load());
  EXPECT_EQ(ledger.wrong, 0);
  EXPECT_EQ(ledger.refused, 0);
  EXPECT_EQ(ledger.started, ledger.finished + ledger.cancelled);
  EXPECT_GT(ledger.finished, kNumStreams);
  EXPECT_GT(ledger.cancelled, 0);
  // KV of live sequences goes back to zero; the router hears of it with the next heartbeats.
  const auto bound = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  double used = -1, running = -1;
  do {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    used = MetricSum(cluster->metrics_address(), "outrider_kv_cache_used_ratio");
    running = MetricSum(cluster->metrics_address(), "outrider_sequences_running");
  } while ((used != 0 || running != 0) && std::chrono::steady_clock::now() < bound);
  EXPECT_EQ(used, 0);
  EXPECT_EQ(running, 0);
  EXPECT_TRUE(cluster->Stop()) << "a process did not end in order; its log is above";
}

}  // namespace
}  // namespace outrider
