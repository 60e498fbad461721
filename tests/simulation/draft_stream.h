// DraftStream is a target group's end of its stream to one draft worker: what worker/rpc/draft_link does with a thread
// and gRPC, done with events. DraftStreamSource is the DraftSource that the engine speaks to.
//
// Thread safety: none.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "proto/draft.pb.h"
#include "tests/simulation/world.h"
#include "worker/speculation/draft_source.h"

namespace outrider::simulation {

inline constexpr char kDraftService[] = "draft";
inline constexpr char kTokenizerFingerprint[] = "letters";

class DraftStream : public std::enable_shared_from_this<DraftStream> {
 public:
  struct Options {
    std::string address;
    std::string target_id;
    uint64_t incarnation = 0;
    int vocab_size = 0;
    std::function<void()> wake;
  };
  static std::shared_ptr<DraftStream> Start(World& world, Process& process, Options options);

  void Stop();
  uint64_t connection() const { return connection_; }
  bool runs_ahead() const { return connection_ != 0 && runs_ahead_; }
  void Send(v1::DraftCommandBatch batch);
  void TakeProposals(std::vector<DraftSource::Proposal>& proposals);
  // The most that ever waited, for the checker of bounds.
  size_t num_incoming_max() const { return num_incoming_max_; }

 private:
  DraftStream(World& world, Process& process, Options options)
      : world_(world), process_(process), options_(std::move(options)) {}
  void Connect();
  void OnEvents(const v1::DraftEvents& events);
  void OnClosed();
  void WriteNext();

  World& world_;
  Process& process_;
  const Options options_;
  StreamPtr stream_;
  bool stopped_ = false;
  bool writing_ = false;
  uint64_t last_connection_ = 0;
  uint64_t connection_ = 0;
  bool runs_ahead_ = false;
  TimePoint began_{};
  Duration backoff_{};
  v1::DraftCommandBatch outgoing_;
  std::vector<DraftSource::Proposal> incoming_;
  size_t num_incoming_max_ = 0;
};

class DraftStreamSource final : public DraftSource {
 public:
  explicit DraftStreamSource(std::shared_ptr<DraftStream> stream) : stream_(std::move(stream)) {}

  uint64_t connection() const override { return stream_->connection(); }
  bool runs_ahead() const override { return stream_->runs_ahead(); }
  void Open(const Opening& opening) override;
  void Commit(const Advance& advance) override;
  void Close(SequenceId sequence, uint32_t epoch) override;
  void Flush() override;
  void TakeProposals(std::vector<Proposal>& proposals) override { stream_->TakeProposals(proposals); }

 private:
  const std::shared_ptr<DraftStream> stream_;
  v1::DraftCommandBatch batch_;
};

}  // namespace outrider::simulation
