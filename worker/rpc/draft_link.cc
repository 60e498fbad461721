#include "worker/rpc/draft_link.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "proto/draft.grpc.pb.h"
#include "worker/rpc/draft_service.h"  // kDraftProtocolVersion
#include "worker/rpc/proto_conversions.h"

namespace outrider {
namespace {

constexpr Duration kBackoffMin = std::chrono::milliseconds(100);
constexpr Duration kBackoffMax = std::chrono::seconds(5);
// Commands and ids that wait for the stream to take them. A peer that far behind drafts for the past.
constexpr int kMaxOutgoingCommands = 4096;
constexpr int64_t kMaxOutgoingTokens = 1 << 20;
// Proposals that wait for the engine's turn.
constexpr size_t kMaxIncomingProposals = 8192;
constexpr size_t kMaxAsked = 65536;
constexpr size_t kMaxWorkerIdBytes = 256;
// A peer that says nothing for so long (it tells its load twice a second) is asked by a ping whether it lives.
constexpr int kKeepaliveMs = 5000;
constexpr int kKeepaliveTimeoutMs = 2000;

// Weight of the newest round trip in what is told of it.
constexpr double kRoundTripGain = 0.2;

int64_t NumTokens(const v1::DraftCommandBatch& batch) {
  int64_t count = 0;
  for (const v1::DraftCommand& command : batch.commands()) {
    count += command.open().prompt_token_ids_size() + command.open().output_token_ids_size() +
             command.commit().token_ids_size();
  }
  return count;
}

}  // namespace

DraftLinkMetrics::DraftLinkMetrics(MetricsRegistry& registry)
    : round_trip_seconds(registry.AddHistogram("draft_round_trip_seconds",
                                               "From a command that asks for a draft to its proposal's arrival.",
                                               ExponentialBuckets(1e-4, 2, 16))),
      connections(registry.AddCounter("draft_connections_total", "Streams to draft workers that were opened.")),
      connections_lost(registry.AddCounter("draft_connections_lost_total", "Streams to draft workers that were lost.")),
      refusals(registry.AddCounter("draft_connections_refused_total", "Draft workers that do not match.")),
      commands_dropped(registry.AddCounter("draft_commands_dropped_total", "Commands that could not be sent.")),
      proposals_dropped(registry.AddCounter("draft_proposals_overflow_total", "Proposals beyond what may wait.")) {}

// The stream of one connection. Its reactions run on gRPC's threads; it tells the link, which owns all state.
class DraftLink::Call final : public grpc::ClientBidiReactor<v1::DraftCommands, v1::DraftEvents> {
 public:
  Call(DraftLink& link, v1::Draft::Stub& stub) : link_(link) {
    v1::TargetHello* const hello = request_.mutable_hello();
    hello->set_protocol_version(kDraftProtocolVersion);
    hello->set_target_id(link.options_.target_id);
    hello->set_incarnation(link.options_.incarnation);
    hello->set_tokenizer_fingerprint(link.options_.tokenizer_fingerprint);
    hello->set_vocab_size(static_cast<uint32_t>(link.options_.vocab_size));
    hello->set_max_lookahead(static_cast<uint32_t>(link.options_.max_lookahead));
    stub.async()->Connect(&context_, this);
    AddHold();  // for writes from the engine's thread
    StartWrite(&request_);
    StartRead(&response_);
    StartCall();
  }

  void Cancel() { context_.TryCancel(); }
  // REQUIRES: no write is under way, and the stream has not ended.
  void Write(v1::DraftCommandBatch batch) {
    *request_.mutable_batch() = std::move(batch);
    StartWrite(&request_);
  }

  void WritePing(uint64_t id) {
    request_.mutable_ping()->set_id(id);
    StartWrite(&request_);
  }

  // The end, or nothing at `deadline`.
  std::optional<grpc::Status> AwaitEndUntil(TimePoint deadline) {
    MutexLock lock(mu_);
    while (!status_ && done_.WaitUntil(mu_, deadline)) {
    }
    return status_;
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      // From here on nobody writes; what is held open for that can go.
      {
        MutexLock lock(link_.mu_);
        link_.call_ = nullptr;
      }
      return RemoveHold();
    }
    {
      MutexLock lock(link_.mu_);
      link_.heard_ = std::chrono::steady_clock::now();
    }
    if (response_.has_hello()) link_.OnHello(response_.hello());
    if (response_.has_batch()) link_.OnBatch(response_.batch());
    if (response_.has_pong()) link_.OnPong(response_.pong());
    response_.Clear();
    StartRead(&response_);
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(link_.mu_);
    link_.writing_ = false;
    if (ok) link_.WriteNext();
  }

