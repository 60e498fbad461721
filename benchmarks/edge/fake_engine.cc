#include "benchmarks/edge/fake_engine.h"

#include <chrono>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "benchmarks/edge/paced_output.h"
#include "router/testing/byte_tokenizer.h"
#include "text/tokenizer_definition.h"
#include "worker/rpc/proto_conversions.h"

namespace outrider::edge {
namespace {

constexpr auto kHeartbeatInterval = std::chrono::milliseconds(500);
constexpr int kMaxModelLen = 1 << 20;
constexpr char kNumericsId[] = "edge-bench";
// What each heartbeat tells of, so that the metrics page is as long as a busy cluster's.
constexpr int kNumDraftPositions = 8;

text::TokenizerDefinition Definition() {
  text::TokenizerDefinition definition = router::ByteDefinition();
  definition.tokens.push_back(std::string(kLongTokenBytes, 'L'));
  definition.types.push_back(text::TokenType::kNormal);
  CHECK(definition.tokens.size() == kVocabSize);
  return definition;
}

}  // namespace

// One lane of a request, stepped by the pacer.
struct FakeEngine::Sequence final : public Paced {
  std::shared_ptr<RouterStream> stream;
  uint64_t request_id = 0;
  OutputPace pace;
  uint32_t num_prompt_tokens = 0;
  uint32_t max_tokens = 0;
  uint32_t num_made = 0;
  bool cancelled = false;  // under the stream's lock

  bool Step() override;
};

// One router's stream to one group.
class FakeEngine::RouterStream final : public grpc::ServerBidiReactor<v1::TargetCommands, v1::TargetEvents>,
                                       public std::enable_shared_from_this<RouterStream> {
 public:
  explicit RouterStream(Pacer* pacer) : pacer_(pacer) {}

  void Begin() {
    MutexLock lock(mu_);
    self_ = shared_from_this();
    StartRead(&commands_);
  }

  void OnReadDone(bool ok) override {
    std::vector<std::shared_ptr<Sequence>> begun;
    {
      MutexLock lock(mu_);
      if (!ok) {
        closed_ = true;
        FinishIfIdle();
        return;
      }
      greeting_due_ |= !std::exchange(met_, true);
      for (const v1::TargetCommand& command : commands_.commands()) Apply(command, begun);
      StartNextWrite();
      StartRead(&commands_);
    }
    for (std::shared_ptr<Sequence>& sequence : begun) {
      const int interval_ms = sequence->pace.interval_ms;
      pacer_->Add(interval_ms, std::move(sequence));
    }
  }
  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    writing_ = false;
    closed_ |= !ok;
    StartNextWrite();
    FinishIfIdle();
  }
  void OnDone() override {
    std::shared_ptr<RouterStream> self;  // its end comes after the lock's
    MutexLock lock(mu_);
    closed_ = true;
    self = std::move(self_);
  }

  // False if the sequence is over.
  bool Step(Sequence& sequence) {
    MutexLock lock(mu_);
    return StepLocked(sequence);
  }
  void Flush() {
    MutexLock lock(mu_);
    StartNextWrite();
  }
  bool closed() {
    MutexLock lock(mu_);
    return closed_;
  }

 private:
  void Apply(const v1::TargetCommand& command, std::vector<std::shared_ptr<Sequence>>& begun)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (command.has_submit()) {
      const v1::Submit& submit = command.submit();
      auto sequence = std::make_shared<Sequence>();
      sequence->stream = shared_from_this();
      sequence->request_id = submit.request_id();
      sequence->pace = PaceOf(submit.prompt_token_ids());
      sequence->num_prompt_tokens = static_cast<uint32_t>(submit.prompt_token_ids_size());
      sequence->max_tokens = submit.params().max_tokens();
      if (!StepLocked(*sequence)) return;
      sequences_[sequence->request_id] = sequence;
      begun.push_back(std::move(sequence));
    } else if (command.has_cancel()) {
      const auto found = sequences_.find(command.cancel().request_id());
      if (found == sequences_.end()) return;
      found->second->cancelled = true;
      sequences_.erase(found);
    }
  }

  bool StepLocked(Sequence& sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (closed_ || sequence.cancelled) return false;
    v1::TargetEvent& event = *pending_.add_events();
    event.set_request_id(sequence.request_id);
    v1::Tokens& tokens = *event.mutable_tokens();
    tokens.set_first_output_index(sequence.num_made);
    for (int i = 0; i < sequence.pace.num_tokens && sequence.num_made < sequence.max_tokens; ++i) {
      tokens.add_token_ids(OutputToken(sequence.pace, sequence.num_made++));
    }
    if (sequence.num_made < sequence.max_tokens) return true;
    v1::TargetEvent& end = *pending_.add_events();
    end.set_request_id(sequence.request_id);
    v1::LaneFinished& finished = *end.mutable_finished();
    finished.set_finish_reason(v1::FINISH_REASON_LENGTH);
    finished.mutable_usage()->set_prompt_tokens(sequence.num_prompt_tokens);
    finished.mutable_usage()->set_output_tokens(sequence.num_made);
    finished.mutable_usage()->set_plain_steps(sequence.num_made);
    sequences_.erase(sequence.request_id);
    return false;
  }

  void StartNextWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || closed_ || (!std::exchange(greeting_due_, false) && pending_.events_size() == 0)) return;
    writing_ = true;
    written_.Clear();
    written_.Swap(&pending_);
    StartWrite(&written_);
  }
  void FinishIfIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!closed_ || writing_ || finished_) return;
    finished_ = true;
    Finish(grpc::Status::OK);
  }

  Pacer* const pacer_;
  v1::TargetCommands commands_;
  Mutex mu_;
  std::shared_ptr<RouterStream> self_ ABSL_GUARDED_BY(mu_);  // until OnDone
  bool met_ ABSL_GUARDED_BY(mu_) = false;                    // a first message came
  bool greeting_due_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  v1::TargetEvents pending_ ABSL_GUARDED_BY(mu_);
  v1::TargetEvents written_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<uint64_t, std::shared_ptr<Sequence>> sequences_ ABSL_GUARDED_BY(mu_);
};

