// FakeTransport is a DraftSource over a link that is as bad as asked for, between here and a drafter in this process:
// messages are delayed, reordered, dropped, doubled and corrupted, and the peer dies and comes back, all by seed and by
// the time it is told.
//
// Thread safety: none.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "base/clock.h"
#include "worker/speculation/draft_source.h"
#include "worker/speculation/testing/test_drafters.h"

namespace outrider {

struct FakeTransportOptions {
  uint64_t seed = 0;
  double delay_ms_min = 0;  // each way
  double delay_ms_max = 0;
  double draft_ms_per_token = 0;  // what the drafter takes
  // Chances, for each message.
  double drop = 0;
  double duplicate = 0;
  double corrupt = 0;  // a proposal's token, epoch or position changes
  double kill = 0;     // for each command: everything on the way and in the drafter is lost
  bool reorder = false;
  double revive_ms = 50;  // a killed peer is back after so long; negative: never
};

class FakeTransport final : public DraftSource {
 public:
  FakeTransport(const FakeTransportOptions& options, std::unique_ptr<TestDrafter> drafter);

  // Lets everything happen that is due. Time never goes back.
  void AdvanceTo(TimePoint now);
  // When something is due next; max(): nothing is.
  TimePoint NextEvent() const;
  void Kill();

  const TestDrafter& drafter() const { return *drafter_; }
  int num_commands() const { return num_commands_; }

  uint64_t connection() const override { return connected_ ? life_ : 0; }
  void Open(const Opening& opening) override;
  void Commit(const Advance& advance) override;
  void Close(SequenceId sequence, uint32_t epoch) override;
  void Flush() override {}
  void TakeProposals(std::vector<Proposal>& proposals) override;

 private:
  bool Chance(double chance) { return std::uniform_real_distribution<>()(random_) < chance; }
  void Command(int lookahead, std::function<TestDrafter::Proposals()> run);
  void At(TimePoint& last, double extra_ms, std::function<void()> event);
  void Answer(TestDrafter::Proposals proposals);

  const FakeTransportOptions options_;
  const std::unique_ptr<TestDrafter> drafter_;
  std::mt19937_64 random_;
  std::multimap<TimePoint, std::function<void()>> events_;
  std::vector<Proposal> arrived_;
  TimePoint now_{};
  TimePoint last_there_{};  // when the last message each way arrives: order is kept unless reorder
  TimePoint last_back_{};
  TimePoint revive_at_ = TimePoint::max();
  bool connected_ = true;
  uint64_t life_ = 1;
  int num_commands_ = 0;
};

}  // namespace outrider
