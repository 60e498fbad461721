#include "tests/simulation/draft_stream.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "worker/rpc/proto_conversions.h"

namespace outrider::simulation {
namespace {

// As worker/rpc/draft_link.cc.
constexpr Duration kBackoffMin = std::chrono::milliseconds(100);
constexpr Duration kBackoffMax = std::chrono::seconds(5);
// Its pings, which a draft worker answers at once: who answers none for so long is given up.
constexpr Duration kKeepalive = std::chrono::milliseconds(1500);
constexpr int kMaxOutgoingCommands = 4096;
constexpr size_t kMaxIncomingProposals = 8192;

}  // namespace

std::shared_ptr<DraftStream> DraftStream::Start(World& world, Process& process, Options options) {
  const std::shared_ptr<DraftStream> stream(new DraftStream(world, process, std::move(options)));
  stream->backoff_ = kBackoffMin;
  stream->Connect();
  return stream;
}

void DraftStream::Connect() {
  if (stopped_) return;
  began_ = world_.queue.now();
  const auto [draft, life] = world_.Find(options_.address);
  stream_ = world_.network.Connect(process_, *draft, life, kDraftService, {.keepalive = kKeepalive});
  const std::shared_ptr<DraftStream> self = shared_from_this();
  writing_ = true;  // the hello
  stream_->on_open = [self] {
    const auto hello = std::make_shared<v1::DraftCommands>();
    hello->mutable_hello()->set_protocol_version(1);
    hello->mutable_hello()->set_target_id(self->options_.target_id);
    hello->mutable_hello()->set_incarnation(self->options_.incarnation);
    hello->mutable_hello()->set_tokenizer_fingerprint(kTokenizerFingerprint);
    hello->mutable_hello()->set_vocab_size(static_cast<uint32_t>(self->options_.vocab_size));
    self->stream_->Send(hello);
  };
  stream_->on_written = [self](bool ok) {
    self->writing_ = false;
    if (ok) self->WriteNext();
  };
  stream_->on_message = [self](const Message& message) {
    self->OnEvents(static_cast<const v1::DraftEvents&>(*message));
  };
  stream_->on_closed = [self](const absl::Status&) { self->OnClosed(); };
}

void DraftStream::OnClosed() {
  const bool answered = connection_ != 0;
  const bool lasted = answered && world_.queue.now() - began_ > kBackoffMax;
  backoff_ = lasted ? kBackoffMin : std::min(2 * backoff_, kBackoffMax);
  connection_ = 0;
  outgoing_.Clear();
  incoming_.clear();
  stream_.reset();
  if (answered) options_.wake();
  world_.queue.After(backoff_, &process_, [self = shared_from_this()] { self->Connect(); });
}

void DraftStream::Stop() {
  stopped_ = true;
  connection_ = 0;
  if (stream_ != nullptr) stream_->Close();
  stream_.reset();
}

void DraftStream::OnEvents(const v1::DraftEvents& events) {
  if (events.has_hello()) {
    if (connection_ == 0) connection_ = ++last_connection_;
    runs_ahead_ = events.hello().runs_ahead();
    options_.wake();
    return;
  }
  if (connection_ == 0 || events.batch().proposals().empty()) return;
  for (const v1::Proposal& proposal : events.batch().proposals()) {
    if (incoming_.size() >= kMaxIncomingProposals) continue;
    const size_t num_before = incoming_.size();
    ProposalsFromProto(proposal, incoming_);
    for (size_t i = num_before; i < incoming_.size(); ++i) incoming_[i].arrived = world_.queue.now();
  }
  num_incoming_max_ = std::max(num_incoming_max_, incoming_.size());
  options_.wake();
}

void DraftStream::Send(v1::DraftCommandBatch batch) {
  if (connection_ == 0 || outgoing_.commands_size() + batch.commands_size() > kMaxOutgoingCommands) return;
  for (v1::DraftCommand& command : *batch.mutable_commands()) *outgoing_.add_commands() = std::move(command);
  WriteNext();
}

void DraftStream::WriteNext() {
  if (writing_ || stream_ == nullptr || outgoing_.commands().empty()) return;
  writing_ = true;
  auto message = std::make_shared<v1::DraftCommands>();
  *message->mutable_batch() = std::exchange(outgoing_, {});
  stream_->Send(std::move(message));
}

void DraftStream::TakeProposals(std::vector<DraftSource::Proposal>& proposals) {
  std::move(incoming_.begin(), incoming_.end(), std::back_inserter(proposals));
  incoming_.clear();
}

void DraftStreamSource::Open(const Opening& opening) { OpeningToProto(opening, batch_.add_commands()); }

void DraftStreamSource::Commit(const Advance& advance) { AdvanceToProto(advance, batch_.add_commands()); }

void DraftStreamSource::Close(SequenceId sequence, uint32_t epoch) {
  v1::DraftCommand* const command = batch_.add_commands();
  command->set_sequence(sequence.value);
  command->set_epoch(epoch);
  command->mutable_close();
}

void DraftStreamSource::Flush() {
  if (batch_.commands().empty()) return;
  stream_->Send(std::exchange(batch_, {}));
}

}  // namespace outrider::simulation
