// DraftLink is one target group's stream to one draft worker: it connects, says hello, checks the answer, carries
// commands out and proposals in, and connects again with back-off when the stream is lost. Its own thread does the
// connecting; nothing in it blocks a caller but Stop.
//
// A peer is pinged kDraftPingInterval apart; one that says nothing for kDraftSilenceMax stands still, and its stream is
// given up like one that was lost. A peer of an older life than the router named is refused.
//
// Both directions are bounded. What does not fit, or has no peer to go to, is dropped and counted; the draft session
// notices a silence and opens its sequence anew.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "proto/draft.pb.h"
#include "security/link_security.h"
#include "worker/speculation/draft_source.h"

namespace outrider {

// What a target group's draft streams count, all links together. The round trip is that of the wire and the draft
// worker, from a command that asks to its proposal's arrival.
inline constexpr Duration kDraftPingInterval = std::chrono::milliseconds(250);
inline constexpr Duration kDraftSilenceMax = std::chrono::milliseconds(1500);

struct DraftLinkMetrics {
  explicit DraftLinkMetrics(MetricsRegistry& registry);
  Histogram round_trip_seconds;
  Counter connections;
  Counter connections_lost;
  Counter refusals;
  Counter commands_dropped;
  Counter proposals_dropped;
};

class DraftLink : public std::enable_shared_from_this<DraftLink> {
 public:
  struct Options {
    std::string address;  // HOST:PORT or unix:PATH
    // How to show who this is; outlives this. Null: openly.
    const LinkSecurity* security = nullptr;
    // Of the target, said in the hello.
    std::string target_id;
    uint64_t incarnation = 0;
    std::string model;
    std::string tokenizer_fingerprint;
    int vocab_size = 0;
    int max_lookahead = 0;
    // Of the draft worker, at least; 0: any.
    uint64_t worker_incarnation = 0;
    // Called when proposals came, or the connection did or went; may not block.
    std::function<void()> wake;
  };
  // `metrics` outlives the link.
  static std::shared_ptr<DraftLink> Start(Options options, DraftLinkMetrics& metrics);
  ~DraftLink();
  DraftLink(const DraftLink&) = delete;
  DraftLink& operator=(const DraftLink&) = delete;

  // Ends the stream and the thread; waits for both. Idempotent.
  void Stop();

  // 0 while there is no peer; another number for each connection.
  uint64_t connection() const;
  const std::string& address() const { return options_.address; }
  // Who the peer says it is, and what is measured; connected is false while there is none.
  struct Status {
    bool connected = false;
    bool runs_ahead = false;
    std::string worker_id;
    uint64_t incarnation = 0;
    double round_trip_ms = 0;  // 0: not measured yet
  };
  Status status() const;

  // Sends one batch, or drops it. `asking` are the sequences that were asked for a draft in it.
  void Send(v1::DraftCommandBatch batch, const std::vector<SequenceId>& asking);
  void TakeProposals(std::vector<DraftSource::Proposal>& proposals);

 private:
  class Call;

  DraftLink(Options options, DraftLinkMetrics& metrics);
  void Run();
  // One life of the stream; returns when it is over. True if the peer answered the hello.
  bool RunConnection();
  // Empty if the peer may be used.
  std::string Objection(const v1::DraftHello& hello) const;
  void OnHello(const v1::DraftHello& hello);
  void OnBatch(const v1::DraftEventBatch& batch);
  void OnPong(const v1::Pong& pong);
  // Pings when it is time; gives up a peer that is silent. Returns when the call is over.
  void Watch(Call& call);
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  DraftLinkMetrics& metrics_;
  std::thread thread_;

  mutable Mutex mu_;
  CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  Call* call_ ABSL_GUARDED_BY(mu_) = nullptr;  // the open stream; owned by RunConnection
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t last_connection_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t connection_ ABSL_GUARDED_BY(mu_) = 0;
  v1::DraftCommandBatch outgoing_ ABSL_GUARDED_BY(mu_);
  int64_t num_outgoing_tokens_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<DraftSource::Proposal> incoming_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<SequenceId, TimePoint> asked_ ABSL_GUARDED_BY(mu_);
  Status status_ ABSL_GUARDED_BY(mu_);
  TimePoint heard_ ABSL_GUARDED_BY(mu_){};
  bool ping_due_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t last_ping_ ABSL_GUARDED_BY(mu_) = 0;
  TimePoint pinged_ ABSL_GUARDED_BY(mu_){};
  std::string objection_ ABSL_GUARDED_BY(mu_);     // of this end, to the peer of this connection
  std::string last_trouble_ ABSL_GUARDED_BY(mu_);  // that was logged
};

}  // namespace outrider
