#include "cli/chat_answer.h"

#include <grpcpp/grpcpp.h>
#include <signal.h>

#include <ctime>
#include <optional>
#include <utility>

namespace outrider {
namespace {

// How soon a watch sees that it has ended.
constexpr timespec kPoll = {.tv_sec = 0, .tv_nsec = 20'000'000};

sigset_t InterruptSet() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void BlockInterrupts() {
  const sigset_t set = InterruptSet();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void DropInterrupts() {
  const sigset_t set = InterruptSet();
  const timespec at_once{};
  while (::sigtimedwait(&set, nullptr, &at_once) == SIGINT) continue;
}

InterruptWatch::InterruptWatch(std::function<void()> on_interrupt)
    : thread_([this, on_interrupt = std::move(on_interrupt)] {
        const sigset_t set = InterruptSet();
        while (!ended_) {
          if (::sigtimedwait(&set, nullptr, &kPoll) == SIGINT) on_interrupt();
        }
      }) {}

InterruptWatch::~InterruptWatch() {
  ended_ = true;
  thread_.join();
}

ChatAnswer StreamAnswer(v1::Inference::Stub& stub, const v1::GenerateRequest& request, bool takes_interrupts,
                        const std::function<void(const v1::Delta&)>& on_text) {
  grpc::ClientContext context;
  std::optional<InterruptWatch> watch;
  if (takes_interrupts) watch.emplace([&context] { context.TryCancel(); });
  ChatAnswer answer;
  const auto reader = stub.Generate(&context, request);
  v1::GenerateResponse response;
  bool has_finished = false;
  while (reader->Read(&response)) {
    if (response.has_delta() && response.delta().choice_index() == 0) {
      answer.text += response.delta().text();
      on_text(response.delta());
    } else if (response.has_finished() && response.finished().choice_index() == 0) {
      answer.finished = response.finished();
      has_finished = true;
    }
  }
  const grpc::Status status = reader->Finish();
  watch.reset();
  answer.status = absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  if (answer.status.ok() && !has_finished)
    answer.status = absl::InternalError("the stream ended before the answer did");
  return answer;
}

}  // namespace outrider
