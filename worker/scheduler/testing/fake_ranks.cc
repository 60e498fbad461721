#include "worker/scheduler/testing/fake_ranks.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/sequence/stop_condition.h"

namespace outrider {
namespace {

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
  return hash ^ (hash >> 29);
}

TokenId Choose(uint64_t hash, const SamplingParams& params, int vocab_size) {
  return static_cast<TokenId>(Mix(Mix(hash, params.seed), params.lane + 1) % vocab_size);
}

}  // namespace

FakeRanks::FakeRanks(const Options& options)
    : options_(options), slots_(static_cast<size_t>(options.num_blocks) * options.block_size) {}

TokenId FakeRanks::NextToken(absl::Span<const TokenId> tokens, const SamplingParams& params, int vocab_size) {
  uint64_t hash = 1;
  for (const TokenId token : tokens) hash = Mix(hash, token);
  return Choose(hash, params, vocab_size);
}

std::vector<TokenId> FakeRanks::Output(const std::vector<TokenId>& prompt, const SamplingParams& params,
                                       int vocab_size) {
  uint64_t hash = 1;
  for (const TokenId token : prompt) hash = Mix(hash, token);
  std::vector<TokenId> output;
  do {
    output.push_back(Choose(hash, params, vocab_size));
    hash = Mix(hash, output.back());
  } while (!StopsAt(output.back(), static_cast<int>(output.size()), params).has_value());
  return output;
}

void FakeRanks::Mirror::Append(TokenId token) {
  hashes.push_back(Mix(hashes.empty() ? 1 : hashes.back(), token));
  tokens.push_back(token);
}

uint64_t* FakeRanks::Slot(const Mirror& mirror, int position) {
  const size_t index = position / options_.block_size;
  if (position < 0 || index >= mirror.blocks.size()) return nullptr;
  return &slots_[mirror.blocks[index] * options_.block_size + position % options_.block_size];
}

absl::StatusOr<StepResult> FakeRanks::Run(const StepPlan& plan) {
  const auto wrong = [&](const auto&... what) {
    return absl::InternalError(absl::StrCat("step ", plan.step.value, ": ", what...));
  };
  if (plan.step <= last_step_) return wrong("comes after step ", last_step_.value);
  last_step_ = plan.step;
  for (const SequenceId sequence : plan.ends) {
    if (mirrors_.erase(sequence) == 0) return wrong("ends sequence ", sequence.value, ", which is not mirrored");
    ended_.push_back(sequence);
  }
  for (const SequenceStart& start : plan.starts) {
    if (std::find(ended_.begin(), ended_.end(), start.sequence) != ended_.end()) {
      return wrong("starts sequence ", start.sequence.value, " again");
    }
    Mirror mirror{.params = start.params, .num_prompt_tokens = static_cast<int>(start.prompt.size())};
    for (const TokenId token : start.prompt) mirror.Append(token);
    for (const TokenId token : start.output) mirror.Append(token);
    if (!mirrors_.emplace(start.sequence, std::move(mirror)).second) {
      return wrong("starts sequence ", start.sequence.value, " twice");
    }
  }
  StepResult result{.step = plan.step};
  std::set<SequenceId> sequences;
  int num_tokens = 0;
  for (const Span& span : plan.spans) {
    if (!sequences.insert(span.sequence).second) return wrong("two spans of sequence ", span.sequence.value);
    num_tokens += span.num_committed_tokens + span.lookahead;
    if (absl::Status status = CheckReads(span); !status.ok()) {
      return wrong("sequence ", span.sequence.value, ": ", status.message());
    }
  }
  written_.clear();
  for (const Span& span : plan.spans) {
    SpanResult& span_result = result.spans.emplace_back();
    span_result.sequence = span.sequence;
    if (absl::Status status = RunSpan(span, span_result); !status.ok()) {
      return wrong("sequence ", span.sequence.value, ": ", status.message());
    }
  }
  if (num_tokens > options_.max_step_tokens) return wrong(num_tokens, " tokens, more than a step may have");
  if (static_cast<int>(sequences.size()) > options_.max_sequences) return wrong(sequences.size(), " sequences");
  result.ids_hash = HashIds(result.spans);
  return result;
}

