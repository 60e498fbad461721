// GrpcDraftSource is the engine's end of a DraftLink: what is said in a turn goes out as one message at Flush. It goes
// without ceremony; the link is ended by whoever started it.
//
// Thread safety: as DraftSource.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "worker/rpc/draft_link.h"
#include "worker/speculation/draft_source.h"

namespace outrider {

class GrpcDraftSource final : public DraftSource {
 public:
  explicit GrpcDraftSource(std::shared_ptr<DraftLink> link) : link_(std::move(link)) {}

  uint64_t connection() const override { return link_->connection(); }
  bool runs_ahead() const override { return link_->status().runs_ahead; }
  void Open(const Opening& opening) override;
  void Commit(const Advance& advance) override;
  void Close(SequenceId sequence, uint32_t epoch) override;
  void Flush() override;
  void TakeProposals(std::vector<Proposal>& proposals) override { link_->TakeProposals(proposals); }

 private:
  const std::shared_ptr<DraftLink> link_;
  v1::DraftCommandBatch batch_;  // since the last Flush
  std::vector<SequenceId> asking_;
};

}  // namespace outrider
