#include "tests/simulation/fake_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/sequence/stop_condition.h"

namespace outrider::simulation {
namespace {

// Letters that the model writes.
constexpr int kNumLetters = 6;
// One token in so many ends the text.
constexpr int kEndOneIn = 40;

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
  return hash ^ (hash >> 29);
}

bool Contains(const std::vector<TokenId>& ids, TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

uint64_t SaltOf(const std::string& numerics_id) {
  uint64_t hash = 7;
  for (const char c : numerics_id) hash = Mix(hash, static_cast<uint8_t>(c));
  return hash;
}

History::History(absl::Span<const TokenId> prompt, const SamplingParams& params, uint64_t salt)
    : params_(params), salt_(salt), num_prompt_tokens_(static_cast<int>(prompt.size())) {
  for (const TokenId token : prompt) Append(token);
}

void History::Append(TokenId token) {
  hashes_.push_back(Mix(hashes_.empty() ? 1 : hashes_.back(), static_cast<uint64_t>(token) + 1));
  const uint64_t before = penalties_.empty() ? 0 : penalties_.back();
  penalties_.push_back(size() < num_prompt_tokens_ ? 0 : before + Mix(3, static_cast<uint64_t>(token)));
  tokens_.push_back(token);
}

void History::Truncate(int num_tokens) {
  tokens_.resize(num_tokens);
  hashes_.resize(num_tokens);
  penalties_.resize(num_tokens);
}

uint64_t History::State() const {
  uint64_t state = Mix(Mix(Mix(hashes_.back(), params_.seed), params_.lane + 1), salt_);
  if (params_.repetition_penalty != 1.0f) state = Mix(state, penalties_.back());
  return state;
}

TokenId History::Next() const {
  const uint64_t state = Mix(State(), 11);
  const TokenId letter = static_cast<TokenId>('a' + (state >> 8) % kNumLetters);
  if (num_output_tokens() < params_.min_tokens) {
    return Contains(params_.stop_token_ids, letter) ? static_cast<TokenId>('z') : letter;
  }
  return state % kEndOneIn == 0 && Contains(params_.end_token_ids, kEndToken) ? kEndToken : letter;
}

float History::NextLogprob() const { return -0.125f * static_cast<float>(Mix(State(), 13) % 32); }

uint64_t* FakeModel::Slot(const Mirror& mirror, int position) {
  const size_t index = position / options_.block_size;
  if (position < 0 || index >= mirror.blocks.size()) return nullptr;
  const BlockId block = mirror.blocks[index];
  if (block < 0 || block >= options_.num_blocks) return nullptr;
  return &slots_[block * options_.block_size + position % options_.block_size];
}

absl::Status FakeModel::Submit(const StepPlan& plan) {
  RETURN_IF_ERROR(broken_);
  Out out;
  out.result.step = plan.step;
  if (absl::Status status = Run(plan, out.result); !status.ok()) {
    fault_ = status;
    return status;
  }
  out.result.ids_hash = HashIds(out.result.spans);
  int num_rows = 0;
  for (const Span& span : plan.spans) num_rows += span.num_committed_tokens + span.lookahead;
  const double ms = slowness_ * (options_.step_ms + options_.row_ms * num_rows);
  device_free_ = out.done = std::max(device_free_, clock_.Now()) + FromMillis(ms);
  out_.push_back(std::move(out));
  return absl::OkStatus();
}

absl::StatusOr<StepResult> FakeModel::Collect() {
  RETURN_IF_ERROR(broken_);
  if (out_.empty()) return absl::InternalError("no step is out");
  Out out = std::move(out_.front());
  out_.pop_front();
  clock_.AdvanceTo(std::max(clock_.Now(), out.done));
  return std::move(out.result);
}

absl::Status FakeModel::Run(const StepPlan& plan, StepResult& result) {
  const auto wrong = [&](const auto&... what) {
    return absl::InternalError(absl::StrCat("step ", plan.step.value, ": ", what...));
  };
  if (plan.step <= last_step_) return wrong("comes after step ", last_step_.value);
  last_step_ = plan.step;
  for (const SequenceId sequence : plan.ends) {
    if (mirrors_.erase(sequence) == 0) return wrong("ends sequence ", sequence.value, ", which is not mirrored");
  }
  for (const SequenceStart& start : plan.starts) {
    Mirror mirror{.history = History(start.prompt, start.params, options_.salt), .blocks = {}};
    for (const TokenId token : start.output) mirror.history.Append(token);
    if (!mirrors_.emplace(start.sequence, std::move(mirror)).second) {
      return wrong("starts sequence ", start.sequence.value, " twice");
    }
  }
  for (const Span& span : plan.spans) {
    result.spans.emplace_back();
    if (absl::Status status = RunSpan(span, result.spans.back()); !status.ok()) {
      return wrong("sequence ", span.sequence.value, ": ", status.message());
    }
  }
  return absl::OkStatus();
}

absl::Status FakeModel::RunSpan(const Span& span, SpanResult& result) {
  const auto wrong = [&](const auto&... what) { return absl::InternalError(absl::StrCat(what...)); };
  result.sequence = span.sequence;
  const auto found = mirrors_.find(span.sequence);
  if (found == mirrors_.end()) return wrong("has no mirror");
  Mirror& mirror = found->second;
  History& history = mirror.history;
  if (static_cast<int>(mirror.blocks.size()) < span.first_block_index) return wrong("has a hole in its blocks");
  mirror.blocks.resize(span.first_block_index);
  mirror.blocks.insert(mirror.blocks.end(), span.blocks.begin(), span.blocks.end());
  if (mirror.finished) return span.predecessor == StepId() ? wrong("is finished") : absl::OkStatus();

  const int num_committed = history.size();
  ResolvedSpan resolved = ResolveSpan(span, history.tokens());
  if (options_.sabotage == Sabotage::kSkipsRollback && span.predecessor == StepId()) {
    resolved.first_position += mirror.num_rejected;
  }
  const int end = resolved.first_position + resolved.num_committed_tokens;
  if (end > num_committed) return wrong("a span ends at ", end, " beyond its ", num_committed, " tokens");
  if (span.samples != (end == num_committed)) return wrong("samples before its end");
  for (int p = 0; p < resolved.first_position; ++p) {
    const uint64_t* const slot = Slot(mirror, p);
    if (slot == nullptr || *slot != history.hash(p)) return wrong("KV of position ", p, " is not that of its tokens");
  }
  for (int p = resolved.first_position; p < end; ++p) {
    uint64_t* const slot = Slot(mirror, p);
    if (slot == nullptr) return wrong("no block for position ", p);
    *slot = history.hash(p);
  }
  if (!span.samples) return absl::OkStatus();

  // Draft rows are computed whether accepted or not.
  History row = history;
  for (const TokenId token : resolved.draft) {
    if (token < 0 || token >= kVocabSize) return wrong("draft token ", token, " came through");
    row.Append(token);
    uint64_t* const slot = Slot(mirror, row.size() - 1);
    if (slot == nullptr) return wrong("no block for draft position ", row.size() - 1);
    *slot = row.hash(row.size() - 1);
  }
  const SamplingParams& params = history.params();
  result.num_draft_tokens = static_cast<int>(resolved.draft.size());
  for (int i = 0; i <= result.num_draft_tokens && !result.finish.has_value(); ++i) {
    TokenId token = history.Next();
    if (options_.disagreement > 0) {
      const uint64_t chance = Mix(history.hash(history.size() - 1), 77) >> 11;
      if (static_cast<double>(chance) * 0x1.0p-53 < options_.disagreement) token = token == 'q' ? 'r' : 'q';
    }
    const bool has_draft = i < result.num_draft_tokens;
    if (has_draft && i == 0 && options_.sabotage == Sabotage::kAcceptsDraftUnverified) token = resolved.draft[0];
    if (params.num_logprobs >= 0) result.logprobs.push_back({.logprob = history.NextLogprob(), .top = {}});
    history.Append(token);
    result.tokens.push_back(token);
    result.finish = StopsAt(token, history.num_output_tokens(), params);
    if (!has_draft || resolved.draft[i] != token) break;
    ++result.num_accepted;
  }
  mirror.num_rejected = result.num_draft_tokens - result.num_accepted;
  mirror.finished = result.finish.has_value();
  return absl::OkStatus();
}

}  // namespace outrider::simulation
