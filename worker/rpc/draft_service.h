// DraftService is the draft worker's end of draft.proto: each Connect call is one client of the Drafter.
//
// A target with another tokenizer or vocabulary is refused, naming both; afterwards nothing a target says ends its call
// but frames that are no frames: what is wrong inside is dropped and counted.
//
// A target in a new life (a greater incarnation) ends the streams of its past ones, and what they opened; a past life
// that comes back is refused.
//
// Thread safety: as a gRPC service. The service outlives its server's calls.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "proto/draft.grpc.pb.h"
#include "worker/engine/drafter.h"

namespace outrider {

inline constexpr uint32_t kDraftProtocolVersion = 1;
// Commands in one frame; more end the call with INVALID_ARGUMENT.
inline constexpr int kMaxDraftCommandsPerBatch = 16384;

class DraftService final : public v1::Draft::CallbackService {
 public:
  struct Options {
    std::string draft_id;
    uint64_t incarnation = 0;
    std::string model;
    std::string tokenizer_fingerprint;
    int vocab_size = 0;
    int max_model_len = 0;
    int max_sequences = 0;
    bool runs_ahead = false;
  };
  // Targets whose incarnations are remembered, at most; of more, those without a stream are forgotten.
  static constexpr size_t kMaxTargets = 1024;
  // `drafter` and `metrics` outlive this.
  DraftService(Options options, Drafter& drafter, DrafterMetrics& metrics);

  grpc::ServerBidiReactor<v1::DraftCommands, v1::DraftEvents>* Connect(grpc::CallbackServerContext* context) override;

 private:
  class Call;
  // FAILED_PRECONDITION naming what differs.
  grpc::Status Check(const v1::TargetHello& hello) const;

  // The streams of past lives that `call` ends, or FAILED_PRECONDITION if `call` is of a past life itself.
  grpc::Status Enter(const v1::TargetHello& hello, const std::shared_ptr<Call>& call,
                     std::vector<std::shared_ptr<Call>>& ended);

  const Options options_;
  Drafter& drafter_;
  DrafterMetrics& metrics_;

  struct TargetLife {
    uint64_t incarnation = 0;
    std::vector<std::weak_ptr<Call>> calls;
  };
  Mutex mu_;
  std::map<std::string, TargetLife> targets_ ABSL_GUARDED_BY(mu_);  // by target id
};

}  // namespace outrider
