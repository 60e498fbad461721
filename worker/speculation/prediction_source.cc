#include "worker/speculation/prediction_source.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>

namespace outrider {

int FindPlace(absl::Span<const TokenId> prediction, absl::Span<const TokenId> output, int from,
              const PredictionOptions& options) {
  const int num_output = static_cast<int>(output.size());
  const int64_t last = std::min<int64_t>(static_cast<int64_t>(prediction.size()), int64_t{from} + options.window);
  const int64_t first = std::max<int64_t>(1, int64_t{from} - options.window);
  int best_length = 0, best_end = -1;
  // Backwards: of two that are as near, the later one is met first.
  for (int end = static_cast<int>(last); end >= first; --end) {
    int length = 0;
    while (length < options.n_max && length < end && length < num_output &&
           prediction[end - 1 - length] == output[num_output - 1 - length]) {
      ++length;
    }
    if (length < options.n_min) continue;
    if (length > best_length || (length == best_length && std::abs(end - from) < std::abs(best_end - from))) {
      best_length = length;
      best_end = end;
    }
  }
  return best_end;
}

void PredictionSource::Follow(Known& known, absl::Span<const TokenId> tokens) const {
  const int size = static_cast<int>(known.prediction.size());
  bool left = known.lost;
  for (const TokenId token : tokens) {
    known.output.push_back(token);
    left |= known.place >= size || known.prediction[known.place] != token;
    if (known.place < size) ++known.place;
  }
  if (!left) return;
  const int place = FindPlace(known.prediction, known.output, known.place, options_);
  known.lost = place < 0;
  if (!known.lost) known.place = place;
}

void PredictionSource::Open(const Opening& opening) {
  Known& known = sequences_[opening.sequence];
  known = {.epoch = opening.epoch,
           .prediction = {opening.prediction.begin(), opening.prediction.end()},
           .output = {},
           .num_prompt_tokens = static_cast<int>(opening.prompt.size())};
  Follow(known, opening.output);
  Propose(opening.sequence, known, opening.lookahead);
}

void PredictionSource::Commit(const Advance& advance) {
  const auto found = sequences_.find(advance.sequence);
  if (found == sequences_.end() || found->second.epoch != advance.epoch) return;
  Known& known = found->second;
  if (advance.first_position != known.num_prompt_tokens + static_cast<int>(known.output.size())) return;
  Follow(known, advance.tokens);
  Propose(advance.sequence, known, advance.lookahead);
}

void PredictionSource::Close(SequenceId sequence, uint32_t epoch) {
  const auto found = sequences_.find(sequence);
  if (found != sequences_.end() && found->second.epoch == epoch) sequences_.erase(found);
}

void PredictionSource::Propose(SequenceId sequence, const Known& known, int lookahead) {
  if (lookahead <= 0) return;
  absl::Span<const TokenId> draft;
  if (!known.lost) draft = absl::MakeConstSpan(known.prediction).subspan(known.place, lookahead);
  const int num_tokens = known.num_prompt_tokens + static_cast<int>(known.output.size());
  proposals_.push_back({sequence, known.epoch, {num_tokens, {draft.begin(), draft.end()}}});
}

void PredictionSource::TakeProposals(std::vector<Proposal>& proposals) {
  proposals.insert(proposals.end(), std::make_move_iterator(proposals_.begin()),
                   std::make_move_iterator(proposals_.end()));
  proposals_.clear();
}

}  // namespace outrider
