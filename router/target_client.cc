#include "router/target_client.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "router/callback_threads.h"
#include "router/grpc_status.h"

namespace outrider::router {
namespace {

constexpr Duration kBackoffMin = std::chrono::milliseconds(50);
constexpr Duration kBackoffMax = std::chrono::seconds(1);
// A vocabulary of a million tokens with its merges; text::MakeTokenizer's bound with room for the encoding.
constexpr int kMaxReceiveBytes = 128 << 20;
constexpr std::chrono::seconds kFetchTimeout(30);

// A connection was refused by the host itself, so nobody listens there. A partition, a machine that is off or a
// process that stands still look otherwise. gRPC has no code for it: the system's words are in its message.
bool NobodyListens(const absl::Status& status) {
  return absl::IsUnavailable(status) && (absl::StrContains(status.message(), std::strerror(ECONNREFUSED)) ||
                                         absl::StrContains(status.message(), std::strerror(ENOENT)));
}

}  // namespace

void CallGate::Enter() {
  MutexLock lock(mu_);
  ++num_open_;
}

void CallGate::Leave() {
  MutexLock lock(mu_);
  if (--num_open_ == 0) none_.NotifyAll();
}

void CallGate::AwaitNone() {
  MutexLock lock(mu_);
  while (num_open_ > 0) none_.Wait(mu_);
}

// Lives from StartCall to OnDone, held by itself.
class TargetClient::ServeStream final : public grpc::ClientBidiReactor<v1::TargetCommands, v1::TargetEvents> {
 public:
  explicit ServeStream(std::shared_ptr<TargetClient> client) : client_(std::move(client)) {}

  void Start(std::shared_ptr<ServeStream> self) {
    self_ = std::move(self);
    client_->options_.gate->Enter();
    client_->stub_->async()->Serve(&context_, this);
    // Writes come from other threads until the reader has seen the end.
    AddHold();
    StartRead(&events_);
    StartCall();
  }
  void Write(const v1::TargetCommands* commands) { StartWrite(commands); }
  void Release() { RemoveHold(); }
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      client_->OnStreamReadEnded();
      return;
    }
    client_->OnStreamEvents(events_);
    StartRead(&events_);
  }
  void OnWriteDone(bool ok) override { client_->OnStreamWritten(ok); }
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<ServeStream> self = std::move(self_);
    CallGate* const gate = client_->options_.gate;
    client_->OnStreamDone(FromGrpcStatus(status));
    client_.reset();
    gate->Leave();
  }

 private:
  std::shared_ptr<TargetClient> client_;
  std::shared_ptr<ServeStream> self_;
  grpc::ClientContext context_;
  v1::TargetEvents events_;
};

TargetClient::TargetClient(Options options) : options_(std::move(options)), backoff_(kBackoffMin) {
  grpc::ChannelArguments arguments;
  // A group that restarts is back within a second: do not back off for minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(ToMillis(options_.keepalive_time)));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(ToMillis(options_.keepalive_timeout)));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  arguments.SetMaxSendMessageSize(-1);
  // Its own connection: another incarnation at the same address is another group.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  channel_ =
      grpc::CreateCustomChannel(options_.address, LinkCredentials(options_.security, options_.address), arguments);
  stub_ = v1::Target::NewStub(channel_);
}

TargetClient::~TargetClient() = default;

std::shared_ptr<TargetClient> TargetClient::Create(Options options) {
  CHECK(options.clock != nullptr && options.gate != nullptr);
  KeepCallbackThreads();
  return std::shared_ptr<TargetClient>(new TargetClient(std::move(options)));
}

void TargetClient::KeepOpen() {
  MutexLock lock(mu_);
  if (closed_ || stream_ != nullptr || options_.clock->Now() < open_after_) return;
  stream_ = std::make_shared<ServeStream>(shared_from_this());
  writable_ = true;
  stream_->Start(stream_);
  // A message without commands that says which life of the group is meant. A write that is done has only left this
  // process: what were submitted before the group answers could be lost with a life that was over before.
  queued_.emplace_back();
  queued_.back().commands.set_incarnation(options_.incarnation);
  WriteNext();
}