// Spans of a step run together: what one reads was written by a step before.
absl::Status FakeRanks::CheckReads(const Span& span) {
  const auto wrong = [&](const auto&... what) { return absl::InternalError(absl::StrCat(what...)); };
  const auto found = mirrors_.find(span.sequence);
  if (found == mirrors_.end()) return wrong("is not mirrored");
  Mirror& mirror = found->second;
  if (span.first_block_index < 0 || span.first_block_index > static_cast<int>(mirror.blocks.size())) {
    return wrong("block table entries from ", span.first_block_index, " on; it has ", mirror.blocks.size());
  }
  // Entries that are not named stand, those beyond the named ones included: they may have been given back.
  for (size_t i = 0; i < span.blocks.size(); ++i) {
    if (span.blocks[i] < 0 || span.blocks[i] >= options_.num_blocks) return wrong("block ", span.blocks[i]);
    const size_t index = span.first_block_index + i;
    if (index == mirror.blocks.size()) mirror.blocks.push_back(0);
    mirror.blocks[index] = span.blocks[i];
  }
  if (mirror.finished) return absl::OkStatus();

  const int num_tokens = static_cast<int>(mirror.tokens.size());
  const ResolvedSpan resolved = ResolveSpan(span, mirror.tokens);
  const int first = resolved.first_position;
  const int end = first + resolved.num_committed_tokens;
  if (first < 0 || resolved.num_committed_tokens < 1 || end > num_tokens || span.samples != (end == num_tokens) ||
      (span.lookahead > 0 && !span.samples) || first < span.first_position) {
    return wrong("span [", first, ", ", end, ") of ", num_tokens, " tokens");
  }
  for (int position = 0; position < first; ++position) {
    const uint64_t* slot = Slot(mirror, position);
    if (slot == nullptr || *slot != mirror.hashes[position]) {
      return wrong("the KV at position ", position, " is not its own");
    }
  }
  return absl::OkStatus();
}

absl::Status FakeRanks::RunSpan(const Span& span, SpanResult& result) {
  const auto wrong = [&](const auto&... what) { return absl::InternalError(absl::StrCat(what...)); };
  Mirror& mirror = mirrors_.find(span.sequence)->second;
  if (mirror.finished) return absl::OkStatus();
  const int num_tokens = static_cast<int>(mirror.tokens.size());
  const ResolvedSpan resolved = ResolveSpan(span, mirror.tokens);
  const int first = resolved.first_position;
  const int end = first + resolved.num_committed_tokens;
  uint64_t hash = first == 0 ? 1 : mirror.hashes[first - 1];
  const auto write = [&](int position, TokenId token) {
    hash = Mix(hash, token);
    uint64_t* slot = Slot(mirror, position);
    if (slot == nullptr || !written_.insert(slot).second) return false;
    *slot = hash;
    return true;
  };
  for (int position = first; position < end; ++position) {
    if (!write(position, mirror.tokens[position])) return wrong("no block of its own for position ", position);
  }
  if (!span.samples) return absl::OkStatus();

  const int num_draft_tokens = static_cast<int>(resolved.draft.size());
  result.num_draft_tokens = num_draft_tokens;
  std::vector<TokenId> targets = {Choose(hash, mirror.params, options_.vocab_size)};
  for (int i = 0; i < num_draft_tokens; ++i) {
    const TokenId token = resolved.draft[i];
    if (token < 0 || token >= options_.vocab_size) return wrong("draft token ", token);
    if (!write(end + i, token)) return wrong("no block of its own for draft position ", end + i);
    targets.push_back(Choose(hash, mirror.params, options_.vocab_size));
  }
  for (int i = 0; i <= num_draft_tokens; ++i) {
    const bool is_draft = i < num_draft_tokens;
    bool accepts = is_draft && resolved.draft[i] == targets[i];
    if (options_.fault == Fault::kAcceptsFirstDraftTokenUnverified && is_draft && i == 0) accepts = true;
    const TokenId token = accepts ? resolved.draft[i] : targets[i];
    result.num_accepted += accepts;
    result.tokens.push_back(token);
    if (options_.fault != Fault::kForgetsTargetToken || accepts || num_draft_tokens == 0) mirror.Append(token);
    result.finish = StopsAt(token, num_tokens + i + 1 - mirror.num_prompt_tokens, mirror.params);
    if (result.finish.has_value()) mirror.finished = true;
    if (!accepts || mirror.finished) break;
  }
  return absl::OkStatus();
}

}  // namespace outrider
