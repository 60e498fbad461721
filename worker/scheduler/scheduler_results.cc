// What the results of steps do to the scheduler: tokens committed, rolled back or told, sequences ended.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/scheduler/scheduler.h"
#include "worker/scheduler/scheduler_entry.h"

namespace outrider {

absl::Status Scheduler::ApplyResult(const StepResult& result, TimePoint now) {
  CHECK(num_outstanding_ > 0);
  Outstanding& step = *steps_[0];
  const StepPlan& plan = step.plan;
  if (result.step != plan.step || result.spans.size() != plan.spans.size()) {
    return absl::InternalError(absl::StrCat("a result of step ", result.step.value, " with ", result.spans.size(),
                                            " spans; step ", plan.step.value, " has ", plan.spans.size()));
  }
  int num_rows = 0;
  for (size_t i = 0; i < plan.spans.size(); ++i) {
    const Span& span = plan.spans[i];
    RETURN_IF_ERROR(ApplySpan(span, result.spans[i], step, static_cast<int>(i)));
    if (IsDiscarded(span, result.spans[i])) {
      stats_.num_discarded_tokens += span.num_committed_tokens;
    } else {
      num_rows += span.num_committed_tokens + std::max(0, result.spans[i].num_draft_tokens);
    }
  }
  // With a step before it in the way, a step began when that one ended.
  const double milliseconds = ToMillis(now - std::max(step.planned, last_applied_));
  if (num_rows > 0) {
    step_cost_.Observe(num_rows, milliseconds);
    if (step.decode_only) decode_cost_.Observe(num_rows, milliseconds);
  }
  stats_.num_step_tokens += num_rows;
  last_applied_ = now;
  --num_outstanding_;
  std::swap(steps_[0], steps_[1]);
  return absl::OkStatus();
}

// Tells logprobs of the prompt that were not told before: of spans of an earlier incarnation too, whose rows have the
// same bits.
absl::Status Scheduler::ApplyPromptLogprobs(const Span& span, const SpanResult& result, Entry& entry, StepId step) {
  const Sequence& sequence = entry.sequence;
  int num_expected = 0;
  if (sequence.params().num_prompt_logprobs >= 0 && span.predecessor == StepId()) {
    num_expected = std::clamp(sequence.num_prompt_tokens() - 1 - span.first_position, 0, span.num_committed_tokens);
  }
  const int num_given = static_cast<int>(result.prompt_logprobs.size());
  const int num_told = entry.next_prompt_logprob - (span.first_position + 1);
  if (num_given != num_expected || (num_given > 0 && num_told < 0)) {
    return absl::InternalError(absl::StrCat("step ", step.value, ", sequence ", span.sequence.value, ": ", num_given,
                                            " logprobs of prompt tokens from position ", span.first_position + 1,
                                            "; there are ", num_expected, " from ", entry.next_prompt_logprob));
  }
  if (num_given == 0 || num_given <= num_told) return absl::OkStatus();
  SequenceUpdate update{.sequence = span.sequence, .first_prompt_position = entry.next_prompt_logprob};
  update.prompt_logprobs.assign(result.prompt_logprobs.begin() + num_told, result.prompt_logprobs.end());
  update.usage = entry.usage;
  update.queue_time = *entry.queue_time;
  entry.next_prompt_logprob += static_cast<int>(update.prompt_logprobs.size());
  updates_.push_back(std::move(update));
  return absl::OkStatus();
}

// Commits what a span gave. Trusts nothing that the plan and the stop rule do not confirm.
absl::Status Scheduler::ApplySpan(const Span& span, const SpanResult& result, const Outstanding& step, int index) {
  const auto wrong = [&](const auto&... what) {
    return absl::InternalError(
        absl::StrCat("step ", step.plan.step.value, ", sequence ", span.sequence.value, ": ", what...));
  };
  if (result.sequence != span.sequence) return wrong("the result is of sequence ", result.sequence.value);
  const auto found = entries_.find(span.sequence);
  if (found == entries_.end()) return absl::OkStatus();  // it ended meanwhile
  Entry& entry = *found->second;
  Sequence& sequence = entry.sequence;
  const bool is_current = step.notes[index].incarnation == entry.incarnation;
  --(is_current ? entry.num_in_flight : entry.num_stale_in_flight);

  const auto fail_not_finite = [&] {
    Finish(entry, {.sequence = span.sequence,
                   .error = absl::InternalError("the model's logits are not finite (NaN or infinity)")});
    return absl::OkStatus();
  };
  if (result.not_finite && !result.prompt_logprobs.empty()) return fail_not_finite();
  RETURN_IF_ERROR(ApplyPromptLogprobs(span, result, entry, step.plan.step));
  if (!span.samples) {
    if (!result.tokens.empty()) return wrong("tokens from a span that does not sample");
    if (is_current) {
      sequence.SetComputed(span.first_position + span.num_committed_tokens);
      kv_.Publish(sequence.tokens(), entry.salt, sequence.num_computed_tokens(), entry.table);
    }
    return absl::OkStatus();
  }
  if (result.not_finite) return fail_not_finite();

  const ResolvedSpan resolved = ResolveSpan(span, sequence.tokens());
  const int num_draft_tokens = static_cast<int>(resolved.draft.size());
  const int num_new_tokens = static_cast<int>(result.tokens.size());
  if (result.num_draft_tokens != num_draft_tokens || result.num_accepted < 0 ||
      result.num_accepted > num_draft_tokens || num_new_tokens < 1 || num_new_tokens > result.num_accepted + 1) {
    return wrong(num_new_tokens, " tokens, ", result.num_accepted, " of ", result.num_draft_tokens,
                 " draft tokens accepted; the plan has ", num_draft_tokens);
  }
  SequenceUpdate update{.sequence = span.sequence, .first_output_index = sequence.num_output_tokens()};
  update.num_draft_tokens = num_draft_tokens;
  update.num_accepted = std::min(result.num_accepted, num_new_tokens);
  update.draft_wait = step.notes[index].draft_wait;
  bool predicted = false;
  for (size_t i = 0; num_draft_tokens > 0 && i < span.paths.size(); ++i) {
    absl::Span<const TokenId> draft = UsableDraft(span.paths[i], sequence.tokens());
    if (draft.data() != resolved.draft.data()) continue;
    update.draft_source = step.notes[index].paths[i].source;
    predicted = step.notes[index].paths[i].predicted;
  }
  std::optional<FinishReason> finish;
  for (int i = 0; i < num_new_tokens; ++i) {
    const TokenId token = result.tokens[i];
    if (token < 0 || token >= options_.vocab_size) return wrong("token id ", token);
    if (i < result.num_accepted && token != resolved.draft[i])
      return wrong("accepted ", token, ", which was not drafted");
    if (finish.has_value()) return wrong("tokens after the one that ends it");
    finish = sequence.Append(token);
  }
  if (finish != result.finish || (!finish.has_value() && num_new_tokens != result.num_accepted + 1)) {
    return wrong("the tokens do not end where the result says");
  }
  update.tokens = result.tokens;
  update.logprobs = result.logprobs;
  (num_draft_tokens > 0 ? entry.usage.rounds : entry.usage.plain_steps) += 1;
  entry.usage.draft_tokens += num_draft_tokens;
  entry.usage.accepted_tokens += update.num_accepted;
  if (num_draft_tokens > 0) {
    entry.usage.longest_draft = std::max(entry.usage.longest_draft, std::min(num_draft_tokens, kMaxRoundDraft));
    ++entry.usage.rounds_by_accepted[std::min(update.num_accepted, kMaxRoundDraft)];
  }
  if (predicted) {
    entry.usage.prediction_tokens += num_draft_tokens;
    entry.usage.accepted_prediction_tokens += update.num_accepted;
  }
  stats_.num_rounds += num_draft_tokens > 0;
  entry.usage.output_tokens = sequence.num_output_tokens();

  if (is_current) {
    const int num_computed = resolved.first_position + resolved.num_committed_tokens + result.num_accepted;
    sequence.SetComputed(std::min(num_computed, sequence.num_tokens()));
    kv_.Publish(sequence.tokens(), entry.salt, sequence.num_computed_tokens(), entry.table);
  }
  if (finish.has_value()) {
    update.finish = finish;
    Finish(entry, std::move(update));
    return absl::OkStatus();
  }
  update.usage = entry.usage;
  update.queue_time = *entry.queue_time;
  updates_.push_back(std::move(update));
  std::erase_if(entry.offers,
                [&](const DraftOffer& offer) { return UsableDraft(offer.path, sequence.tokens()).empty(); });
  if (is_current) {
    // The rollback: the count stands where acceptance ended; blocks beyond it that nobody will write go back.
    entry.num_planned_tokens = sequence.num_computed_tokens();
    kv_.Truncate(entry.table, sequence.num_tokens() + (entry.num_in_flight > 0 ? entry.last_lookahead : 0));
    entry.num_told_blocks = std::min(entry.num_told_blocks, entry.table.num_blocks());
  }
  return absl::OkStatus();
}

}  // namespace outrider
