// TargetLink is the router's stream to one target group in one incarnation: what router/target_client does with gRPC,
// done with events.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "proto/target.pb.h"
#include "tests/simulation/world.h"

namespace outrider::simulation {

class TargetLink : public std::enable_shared_from_this<TargetLink> {
 public:
  struct Options {
    std::string group_id;
    uint64_t incarnation = 0;
    std::string address;
    std::function<void(bool connected)> on_connected;
    // A connection was refused: nobody listens for this life any more.
    std::function<void()> on_gone;
    // `event` is a v1::TargetEvent of an attempt of that call.
    std::function<void(uint64_t call_id, google::protobuf::Message& event)> on_event;
    std::function<void(uint64_t call_id, uint64_t attempt_id)> on_hand_over;
    std::function<void(uint64_t call_id, uint64_t attempt_id, const absl::Status& status)> on_lost;
    // Refused: of an attempt that nobody waits for any more, of a group that was given up, or of another life.
    std::function<void(google::protobuf::Message& event)> on_stale;
  };
  static std::shared_ptr<TargetLink> Create(World& world, Process& process, Options options) {
    return std::shared_ptr<TargetLink>(new TargetLink(world, process, std::move(options)));
  }

  const std::string& address() const { return options_.address; }
  void KeepOpen();
  // False if the stream is down: nothing was done.
  bool Submit(v1::Submit submit, uint64_t call_id);
  void Cancel(uint64_t attempt_id);
  void Forget(uint64_t attempt_id) { attempts_.erase(attempt_id); }
  void StopAt(uint64_t attempt_id, uint32_t lane, uint32_t num_output_tokens);
  // Attempts of so many lanes are asked to go on elsewhere.
  void HandOver(int64_t num_lanes);
  // Attempts are lost, nothing is sent or taken any more; the stream stays until the group speaks again.
  void Fence();
  void Close();
  bool ended() const { return closed_ && stream_ == nullptr; }

 private:
  TargetLink(World& world, Process& process, Options options)
      : world_(world), process_(process), options_(std::move(options)) {}
  void Enqueue(v1::TargetCommand command);
  void WriteNext();
  void OnEvents(v1::TargetEvents& events);
  void OnDone(const absl::Status& why);
  void LoseAttempts(const absl::Status& why);

  World& world_;
  Process& process_;
  const Options options_;
  StreamPtr stream_;
  bool closed_ = false;
  bool connected_ = false;
  bool write_in_flight_ = false;
  std::shared_ptr<v1::TargetCommands> queued_;
  bool fenced_ = false;
  struct Attempt {
    uint64_t call_id = 0;
    int num_lanes = 0;
  };
  std::map<uint64_t, Attempt> attempts_;
  TimePoint open_after_{};
  Duration backoff_ = FromMillis(50);
};

}  // namespace outrider::simulation
