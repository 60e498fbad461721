// Ranks are GPUs in turn, so that groups larger than the machine are tested too; one thread launches for all.
#include "kernels/collective/device_all_reduce.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/common/dtype.h"
#include "kernels/testing/device_buffer.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/tensor_compare.h"

namespace outrider::kernels {
namespace {

using testing::DeviceBuffer;
using testing::RandomTensor;
using Way = DeviceAllReduceWay;

constexpr float kEpsilon = 1e-5f;
constexpr uint64_t kWeightSeed = 77;

int NumGpus() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// A rank: its GPU, stream, exchange memory and the rows of one call at most.
class Rank {
 public:
  Rank(int rank, int size, int rows_max, int num_ranks) : gpu_(rank % NumGpus()), size_(size) {
    Use();
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    buffer_ =
        std::make_unique<DeviceBuffer<uint8_t>>(static_cast<int64_t>(DeviceAllReduceBufferBytes(size, num_ranks)));
    buffer_->Zero();
    counters_ = std::make_unique<DeviceBuffer<uint32_t>>(static_cast<int64_t>(DeviceAllReduceCounters()));
    counters_->Zero();
    part_ = std::make_unique<DeviceBuffer<uint16_t>>(int64_t{rows_max} * size);
    hidden_ = std::make_unique<DeviceBuffer<float>>(int64_t{rows_max} * size);
    normed_ = std::make_unique<DeviceBuffer<uint16_t>>(int64_t{rows_max} * size);
    weight_ = std::make_unique<DeviceBuffer<float>>(size);
    gathered_ = std::make_unique<DeviceBuffer<uint16_t>>(int64_t{num_ranks} * rows_max * size);
    EXPECT_EQ(cudaHostAlloc(reinterpret_cast<void**>(&report_), sizeof(*report_), cudaHostAllocDefault), cudaSuccess);
    *report_ = {};
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  Rank(Rank&&) = delete;
  ~Rank() {
    Use();
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
    cudaFreeHost(report_);
  }

  void Use() const { EXPECT_EQ(cudaSetDevice(gpu_), cudaSuccess); }
  template <typename T>
  void Put(const std::unique_ptr<DeviceBuffer<T>>& to, const std::vector<T>& values) const {
    Use();
    EXPECT_EQ(cudaMemcpy(to->data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  template <typename T>
  std::vector<T> Get(const T* from, int64_t count) const {
    Use();
    std::vector<T> values(static_cast<size_t>(count));
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

  const int gpu_, size_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<DeviceBuffer<uint8_t>> buffer_;
  std::unique_ptr<DeviceBuffer<uint32_t>> counters_;
  std::unique_ptr<DeviceBuffer<uint16_t>> part_, normed_, gathered_;
  std::unique_ptr<DeviceBuffer<float>> hidden_, weight_;
  DeviceWaitReport* report_ = nullptr;
};

struct Rows {
  std::vector<float> hidden;
  std::vector<uint16_t> normed;
};

class Group {
 public:
  Group(int num_ranks, int size, int rows_max, uint64_t wait_ns = 4'000'000'000) : size_(size) {
    for (int r = 0; r < num_ranks; ++r) ranks_.push_back(std::make_unique<Rank>(r, size, rows_max, num_ranks));
    const std::vector<float> weight = RandomTensor(size, kWeightSeed);
    for (int r = 0; r < num_ranks; ++r) {
      Rank& rank = *ranks_[r];
      rank.Put(rank.weight_, weight);
      DevicePeers peers{.rank = r, .num_ranks = num_ranks, .wait_ns = wait_ns};
      for (int p = 0; p < num_ranks; ++p) {
        peers.buffers[p] = ranks_[p]->buffer_->data();
        if (ranks_[p]->gpu_ == rank.gpu_) continue;
        static std::set<std::pair<int, int>> enabled;  // once a process
        if (enabled.insert({rank.gpu_, ranks_[p]->gpu_}).second) {
          EXPECT_EQ(cudaDeviceEnablePeerAccess(ranks_[p]->gpu_, 0), cudaSuccess);
        }
      }
      peers.counters = rank.counters_->data();
      peers.report = rank.report_;
      peers_.push_back(peers);
    }
  }

  int num_ranks() const { return static_cast<int>(ranks_.size()); }
  Rank& rank(int r) { return *ranks_[r]; }

  // parts[r]: [num_rows, size] of rank r; hidden: the same on all.
  void Put(const std::vector<std::vector<uint16_t>>& parts, const std::vector<float>& hidden) {
    std::vector<uint16_t> gathered;
    for (const auto& part : parts) gathered.insert(gathered.end(), part.begin(), part.end());
    for (int r = 0; r < num_ranks(); ++r) {
      ranks_[r]->Put(ranks_[r]->part_, parts[r]);
      ranks_[r]->Put(ranks_[r]->hidden_, hidden);
      ranks_[r]->Put(ranks_[r]->gathered_, gathered);
    }
  }

  DeviceAllReduceArgs Args(int r, int num_rows) const {
    const Rank& rank = *ranks_[r];
    return {.peers = peers_[r],
            .part = rank.part_->data(),
            .part_stride = size_,
            .hidden = rank.hidden_->data(),
            .hidden_stride = size_,
            .norm_weight = rank.weight_->data(),
            .normed = rank.normed_->data(),
            .normed_stride = size_,
            .num_rows = num_rows,
            .size = size_,
            .epsilon = kEpsilon};
  }

  void Launch(int r, int num_rows, Way way = Way::kAuto) {
    ranks_[r]->Use();
    EXPECT_EQ(DeviceAllReduce(Args(r, num_rows), ranks_[r]->stream_, way), KernelError::kOk);
  }
  void LaunchAll(int num_rows, Way way = Way::kAuto) {
    for (int r = 0; r < num_ranks(); ++r) Launch(r, num_rows, way);
  }
  void LaunchGathered(int num_rows) {
    for (int r = 0; r < num_ranks(); ++r) {
      ranks_[r]->Use();
      DeviceAllReduceArgs args = Args(r, num_rows);
      args.gathered = ranks_[r]->gathered_->data();
      args.gathered_stride = int64_t{num_rows} * size_;
      EXPECT_EQ(DeviceAllReduce(args, ranks_[r]->stream_), KernelError::kOk);
    }
  }

  Rows Results(int r, int num_rows) const {
    const Rank& rank = *ranks_[r];
    const int64_t count = int64_t{num_rows} * size_;
    return {rank.Get(rank.hidden_->data(), count), rank.Get(rank.normed_->data(), count)};
  }
  bool GaveUp() const {
    return std::any_of(ranks_.begin(), ranks_.end(), [](const auto& rank) { return rank->report_->gave_up != 0; });
  }

 private:
  const int size_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::vector<DevicePeers> peers_;
};

// What a rank has to give: one element in some hundred is a thousand times the others, at other places on each rank.
std::vector<std::vector<uint16_t>> Parts(int num_ranks, int64_t count, uint64_t seed) {
  std::vector<std::vector<uint16_t>> parts;
  for (int r = 0; r < num_ranks; ++r) {
    parts.push_back(testing::ToBf16(
        RandomTensor(count, seed + static_cast<uint64_t>(r), {.num_outliers = static_cast<int>(count / 300 + 1)})));
  }
  return parts;
}

// The slow obvious reference; its sums are the kernel's, so its bits are.
std::vector<float> Sum(const std::vector<std::vector<uint16_t>>& parts, std::vector<float> hidden) {
  for (size_t i = 0; i < hidden.size(); ++i) {
    float sum = 0;
    for (const auto& part : parts) sum += BF16ToF32(part[i]);
    hidden[i] += sum;
  }
  return hidden;
}

// Whether rows are the norms of `hidden`, as bf16 has them.
void ExpectNormed(const std::vector<uint16_t>& normed, const std::vector<float>& hidden,
                  const std::vector<float>& weight) {
  const size_t size = weight.size();
  for (size_t first = 0; first < hidden.size(); first += size) {
    double squares = 0;
    for (size_t i = 0; i < size; ++i) squares += double{hidden[first + i]} * hidden[first + i];
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(size) + kEpsilon);
    // bf16, the reciprocal root, and fp32: a sum by halves of 11 to 14 levels, halved by the root, and few roundings.
    const double bound = testing::kBf16Roundoff + 0x1.0p-21 + 16 * testing::kUnitRoundoff;
    for (size_t i = 0; i < size; ++i) {
      const double expected = hidden[first + i] * inverse * weight[i];
      ASSERT_NEAR(BF16ToF32(normed[first + i]), expected, bound * std::fabs(expected) + 1e-38)
          << "row " << first / size << ", element " << i;
    }
  }
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

class DeviceAllReduceRanks : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (NumGpus() < 2) GTEST_SKIP() << "needs two GPUs";
  }
};
INSTANTIATE_TEST_SUITE_P(NumRanks, DeviceAllReduceRanks, ::testing::Values(2, 3, 4));

TEST_P(DeviceAllReduceRanks, AddsPartsInRankOrderAndNormsOnEveryRank) {
  const uint64_t seed = testing::TestSeed(301);
  for (const int size : {4, 576, 2048, 4096, 5120, 8192, 16384}) {
    const int rows_max = size > 8192 ? 128 : 2048;
    Group group(GetParam(), size, rows_max);
    for (const int num_rows : {1, 2, 8, 31, 64, 65, 128, 129, 300, 1025, 2048}) {
      if (num_rows > rows_max) continue;
      SCOPED_TRACE(::testing::Message() << num_rows << " rows of " << size);
      const auto parts = Parts(GetParam(), int64_t{num_rows} * size, seed + static_cast<uint64_t>(size + num_rows));
      const auto hidden = RandomTensor(int64_t{num_rows} * size, seed, {.num_outliers = 9});
      group.Put(parts, hidden);
      group.LaunchAll(num_rows);
      const std::vector<float> expected = Sum(parts, hidden);
      const std::vector<uint16_t> normed = group.Results(0, num_rows).normed;
      ExpectNormed(normed, expected, RandomTensor(size, kWeightSeed));
      for (int r = 0; r < GetParam(); ++r) {
        const Rows rows = group.Results(r, num_rows);
        EXPECT_TRUE(SameBits(rows.hidden, expected)) << "rank " << r;
        EXPECT_TRUE(SameBits(rows.normed, normed)) << "rank " << r;
      }
      ASSERT_FALSE(group.GaveUp());
    }
  }
}

TEST_P(DeviceAllReduceRanks, EveryWayGivesTheSameBits) {
  constexpr int kSize = 4096, kRows = kFlaggedRowsMax;
  Group group(GetParam(), kSize, kRows);
  const auto parts = Parts(GetParam(), int64_t{kRows} * kSize, testing::TestSeed(302));
  const auto hidden = RandomTensor(int64_t{kRows} * kSize, 5);
  const auto run = [&](const auto& launch) {
    group.Put(parts, hidden);
    launch();
    return group.Results(GetParam() - 1, kRows);
  };
  const Rows flagged = run([&] { group.LaunchAll(kRows, Way::kFlagged); });
  const Rows bulk = run([&] { group.LaunchAll(kRows, Way::kBulk); });
  const Rows gathered = run([&] { group.LaunchGathered(kRows); });
  EXPECT_TRUE(SameBits(flagged.hidden, bulk.hidden) && SameBits(flagged.normed, bulk.normed));
  EXPECT_TRUE(SameBits(flagged.hidden, gathered.hidden) && SameBits(flagged.normed, gathered.normed));
  // The order of adding is what this would notice: some bit differs if the ranks' order is turned round.
  const std::vector<std::vector<uint16_t>> reversed(parts.rbegin(), parts.rend());
  EXPECT_EQ(SameBits(Sum(reversed, hidden), flagged.hidden), GetParam() == 2);
}

TEST_P(DeviceAllReduceRanks, BitsOfARowDoNotDependOnItsNeighboursOrTheirNumber) {
  constexpr int kSize = 576, kRows = 2048;
  Group group(GetParam(), kSize, kRows);
  const auto parts = Parts(GetParam(), int64_t{kRows} * kSize, testing::TestSeed(303));
  const auto hidden = RandomTensor(int64_t{kRows} * kSize, 6);
  group.Put(parts, hidden);
  group.LaunchAll(kRows);
  const Rows all = group.Results(0, kRows);
  for (const int num_rows : {1, 5, 64, 65, 128, 129, 256}) {
    // The last rows alone.
    const int64_t count = int64_t{num_rows} * kSize;
    std::vector<std::vector<uint16_t>> some;
    for (const auto& part : parts) some.emplace_back(part.end() - count, part.end());
    group.Put(some, {hidden.end() - count, hidden.end()});
    group.LaunchAll(num_rows);
    const Rows rows = group.Results(0, num_rows);
    EXPECT_TRUE(SameBits(rows.hidden, {all.hidden.end() - count, all.hidden.end()})) << num_rows;
    EXPECT_TRUE(SameBits(rows.normed, {all.normed.end() - count, all.normed.end()})) << num_rows;
  }
}

TEST_P(DeviceAllReduceRanks, CallsOfAnySizesFollowEachOtherInGraphs) {
  if (GetParam() > NumGpus()) GTEST_SKIP() << "graphs of ranks that share a GPU may run one after the other";
  constexpr int kSize = 1024, kRowsMax = 300, kReplays = 200;
  const std::vector<int> calls = {1, 64, 1, 1, 300, 8, 65, 1, 64, 64, 257, 3};
  Group group(GetParam(), kSize, kRowsMax);
  // Each call adds the parts again; small whole numbers, so that sums of thousands stay exact.
  std::vector<std::vector<uint16_t>> parts;
  testing::Random random(testing::TestSeed(304));
  for (int r = 0; r < GetParam(); ++r) {
    std::vector<float> values(int64_t{kRowsMax} * kSize);
    for (float& value : values) value = static_cast<float>(random.Integer(-100, 100));
    parts.push_back(testing::ToBf16(values));
  }
  group.Put(parts, std::vector<float>(int64_t{kRowsMax} * kSize, 0));
  std::vector<cudaGraphExec_t> graphs(GetParam());
  for (int r = 0; r < GetParam(); ++r) {
    Rank& rank = group.rank(r);
    rank.Use();
    ASSERT_EQ(cudaStreamBeginCapture(rank.stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    for (const int num_rows : calls) group.Launch(r, num_rows);
    cudaGraph_t graph;
    ASSERT_EQ(cudaStreamEndCapture(rank.stream_, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&graphs[r], graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
  }
  for (int i = 0; i < kReplays; ++i) {
    for (int r = 0; r < GetParam(); ++r) {
      group.rank(r).Use();
      ASSERT_EQ(cudaGraphLaunch(graphs[r], group.rank(r).stream_), cudaSuccess);
    }
    // Eager calls between replays count on.
    if (i % 50 == 7) group.LaunchAll(64);
  }
  std::vector<float> expected(int64_t{kRowsMax} * kSize);
  for (int row = 0; row < kRowsMax; ++row) {
    int64_t times = row < 64 ? kReplays / 50 : 0;
    for (const int num_rows : calls) times += row < num_rows ? kReplays : 0;
    for (int i = 0; i < kSize; ++i) {
      float sum = 0;
      for (const auto& part : parts) sum += BF16ToF32(part[row * kSize + i]);
      expected[row * kSize + i] = sum * static_cast<float>(times);
    }
  }
  for (int r = 0; r < GetParam(); ++r) {
    EXPECT_TRUE(group.Results(r, kRowsMax).hidden == expected) << "rank " << r;
    cudaGraphExecDestroy(graphs[r]);
  }
  EXPECT_FALSE(group.GaveUp());
}

TEST_P(DeviceAllReduceRanks, WaitsForAPeerThatIsLateWithinTheBound) {
  constexpr int kSize = 4096;
  for (const int num_rows : {4, 300}) {
    Group group(GetParam(), kSize, num_rows);
    const auto parts = Parts(GetParam(), int64_t{num_rows} * kSize, testing::TestSeed(305));
    const auto hidden = RandomTensor(int64_t{num_rows} * kSize, 8);
    group.Put(parts, hidden);
    for (int r = 0; r + 1 < GetParam(); ++r) group.Launch(r, num_rows);
    EXPECT_EQ(cudaStreamQuery(group.rank(0).stream_), cudaErrorNotReady);  // it waits
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    group.Launch(GetParam() - 1, num_rows);
    EXPECT_TRUE(SameBits(group.Results(0, num_rows).hidden, Sum(parts, hidden)));
    EXPECT_FALSE(group.GaveUp());
  }
}

TEST_P(DeviceAllReduceRanks, GivesUpOnAPeerThatStoppedAndNamesIt) {
  constexpr int kSize = 4096;
  for (const Way way : {Way::kFlagged, Way::kBulk}) {
    const int num_rows = way == Way::kFlagged ? 8 : 300;
    Group group(GetParam(), kSize, num_rows, /*wait_ns=*/50'000'000);
    const int stopped = GetParam() - 1;
    group.Put(Parts(GetParam(), int64_t{num_rows} * kSize, 9), RandomTensor(int64_t{num_rows} * kSize, 10));
    group.LaunchAll(num_rows, way);
    for (int r = 0; r < GetParam(); ++r) (void)group.Results(r, 1);
    ASSERT_FALSE(group.GaveUp());
    const auto began = std::chrono::steady_clock::now();
    // Every later call gives up at once: a step of a hundred sums ends too.
    for (int call = 0; call < 100; ++call) {
      for (int r = 0; r < stopped; ++r) group.Launch(r, num_rows, way);
    }
    for (int r = 0; r < stopped; ++r) (void)group.Results(r, 1);
    std::printf("gave up after %.0f ms\n",
                std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count());
    for (int r = 0; r < stopped; ++r) {
      const DeviceWaitReport& report = *group.rank(r).report_;
      EXPECT_EQ(report.gave_up, 1u);
      if (GetParam() > NumGpus()) continue;  // ranks that share a GPU also wait for each other
      EXPECT_EQ(report.peer, static_cast<uint32_t>(stopped));
      EXPECT_EQ(report.call, 2u);
      EXPECT_LT(report.row, static_cast<uint32_t>(num_rows));
    }
  }
}

TEST(DeviceAllReduce, RefusesWhatItHasNoCodeFor) {
  DeviceAllReduceArgs args{.part_stride = 64, .hidden_stride = 64, .num_rows = 1, .size = 64};
  const auto with = [&](const auto& change) {
    DeviceAllReduceArgs changed = args;
    change(changed);
    return DeviceAllReduce(changed, nullptr);
  };
  EXPECT_EQ(with([](auto& a) { a.num_rows = 0; }), KernelError::kOk);
  EXPECT_EQ(with([](auto& a) { a.num_rows = -1; }), KernelError::kInvalidShape);
  EXPECT_EQ(with([](auto& a) { a.size = 62; }), KernelError::kInvalidShape);
  EXPECT_EQ(with([](auto& a) { a.size = a.part_stride = a.hidden_stride = kAllReduceSizeMax + 4; }),
            KernelError::kInvalidShape);
  EXPECT_EQ(with([](auto& a) { a.part_stride = 60; }), KernelError::kInvalidShape);
  EXPECT_EQ(with([](auto& a) { a.peers.num_ranks = kDeviceRanksMax + 1; }), KernelError::kInvalidShape);
  EXPECT_EQ(with([](auto& a) { a.peers.rank = 1; }), KernelError::kInvalidShape);
  EXPECT_EQ(with([](auto&) {}), KernelError::kNullPointer);
  args.num_rows = kFlaggedRowsMax + 1;
  EXPECT_EQ(DeviceAllReduce(args, nullptr, Way::kFlagged), KernelError::kInvalidShape);
}

}  // namespace
}  // namespace outrider::kernels
