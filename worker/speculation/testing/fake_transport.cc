#include "worker/speculation/testing/fake_transport.h"

#include <algorithm>
#include <utility>

namespace outrider {

FakeTransport::FakeTransport(const FakeTransportOptions& options, std::unique_ptr<TestDrafter> drafter)
    : options_(options), drafter_(std::move(drafter)), random_(options.seed) {}

TimePoint FakeTransport::NextEvent() const {
  return std::min(revive_at_, events_.empty() ? TimePoint::max() : events_.begin()->first);
}

void FakeTransport::AdvanceTo(TimePoint now) {
  while (NextEvent() <= now) {
    if (revive_at_ <= now) {
      now_ = std::max(now_, revive_at_);
      revive_at_ = TimePoint::max();
      connected_ = true;
      ++life_;
      continue;
    }
    now_ = std::max(now_, events_.begin()->first);
    const auto event = std::move(events_.begin()->second);
    events_.erase(events_.begin());
    event();
  }
  now_ = std::max(now_, now);
}

void FakeTransport::Kill() {
  connected_ = false;
  events_.clear();
  arrived_.clear();
  drafter_->Reset();
  if (options_.revive_ms >= 0) revive_at_ = now_ + FromMillis(options_.revive_ms);
}

void FakeTransport::At(TimePoint& last, double extra_ms, std::function<void()> event) {
  const double delay_ms = std::uniform_real_distribution<>(
      options_.delay_ms_min, std::max(options_.delay_ms_min, options_.delay_ms_max))(random_);
  TimePoint when = now_ + FromMillis(delay_ms + extra_ms);
  if (!options_.reorder) when = last = std::max(last, when);
  events_.emplace(when, std::move(event));
}

void FakeTransport::Command(int lookahead, std::function<TestDrafter::Proposals()> run) {
  if (!connected_) return;
  ++num_commands_;
  if (Chance(options_.kill)) {
    Kill();
    return;
  }
  if (Chance(options_.drop)) return;
  for (int copies = Chance(options_.duplicate) ? 2 : 1; copies > 0; --copies) {
    At(last_there_, options_.draft_ms_per_token * lookahead, [this, run] { Answer(run()); });
  }
}

void FakeTransport::Answer(TestDrafter::Proposals proposals) {
  for (Proposal& proposal : proposals) {
    if (Chance(options_.drop)) continue;
    if (Chance(options_.corrupt)) {
      const TokenId noise = static_cast<TokenId>(random_());
      switch (random_() % 3) {
        case 0:
          proposal.epoch ^= 1;
          break;
        case 1:
          proposal.path.base_position ^= noise & 3;
          break;
        default:
          if (!proposal.path.tokens.empty()) proposal.path.tokens[random_() % proposal.path.tokens.size()] ^= noise;
      }
    }
    for (int copies = Chance(options_.duplicate) ? 2 : 1; copies > 0; --copies) {
      At(last_back_, 0, [this, proposal] {
        arrived_.push_back(proposal);
        arrived_.back().arrived = now_;
      });
    }
  }
}

void FakeTransport::Open(const Opening& opening) {
  std::vector<TokenId> tokens(opening.prompt.begin(), opening.prompt.end());
  tokens.insert(tokens.end(), opening.output.begin(), opening.output.end());
  Command(opening.lookahead,
          [this, sequence = opening.sequence, epoch = opening.epoch, tokens, params = *opening.params,
           lookahead = opening.lookahead] { return drafter_->Open(sequence, epoch, tokens, params, lookahead); });
}

void FakeTransport::Commit(const Advance& advance) {
  Command(advance.lookahead,
          [this, sequence = advance.sequence, epoch = advance.epoch, first_position = advance.first_position,
           tokens = std::vector<TokenId>(advance.tokens.begin(), advance.tokens.end()), lookahead = advance.lookahead] {
            return drafter_->Commit(sequence, epoch, first_position, tokens, lookahead);
          });
}

void FakeTransport::Close(SequenceId sequence, uint32_t epoch) {
  Command(0, [this, sequence, epoch] {
    drafter_->Close(sequence, epoch);
    return TestDrafter::Proposals();
  });
}

void FakeTransport::TakeProposals(std::vector<Proposal>& proposals) {
  proposals.insert(proposals.end(), std::make_move_iterator(arrived_.begin()), std::make_move_iterator(arrived_.end()));
  arrived_.clear();
}

}  // namespace outrider