bool TargetClient::Submit(v1::Submit submit, std::shared_ptr<AttemptListener> listener) {
  MutexLock lock(mu_);
  if (!connected_) return false;
  attempts_[submit.request_id()] = {.listener = std::move(listener), .num_lanes = submit.lanes_size()};
  v1::TargetCommand command;
  *command.mutable_submit() = std::move(submit);
  Enqueue(std::move(command));
  return true;
}

void TargetClient::Cancel(uint64_t request_id) {
  MutexLock lock(mu_);
  if (attempts_.erase(request_id) == 0) return;
  v1::TargetCommand command;
  command.mutable_cancel()->set_request_id(request_id);
  Enqueue(std::move(command));
}

void TargetClient::Forget(uint64_t request_id) {
  MutexLock lock(mu_);
  attempts_.erase(request_id);
}

void TargetClient::StopAt(uint64_t request_id, uint32_t lane, uint32_t num_output_tokens) {
  MutexLock lock(mu_);
  if (!attempts_.contains(request_id)) return;
  v1::TargetCommand command;
  command.mutable_stop_at()->set_request_id(request_id);
  command.mutable_stop_at()->set_lane(lane);
  command.mutable_stop_at()->set_num_output_tokens(num_output_tokens);
  Enqueue(std::move(command));
}

void TargetClient::Enqueue(v1::TargetCommand command) {
  if (!writable_) return;
  const size_t num_bytes = command.ByteSizeLong();
  if (queued_.empty() || queued_.back().num_bytes + num_bytes > kMaxBatchBytes) queued_.emplace_back();
  queued_.back().num_bytes += num_bytes;
  *queued_.back().commands.add_commands() = std::move(command);
  WriteNext();
}

void TargetClient::WriteNext() {
  if (!writable_ || write_in_flight_ || queued_.empty()) return;
  in_flight_ = std::move(queued_.front().commands);
  queued_.pop_front();
  write_in_flight_ = true;
  stream_->Write(&in_flight_);
}

void TargetClient::OnStreamWritten(bool ok) {
  MutexLock lock(mu_);
  write_in_flight_ = false;
  if (!ok) return;  // the reader sees the end too
  WriteNext();
}

void TargetClient::OnStreamReadEnded() {
  std::shared_ptr<ServeStream> stream;
  {
    MutexLock lock(mu_);
    writable_ = false;
    connected_ = false;
    stream = stream_;
  }
  stream->Release();
}

void TargetClient::OnStreamEvents(v1::TargetEvents& events) {
  std::optional<StaleReason> refused;
  bool answered = false;
  {
    MutexLock lock(mu_);
    if (fenced_) {
      refused = StaleReason::kFenced;
    } else if (options_.incarnation != 0 && events.incarnation() != 0 && events.incarnation() != options_.incarnation) {
      refused = StaleReason::kIncarnation;
    }
    // It is told by the stream's end, which frees what it still runs.
    if (refused.has_value()) {
      stream_->Cancel();
    } else if (!connected_ && writable_) {
      answered = connected_ = true;
      backoff_ = kBackoffMin;
    }
  }
  if (answered) options_.on_connected(true);
  if (refused.has_value()) {
    options_.on_stale(*refused, events.events_size());
    LogWarning("refused ", events.events_size(), " events of group ", options_.group_id, ": ",
               *refused == StaleReason::kFenced ? "it was given up before" : "it is in another life");
    return;
  }
  std::shared_ptr<AttemptListener> listener;
  uint64_t listener_request = 0;
  int num_stale = 0;
  for (v1::TargetEvent& event : *events.mutable_events()) {
    {
      MutexLock lock(mu_);
      const auto it = attempts_.find(event.request_id());
      if (it == attempts_.end()) {  // cancelled or forgotten
        ++num_stale;
        continue;
      }
      if (listener == nullptr || listener_request != event.request_id()) listener = it->second.listener;
      listener_request = event.request_id();
    }
    listener->OnTargetEvent(event);
  }
  if (num_stale > 0) options_.on_stale(StaleReason::kAttempt, num_stale);
}

