// ServerStream is the server's side of one bidirectional call, over gRPC's callback API: one read and one write under
// way at most, any thread may ask for either, and the end is told exactly once.
//
// A derived class says what a message means (OnMessage), what to write next (NextMessage) and what the end frees
// (OnEnd). It is made by Open and lives as long as gRPC or anyone else holds it.
//
// Thread safety: public and protected methods from any thread, also after the end, where they do nothing.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <utility>

#include "base/mutex.h"

namespace outrider {

template <typename Request, typename Response>
class ServerStream : public std::enable_shared_from_this<ServerStream<Request, Response>> {
 public:
  using Reactor = grpc::ServerBidiReactor<Request, Response>;

  virtual ~ServerStream() = default;

  // For the service method to return: the call begins with a read.
  static Reactor* Open(std::shared_ptr<ServerStream> stream) {
    auto* const reactor = new StreamReactor(stream);
    {
      MutexLock lock(stream->mu_);
      stream->reactor_ = reactor;
    }
    stream->Read();
    return reactor;
  }

  // Writes what NextMessage gives, if no write is under way; else it is asked again when that one is done.
  void Write() {
    MutexLock lock(mu_);
    WriteNext();
  }

  // Ends the call, after the write that is under way. Only the first status counts.
  void Finish(grpc::Status status) {
    MutexLock lock(mu_);
    if (reactor_ == nullptr || finishing_) return;
    finishing_ = true;
    status_ = std::move(status);
    if (!writing_) reactor_->Finish(status_);
  }

 protected:
  // Reads one message; OnMessage follows. One at a time: REQUIRES that none is being read.
  void Read() {
    MutexLock lock(mu_);
    if (reactor_ == nullptr || finishing_) return;
    request_.Clear();
    reactor_->StartRead(&request_);
  }

  // A message has come; `request` is this call's to use up. Calls Read for the next, now or later.
  virtual void OnMessage(Request& request) = 0;
  // Fills what is to be written next; false if there is nothing. Called under this stream's lock: it may not call back.
  virtual bool NextMessage(Response* response) = 0;
  // The call is over, whoever ended it. Nothing is called afterwards.
  virtual void OnEnd() = 0;

 private:
  class StreamReactor final : public Reactor {
   public:
    explicit StreamReactor(std::shared_ptr<ServerStream> stream) : stream_(std::move(stream)) {}
    void OnReadDone(bool ok) override {
      if (ok) {
        stream_->OnMessage(stream_->request_);
      } else {
        stream_->Finish(grpc::Status::OK);  // the peer has nothing more to say
      }
    }
    void OnWriteDone(bool ok) override { stream_->WriteIsDone(ok); }
    void OnCancel() override { stream_->Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the call was cancelled")); }
    void OnDone() override {
      {
        MutexLock lock(stream_->mu_);
        stream_->reactor_ = nullptr;
      }
      stream_->OnEnd();
      delete this;
    }

   private:
    const std::shared_ptr<ServerStream> stream_;
  };

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (reactor_ == nullptr || finishing_ || writing_) return;
    response_.Clear();
    if (!NextMessage(&response_)) return;
    writing_ = true;
    reactor_->StartWrite(&response_);
  }

  void WriteIsDone(bool ok) {
    MutexLock lock(mu_);
    writing_ = false;
    if (finishing_) {
      reactor_->Finish(status_);
    } else if (ok) {
      WriteNext();
    }
  }

  Request request_;  // belongs to the read under way, then to OnMessage

  Mutex mu_;
  StreamReactor* reactor_ ABSL_GUARDED_BY(mu_) = nullptr;  // null before Open and after the end
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finishing_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mu_);
  Response response_ ABSL_GUARDED_BY(mu_);
};

}  // namespace outrider
