// Wire types <-> the worker's own. Wire types end here; what comes in is checked for shape and range here, and for
// sense (Validate) by whoever knows the model.
#pragma once

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "base/engine_totals.h"
#include "base/trace_context.h"
#include "proto/cluster.pb.h"
#include "proto/common.pb.h"
#include "proto/draft.pb.h"
#include "proto/target.pb.h"
#include "text/tokenizer_definition.h"
#include "worker/engine/drafter.h"
#include "worker/engine/token_stream.h"
#include "worker/sequence/request.h"
#include "worker/sequence/sampling_params.h"
#include "worker/sequence/usage.h"
#include "worker/speculation/draft_source.h"
#include "worker/step/step_result.h"

namespace outrider {

// INVALID_ARGUMENT naming a number that does not fit, or an enum this build does not know.
absl::StatusOr<SamplingParams> ParamsFromProto(const v1::SamplingParams& proto, uint32_t lane);
void ParamsToProto(const SamplingParams& params, v1::SamplingParams* proto);

// INVALID_ARGUMENT naming what can not be: numbers out of range here, the rest by Scheduler::Submit.
absl::StatusOr<Request> RequestFromProto(const v1::Submit& proto, TimePoint received);
// Empty if it is none.
std::optional<TraceContext> TraceFromProto(const v1::TraceContext& trace);
// That the request belongs to; empty if to none.
std::optional<TraceContext> TraceFromProto(const v1::Submit& proto);
void LaneEventToProto(const LaneEvent& event, v1::TargetEvent* proto);

void EngineTotalsToProto(const EngineTotals& totals, v1::EngineTotals* proto);
void UsageToProto(const Usage& usage, v1::Usage* proto);
v1::FinishReason FinishReasonToProto(FinishReason reason);
void LogprobsToProto(const TokenLogprobs& logprobs, v1::TokenLogprobs* proto);
void TokenizerToProto(const text::TokenizerDefinition& definition, v1::TokenizerDefinition* proto);

// Empty for a command without content, or whose parameters do not convert. Token ids are moved out of `proto`.
std::optional<DraftCommand> DraftCommandFromProto(const v1::DraftCommand& proto);
void ProposalToProto(const DraftProposal& proposal, v1::Proposal* proto);
void LoadToProto(const DrafterLoad& load, v1::DraftLoad* proto);

void OpeningToProto(const DraftSource::Opening& opening, v1::DraftCommand* proto);
void AdvanceToProto(const DraftSource::Advance& advance, v1::DraftCommand* proto);
// One proposal a path; one without tokens if there is no path. Numbers that do not fit an int become -1, which nobody
// takes for a position.
void ProposalsFromProto(const v1::Proposal& proto, std::vector<DraftSource::Proposal>& proposals);

}  // namespace outrider