void TargetClient::OnStreamDone(const absl::Status& status) {
  absl::flat_hash_map<uint64_t, Attempt> attempts;
  bool tell = false;
  bool gone = false;
  {
    MutexLock lock(mu_);
    gone = !closed_ && NobodyListens(status);
    stream_.reset();
    writable_ = connected_ = write_in_flight_ = false;
    queued_.clear();
    attempts.swap(attempts_);
    open_after_ = options_.clock->Now() + backoff_;
    backoff_ = std::min(2 * backoff_, kBackoffMax);
    tell = !closed_ && (!attempts.empty() || !told_failure_);
    told_failure_ = true;
  }
  if (tell) {
    LogWarning("stream to group ", options_.group_id, " at ", options_.address, " ended with ", attempts.size(),
               " requests on it: ", status.ok() ? "the group closed it" : std::string(status.message()));
  }
  if (gone && options_.on_gone) options_.on_gone();
  options_.on_connected(false);
  const absl::Status lost = LostStatus(status);
  for (const auto& [request_id, attempt] : attempts) attempt.listener->OnTargetLost(request_id, lost);
}

absl::Status TargetClient::LostStatus(const absl::Status& status) const {
  return absl::UnavailableError(absl::StrCat("group ", options_.group_id, " was lost",
                                             status.ok() ? std::string() : absl::StrCat(" (", status.message(), ")")));
}

void TargetClient::HandOver(int64_t num_lanes) {
  std::vector<std::pair<uint64_t, std::shared_ptr<AttemptListener>>> attempts;
  {
    MutexLock lock(mu_);
    for (const auto& [request_id, attempt] : attempts_) {
      if (num_lanes <= 0) break;
      num_lanes -= attempt.num_lanes;
      attempts.emplace_back(request_id, attempt.listener);
    }
  }
  for (const auto& [request_id, listener] : attempts) listener->OnHandOver(request_id);
}

void TargetClient::Fence() {
  absl::flat_hash_map<uint64_t, Attempt> attempts;
  {
    MutexLock lock(mu_);
    if (fenced_ || closed_) return;
    fenced_ = closed_ = true;
    writable_ = connected_ = false;
    queued_.clear();
    attempts.swap(attempts_);
    for (grpc::ClientContext* fetch : fetches_) fetch->TryCancel();
  }
  const absl::Status lost = LostStatus(absl::UnavailableError("it is not heard of any more"));
  for (const auto& [request_id, attempt] : attempts) attempt.listener->OnTargetLost(request_id, lost);
}

bool TargetClient::ended() const {
  MutexLock lock(mu_);
  return closed_ && stream_ == nullptr;
}

void TargetClient::FetchModel(std::function<void(absl::StatusOr<v1::ModelDescription>)> done) {
  struct Call {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    v1::ModelDescription response;
    std::shared_ptr<TargetClient> client;
    std::function<void(absl::StatusOr<v1::ModelDescription>)> done;
  };
  auto call = std::make_shared<Call>();
  call->client = shared_from_this();
  call->done = std::move(done);
  call->context.set_deadline(std::chrono::system_clock::now() + kFetchTimeout);
  options_.gate->Enter();
  {
    MutexLock lock(mu_);
    if (closed_) call->context.TryCancel();
    fetches_.insert(&call->context);
  }
  stub_->async()->GetModel(&call->context, &call->request, &call->response, [call](grpc::Status status) {
    CallGate* const gate = call->client->options_.gate;
    {
      MutexLock lock(call->client->mu_);
      call->client->fetches_.erase(&call->context);
    }
    if (status.ok()) {
      call->done(std::move(call->response));
    } else {
      call->done(FromGrpcStatus(status));
    }
    call->client.reset();
    gate->Leave();
  });
}

void TargetClient::Close() {
  MutexLock lock(mu_);
  closed_ = true;
  if (stream_ != nullptr) stream_->Cancel();
  for (grpc::ClientContext* fetch : fetches_) fetch->TryCancel();
}

}  // namespace outrider::router
