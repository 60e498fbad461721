// ExchangeLink is a ByteLink over a stream of ExchangeFrames (group.proto, Exchange), at either end: queues between the
// stream's callbacks and a rank's thread.
//
// Bounds: Send waits while kExchangeOutgoingBytes are on their way; beyond kExchangeIncomingBytes that nobody has
// received nothing is read, and flow control holds the peer back.
#pragma once

#include <cstdint>
#include <deque>
#include <initializer_list>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/group.pb.h"
#include "worker/parallel/byte_link.h"

namespace outrider {

inline constexpr int64_t kExchangeOutgoingBytes = 4 << 20;
inline constexpr int64_t kExchangeIncomingBytes = 8 << 20;

// Thread safety: all methods from any thread. Outlives its stream: whoever owns the stream's reactor holds it too.
class ExchangeLink final : public ByteLink {
 public:
  // The stream, one operation of each kind at a time. Its methods do not call back, and are not called after Done.
  class Stream {
   public:
    virtual ~Stream() = default;
    virtual void ReadFrame(v1::ExchangeFrame* frame) = 0;
    virtual void WriteFrame(const v1::ExchangeFrame* frame) = 0;
    // Once, after the last write: OK if this end left, else why the group ended.
    virtual void EndStream(const absl::Status& status) = 0;
  };

  explicit ExchangeLink(int peer) : peer_(peer) {}

  // Of the stream's owner. `hello` is sent first where this end opens the stream.
  void Open(Stream& stream, std::optional<v1::ExchangeFrame> hello);
  void ReadDone(bool ok);
  void WriteDone(bool ok);
  // The stream is gone; of a client its status, of a server whether it was cancelled.
  void Done(const absl::Status& status);

  absl::Status Send(std::initializer_list<absl::string_view> parts, TimePoint deadline) override;
  absl::Status Receive(void* data, int64_t bytes, TimePoint deadline) override;
  absl::Status AwaitBytes() override;
  void Leave() override;
  void Abort(absl::string_view reason) override;

 private:
  void StartRead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StartWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndWith(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int peer_;
  Mutex mu_;
  CondVar changed_;
  Stream* stream_ ABSL_GUARDED_BY(mu_) = nullptr;  // while it takes operations
  v1::ExchangeFrame frame_ ABSL_GUARDED_BY(mu_);   // of the read under way
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  bool readable_ ABSL_GUARDED_BY(mu_) = true;
  std::deque<std::string> incoming_ ABSL_GUARDED_BY(mu_);
  size_t taken_ ABSL_GUARDED_BY(mu_) = 0;  // of incoming_.front()
  int64_t incoming_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<v1::ExchangeFrame> outgoing_ ABSL_GUARDED_BY(mu_);
  int64_t outgoing_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;                 // outgoing_.front()
  std::optional<absl::Status> closing_ ABSL_GUARDED_BY(mu_);  // to end the stream with, after the last write
  bool closed_ ABSL_GUARDED_BY(mu_) = false;                  // EndStream was called
  absl::Status ended_ ABSL_GUARDED_BY(mu_);                   // what calls return, once it is not OK
  bool aborted_ ABSL_GUARDED_BY(mu_) = false;                 // by this end: at once, not when all is received
};

}  // namespace outrider
