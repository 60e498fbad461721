// Wire types to router types and back. Messages end here: what they may lack or lie about is checked by the types they
// become (request_validation, worker_registry, text::MakeTokenizer).
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/trace_context.h"
#include "proto/cluster.pb.h"
#include "proto/inference.pb.h"
#include "proto/target.pb.h"
#include "router/generate_relay.h"
#include "router/request.h"
#include "router/worker_registry.h"
#include "text/tokenizer_definition.h"

namespace outrider::router {

// Views into `request`, which outlives the result.
RequestInput ViewOf(const v1::GenerateRequest& request);
std::vector<RequestInput::ChatMessage> ViewOf(const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages);

// Lanes with the ids delivered so far; fields of the attempt (request_id, attempt, deadline_ms, trace) are the
// caller's.
v1::Submit ToSubmit(const ResolvedRequest& request, const GenerateRelay& relay);

void ToProto(const TraceContext& context, v1::TraceContext* proto);

// Fills `response` with logprobs of the prompt, a delta or an end. `event` is left empty.
void ToProto(ClientEvent& event, const std::string& numerics_id, v1::GenerateResponse* response);

std::vector<RelayedLogprobs> FromProto(const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& logprobs);
LaneUsage FromProto(const v1::Usage& usage);
// INTERNAL for a reason that does not exist.
absl::StatusOr<EndReason> FromProto(v1::FinishReason reason);
// LaneFailed's code and message. A code that does not exist, or OK, is INTERNAL.
absl::Status FromProto(const v1::LaneFailed& failed);

// Numbers beyond int are taken as the greatest int.
GroupReport ToGroupReport(const v1::HeartbeatRequest& request);
DraftWorkerReport ToDraftWorkerReport(const v1::HeartbeatRequest& request);

// INVALID_ARGUMENT if token_types is neither empty nor one byte a token. Consumes `definition`.
absl::StatusOr<text::TokenizerDefinition> FromProto(v1::TokenizerDefinition&& definition);

}  // namespace outrider::router
