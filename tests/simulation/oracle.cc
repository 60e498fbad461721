#include "tests/simulation/oracle.h"

#include "tests/simulation/fake_model.h"
#include "worker/sequence/stop_condition.h"

namespace outrider::simulation {

OracleAnswer Answer(const OracleRequest& request) {
  OracleAnswer answer;
  History history(request.prompt, request.params, SaltOf(request.numerics_id));
  while (true) {
    answer.logprobs.push_back(history.NextLogprob());
    const TokenId token = history.Next();
    history.Append(token);
    answer.ids.push_back(token);
    const int num_tokens = static_cast<int>(answer.ids.size());
    const auto finish = StopsAt(token, num_tokens, request.params);
    const bool ends_text = finish == FinishReason::kEndToken || finish == FinishReason::kStopToken;
    if (!ends_text && token < 256) answer.text.push_back(static_cast<char>(token));
    if (!ends_text && num_tokens >= request.params.min_tokens) {
      for (const std::string& stop : request.stop) {
        if (answer.text.size() < stop.size() || stop.size() <= answer.stop_string.size()) continue;
        if (answer.text.compare(answer.text.size() - stop.size(), stop.size(), stop) == 0) answer.stop_string = stop;
      }
      if (!answer.stop_string.empty()) {
        answer.text.resize(answer.text.size() - answer.stop_string.size());
        answer.reason = FinishReason::kStopString;
        return answer;
      }
    }
    if (finish.has_value()) {
      answer.reason = *finish;
      return answer;
    }
  }
}

}  // namespace outrider::simulation