bool FakeEngine::Sequence::Step() { return stream->Step(*this); }

FakeEngine::FakeEngine(const std::string& unix_path)
    : unix_address_("unix:" + unix_path), pacer_([this] { FlushStreams(); }) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.AddListeningPort(unix_address_, grpc::InsecureServerCredentials());
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  CHECK(server_ != nullptr && port > 0);
  tcp_address_ = absl::StrCat("127.0.0.1:", port);
}

void FakeEngine::FlushStreams() {
  std::vector<std::shared_ptr<RouterStream>> streams;
  {
    MutexLock lock(mu_);
    std::erase_if(streams_, [](const auto& stream) { return stream->closed(); });
    streams = streams_;
  }
  for (const auto& stream : streams) stream->Flush();
}

grpc::ServerBidiReactor<v1::TargetCommands, v1::TargetEvents>* FakeEngine::Serve(grpc::CallbackServerContext*) {
  auto stream = std::make_shared<RouterStream>(&pacer_);
  {
    MutexLock lock(mu_);
    streams_.push_back(stream);
  }
  stream->Begin();
  return stream.get();
}

grpc::ServerUnaryReactor* FakeEngine::GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest*,
                                               v1::ModelDescription* response) {
  response->set_name("edge-bench");
  response->set_architecture("fake");
  response->set_max_model_len(kMaxModelLen);
  response->set_vocab_size(kVocabSize);
  response->set_numerics_id(kNumericsId);
  response->set_numerics("reference");
  response->add_end_token_ids(router::kEndId);
  TokenizerToProto(Definition(), response->mutable_tokenizer());
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

void FakeEngine::RegisterAt(const std::string& router_address, int num_groups, int num_draft_workers, bool by_tcp) {
  const std::string fingerprint = text::Fingerprint(Definition());
  std::vector<v1::HeartbeatRequest> heartbeats;
  for (int i = 0; i < num_groups + num_draft_workers; ++i) {
    const bool is_group = i < num_groups;
    v1::HeartbeatRequest& heartbeat = heartbeats.emplace_back();
    heartbeat.set_worker_id(absl::StrCat(is_group ? "group-" : "draft-", is_group ? i : i - num_groups));
    heartbeat.set_incarnation(1);
    heartbeat.set_address(address(by_tcp));
    if (is_group) {
      v1::TargetGroupStatus& status = *heartbeat.mutable_target_group();
      status.set_epoch(1);
      status.set_model("edge-bench");
      status.set_numerics_id(kNumericsId);
      status.set_tokenizer_fingerprint(fingerprint);
      status.set_max_model_len(kMaxModelLen);
      status.set_max_sequences(1 << 16);
      status.set_serving(true);
      status.set_block_size(16);
      status.set_num_kv_blocks(1 << 20);
    } else {
      v1::DraftWorkerStatus& status = *heartbeat.mutable_draft_worker();
      status.set_model("edge-bench-draft");
      status.set_tokenizer_fingerprint(fingerprint);
      status.set_vocab_size(kVocabSize);
      status.set_max_sequences(64);
    }
  }
  std::thread([router_address, heartbeats = std::move(heartbeats)]() mutable {
    const auto stub = v1::Cluster::NewStub(grpc::CreateChannel(router_address, grpc::InsecureChannelCredentials()));
    for (uint64_t round = 1; true; ++round) {
      for (v1::HeartbeatRequest& heartbeat : heartbeats) {
        if (heartbeat.has_target_group()) {
          v1::EngineTotals& totals = *heartbeat.mutable_target_group()->mutable_totals();
          totals.Clear();
          totals.set_rounds(round * 10);
          totals.set_step_tokens(round * 100);
          totals.set_committed_tokens(round * 30);
          for (int i = 0; i < kNumDraftPositions; ++i) {
            totals.add_draft_tokens(round * 10);
            totals.add_accepted_tokens(round * (9 - i));
          }
        }
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
        v1::HeartbeatResponse response;
        if (stub->Heartbeat(&context, heartbeat, &response).error_code() == grpc::StatusCode::UNAVAILABLE &&
            round > 4) {
          return;  // the router has ended
        }
      }
      std::this_thread::sleep_for(kHeartbeatInterval);
    }
  }).detach();
}

}  // namespace outrider::edge
