#include "worker/rpc/grpc_draft_source.h"

#include "worker/rpc/proto_conversions.h"

namespace outrider {

void GrpcDraftSource::Open(const Opening& opening) {
  OpeningToProto(opening, batch_.add_commands());
  if (opening.lookahead > 0) asking_.push_back(opening.sequence);
}

void GrpcDraftSource::Commit(const Advance& advance) {
  AdvanceToProto(advance, batch_.add_commands());
  if (advance.lookahead > 0) asking_.push_back(advance.sequence);
}

void GrpcDraftSource::Close(SequenceId sequence, uint32_t epoch) {
  v1::DraftCommand* const command = batch_.add_commands();
  command->set_sequence(sequence.value);
  command->set_epoch(epoch);
  command->mutable_close();
}

void GrpcDraftSource::Flush() {
  if (batch_.commands().empty()) return;
  link_->Send(std::move(batch_), asking_);
  batch_.Clear();
  asking_.clear();
}

}  // namespace outrider
