#include "worker/speculation/ngram_source.h"

#include <algorithm>

namespace outrider {

absl::Span<const TokenId> LookUpNgram(absl::Span<const TokenId> tokens, int lookahead, const NgramOptions& options) {
  const int num_tokens = static_cast<int>(tokens.size());
  const int first = std::max(0, num_tokens - options.window);
  int best_length = 0, best_end = 0;
  // A match ends before `end`; something must follow it.
  for (int end = num_tokens - 1; end > first && best_length < options.n_max; --end) {
    if (tokens[end - 1] != tokens[num_tokens - 1]) continue;
    int length = 1;
    while (length < options.n_max && end - length > first &&
           tokens[end - 1 - length] == tokens[num_tokens - 1 - length]) {
      ++length;
    }
    if (length > best_length) best_length = length, best_end = end;
  }
  if (best_length < options.n_min || lookahead <= 0) return {};
  return tokens.subspan(best_end, lookahead);
}

void NgramSource::Open(const Opening& opening) {
  Known& known = sequences_[opening.sequence];
  known.epoch = opening.epoch;
  known.tokens.assign(opening.prompt.begin(), opening.prompt.end());
  known.tokens.insert(known.tokens.end(), opening.output.begin(), opening.output.end());
  Propose(opening.sequence, known, opening.lookahead);
}

void NgramSource::Commit(const Advance& advance) {
  const auto found = sequences_.find(advance.sequence);
  if (found == sequences_.end() || found->second.epoch != advance.epoch) return;
  Known& known = found->second;
  if (advance.first_position != static_cast<int>(known.tokens.size())) return;
  known.tokens.insert(known.tokens.end(), advance.tokens.begin(), advance.tokens.end());
  Propose(advance.sequence, known, advance.lookahead);
}

void NgramSource::Close(SequenceId sequence, uint32_t epoch) {
  const auto found = sequences_.find(sequence);
  if (found != sequences_.end() && found->second.epoch == epoch) sequences_.erase(found);
}

void NgramSource::Propose(SequenceId sequence, const Known& known, int lookahead) {
  if (lookahead <= 0) return;
  const absl::Span<const TokenId> draft = LookUpNgram(known.tokens, lookahead, options_);
  proposals_.push_back({sequence, known.epoch, {static_cast<int>(known.tokens.size()), {draft.begin(), draft.end()}}});
}

void NgramSource::TakeProposals(std::vector<Proposal>& proposals) {
  proposals.insert(proposals.end(), std::make_move_iterator(proposals_.begin()),
                   std::make_move_iterator(proposals_.end()));
  proposals_.clear();
}

}  // namespace outrider
