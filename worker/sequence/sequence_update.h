// SequenceUpdate: what became of one sequence in a turn of the scheduler.
#pragma once

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/ids.h"
#include "worker/sequence/usage.h"
#include "worker/step/step_result.h"  // FinishReason, TokenLogprobs

namespace outrider {

// Every sequence has exactly one terminal update, its last; `tokens` of all its updates in order are its output without
// what an earlier attempt delivered (a stop string may later cut what was told, see Scheduler::StopAt).
struct SequenceUpdate {
  static constexpr int kNoSource = -1;

  SequenceId sequence;
  bool started = false;                        // scheduled for the first time in the plan just made; has no tokens
  int first_output_index = 0;                  // of tokens[0]; 0 is the request's first output token
  std::vector<TokenId> tokens;                 // newly committed
  std::vector<TokenLogprobs> logprobs;         // one a token, if asked for
  int first_prompt_position = 0;               // of prompt_logprobs[0]
  std::vector<TokenLogprobs> prompt_logprobs;  // if asked for; before all tokens, each position once
  // How the round went that gave these tokens; drafts of an accepted run that was cut count as accepted up to the cut.
  int num_draft_tokens = 0;
  int num_accepted = 0;
  int draft_source = kNoSource;  // whose draft was verified
  Duration draft_wait{};         // how long the sequence waited for a draft before that step, in vain or not

  // Terminal: one of the two.
  std::optional<FinishReason> finish;
  absl::Status error;     // DEADLINE_EXCEEDED, or INTERNAL naming what was wrong
  Usage usage;            // so far; final when terminal
  Duration queue_time{};  // from Submit to the first plan; zero for one never planned

  bool terminal() const { return finish.has_value() || !error.ok(); }
};

}  // namespace outrider
