#include "tests/exactness/model_source.h"

#include "base/status_macros.h"

namespace outrider {

class ModelSource::Client final : public DraftClient {
 public:
  void Send(std::vector<DraftProposal> proposals, const DrafterLoad*) override {
    for (DraftProposal& proposal : proposals) {
      proposals_.push_back({SequenceId(proposal.sequence), proposal.epoch, std::move(proposal.path)});
    }
  }
  void BatchesTaken(int) override {}
  std::vector<Proposal> proposals_;
};

ModelSource::ModelSource(const LoadedModel& model, int num_blocks)
    : metrics_(registry_), client_(std::make_shared<Client>()) {
  constexpr int kBlockSize = 16, kMaxStepTokens = 64, kMaxSequences = 16;
  auto runner = model.CreateRunner({.communicator = &communicator_,
                                    .num_kv_blocks = num_blocks,
                                    .block_size = kBlockSize,
                                    .max_step_tokens = kMaxStepTokens,
                                    .max_sequences = kMaxSequences});
  CHECK(runner.ok());
  runner_ = *std::move(runner);
  drafter_ = std::make_unique<Drafter>(Drafter::Options{.vocab_size = model.config().vocab_size,
                                                        .max_model_len = model.max_model_len(),
                                                        .max_sequences = kMaxSequences,
                                                        .block_size = kBlockSize,
                                                        .num_blocks = num_blocks,
                                                        .max_step_tokens = kMaxStepTokens,
                                                        .lease = std::chrono::minutes(10)},
                                       *runner_, clock_, metrics_);
  const auto id = drafter_->Attach(client_);
  CHECK(id.ok());
  client_id_ = *id;
}

ModelSource::~ModelSource() = default;

void ModelSource::Open(const Opening& opening) {
  DraftOpen open{{opening.prompt.begin(), opening.prompt.end()},
                 {opening.output.begin(), opening.output.end()},
                 *opening.params,
                 opening.lookahead};
  commands_.push_back({opening.sequence.value, opening.epoch, std::move(open)});
}

void ModelSource::Commit(const Advance& advance) {
  DraftCommit commit{advance.first_position, {advance.tokens.begin(), advance.tokens.end()}, advance.lookahead};
  commands_.push_back({advance.sequence.value, advance.epoch, std::move(commit)});
}

void ModelSource::Close(SequenceId sequence, uint32_t epoch) {
  commands_.push_back({sequence.value, epoch, DraftClose{}});
}

void ModelSource::Flush() {
  CHECK(drafter_->Post(client_id_, std::exchange(commands_, {})).ok());
  while (true) {
    const auto busy = drafter_->RunTurn();
    CHECK(busy.ok());
    if (!*busy) break;
  }
}

void ModelSource::TakeProposals(std::vector<Proposal>& proposals) {
  proposals.insert(proposals.end(), client_->proposals_.begin(), client_->proposals_.end());
  client_->proposals_.clear();
}

}  // namespace outrider
