// ApiHandler is the HTTP API, path by path:
//
//   POST /v1/chat/completions, /v1/completions     OpenAI's (generation_exchange.h)
//   GET  /v1/models, /v1/models/ID                 OpenAI's, with vLLM's max_model_len
//   POST /tokenize, /detokenize                    vLLM's
//   POST /apply-template                           llama-server's
//   GET  /health, /ping                            200 while requests can be served, else 503
//   GET  /metrics, /version, /load                 Prometheus; what this is; requests that are open
//   GET  /cluster                                  what each worker carries: Inference/GetLoad as JSON
//   GET  /openapi.json                             all of this for programs (openapi.h)
//   GET  /, /page/FILE                             the page (page.h)
//
// Errors have OpenAI's shape everywhere (api_error.h). Where the API has keys (api_access.h) every path but the open
// ones of api_paths.h wants one.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "router/generate_call.h"
#include "router/http/api_paths.h"
#include "router/http/http_message.h"
#include "router/http/json_reader.h"
#include "router/model_store.h"

namespace outrider::router {

class ApiHandler final : public HttpHandler {
 public:
  struct Options {
    CallEnvironment environment;
    // What clients call the model; the first is shown. Empty: the model's own name.
    std::vector<std::string> model_names;
    std::function<std::string()> metrics_text;
    // Empty while requests can be served, else why not.
    std::function<std::string()> why_not_ready;
  };
  explicit ApiHandler(Options options);

  std::shared_ptr<HttpExchange> Handle(HttpRequest request, std::shared_ptr<HttpStream> stream) override;
  HttpResponse Refuse(int status, const std::string& why) const override;

 private:
  struct Served {
    std::shared_ptr<const ServedModel> model;
    std::string name;  // as the client asked for it
  };
  // NOT_FOUND if `asked` is none of the names; UNAVAILABLE while no model is known.
  absl::StatusOr<Served> ModelFor(const std::string& asked) const;
  absl::StatusOr<std::string> ShownName() const;
  HttpResponse Answer(const ApiPath& path, const HttpRequest& request);
  HttpResponse AboutText(Endpoint endpoint, const HttpRequest& request);
  HttpResponse Models(const std::string& id) const;
  HttpResponse Health() const;
  HttpResponse Cluster() const;
  absl::StatusOr<std::string> Tokenize(FieldReader& fields) const;
  absl::StatusOr<std::string> Detokenize(FieldReader& fields) const;
  absl::StatusOr<std::string> ApplyTemplate(FieldReader& fields) const;
  absl::StatusOr<std::shared_ptr<HttpExchange>> Generate(bool is_chat, const HttpRequest& request,
                                                         const std::shared_ptr<HttpStream>& stream);
  // Each name once.
  void TellUnknown(const std::string& path, const std::vector<std::string>& fields);

  const Options options_;
  const int64_t created_;  // Unix s
  Mutex mu_;
  absl::flat_hash_set<std::string> told_ ABSL_GUARDED_BY(mu_);
};

}  // namespace outrider::router
