// What a serving benchmark measures: a router over gRPC, or any server of OpenAI's HTTP API.
//
// Thread safety: none.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/bench_client.h"
#include "cli/client_access.h"
#include "cli/openai_stream.h"
#include "proto/inference.pb.h"
#include "security/tls.h"

namespace outrider {

class BenchEndpoint {
 public:
  virtual ~BenchEndpoint() = default;

  // Waits until it serves, and says what: model, vocab_size and end_token_ids are set as far as they are known.
  virtual absl::StatusOr<v1::ModelInfo> AwaitModel(double timeout_s) = 0;
  virtual absl::StatusOr<int> CountTokens(const std::string& text) = 0;
  // As the function of that name. INVALID_ARGUMENT: a request that can not be sent this way; nothing was sent then.
  virtual absl::StatusOr<OpenLoopResult> RunOpenLoop(const OpenLoopOptions& options,
                                                     const std::vector<v1::GenerateRequest>& requests,
                                                     const std::vector<double>& arrivals_s,
                                                     const std::function<void(int, int)>& on_progress) = 0;
};

// `address`: HOST:PORT or unix:PATH.
absl::StatusOr<std::unique_ptr<BenchEndpoint>> MakeGrpcEndpoint(const std::string& address, const ClientAccess& access);

struct OpenAiEndpointOptions {
  std::string base_url;  // http://HOST:PORT or https
  std::string path;      // /v1/completions
  OpenAiApi api = OpenAiApi::kCompletions;
  std::string model;    // empty: the first that /v1/models names
  std::string api_key;  // empty: none
  TlsFiles tls;         // of https (HttpClient)
};
absl::StatusOr<std::unique_ptr<BenchEndpoint>> MakeOpenAiEndpoint(const OpenAiEndpointOptions& options);

}  // namespace outrider
