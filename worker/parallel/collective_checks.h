// What every Communicator must do, written once for threads and processes: each check is run by all ranks at the same
// time and answers whether this rank saw what the slow obvious reference says.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/parallel/broadcast_blob.h"
#include "worker/parallel/communicator.h"

namespace outrider::testing {

// Runs `body` as every rank of a group, each of which leaves when it is done; the statuses by rank.
inline std::vector<absl::Status> RunRanks(std::vector<std::unique_ptr<Communicator>> communicators,
                                          const std::function<absl::Status(Communicator&)>& body) {
  std::vector<absl::Status> statuses(communicators.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < communicators.size(); ++r) {
    threads.emplace_back([&, r] {
      statuses[r] = body(*communicators[r]);
      communicators[r].reset();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

inline void ExpectAllOk(const std::vector<absl::Status>& statuses) {
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

// Floats of 60 binary orders of magnitude and both signs (sums in another order give other bits), zeros of both signs.
inline std::vector<float> RandomFloats(uint64_t seed, int rank, int64_t count) {
  std::mt19937_64 random(seed * 1000003 + static_cast<uint64_t>(rank) * 7919 + static_cast<uint64_t>(count));
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    const uint64_t bits = random();
    const float sign = (bits & 1) != 0 ? -1.0f : 1.0f;
    value = (bits >> 1) % 16 == 0 ? sign * 0.0f
                                  : sign * std::ldexp(1.0f + static_cast<float>(bits >> 40) / 16777216.0f,
                                                      static_cast<int>((bits >> 8) % 60) - 30);
  }
  return values;
}

inline std::string RandomBytes(uint64_t seed, int rank, int64_t size) {
  std::mt19937_64 random(seed * 31 + static_cast<uint64_t>(rank));
  std::string bytes(static_cast<size_t>(size), '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

inline absl::Status CheckSum(Communicator& communicator, uint64_t seed, int64_t count) {
  std::vector<float> data = RandomFloats(seed, communicator.rank(), count);
  std::vector<float> expected = RandomFloats(seed, 0, count);
  for (int r = 1; r < communicator.world_size(); ++r) {
    const std::vector<float> part = RandomFloats(seed, r, count);
    for (int64_t i = 0; i < count; ++i) expected[i] = expected[i] + part[i];
  }
  RETURN_IF_ERROR(communicator.AllReduceSum(data.data(), count));
  for (int64_t i = 0; i < count; ++i) {
    if (std::memcmp(&data[i], &expected[i], sizeof(float)) != 0) {
      return absl::InternalError(absl::StrCat("sum of ", count, " floats differs at ", i, " on rank ",
                                              communicator.rank(), ": ", data[i], " not ", expected[i]));
    }
  }
  return absl::OkStatus();
}

// Rank r sends bytes_of_rank[r] bytes.
inline absl::Status CheckGather(Communicator& communicator, uint64_t seed, const std::vector<int64_t>& bytes_of_rank) {
  std::string expected;
  for (int r = 0; r < communicator.world_size(); ++r) expected += RandomBytes(seed, r, bytes_of_rank[r]);
  const std::string own = RandomBytes(seed, communicator.rank(), bytes_of_rank[communicator.rank()]);
  std::string received(expected.size(), '-');
  RETURN_IF_ERROR(communicator.AllGather(own.data(), bytes_of_rank.data(), received.data()));
  if (received != expected) return absl::InternalError(absl::StrCat("gather differs on rank ", communicator.rank()));
  return absl::OkStatus();
}

inline absl::Status CheckBroadcast(Communicator& communicator, uint64_t seed, int64_t size, int root) {
  const std::string expected = RandomBytes(seed, root, size);
  std::string data = communicator.rank() == root ? expected : std::string(static_cast<size_t>(size), '-');
  RETURN_IF_ERROR(communicator.Broadcast(data.data(), size, root));
  if (data != expected) return absl::InternalError(absl::StrCat("broadcast differs on rank ", communicator.rank()));
  return absl::OkStatus();
}

inline absl::Status CheckBlob(Communicator& communicator, uint64_t seed, int64_t size, int root) {
  const std::string expected = RandomBytes(seed, root, size);
  std::string blob = communicator.rank() == root ? expected : "what was there before";
  RETURN_IF_ERROR(BroadcastBlob(communicator, &blob, root));
  if (blob != expected) return absl::InternalError(absl::StrCat("blob differs on rank ", communicator.rank()));
  return absl::OkStatus();
}

// A run of collectives of random kinds and sizes, the same on every rank: the buffers of one are those of the next.
inline absl::Status CheckMixture(Communicator& communicator, uint64_t seed, int num_collectives, int64_t size_max) {
  std::mt19937_64 random(seed);
  const int world_size = communicator.world_size();
  for (int i = 0; i < num_collectives; ++i) {
    const uint64_t kind = random() % 4;
    // Small ones are as likely as large ones.
    const int64_t size = static_cast<int64_t>(random() % (uint64_t{1} << (random() % 20))) % size_max;
    const int root = static_cast<int>(random() % static_cast<uint64_t>(world_size));
    const uint64_t data_seed = random();
    if (kind == 0) {
      RETURN_IF_ERROR(CheckSum(communicator, data_seed, size / 4));
    } else if (kind == 1) {
      std::vector<int64_t> bytes_of_rank;
      for (int r = 0; r < world_size; ++r) bytes_of_rank.push_back(static_cast<int64_t>(random() % (size + 1)));
      RETURN_IF_ERROR(CheckGather(communicator, data_seed, bytes_of_rank));
    } else if (kind == 2) {
      RETURN_IF_ERROR(CheckBroadcast(communicator, data_seed, size, root));
    } else {
      RETURN_IF_ERROR(CheckBlob(communicator, data_seed, size, root));
    }
  }
  return absl::OkStatus();
}

}  // namespace outrider::testing
