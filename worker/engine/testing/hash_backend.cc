#include "worker/engine/testing/hash_backend.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/sequence/stop_condition.h"

namespace outrider {
namespace {

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 29);
}

uint64_t HashTokens(absl::Span<const TokenId> tokens) {
  uint64_t hash = 1;
  for (TokenId token : tokens) hash = Mix(hash, static_cast<uint64_t>(token) + 1);
  return hash;
}

}  // namespace

TokenId HashNextToken(absl::Span<const TokenId> tokens, const SamplingParams& params, int vocab_size) {
  return static_cast<TokenId>(Mix(Mix(HashTokens(tokens), params.seed), params.lane) % vocab_size);
}

float HashPromptLogprob(absl::Span<const TokenId> tokens) {
  return -static_cast<float>(Mix(HashTokens(tokens), 5) % 4096) / 256;
}

std::vector<TokenId> HashOutput(const std::vector<TokenId>& prompt, const SamplingParams& params, int vocab_size) {
  std::vector<TokenId> tokens = prompt;
  while (true) {
    tokens.push_back(HashNextToken(tokens, params, vocab_size));
    if (StopsAt(tokens.back(), static_cast<int>(tokens.size() - prompt.size()), params)) break;
  }
  return std::vector<TokenId>(tokens.begin() + prompt.size(), tokens.end());
}

uint64_t* HashBackend::Slot(const Mirror& mirror, int position) {
  const size_t block = position / options_.block_size;
  if (block >= mirror.blocks.size()) return nullptr;
  const BlockId id = mirror.blocks[block];
  if (id < 0 || id >= options_.num_blocks) return nullptr;
  return &kv_[id * options_.block_size + position % options_.block_size];
}

absl::Status HashBackend::Submit(const StepPlan& plan) {
  if (on_submit) RETURN_IF_ERROR(on_submit(plan));
  if (static_cast<int>(results_.size()) > options_.depth) return absl::InternalError("too many steps are out");
  if (plan.step <= last_step_) return absl::InternalError(absl::StrCat("step ", plan.step.value, " is not new"));
  last_step_ = plan.step;
  ++num_steps_;
  for (const SequenceStart& start : plan.starts) {
    Mirror mirror{.start = start, .tokens = start.prompt};
    mirror.tokens.insert(mirror.tokens.end(), start.output.begin(), start.output.end());
    if (!mirrors_.emplace(start.sequence, std::move(mirror)).second) {
      return absl::InternalError(absl::StrCat("sequence ", start.sequence.value, " starts twice"));
    }
  }
  for (SequenceId sequence : plan.ends) {
    if (mirrors_.erase(sequence) == 0) {
      return absl::InternalError(absl::StrCat("sequence ", sequence.value, " ends but never began"));
    }
  }
  StepResult result{.step = plan.step};
  for (const Span& span : plan.spans) {
    result.spans.emplace_back();
    RETURN_IF_ERROR(RunSpan(span, result.spans.back()));
  }
  result.ids_hash = HashIds(result.spans);
  results_.push_back(std::move(result));
  return absl::OkStatus();
}

absl::Status HashBackend::RunSpan(const Span& span, SpanResult& result) {
  result.sequence = span.sequence;
  const auto found = mirrors_.find(span.sequence);
  const auto wrong = [&](auto... words) {
    return absl::InternalError(absl::StrCat("sequence ", span.sequence.value, ": ", words...));
  };
  if (found == mirrors_.end()) return wrong("has no mirror");
  Mirror& mirror = found->second;
  if (static_cast<int>(mirror.blocks.size()) < span.first_block_index) return wrong("a hole in its blocks");
  mirror.blocks.resize(span.first_block_index);
  mirror.blocks.insert(mirror.blocks.end(), span.blocks.begin(), span.blocks.end());
  if (mirror.finished) return span.predecessor == StepId() ? wrong("is finished") : absl::OkStatus();

  const ResolvedSpan resolved = ResolveSpan(span, mirror.tokens);
  const int end = resolved.first_position + resolved.num_committed_tokens;
  if (end > static_cast<int>(mirror.tokens.size())) return wrong("span ends at ", end, " beyond its tokens");
  if (span.samples != (end == static_cast<int>(mirror.tokens.size()))) return wrong("samples before its end");
  for (int p = 0; p < resolved.first_position; ++p) {
    const uint64_t* const slot = Slot(mirror, p);
    if (slot == nullptr || *slot != HashTokens(absl::MakeConstSpan(mirror.tokens).first(p + 1))) {
      return wrong("KV of position ", p, " is not right");
    }
  }
  std::vector<TokenId> row(mirror.tokens.begin(), mirror.tokens.begin() + end);
  row.insert(row.end(), resolved.draft.begin(), resolved.draft.end());
  for (int p = resolved.first_position; p < static_cast<int>(row.size()); ++p) {
    uint64_t* const slot = Slot(mirror, p);
    if (slot == nullptr) return wrong("no block for position ", p);
    *slot = HashTokens(absl::MakeConstSpan(row).first(p + 1));
    ++num_computed_tokens_;
  }
  const SamplingParams& params = mirror.start.params;
  const int num_prompt_tokens = static_cast<int>(mirror.start.prompt.size());
  for (int p = resolved.first_position; params.num_prompt_logprobs >= 0 && p < std::min(end, num_prompt_tokens - 1);
       ++p) {
    result.prompt_logprobs.push_back({.logprob = HashPromptLogprob(absl::MakeConstSpan(mirror.tokens).first(p + 2))});
  }
  if (!span.samples) return absl::OkStatus();

  result.num_draft_tokens = static_cast<int>(resolved.draft.size());
  for (int row_end = end; row_end <= static_cast<int>(row.size()) && !result.finish; ++row_end) {
    const auto prefix = absl::MakeConstSpan(row).first(row_end);
    TokenId token = HashNextToken(prefix, mirror.start.params, options_.vocab_size);
    if (static_cast<int>(Mix(HashTokens(prefix), 77) % 256) < options_.disagreement) {
      token = (token + 1) % options_.vocab_size;
    }
    mirror.tokens.push_back(token);
    result.tokens.push_back(token);
    if (mirror.start.params.num_logprobs >= 0) result.logprobs.push_back({.logprob = -0.5f});
    result.finish =
        StopsAt(token, static_cast<int>(mirror.tokens.size() - mirror.start.prompt.size()), mirror.start.params);
    const bool accepted = row_end < static_cast<int>(row.size()) && row[row_end] == token;
    if (!accepted) break;
    ++result.num_accepted;
  }
  mirror.finished = result.finish.has_value();
  return absl::OkStatus();
}

absl::StatusOr<StepResult> HashBackend::Collect() {
  if (results_.empty()) return absl::InternalError("no step is out");
  StepResult result = std::move(results_.front());
  results_.pop_front();
  if (on_collect) on_collect(result);
  return result;
}

}  // namespace outrider
