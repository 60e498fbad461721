// What a benchmark says over OpenAI's HTTP API, and hears: bodies of requests, and answers as server-sent events read
// into a BenchRecord. Pure: bytes and times are arguments.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "cli/bench_statistics.h"
#include "proto/inference.pb.h"

namespace outrider {

enum class OpenAiApi { kCompletions, kChat };

// The request as JSON: streamed, with usage in every chunk where the server knows vLLM's continuous_usage_stats. Fields
// that `request` leaves out are left out. INVALID_ARGUMENT: a conversation for completions, token ids for chat.
absl::StatusOr<std::string> OpenAiBody(const v1::GenerateRequest& request, const std::string& model, OpenAiApi api);

// Thread safety: none.
class OpenAiStream {
 public:
  // `record` outlives this.
  explicit OpenAiStream(BenchRecord& record) : record_(record) {}

  // More of the body; `now_s` is from the sending of the request. After an error nothing is read any more.
  void Take(const std::string& bytes, double now_s);
  // After the last byte: success of the record, or why not.
  void End();

 private:
  void TakeEvent(const std::string& payload, double now_s);
  void Fail(const std::string& error);

  BenchRecord& record_;
  std::string line_;
  bool done_ = false;  // [DONE] came
};

}  // namespace outrider
