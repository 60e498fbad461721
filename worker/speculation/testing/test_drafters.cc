#include "worker/speculation/testing/test_drafters.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace outrider {

TestDrafter::Proposals TestDrafter::Open(SequenceId sequence, uint32_t epoch, std::vector<TokenId> tokens,
                                         const SamplingParams& params, int lookahead) {
  Known& known = sequences_[sequence];
  known = {epoch, std::move(tokens), params};
  return lookahead > 0 ? Draft(sequence, known, lookahead) : Proposals();
}

TestDrafter::Proposals TestDrafter::Commit(SequenceId sequence, uint32_t epoch, int first_position,
                                           absl::Span<const TokenId> tokens, int lookahead) {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end() || found->second.epoch != epoch) return {};
  std::vector<TokenId>& known = found->second.tokens;
  if (first_position < 0 || first_position > static_cast<int>(known.size())) return {};
  known.resize(first_position);
  known.insert(known.end(), tokens.begin(), tokens.end());
  return lookahead > 0 ? Draft(sequence, found->second, lookahead) : Proposals();
}

void TestDrafter::Close(SequenceId sequence, uint32_t epoch) {
  const auto found = sequences_.find(sequence);
  if (found != sequences_.end() && found->second.epoch == epoch) sequences_.erase(found);
}

namespace {

class SyntheticDrafter final : public TestDrafter {
 public:
  SyntheticDrafter(NextTokenFunction next_token, double acceptance, int vocab_size, uint64_t seed, int extra)
      : next_token_(std::move(next_token)),
        acceptance_(acceptance),
        vocab_size_(vocab_size),
        extra_(extra),
        random_(seed) {}

 private:
  Proposals Draft(SequenceId sequence, const Known& known, int lookahead) override {
    std::vector<TokenId> tokens = known.tokens;
    for (int i = 0; i < lookahead + extra_; ++i) {
      TokenId token = next_token_(tokens, known.params);
      if (std::uniform_real_distribution<>()(random_) >= acceptance_) token = (token + 1) % vocab_size_;
      tokens.push_back(token);
    }
    const int base = static_cast<int>(known.tokens.size());
    return {{sequence, known.epoch, {base, {tokens.begin() + base, tokens.end()}}}};
  }

  const NextTokenFunction next_token_;
  const double acceptance_;
  const int vocab_size_;
  const int extra_;
  std::mt19937_64 random_;
};

class RandomDrafter final : public TestDrafter {
 public:
  RandomDrafter(int vocab_size, uint64_t seed) : vocab_size_(vocab_size), random_(seed) {}

 private:
  Proposals Draft(SequenceId sequence, const Known& known, int lookahead) override {
    DraftPath path{static_cast<int>(known.tokens.size()), std::vector<TokenId>(random_() % (lookahead + 1))};
    for (TokenId& token : path.tokens) token = static_cast<TokenId>(random_() % vocab_size_);
    return {{sequence, known.epoch, std::move(path)}};
  }

  const int vocab_size_;
  std::mt19937_64 random_;
};

class AdversarialDrafter final : public TestDrafter {
 public:
  AdversarialDrafter(int vocab_size, uint64_t seed) : vocab_size_(vocab_size), random_(seed) {}

 private:
  Proposals Draft(SequenceId sequence, const Known& known, int lookahead) override {
    const int base = static_cast<int>(known.tokens.size());
    DraftSource::Proposal proposal{sequence, known.epoch, {base, std::vector<TokenId>(lookahead, 1)}};
    std::vector<TokenId>& tokens = proposal.path.tokens;
    switch (random_() % 12) {
      case 0:
        tokens[random_() % tokens.size()] = -1;
        break;
      case 1:
        tokens[random_() % tokens.size()] = vocab_size_;
        break;
      case 2:
        tokens[0] = std::numeric_limits<TokenId>::max();
        break;
      case 3:
        tokens.assign(1000000, 1);
        break;
      case 4:
        proposal.epoch += static_cast<uint32_t>(random_());
        break;
      case 5:
        proposal.path.base_position = -static_cast<int>(random_() % 1000);
        break;
      case 6:
        proposal.path.base_position = base + 1 + static_cast<int>(random_() % 1000);
        break;
      case 7:
        proposal.path.base_position = std::numeric_limits<int>::max();
        break;
      case 8:
        proposal.sequence = SequenceId(random_());
        break;
      case 9:
        proposal.path.base_position = static_cast<int>(random_() % (base + 1));  // contradicts what is committed
        break;
      case 10:
        return Proposals(100, proposal);
      default:
        return {};
    }
    return {std::move(proposal)};
  }

  const int vocab_size_;
  std::mt19937_64 random_;
};

}  // namespace

std::unique_ptr<TestDrafter> MakeSyntheticDrafter(NextTokenFunction next_token, double acceptance, int vocab_size,
                                                  uint64_t seed, int extra) {
  return std::make_unique<SyntheticDrafter>(std::move(next_token), acceptance, vocab_size, seed, extra);
}

std::unique_ptr<TestDrafter> MakeOracleDrafter(NextTokenFunction next_token, int extra) {
  return MakeSyntheticDrafter(std::move(next_token), 1.0, 1, 0, extra);
}

std::unique_ptr<TestDrafter> MakeRandomDrafter(int vocab_size, uint64_t seed) {
  return std::make_unique<RandomDrafter>(vocab_size, seed);
}

std::unique_ptr<TestDrafter> MakeAdversarialDrafter(int vocab_size, uint64_t seed) {
  return std::make_unique<AdversarialDrafter>(vocab_size, seed);
}

}  // namespace outrider
