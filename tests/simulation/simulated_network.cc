#include "tests/simulation/simulated_network.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"

namespace outrider::simulation {
namespace {

// A peer that can not be reached is given up after that: gRPC's least time for a connection attempt.
constexpr Duration kConnectTimeout = std::chrono::seconds(20);

}  // namespace

Network::~Network() {
  // Callbacks own those who own streams.
  for (const std::weak_ptr<Stream>& weak : streams_) {
    if (const StreamPtr stream = weak.lock()) stream->Forget();
  }
}

void Network::Listen(Process& process, const std::string& service, Stream::Options options, Accept accept) {
  services_[{process.index, service}] = {.life = process.life, .options = options, .accept = std::move(accept)};
}

void Network::ListenCalls(Process& process, const std::string& service, Answer answer) {
  services_[{process.index, service}] = {.life = process.life, .answer = std::move(answer)};
}

Duration Network::Delay(const Process& from, const Process& to) {
  Duration delay = random_.Within(options_.delay_ms_min, options_.delay_ms_max);
  if (!slow_.empty()) {
    const auto slow = slow_.find(Of(from, to));
    if (slow != slow_.end()) delay += slow->second;
  }
  return delay;
}

bool Network::IsCut(const Process& from, const Process& to) const {
  return !cuts_.empty() && cuts_.contains(Of(from, to));
}

StreamPtr Network::Connect(Process& from, Process& to, uint64_t to_life, const std::string& service,
                           Stream::Options options) {
  const auto near = std::make_shared<Stream>();
  near->network_ = this;
  near->owner_ = &from;
  near->life_ = from.life;
  near->service_ = service;
  near->options_ = options;
  near->peer_owner_ = &to;
  std::erase_if(streams_, [](const std::weak_ptr<Stream>& stream) { return stream.expired(); });
  streams_.push_back(near);
  queue_.After(kConnectTimeout, &from, [this, near] {
    if (near->state_ == Stream::State::kConnecting) Break(near, absl::UnavailableError("connection timed out"));
  });
  Transmit(*near, [this, near, to_life, &to] {
    if (near->state_ == Stream::State::kClosed) return;
    const auto service = services_.find({to.index, near->service_});
    if (!to.alive) {
      if (!to.silent) Reset(near);
      return;
    }
    if (to.life != to_life || service == services_.end() || service->second.life != to.life) return Reset(near);
    const auto far = std::make_shared<Stream>();
    far->network_ = this;
    far->owner_ = &to;
    far->life_ = to.life;
    far->service_ = near->service_;
    far->options_ = service->second.options;
    far->peer_owner_ = near->owner_;
    far->state_ = Stream::State::kOpen;
    far->peer_ = near;
    streams_.push_back(far);
    // What the server says needs its program; a stopped one is silent.
    queue_.After(Duration::zero(), &to, [this, far, near, accept = service->second.accept] {
      if (far->state_ != Stream::State::kOpen) return;
      accept(far);
      Transmit(*far, [this, far, near] {
        if (near->state_ != Stream::State::kConnecting) return;
        near->state_ = Stream::State::kOpen;
        near->peer_ = far;
        queue_.At(queue_.now(), near->owner_, [near] {
          if (near->state_ == Stream::State::kOpen && near->on_open) near->on_open();
        });
      });
    });
  });
  return near;
}

// Sets `arrive` for when what `from` sends now is there; later if the link is cut.
void Network::Transmit(Stream& from, std::function<void()> arrive) {
  if (IsCut(*from.owner_, *from.peer_owner_)) {
    from.held_.push_back(std::move(arrive));
    return;
  }
  from.last_arrival_ = std::max(from.last_arrival_, queue_.now() + Delay(*from.owner_, *from.peer_owner_));
  queue_.At(from.last_arrival_, nullptr, std::move(arrive));
}

void Stream::Send(Message message) {
  CHECK(waiting_ == nullptr);
  if (state_ != State::kOpen) {
    network_->queue_.At(network_->queue_.now(), owner_, [self = shared_from_this()] {
      if (self->on_written) self->on_written(false);
    });
    return;
  }
  if (num_in_flight_ >= options_.window) {
    waiting_ = std::move(message);
    return;
  }
  network_->SendNow(*this, std::move(message));
}

void Network::SendNow(Stream& stream, Message message) {
  ++stream.num_in_flight_;
  const StreamPtr self = stream.shared_from_this();
  Transmit(stream, [this, self, message = std::move(message)] {
    const StreamPtr to = self->peer_.lock();
    if (to == nullptr || to->state_ != Stream::State::kOpen || !to->owner_->alive || to->owner_->life != to->life_) {
      // Nobody is there: a machine that is up says so.
      if (!self->peer_owner_->silent || self->peer_owner_->alive) Reset(self);
      return;
    }
    Deliver(to, self, message);
  });
  if (stream.on_written) {
    queue_.At(queue_.now(), stream.owner_, [self] {
      if (self->on_written && self->state_ != Stream::State::kConnecting) self->on_written(true);
    });
  }
}

void Network::Deliver(const StreamPtr& to, const StreamPtr&, Message message) {
  queue_.At(queue_.now(), to->owner_, [this, to, message = std::move(message)] {
    if (to->state_ != Stream::State::kOpen) return;
    if (to->options_.reads_by_hand || to->paused_) {
      to->unread_.push_back(message);
      return;
    }
    if (to->on_message) to->on_message(message);
    MessageRead(*to);
  });
}

void Stream::Read() {
  if (unread_.empty() || state_ != State::kOpen) return;
  const Message message = std::move(unread_.front());
  unread_.pop_front();
  if (on_message) on_message(message);
  network_->MessageRead(*this);
}

void Stream::Resume() {
  paused_ = false;
  while (!paused_ && !unread_.empty() && state_ == State::kOpen) Read();
}

// There is room for one more; the sender's transport hears of it with a delay that is left out.
void Network::MessageRead(Stream& reader) {
  const StreamPtr sender = reader.peer_.lock();
  if (sender == nullptr) return;
  --sender->num_in_flight_;
  if (sender->waiting_ == nullptr || sender->state_ != Stream::State::kOpen) return;
  SendNow(*sender, std::exchange(sender->waiting_, nullptr));
  if (sender->close_after_.has_value()) sender->Close(*sender->close_after_);
}

void Stream::Close(absl::Status why) {
  if (state_ == State::kClosed) return;
  if (waiting_ != nullptr && why.ok()) {
    close_after_ = std::move(why);
    return;
  }
  const bool was_open = state_ == State::kOpen;
  state_ = State::kClosed;
  waiting_.reset();
  // Later: this may be called by one of them.
  network_->queue_.At(network_->queue_.now(), nullptr, [self = shared_from_this()] { self->Forget(); });
  if (!was_open) return;
  network_->Transmit(*this, [network = network_, self = shared_from_this(), why] {
    const StreamPtr peer = self->peer_.lock();
    if (peer == nullptr) return;
    // In its turn: the peer takes in what came before first.
    network->queue_.At(network->queue_.now(), peer->owner_, [network, peer, why] { network->Break(peer, why); });
  });
}

// The stream is over for its owner, who hears of it.
void Network::Break(const StreamPtr& stream, const absl::Status& why) {
  if (stream->state_ == Stream::State::kClosed) return;
  // What is unread is lost only where the end is an error; an orderly end comes after it.
  if (why.ok() && !stream->unread_.empty()) {
    queue_.After(FromMillis(5), stream->owner_, [this, stream, why] { Break(stream, why); });
    return;
  }
  stream->state_ = Stream::State::kClosed;
  stream->unread_.clear();
  const bool was_writing = std::exchange(stream->waiting_, nullptr) != nullptr;
  queue_.At(queue_.now(), stream->owner_, [this, stream, why, was_writing] {
    if (was_writing && stream->on_written) stream->on_written(false);
    if (stream->on_closed) stream->on_closed(why);
    queue_.At(queue_.now(), nullptr, [stream] { stream->Forget(); });
  });
}

void Network::Reset(const StreamPtr& stream) {
  if (IsCut(*stream->peer_owner_, *stream->owner_)) return;
  queue_.After(Delay(*stream->peer_owner_, *stream->owner_), nullptr,
               [this, stream] { Break(stream, absl::UnavailableError("connection reset by peer")); });
}

void Network::Call(Process& from, Process& to, const std::string& service, Message request, Duration timeout,
                   std::function<void(absl::StatusOr<Message>)> done) {
  struct Open {
    bool finished = false;
    std::function<void(absl::StatusOr<Message>)> done;
  };
  const auto open = std::make_shared<Open>(Open{.done = std::move(done)});
  // Nobody in a later life of the caller waits for the answer.
  const auto finish = [open, &from, life = from.life](absl::StatusOr<Message> result) {
    if (from.life != life || std::exchange(open->finished, true)) return;
    open->done(std::move(result));
  };
  queue_.After(timeout, &from, [finish] { finish(absl::DeadlineExceededError("the call took too long")); });
  const auto delay = [&] {
    Duration total = Delay(from, to);
    if (options_.call_delay_ms_max > 0 && random_.Chance(0.2)) total += random_.Within(0, options_.call_delay_ms_max);
    return total;
  };
  const auto arrive = [this, &from, &to, service, request, finish] {
    if (!to.alive) {
      if (to.silent || IsCut(to, from)) return;
      queue_.After(Delay(to, from), &from, [finish] { finish(absl::UnavailableError("connection refused")); });
      return;
    }
    queue_.At(queue_.now(), &to, [this, &from, &to, service, request, finish] {
      const auto known = services_.find({to.index, service});
      if (known == services_.end() || known->second.life != to.life) return;
      absl::StatusOr<Message> answer = known->second.answer(*request);
      if (IsCut(to, from)) return;
      queue_.After(Delay(to, from), &from, [finish, answer = std::move(answer)] { finish(answer); });
    });
  };
  for (int copies = random_.Chance(options_.call_duplicate) ? 2 : 1; copies > 0; --copies) {
    if (random_.Chance(options_.call_loss)) continue;
    if (IsCut(from, to)) {
      held_calls_.emplace_back(Of(from, to), arrive);
    } else {
      queue_.After(delay(), nullptr, arrive);
    }
  }
}

void Network::Cut(const Process& from, const Process& to) {
  if (!cuts_.emplace(Of(from, to), queue_.now()).second) return;
  last_change_ = queue_.now();
  trace_.Add(queue_.now(), from.index, from.name, "cut", {{"to", to.index}});
  WatchKeepalives(from, &to);
  WatchKeepalives(to, &from);
}

void Network::Mend(const Process& from, const Process& to) {
  if (cuts_.erase(Of(from, to)) == 0) return;
  last_change_ = queue_.now();
  trace_.Add(queue_.now(), from.index, from.name, "mend", {{"to", to.index}});
  Flush(from, to);
}

void Network::Flush(const Process& from, const Process& to) {
  for (const std::weak_ptr<Stream>& weak : streams_) {
    const StreamPtr stream = weak.lock();
    if (stream == nullptr || stream->owner_ != &from || stream->peer_owner_ != &to) continue;
    for (auto& arrive : std::exchange(stream->held_, {})) Transmit(*stream, std::move(arrive));
  }
  std::vector<std::pair<Pair, std::function<void()>>> held = std::exchange(held_calls_, {});
  for (auto& [pair, arrive] : held) {
    if (pair == Of(from, to)) {
      queue_.After(Delay(from, to), nullptr, std::move(arrive));
    } else {
      held_calls_.emplace_back(pair, std::move(arrive));
    }
  }
}

void Network::SlowDown(const Process& a, const Process& b, Duration extra) {
  for (const Pair& pair : {Of(a, b), Of(b, a)}) {
    if (extra > Duration::zero()) {
      slow_[pair] = extra;
    } else {
      slow_.erase(pair);
    }
  }
}

void Network::OnProcessEnded(Process& process) {
  for (size_t i = 0; i < streams_.size(); ++i) {
    const StreamPtr stream = streams_[i].lock();
    if (stream == nullptr || stream->owner_ != &process || stream->state_ == Stream::State::kClosed) continue;
    if (process.silent) {
      stream->state_ = Stream::State::kClosed;
    } else {
      stream->Close(absl::UnavailableError("connection reset by peer"));
    }
  }
  if (process.silent) OnUnresponsive(process);
}

void Network::OnUnresponsive(Process& process) { WatchKeepalives(process, nullptr); }

std::optional<TimePoint> Network::ImpairedSince(const Stream& stream) const {
  std::optional<TimePoint> since = stream.peer_owner_->unresponsive_since;
  for (const Pair& pair : {Of(*stream.owner_, *stream.peer_owner_), Of(*stream.peer_owner_, *stream.owner_)}) {
    const auto cut = cuts_.find(pair);
    if (cut != cuts_.end() && (!since.has_value() || cut->second < *since)) since = cut->second;
  }
  return since;
}

// Ends of streams that lead to `a` (from `b`, if given) and have a keepalive look whether the trouble lasts.
void Network::WatchKeepalives(const Process& a, const Process* b) {
  for (const std::weak_ptr<Stream>& weak : streams_) {
    const StreamPtr stream = weak.lock();
    if (stream == nullptr || stream->peer_owner_ != &a || (b != nullptr && stream->owner_ != b)) continue;
    if (!stream->options_.keepalive.has_value() || stream->state_ != Stream::State::kOpen) continue;
    const Duration patience = *stream->options_.keepalive;
    queue_.After(patience, stream->owner_, [this, stream, patience] {
      const std::optional<TimePoint> since = ImpairedSince(*stream);
      if (stream->state_ != Stream::State::kOpen) return;
      // Its machine may be back, and know nothing of the connection.
      const StreamPtr far = stream->peer_.lock();
      const bool unknown_there = far == nullptr || far->state_ == Stream::State::kClosed;
      if (!unknown_there && (!since.has_value() || queue_.now() - *since < patience)) return;
      const StreamPtr self = stream;
      Transmit(*self, [this, self] {
        if (const StreamPtr peer = self->peer_.lock()) Break(peer, absl::UnavailableError("connection reset by peer"));
      });
      Break(self, absl::UnavailableError("keepalive watchdog timeout"));
    });
  }
}

}  // namespace outrider::simulation
