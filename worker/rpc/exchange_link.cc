#include "worker/rpc/exchange_link.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace outrider {

void ExchangeLink::Open(Stream& stream, std::optional<v1::ExchangeFrame> hello) {
  MutexLock lock(mu_);
  stream_ = &stream;
  if (hello.has_value()) outgoing_.push_front(*std::move(hello));
  StartRead();
  StartWrite();
}

void ExchangeLink::StartRead() {
  if (stream_ == nullptr || reading_ || closed_ || !readable_ || incoming_bytes_ >= kExchangeIncomingBytes) return;
  reading_ = true;
  stream_->ReadFrame(&frame_);
}

void ExchangeLink::StartWrite() {
  if (stream_ == nullptr || writing_ || closed_) return;
  if (!outgoing_.empty()) {
    writing_ = true;
    stream_->WriteFrame(&outgoing_.front());
  } else if (closing_.has_value()) {
    closed_ = true;
    stream_->EndStream(*closing_);
  }
}

// The first end stands.
void ExchangeLink::EndWith(const absl::Status& status) {
  if (ended_.ok()) ended_ = status;
  changed_.NotifyAll();
}

void ExchangeLink::ReadDone(bool ok) {
  MutexLock lock(mu_);
  reading_ = false;
  if (!ok) {
    // The peer has no more to say: it left, or Done will tell more. At a server it is answered by the stream's end.
    readable_ = false;
    if (!closing_.has_value()) closing_ = absl::OkStatus();
    StartWrite();
    changed_.NotifyAll();
    return;
  }
  if (!frame_.abort_reason().empty()) {
    EndWith(absl::UnavailableError(frame_.abort_reason()));
    closing_ = ended_;
    StartWrite();
  } else if (!frame_.data().empty()) {
    incoming_bytes_ += static_cast<int64_t>(frame_.data().size());
    incoming_.push_back(std::move(*frame_.mutable_data()));
  }
  frame_.Clear();
  StartRead();
  changed_.NotifyAll();
}

void ExchangeLink::WriteDone(bool ok) {
  MutexLock lock(mu_);
  writing_ = false;
  outgoing_bytes_ -= static_cast<int64_t>(outgoing_.front().data().size());
  outgoing_.pop_front();
  if (!ok) {
    outgoing_.clear();
    outgoing_bytes_ = 0;
    if (!closing_.has_value()) closing_ = absl::OkStatus();
  }
  StartWrite();
  changed_.NotifyAll();
}

void ExchangeLink::Done(const absl::Status& status) {
  MutexLock lock(mu_);
  stream_ = nullptr;
  readable_ = false;
  // Its reason is in the status where the peer aborted and this end is the client.
  if (absl::IsCancelled(status) || status.message().empty()) {
    EndWith(absl::UnavailableError(
        absl::StrCat("rank ", peer_, status.ok() ? " has left" : " is lost: its exchange was cut off")));
  } else {
    EndWith(absl::UnavailableError(status.message()));
  }
}

absl::Status ExchangeLink::Send(std::initializer_list<absl::string_view> parts, TimePoint deadline) {
  v1::ExchangeFrame frame;
  for (const absl::string_view part : parts) frame.mutable_data()->append(part.data(), part.size());
  const int64_t bytes = static_cast<int64_t>(frame.data().size());
  MutexLock lock(mu_);
  for (;;) {
    if (!ended_.ok()) return ended_;
    // While the stream ends, the reason is on its way.
    if (!closing_.has_value() && outgoing_bytes_ < kExchangeOutgoingBytes) break;
    if (!changed_.WaitUntil(mu_, deadline) && std::chrono::steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat("rank ", peer_, " takes nothing"));
    }
  }
  outgoing_bytes_ += bytes;
  outgoing_.push_back(std::move(frame));
  StartWrite();
  return absl::OkStatus();
}

absl::Status ExchangeLink::Receive(void* data, int64_t bytes, TimePoint deadline) {
  char* to = static_cast<char*>(data);
  MutexLock lock(mu_);
  while (bytes > 0) {
    if (aborted_) return ended_;
    if (incoming_.empty()) {
      if (!ended_.ok()) return ended_;
      if (!changed_.WaitUntil(mu_, deadline) && std::chrono::steady_clock::now() >= deadline) {
        return absl::DeadlineExceededError(absl::StrCat("rank ", peer_, " says nothing"));
      }
      continue;
    }
    std::string& front = incoming_.front();
    const int64_t length = std::min<int64_t>(bytes, static_cast<int64_t>(front.size() - taken_));
    std::memcpy(to, front.data() + taken_, static_cast<size_t>(length));
    to += length;
    bytes -= length;
    taken_ += static_cast<size_t>(length);
    incoming_bytes_ -= length;
    if (taken_ == front.size()) {
      incoming_.pop_front();
      taken_ = 0;
    }
    StartRead();
  }
  return aborted_ ? ended_ : absl::OkStatus();
}

absl::Status ExchangeLink::AwaitBytes() {
  MutexLock lock(mu_);
  while (incoming_.empty() && ended_.ok()) changed_.Wait(mu_);
  return aborted_ || incoming_.empty() ? ended_ : absl::OkStatus();
}

void ExchangeLink::Leave() {
  MutexLock lock(mu_);
  if (closing_.has_value()) return;
  closing_ = absl::OkStatus();
  StartWrite();
}

void ExchangeLink::Abort(absl::string_view reason) {
  MutexLock lock(mu_);
  if (aborted_) return;
  aborted_ = true;
  EndWith(absl::UnavailableError(reason));
  v1::ExchangeFrame frame;  // after what was sent: a peer that has what it needs does not miss this end
  frame.set_abort_reason(std::string(reason.empty() ? "aborted" : reason));
  outgoing_.push_back(std::move(frame));
  if (!closing_.has_value()) closing_ = absl::UnavailableError(reason);
  StartWrite();
}

}  // namespace outrider
