// Time of AllReduceSum between rank processes of this host, one JSON line a case on standard output:
//
//   all_reduce_bench [ranks...]     (default 2)
//
// Every case is validated against the rank-ordered sum before it is timed. Statistic: median of kSamples samples on
// rank 0, each the mean over a batch of calls; min and max beside it.
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/status_macros.h"
#include "worker/parallel/shm_communicator.h"

namespace outrider {
namespace {

constexpr int kSamples = 21;

float Value(int rank, int64_t i) { return static_cast<float>((i * 7919 + rank * 104729) % 1000) / 997.0f - 0.5f; }

void RunRank(Communicator& communicator) {
  for (const int64_t count : {576, 1152, 2304, 576 * 8, 576 * 16, 576 * 64, 576 * 256, 512 * 2048, 512 * 8192}) {
    std::vector<float> data(count);
    for (int64_t i = 0; i < count; ++i) data[i] = Value(communicator.rank(), i);
    CHECK(communicator.AllReduceSum(data.data(), count).ok());
    for (int64_t i = 0; i < count; ++i) {
      float sum = Value(0, i);
      for (int r = 1; r < communicator.world_size(); ++r) sum += Value(r, i);
      CHECK(data[i] == sum);
    }
    std::fill(data.begin(), data.end(), 0.0f);  // sums of zeros stay finite for ever
    const int batch = static_cast<int>(std::clamp<int64_t>((1 << 20) / count, 2, 200));
    std::vector<double> us;
    for (int sample = 0; sample < kSamples; ++sample) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < batch; ++i) CHECK(communicator.AllReduceSum(data.data(), count).ok());
      us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / batch);
    }
    std::sort(us.begin(), us.end());
    if (communicator.rank() != 0) continue;
    std::cout << nlohmann::json{{"benchmark", "all_reduce"}, {"ranks", communicator.world_size()},
                                {"floats", count},           {"us_median", us[kSamples / 2]},
                                {"us_min", us.front()},      {"us_max", us.back()},
                                {"samples", kSamples},       {"batch", batch}}
              << std::endl;
  }
}

void RunGroup(int world_size) {
  auto rendezvous = ShmRendezvous::Listen(world_size, 1);
  CHECK(rendezvous.ok());
  for (int rank = 1; rank < world_size; ++rank) {
    if (fork() == 0) {
      auto communicator = AttachShm((*rendezvous)->socket_name(), rank, world_size, 1, std::chrono::seconds(10));
      CHECK(communicator.ok());
      RunRank(**communicator);
      _exit(0);
    }
  }
  auto communicator = (*rendezvous)->AwaitRanks(std::chrono::seconds(10));
  CHECK(communicator.ok());
  RunRank(**communicator);
  while (wait(nullptr) > 0) {
  }
}

}  // namespace
}  // namespace outrider

int main(int argc, char** argv) {
  if (argc == 1) outrider::RunGroup(2);
  for (int i = 1; i < argc; ++i) outrider::RunGroup(std::atoi(argv[i]));
}
