// ServeCalls are the routers' open streams to a target group: what worker/rpc/target_service does with gRPC, done with
// events. Commands go to the engine's inbox, what the engine says goes out a message at a time.
//
// Thread safety: none.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "tests/simulation/world.h"
#include "worker/engine/inbox.h"

namespace outrider::simulation {

class ServeCalls {
 public:
  struct Options {
    Inbox* inbox = nullptr;
    const ProcessClock* clock = nullptr;
    int max_buffered_tokens = 0;
    uint64_t incarnation = 0;
    std::function<void()> posted;  // something is in the inbox
  };
  ServeCalls();
  ~ServeCalls();

  void Listen(World& world, Process& process, Options options);

  // Lanes that were given to the engine, are not known to have ended, and whose router still wants them.
  int num_wanted_lanes() const;
  int num_cancels() const { return num_cancels_; }

 private:
  class Call;
  std::vector<std::shared_ptr<Call>> calls_;  // open ones
  int num_cancels_ = 0;
};

}  // namespace outrider::simulation
