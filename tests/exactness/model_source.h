// A draft worker without its process: the drafter over a draft model, run to its end at each flush.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "worker/engine/drafter.h"
#include "worker/model/loaded_model.h"
#include "worker/model/model_runner.h"
#include "worker/parallel/single_communicator.h"
#include "worker/speculation/draft_source.h"

namespace outrider {

class ModelSource final : public DraftSource {
 public:
  // `model` is loaded with one rank and outlives this. `num_blocks` of 16 positions: few make it evict.
  ModelSource(const LoadedModel& model, int num_blocks);
  ~ModelSource() override;

  uint64_t connection() const override { return 1; }
  void Open(const Opening& opening) override;
  void Commit(const Advance& advance) override;
  void Close(SequenceId sequence, uint32_t epoch) override;
  void Flush() override;
  void TakeProposals(std::vector<Proposal>& proposals) override;

 private:
  class Client;
  SystemClock clock_;
  SingleCommunicator communicator_;
  MetricsRegistry registry_;
  DrafterMetrics metrics_;
  std::unique_ptr<ModelRunner> runner_;
  std::unique_ptr<Drafter> drafter_;
  std::shared_ptr<Client> client_;
  DraftClientId client_id_ = 0;
  std::vector<DraftCommand> commands_;
};

}  // namespace outrider
