// SingleCommunicator: the group of one rank. Nothing to exchange; only Abort has an effect.
#pragma once

#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "worker/parallel/communicator.h"

namespace outrider {

// Thread safety: as Communicator.
class SingleCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  absl::Status AllReduceSum(float*, int64_t) override { return Alive(); }
  absl::Status AllGather(const void* send, const int64_t* bytes_of_rank, void* receive) override {
    if (bytes_of_rank[0] > 0) std::memcpy(receive, send, static_cast<size_t>(bytes_of_rank[0]));
    return Alive();
  }
  absl::Status Broadcast(void*, int64_t, int) override { return Alive(); }
  absl::Status AwaitPeer(int) override { return Alive(); }
  void Abort(const char* reason) override {
    MutexLock lock(mu_);
    if (status_.ok()) status_ = absl::UnavailableError(reason);
  }

 private:
  absl::Status Alive() {
    MutexLock lock(mu_);
    return status_;
  }

  Mutex mu_;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

}  // namespace outrider
