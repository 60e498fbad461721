// Network carries streams and calls between processes, and is where they are delayed, cut and lost.
//
// What is simulated is what gRPC shows: a stream is ordered and reliable until it breaks, so on one connection nothing
// is reordered, duplicated or dropped. That happens where the real protocols see it: across connections (what was under
// way is lost with a stream, and what a stopped peer had written still comes), to unary calls such as heartbeats, each
// of which takes its own time, may be lost, and may arrive twice, and in what a draft worker says (it may say things
// twice, late, out of order or not at all).
//
//   crash      the kernel closes a process's connections: peers hear of it
//   silent end the machine is gone: peers hear nothing until their keepalive gives up, or it is back and resets them
//   stop       a process's messages wait; its peers' keepalive gives up on it
//   partition  one direction or both between two processes: what is sent waits (the transport repeats it) and comes
//              when the link is back, unless the connection was given up meanwhile
//
// Thread safety: none.
#pragma once

#include <google/protobuf/message.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/simulation/event_queue.h"
#include "tests/simulation/random.h"
#include "tests/simulation/trace.h"

namespace outrider::simulation {

using Message = std::shared_ptr<google::protobuf::Message>;

class Network;

// One end of a connection. Its owner holds it as long as it wants to hear; callbacks come as events of the owner.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  // Set by the owner when it gets the stream. Empty ones are not called.
  std::function<void(const Message&)> on_message;
  // The peer can be reached. Of the side that connected.
  std::function<void()> on_open;
  // Once; nothing follows. Not after Close.
  std::function<void(const absl::Status&)> on_closed;
  // The message given to Send left for the transport; false: it never will. One is under way at a time.
  std::function<void(bool ok)> on_written;

  // REQUIRES: the last one was written.
  void Send(Message message);
  // The peer hears of it after what was sent before. Nothing is heard from here on.
  void Close(absl::Status why = absl::OkStatus());
  // Two more messages fit the window.
  bool has_room_for_two() const { return waiting_ == nullptr && num_in_flight_ + 2 <= options_.window; }
  bool is_open() const { return state_ == State::kOpen; }
  // The owner reads one of the messages that wait; only with `reads_by_hand`.
  void Read();
  // Messages wait unread until Resume.
  void Pause() { paused_ = true; }
  void Resume();
  int num_unread() const { return static_cast<int>(unread_.size()); }

  struct Options {
    // This end gives the connection up when the peer has answered nothing for so long. Absent: never.
    std::optional<Duration> keepalive;
    // Messages that may be on their way to the peer or unread there.
    int window = 1 << 30;
    // Messages wait until Read.
    bool reads_by_hand = false;
  };

 private:
  friend class Network;
  void Forget() { on_message = nullptr, on_open = nullptr, on_closed = nullptr, on_written = nullptr; }
  enum class State { kConnecting, kOpen, kClosed };
  Network* network_ = nullptr;
  Process* owner_ = nullptr;
  uint64_t life_ = 0;
  std::string service_;
  Options options_;
  State state_ = State::kConnecting;
  std::weak_ptr<Stream> peer_;
  Process* peer_owner_ = nullptr;
  std::deque<std::function<void()>> held_;   // sent while the link is cut
  Message waiting_;                          // does not fit the window
  std::optional<absl::Status> close_after_;  // once `waiting_` went
  int num_in_flight_ = 0;
  TimePoint last_arrival_{};
  std::deque<Message> unread_;
  bool paused_ = false;
};
using StreamPtr = std::shared_ptr<Stream>;

class Network {
 public:
  struct Options {
    double delay_ms_min = 0.05;
    double delay_ms_max = 0.5;
    // Of unary calls.
    double call_loss = 0;
    double call_duplicate = 0;
    double call_delay_ms_max = 0;  // added, up to
  };
  Network(EventQueue& queue, Trace& trace, Random random, Options options)
      : queue_(queue), trace_(trace), random_(random), options_(options) {}
  ~Network();

  // --- Services. Of a process as long as it lives; gone with its life.
  using Accept = std::function<void(StreamPtr)>;
  void Listen(Process& process, const std::string& service, Stream::Options options, Accept accept);
  using Answer = std::function<absl::StatusOr<Message>(const google::protobuf::Message&)>;
  void ListenCalls(Process& process, const std::string& service, Answer answer);

  // --- Clients. `to_life` is whose address is known: another life is not there.
  StreamPtr Connect(Process& from, Process& to, uint64_t to_life, const std::string& service, Stream::Options options);
  void Call(Process& from, Process& to, const std::string& service, Message request, Duration timeout,
            std::function<void(absl::StatusOr<Message>)> done);

  // --- Faults.
  void Cut(const Process& from, const Process& to);
  void Mend(const Process& from, const Process& to);
  bool IsCut(const Process& from, const Process& to) const;
  // When a link was cut or mended last.
  TimePoint last_change() const { return last_change_; }
  // Messages between the two take so much longer; zero ends it.
  void SlowDown(const Process& a, const Process& b, Duration extra);
  // To be called when a process ended, was stopped, or lost its machine.
  void OnProcessEnded(Process& process);
  void OnUnresponsive(Process& process);

 private:
  friend class Stream;
  using Pair = std::pair<int, int>;
  static Pair Of(const Process& a, const Process& b) { return {a.index, b.index}; }

  Duration Delay(const Process& from, const Process& to);
  void Transmit(Stream& from, std::function<void()> arrive);
  void SendNow(Stream& stream, Message message);
  void Deliver(const StreamPtr& to, const StreamPtr& from, Message message);
  void MessageRead(Stream& reader);
  void Break(const StreamPtr& stream, const absl::Status& why);
  void Reset(const StreamPtr& stream);
  std::optional<TimePoint> ImpairedSince(const Stream& stream) const;
  void WatchKeepalives(const Process& a, const Process* b);
  void Flush(const Process& from, const Process& to);

  struct Service {
    uint64_t life = 0;
    Stream::Options options;
    Accept accept;
    Answer answer;
  };
  EventQueue& queue_;
  Trace& trace_;
  Random random_;
  const Options options_;
  std::map<std::pair<int, std::string>, Service> services_;
  std::map<Pair, TimePoint> cuts_;  // since when
  TimePoint last_change_{};
  std::map<Pair, Duration> slow_;
  std::vector<std::pair<Pair, std::function<void()>>> held_calls_;
  std::vector<std::weak_ptr<Stream>> streams_;
};

}  // namespace outrider::simulation
