// Drafters for tests, the conformance kit of the draft protocol: from perfect to hostile. They know sequences as they
// were told and answer each request at once; delay, loss and death are FakeTransport's.
//
// Thread safety: none.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "absl/types/span.h"
#include "base/ids.h"
#include "worker/sequence/sampling_params.h"
#include "worker/speculation/draft_source.h"

namespace outrider {

// What the target model goes on with after `tokens`.
using NextTokenFunction = std::function<TokenId(absl::Span<const TokenId> tokens, const SamplingParams& params)>;

class TestDrafter {
 public:
  using Proposals = std::vector<DraftSource::Proposal>;

  struct Known {
    uint32_t epoch = 0;
    std::vector<TokenId> tokens;
    SamplingParams params;
  };

  virtual ~TestDrafter() = default;

  // Like DraftSource; what it answers. A commit that leaves a gap or contradicts is met with silence.
  Proposals Open(SequenceId sequence, uint32_t epoch, std::vector<TokenId> tokens, const SamplingParams& params,
                 int lookahead);
  Proposals Commit(SequenceId sequence, uint32_t epoch, int first_position, absl::Span<const TokenId> tokens,
                   int lookahead);
  void Close(SequenceId sequence, uint32_t epoch);
  void Reset() { sequences_.clear(); }
  int num_sequences() const { return static_cast<int>(sequences_.size()); }

 protected:
  virtual Proposals Draft(SequenceId sequence, const Known& known, int lookahead) = 0;

 private:
  std::map<SequenceId, Known> sequences_;
};

// Drafts what the target will say, each token with chance `acceptance`, else another one. 1: the oracle.
// `extra` tokens more than asked for: a drafter that runs ahead.
std::unique_ptr<TestDrafter> MakeSyntheticDrafter(NextTokenFunction next_token, double acceptance, int vocab_size,
                                                  uint64_t seed, int extra = 0);
std::unique_ptr<TestDrafter> MakeOracleDrafter(NextTokenFunction next_token, int extra = 0);

// Random ids of the vocabulary, of random number.
std::unique_ptr<TestDrafter> MakeRandomDrafter(int vocab_size, uint64_t seed);

// Everything a hostile peer may say: ids that are negative or beyond the vocabulary, a million ids, epochs and
// positions that never were, sequences nobody opened, floods, contradictions, silence.
std::unique_ptr<TestDrafter> MakeAdversarialDrafter(int vocab_size, uint64_t seed);

}  // namespace outrider
