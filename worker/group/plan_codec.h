// StepPlan <-> bytes (proto/group.proto), once a step and rank: the codec keeps its messages and buffers, so a steady
// decode step allocates nothing.
//
// What arrives is not trusted: every number is checked before it is used as one of ours.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/group.pb.h"
#include "worker/step/step_plan.h"

namespace outrider {

// What ids of a plan must lie within; 0: not known here, only non-negative is asked.
struct PlanLimits {
  int vocab_size = 0;
  int64_t num_kv_blocks = 0;
  int max_model_len = 0;
};

// Bounds of one plan, well beyond what a scheduler makes (max_sequences spans) and small enough to hold.
inline constexpr int kMaxPlanSpans = 65536;
inline constexpr int kMaxPlanDraftTokens = 1024;  // of a path
inline constexpr int kMaxPlanPaths = 64;          // of a span

// Thread safety: none. One for each direction.
class PlanCodec {
 public:
  explicit PlanCodec(PlanLimits limits = {}) : limits_(limits) {}

  // Appends the plan's bytes to *bytes.
  void Encode(const StepPlan& plan, std::string* bytes);

  // *plan becomes the encoded plan; what it held is reused. On error *plan is unspecified.
  // Errors: INVALID_ARGUMENT naming the field, its place and its value.
  absl::Status Decode(absl::string_view bytes, StepPlan* plan);

 private:
  absl::Status DecodeStart(const v1::SequenceStart& start, SequenceStart* out) const;
  absl::Status DecodeSpan(const v1::Span& span, Span* out) const;
  absl::Status CheckToken(TokenId token, absl::string_view what) const;

  const PlanLimits limits_;
  v1::StepPlan message_;
  std::vector<uint64_t> named_;  // sequences of the spans, to find one named twice
};

}  // namespace outrider
