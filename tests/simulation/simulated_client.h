// SimulatedClient sends one request, reads what comes at its own pace, and compares every id, logprob and byte of text
// with the oracle's as it comes. It may go away, or have no patience.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proto/inference.pb.h"
#include "tests/simulation/oracle.h"
#include "tests/simulation/world.h"

namespace outrider::simulation {

// Where every request ends, exactly once: accepted = complete + retriable + permanent + cancelled + deadline.
enum class Outcome : uint8_t { kOpen, kComplete, kRetriable, kPermanent, kCancelled, kDeadline };

class SimulatedClient {
 public:
  struct Options {
    v1::GenerateRequest request;
    TimePoint start{};
    std::optional<Duration> deadline;
    std::optional<Duration> read_every;    // absent: reads at once
    std::optional<Duration> vanish_after;  // of its start
  };
  // `host` is the process that clients live in.
  SimulatedClient(World& world, Process& host, Process& router, int index, Options options);

  Outcome outcome() const { return outcome_; }
  const absl::Status& status() const { return status_; }
  // Empty until the router told it.
  const std::string& request_name() const { return started_.request_id(); }
  int index() const { return index_; }
  TimePoint ended_at() const { return ended_at_; }
  TimePoint start() const { return options_.start; }
  int num_tokens() const { return num_tokens_; }
  int64_t num_accepted() const { return num_accepted_; }

 private:
  struct Choice {
    OracleAnswer expected;
    size_t num_ids = 0;
    std::string text;
    bool ended = false;
  };
  void Send();
  void ReadLater();
  void OnResponse(const v1::GenerateResponse& response);
  void OnStarted(const v1::Started& started);
  void OnDelta(const v1::Delta& delta);
  void OnFinished(const v1::Finished& finished);
  void End(Outcome outcome, absl::Status status);
  template <typename... Words>
  void Wrong(const Words&... words) {
    world_.Fail("client ", index_, ": ", words...);
  }

  World& world_;
  Process& host_;
  Process& router_;
  const int index_;
  const Options options_;
  StreamPtr stream_;
  v1::Started started_;
  std::vector<Choice> choices_;
  Outcome outcome_ = Outcome::kOpen;
  absl::Status status_;
  TimePoint ended_at_{};
  int num_tokens_ = 0;
  int64_t num_accepted_ = 0;
};

}  // namespace outrider::simulation
