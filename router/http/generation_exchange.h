// GenerationExchange answers one POST to /v1/chat/completions or /v1/completions: a GenerateCall for each prompt, and
// their events as one answer, whole or as server-sent events.
//
// A stream's head goes out with its first event, or with the first keep-alive comment if it waits long: until then an
// error is an HTTP status, from then on an error event, after which the stream ends without [DONE].
//
// Memory: of a stream, what one event a prompt takes, since a call is told that its write is done once the system has
// taken it; what comes meanwhile waits in the call, within max_stream_buffer_bytes. A whole answer is kept until it is
// complete, which max_tokens bounds.
//
// Thread safety: everything happens on the HttpStream's strand; the calls' own threads only post.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/inference.pb.h"
#include "router/client_stream.h"
#include "router/generate_call.h"
#include "router/http/generation_request.h"
#include "router/http/generation_response.h"
#include "router/http/http_message.h"
#include "router/model_store.h"

namespace outrider::router {

class GenerationExchange final : public HttpExchange, public std::enable_shared_from_this<GenerationExchange> {
 public:
  // `client_request_id`: what the client calls the request; empty if it does not. Each prompt counts as a request of
  // the key in `credentials`, and is of the client's `trace`.
  static std::shared_ptr<HttpExchange> Begin(const CallEnvironment& environment, GenerationRequest request,
                                             std::shared_ptr<const ServedModel> model, std::string model_name,
                                             std::string client_request_id, const Credentials& credentials,
                                             const std::optional<TraceContext>& trace,
                                             std::shared_ptr<HttpStream> stream);
  ~GenerationExchange() override;

  // HttpExchange.
  void OnWritten() override;
  void OnClientGone() override;
  void OnQuiet() override;

 private:
  class PromptCall;
  GenerationExchange(GenerationRequest request, std::shared_ptr<const ServedModel> model,
                     std::shared_ptr<HttpStream> stream);

  void OnWrite(PromptCall& call, v1::GenerateResponse& response, bool last);
  void OnFinish(PromptCall& call, const absl::Status& status);
  // What the response adds to the stream; empty if nothing. Of a whole answer: always empty.
  std::string Take(PromptCall& call, v1::GenerateResponse& response);
  std::string OnPromptLogprobs(PromptCall& call, v1::PromptLogprobs& prompt);
  // Of a stream: what stands before the answer.
  std::string ShowPrompt(PromptCall& call);
  std::string OnStarted(PromptCall& call, const v1::Started& started);
  std::string OnDelta(PromptCall& call, v1::Delta& delta);
  std::string OnFinished(PromptCall& call, const v1::Finished& finished);
  void EndCall(PromptCall& call);
  // Answers with the error, and gives up the calls that are open.
  void Fail(const absl::Status& status);
  void GiveUp();
  void StartStream();
  void Flush();
  void SendWhole();
  // Lets go of everything once the calls have ended and the answer is out.
  void CompleteIfDone();
  AnswerUsage Usage() const;
  HttpHeaders Headers() const;

  const GenerationRequest request_;
  const std::shared_ptr<const ServedModel> model_;
  const std::shared_ptr<HttpStream> stream_;
  AnswerIdentity identity_;
  std::string shown_request_id_;
  std::vector<std::unique_ptr<PromptCall>> calls_;
  size_t num_open_ = 0;
  std::shared_ptr<GenerationExchange> self_;  // while calls are open

  bool begun_ = false;  // every call has arrived
  bool stream_started_ = false;
  bool write_open_ = false;
  bool failed_ = false;
  bool answered_ = false;  // nothing more will be written, but what pending_ holds
  bool out_ = false;       // nor is anything on its way: written, or the client is gone
  std::string pending_;
  std::vector<PromptCall*> pending_acks_;  // wait for pending_ to be written
  std::vector<PromptCall*> open_acks_;     // wait for the open write
};

}  // namespace outrider::router