  void OnDone(const grpc::Status& status) override {
    MutexLock lock(mu_);
    status_ = status;
    done_.NotifyAll();
  }

  DraftLink& link_;
  grpc::ClientContext context_;
  v1::DraftCommands request_;
  v1::DraftEvents response_;
  Mutex mu_;
  CondVar done_;
  std::optional<grpc::Status> status_ ABSL_GUARDED_BY(mu_);
};

std::shared_ptr<DraftLink> DraftLink::Start(Options options, DraftLinkMetrics& metrics) {
  auto link = std::shared_ptr<DraftLink>(new DraftLink(std::move(options), metrics));
  link->thread_ = std::thread([l = link.get()] { l->Run(); });
  return link;
}

DraftLink::DraftLink(Options options, DraftLinkMetrics& metrics) : options_(std::move(options)), metrics_(metrics) {}

DraftLink::~DraftLink() { Stop(); }

void DraftLink::Stop() {
  {
    MutexLock lock(mu_);
    stopped_ = true;
    if (call_ != nullptr) call_->Cancel();
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void DraftLink::Run() {
  Duration backoff = kBackoffMin;
  while (true) {
    const TimePoint began = std::chrono::steady_clock::now();
    const bool answered = RunConnection();
    // Only a connection that lasted makes the next try an eager one.
    backoff = answered && std::chrono::steady_clock::now() - began > kBackoffMax ? kBackoffMin
                                                                                 : std::min(2 * backoff, kBackoffMax);
    MutexLock lock(mu_);
    const TimePoint next = std::chrono::steady_clock::now() + backoff;
    while (!stopped_ && changed_.WaitUntil(mu_, next)) {
    }
    if (stopped_) return;
  }
}

bool DraftLink::RunConnection() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A connection of its own: subchannels are shared between channels of equal arguments otherwise, back-off included.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel =
      grpc::CreateCustomChannel(options_.address, LinkCredentials(options_.security, options_.address), arguments);
  const auto stub = v1::Draft::NewStub(channel);
  std::optional<Call> call;
  {
    MutexLock lock(mu_);
    if (stopped_) return false;
    writing_ = true;  // the hello
    heard_ = std::chrono::steady_clock::now();
    call.emplace(*this, *stub);
    call_ = &*call;
  }
  Watch(*call);
  const grpc::Status status = *call->AwaitEndUntil(TimePoint::max());
  bool answered;
  bool refused;
  {
    MutexLock lock(mu_);
    answered = connection_ != 0;
    refused = (!answered && !objection_.empty()) || status.error_code() == grpc::StatusCode::FAILED_PRECONDITION;
    const std::string trouble = !objection_.empty() ? objection_
                                : status.ok()       ? std::string("it closed the stream")
                                                    : status.error_message();
    if (!stopped_ && (answered || trouble != last_trouble_)) {
      LogWarning("draft worker at ", options_.address, answered ? " is lost: " : " can not be used: ", trouble);
      last_trouble_ = trouble;
    }
    connection_ = 0;
    status_ = Status();
    ping_due_ = false;
    objection_.clear();
    outgoing_.Clear();
    num_outgoing_tokens_ = 0;
    incoming_.clear();
    asked_.clear();
    writing_ = false;
  }
  if (answered) {
    metrics_.connections_lost.Add();
    options_.wake();
  }
  if (refused) metrics_.refusals.Add();
  return answered;
}

void DraftLink::Watch(Call& call) {
  TimePoint looked = std::chrono::steady_clock::now();
  while (!call.AwaitEndUntil(looked + kDraftPingInterval)) {
    const TimePoint now = std::chrono::steady_clock::now();
    MutexLock lock(mu_);
    if (call_ == nullptr) {  // it is ending
      looked = now;
      continue;
    }
    // Who stood still itself judges nobody by what it could not hear.
    if (now - looked > kDraftSilenceMax / 2) heard_ = now;
    looked = now;
    if (now - heard_ > kDraftSilenceMax && objection_.empty()) {
      objection_ =
          absl::StrCat("it said nothing for more than ", static_cast<int64_t>(ToMillis(kDraftSilenceMax)), " ms");
      call_->Cancel();
    }
    if (connection_ == 0) continue;
    ping_due_ = true;
    WriteNext();
  }
}

std::string DraftLink::Objection(const v1::DraftHello& hello) const {
  if (hello.protocol_version() != kDraftProtocolVersion) {
    return absl::StrCat("it speaks version ", hello.protocol_version(), " of the draft protocol, this target ",
                        kDraftProtocolVersion);
  }
  if (hello.incarnation() < options_.worker_incarnation) {
    return absl::StrCat("it is of a past life: incarnation ", hello.incarnation(), ", the router named ",
                        options_.worker_incarnation);
  }
  if (hello.tokenizer_fingerprint() != options_.tokenizer_fingerprint ||
      hello.vocab_size() != static_cast<uint32_t>(options_.vocab_size)) {
    return absl::StrCat("tokenizers differ: target model ", options_.model, " has fingerprint ",
                        options_.tokenizer_fingerprint, " and ", options_.vocab_size, " tokens, draft worker ",
                        hello.draft_id(), " has ", hello.tokenizer_fingerprint(), " and ", hello.vocab_size());
  }
  return "";
}

void DraftLink::OnHello(const v1::DraftHello& hello) {
  const std::string objection = Objection(hello);
  {
    MutexLock lock(mu_);
    if (call_ == nullptr || connection_ != 0) return;
    if (!objection.empty()) {
      objection_ = objection;
      return call_->Cancel();
    }
    connection_ = ++last_connection_;
    status_ = {.connected = true,
               .runs_ahead = hello.runs_ahead(),
               .worker_id = hello.draft_id().substr(0, kMaxWorkerIdBytes),
               .incarnation = hello.incarnation()};
    ping_due_ = true;
    WriteNext();
    last_trouble_.clear();
  }
  metrics_.connections.Add();
  LogInfo("drafting with ", hello.draft_id(), " at ", options_.address);
  options_.wake();
}

void DraftLink::OnBatch(const v1::DraftEventBatch& batch) {
  if (batch.proposals().empty()) return;
  const TimePoint now = std::chrono::steady_clock::now();
  {
    MutexLock lock(mu_);
    if (connection_ == 0) return;
    for (const v1::Proposal& proposal : batch.proposals()) {
      if (incoming_.size() >= kMaxIncomingProposals) {
        metrics_.proposals_dropped.Add();
        continue;
      }
      const size_t num_before = incoming_.size();
      ProposalsFromProto(proposal, incoming_);
      for (size_t i = num_before; i < incoming_.size(); ++i) incoming_[i].arrived = now;
      const auto asked = asked_.find(SequenceId(proposal.sequence()));
      if (asked == asked_.end()) continue;
      metrics_.round_trip_seconds.Observe(std::chrono::duration<double>(now - asked->second).count());
      asked_.erase(asked);
    }
  }
  options_.wake();
}

void DraftLink::OnPong(const v1::Pong& pong) {
  const TimePoint now = std::chrono::steady_clock::now();
  MutexLock lock(mu_);
  if (connection_ == 0 || pong.id() != last_ping_ || pinged_ == TimePoint{}) return;
  const double round_trip_ms = ToMillis(now - pinged_);
  pinged_ = TimePoint{};
  status_.round_trip_ms = status_.round_trip_ms == 0
                              ? round_trip_ms
                              : status_.round_trip_ms + kRoundTripGain * (round_trip_ms - status_.round_trip_ms);
}

DraftLink::Status DraftLink::status() const {
  MutexLock lock(mu_);
  return status_;
}

uint64_t DraftLink::connection() const {
  MutexLock lock(mu_);
  return connection_;
}

void DraftLink::Send(v1::DraftCommandBatch batch, const std::vector<SequenceId>& asking) {
  const int64_t num_tokens = NumTokens(batch);
  const TimePoint now = std::chrono::steady_clock::now();
  MutexLock lock(mu_);
  if (connection_ == 0 || call_ == nullptr ||
      outgoing_.commands_size() + batch.commands_size() > kMaxOutgoingCommands ||
      num_outgoing_tokens_ + num_tokens > kMaxOutgoingTokens) {
    return metrics_.commands_dropped.Add(batch.commands_size());
  }
  for (SequenceId sequence : asking) {
    if (asked_.size() < kMaxAsked) asked_[sequence] = now;
  }
  num_outgoing_tokens_ += num_tokens;
  if (outgoing_.commands().empty()) {
    outgoing_ = std::move(batch);
  } else {
    for (v1::DraftCommand& command : *batch.mutable_commands()) *outgoing_.add_commands() = std::move(command);
  }
  WriteNext();
}

void DraftLink::WriteNext() {
  if (writing_ || call_ == nullptr) return;
  if (ping_due_) {
    ping_due_ = false;
    writing_ = true;
    pinged_ = std::chrono::steady_clock::now();
    return call_->WritePing(++last_ping_);
  }
  if (outgoing_.commands().empty()) return;
  writing_ = true;
  call_->Write(std::exchange(outgoing_, {}));
  num_outgoing_tokens_ = 0;
}

void DraftLink::TakeProposals(std::vector<DraftSource::Proposal>& proposals) {
  MutexLock lock(mu_);
  std::move(incoming_.begin(), incoming_.end(), std::back_inserter(proposals));
  incoming_.clear();
}

}  // namespace outrider
