#include "tests/simulation/world.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace outrider::simulation {
namespace {

// As worker/rpc/registration_client.cc.
constexpr int kFirstIntervalMs = 250;
constexpr Duration kCallTimeout = std::chrono::milliseconds(2000);
// Until a supervisor has heard of an exit.
constexpr Duration kReapDelay = std::chrono::milliseconds(1);

}  // namespace

Process& World::AddProcess(const std::string& name, std::function<void()> on_ended) {
  auto& process = processes_.emplace_back(std::make_unique<Process>());
  process->name = name;
  process->index = static_cast<int>(processes_.size());
  on_ended_.push_back(std::move(on_ended));
  return *process;
}

void World::Start(Process& process) {
  CHECK(!process.alive);
  ++process.life;
  process.alive = true;
  process.stopped = process.silent = false;
  process.unresponsive_since.reset();
  process.responsive_since = queue.now();
  Say(process, "start", {{"life", static_cast<int64_t>(process.life)}});
}

void World::End(Process& process, bool silent) {
  if (!process.alive) return;
  Say(process, silent ? "end_silent" : "end");
  process.silent = silent;
  if (silent) process.unresponsive_since = queue.now();
  network.OnProcessEnded(process);
  process.alive = process.stopped = false;
  process.deferred.clear();
  on_ended_[process.index - 1]();
}

void World::Stop(Process& process) {
  if (!process.alive || process.stopped) return;
  Say(process, "stop");
  process.stopped = true;
  process.unresponsive_since = queue.now();
  network.OnUnresponsive(process);
}

void World::Continue(Process& process) {
  if (!process.alive || !process.stopped) return;
  Say(process, "continue");
  queue.Resume(process);
}

std::pair<Process*, uint64_t> World::Find(const std::string& address) const {
  const std::vector<std::string> parts = absl::StrSplit(address, '#');
  uint64_t life = 0;
  CHECK(parts.size() == 2 && absl::SimpleAtoi(parts[1], &life));
  for (const auto& process : processes_) {
    if (process->name == parts[0]) return {process.get(), life};
  }
  CHECK(false);
}

void Supervision::StartNow() {
  ++generation_;
  started_ = world_.queue.now();
  ending_ = false;
  ++num_starts_;
  start_();
}

void Supervision::OnEnded() {
  if (std::exchange(ending_, true)) return;
  const uint64_t generation = generation_;
  world_.queue.After(kReapDelay, nullptr, [this, generation] {
    if (generation != generation_) return;
    for (Process* process : processes_) world_.End(*process);
    const Duration delay = policy_.OnExit(started_, world_.queue.now());
    world_.queue.After(delay, nullptr, [this, generation] {
      if (generation == generation_) StartNow();
    });
  });
}

void Heartbeats::Hurry() {
  hurry_ = true;
  if (!open_) Beat();
}

void Heartbeats::Beat() {
  ++turn_;
  open_ = true;
  hurry_ = false;
  auto request = std::make_shared<v1::HeartbeatRequest>(status_());
  world_.network.Call(process_, router_, "cluster", std::move(request), kCallTimeout,
                      [this](const absl::StatusOr<Message>& result) {
                        open_ = false;
                        int interval_ms = kFirstIntervalMs;
                        if (result.ok()) {
                          const auto& response = static_cast<const v1::HeartbeatResponse&>(**result);
                          interval_ms = static_cast<int>(response.interval_ms());
                          on_response_(response);
                        }
                        if (hurry_) return Beat();
                        const uint64_t turn = turn_;
                        world_.queue.After(std::chrono::milliseconds(interval_ms), &process_, [this, turn] {
                          if (turn == turn_ && !open_) Beat();
                        });
                      });
}

}  // namespace outrider::simulation
