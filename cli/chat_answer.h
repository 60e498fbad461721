// One answer of a conversation: streamed, and given up when Ctrl-C is pressed.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "proto/inference.grpc.pb.h"

namespace outrider {

struct ChatAnswer {
  absl::Status status;  // CANCELLED after Ctrl-C
  std::string text;     // as far as it came
  v1::Finished finished;
};

// Blocks SIGINT in this thread and those it starts, so that an InterruptWatch alone takes it. Call before anything of
// gRPC is made, credentials too: its threads would take the signal.
void BlockInterrupts();
// Forgets what came while nobody watched.
void DropInterrupts();

// Calls `on_interrupt` from a thread of its own at each SIGINT, from its making to its end. REQUIRES BlockInterrupts().
class InterruptWatch {
 public:
  explicit InterruptWatch(std::function<void()> on_interrupt);
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

 private:
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

// Calls `on_text` from this thread with each delta. With `takes_interrupts`, SIGINT cancels the call; REQUIRES
// BlockInterrupts().
ChatAnswer StreamAnswer(v1::Inference::Stub& stub, const v1::GenerateRequest& request, bool takes_interrupts,
                        const std::function<void(const v1::Delta&)>& on_text);

}  // namespace outrider
