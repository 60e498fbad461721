#include "worker/rpc/target_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <map>

#include "worker/model/testing/gguf_writer.h"
#include "worker/rpc/testing/served_workers.h"

namespace outrider {
namespace {

// What a router has heard of a lane.
struct Heard {
  std::vector<TokenId> tokens;
  uint32_t num_accepted = 0;  // of tokens
  std::optional<v1::LaneFinished> finished;
  std::optional<v1::LaneFailed> failed;
  bool ended() const { return finished || failed; }
};

// A router, as far as one stream goes.
class Router {
 public:
  explicit Router(const ServedTarget& target)
      : stub_(v1::Target::NewStub(grpc::CreateChannel(target.server->address(), grpc::InsecureChannelCredentials()))),
        stream_(stub_->Serve(&context_)) {}

  void Send(const v1::TargetCommands& commands) { ASSERT_TRUE(stream_->Write(commands)); }
  void Send(v1::Submit submit) {
    v1::TargetCommands commands;
    *commands.add_commands()->mutable_submit() = std::move(submit);
    Send(commands);
  }
  void Cancel(uint64_t id) {
    v1::TargetCommands commands;
    commands.add_commands()->mutable_cancel()->set_request_id(id);
    Send(commands);
  }
  // Reads one message. False at the end of the stream.
  bool Read() {
    v1::TargetEvents events;
    if (!stream_->Read(&events)) return false;
    for (const v1::TargetEvent& event : events.events()) {
      Heard& lane = heard[{event.request_id(), event.lane()}];
      EXPECT_FALSE(lane.ended());
      if (event.has_tokens()) {
        EXPECT_EQ(event.tokens().first_output_index(), lane.tokens.size());
        lane.tokens.insert(lane.tokens.end(), event.tokens().token_ids().begin(), event.tokens().token_ids().end());
        lane.num_accepted += event.tokens().num_accepted();
      }
      if (event.has_finished()) lane.finished = event.finished();
      if (event.has_failed()) lane.failed = event.failed();
    }
    return true;
  }
  Heard& AwaitEnd(uint64_t id, uint32_t lane = 0) {
    Heard& of = heard[{id, lane}];
    while (!of.ended() && Read()) {
    }
    EXPECT_TRUE(of.ended());
    return of;
  }
  grpc::Status Leave() {
    context_.TryCancel();
    while (Read()) {
    }
    return stream_->Finish();
  }
  grpc::Status AwaitStatus() {
    while (Read()) {
    }
    return stream_->Finish();
  }

  std::map<std::pair<uint64_t, uint32_t>, Heard> heard;

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::Target::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::TargetCommands, v1::TargetEvents>> stream_;
};

v1::Submit SubmitOf(uint64_t id, const std::vector<TokenId>& prompt, int max_tokens, float temperature = 0) {
  v1::Submit submit;
  submit.set_request_id(id);
  submit.set_attempt(1);
  submit.mutable_prompt_token_ids()->Add(prompt.begin(), prompt.end());
  SamplingParams params;
  params.temperature = temperature;
  params.top_p = 0.9f;
  params.seed = 11;
  params.max_tokens = max_tokens;
  ParamsToProto(params, submit.mutable_params());
  submit.add_lanes()->set_lane(0);
  submit.set_draft(true);
  submit.set_lookahead(-1);
  return submit;
}

const std::vector<TokenId> kPrompt = {5, 90, 17, 200, 33, 41, 7};

std::string ModelPath() { return WriteTinyModel({.seed = 1}); }

TEST(TargetService, AnswersTheFirstMessageOfAStream) {
  ServedTarget target(ModelPath());
  Router router(target);
  router.Send(v1::TargetCommands());
  EXPECT_TRUE(router.Read());
  EXPECT_TRUE(router.heard.empty());
}

TEST(TargetService, StreamsTokensAndUsage) {
  ServedTarget target(ModelPath());
  Router router(target);
  router.Send(SubmitOf(1, kPrompt, 20));
  const Heard& lane = router.AwaitEnd(1);
  ASSERT_TRUE(lane.finished);
  EXPECT_EQ(lane.tokens.size(), 20u);
  EXPECT_EQ(lane.finished->finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(lane.finished->usage().prompt_tokens(), kPrompt.size());
  EXPECT_EQ(lane.finished->usage().output_tokens(), 20u);
}

TEST(TargetService, GivesTheSameTokensToAll) {
  ServedTarget target(ModelPath());
  Router one(target);
  Router other(target);
  one.Send(SubmitOf(1, kPrompt, 30, 0.8f));
  for (uint64_t id = 1; id <= 6; ++id) other.Send(SubmitOf(id, kPrompt, 30, 0.8f));
  const std::vector<TokenId> tokens = one.AwaitEnd(1).tokens;
  for (uint64_t id = 1; id <= 6; ++id) EXPECT_EQ(other.AwaitEnd(id).tokens, tokens);
}

TEST(TargetService, ACancelFreesItsBlocks) {
  ServedTarget target(ModelPath());
  Router router(target);
  router.Send(SubmitOf(1, kPrompt, 400));
  while (router.heard[{1, 0}].tokens.empty()) ASSERT_TRUE(router.Read());
  router.Cancel(1);
  const Heard& lane = router.AwaitEnd(1);
  ASSERT_TRUE(lane.finished);
  EXPECT_EQ(lane.finished->finish_reason(), v1::FINISH_REASON_CANCELLED);
  router.Send(SubmitOf(2, kPrompt, 1));  // a turn later the load has been published
  router.AwaitEnd(2);
  router.Send(SubmitOf(3, {}, 1));
  router.AwaitEnd(3);
  EXPECT_EQ(target.engine->load().num_running, 0);
  EXPECT_EQ(target.engine->load().kv_used_ratio, 0);
}

TEST(TargetService, ALostStreamCancelsItsRequests) {
  ServedTarget target(ModelPath());
  {
    Router router(target);
    router.Send(SubmitOf(1, kPrompt, 400));
    while (router.heard[{1, 0}].tokens.empty()) ASSERT_TRUE(router.Read());
    router.Leave();
  }
  Router other(target);
  // The loss is posted when the call ends; requests after it wait behind it at most a few steps.
  for (uint64_t id = 1; target.engine->load().num_running > 0 && id < 1000; ++id) {
    other.Send(SubmitOf(id, kPrompt, 1));
    other.AwaitEnd(id);
    other.Send(SubmitOf(100000 + id, {}, 1));
    other.AwaitEnd(100000 + id);
  }
  EXPECT_EQ(target.engine->load().num_running, 0);
  EXPECT_EQ(target.engine->load().kv_used_ratio, 0);
}

TEST(TargetService, RefusesWhatCanNotBeAndGoesOn) {
  ServedTarget target(ModelPath());
  Router router(target);
  std::vector<v1::Submit> bad;
  bad.push_back(SubmitOf(1, {}, 4));                      // empty prompt
  bad.push_back(SubmitOf(2, {1, 100000}, 4));             // id out of range
  bad.push_back(SubmitOf(3, {-1}, 4));                    // negative
  bad.push_back(SubmitOf(4, kPrompt, 1 << 30));           // beyond the context
  bad.push_back(SubmitOf(5, kPrompt, 4, std::nanf("")));  // not a number
  bad.push_back(SubmitOf(6, kPrompt, 4));
  bad.back().set_lookahead(33);
  bad.push_back(SubmitOf(7, kPrompt, 4));
  bad.back().mutable_params()->set_top_k(0xffffffffu);
  bad.push_back(SubmitOf(8, kPrompt, 4));
  bad.back().mutable_lanes()->Clear();
  bad.push_back(SubmitOf(9, kPrompt, 4));
  bad.back().mutable_params()->set_acceptance(static_cast<v1::Acceptance>(7));
  bad.push_back(SubmitOf(0, kPrompt, 4));
  for (const v1::Submit& submit : bad) {
    router.Send(submit);
    const Heard& lane = router.AwaitEnd(submit.request_id());
    ASSERT_TRUE(lane.failed) << submit.request_id();
    EXPECT_EQ(lane.failed->code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
    EXPECT_FALSE(lane.failed->message().empty());
  }
  router.Send(SubmitOf(10, kPrompt, 4));
  EXPECT_EQ(router.AwaitEnd(10).tokens.size(), 4u);
}

TEST(TargetService, EndsAStreamThatUsesALivingRequestsId) {
  ServedTarget target(ModelPath());
  Router router(target);
  router.Send(SubmitOf(1, kPrompt, 400));
  router.Send(SubmitOf(1, kPrompt, 400));
  EXPECT_EQ(router.AwaitStatus().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(TargetService, TellsTheTokenizerOfItsModel) {
  ServedTarget target(ModelPath());
  const auto stub =
      v1::Target::NewStub(grpc::CreateChannel(target.server->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::ModelDescription description;
  ASSERT_TRUE(stub->GetModel(&context, {}, &description).ok());
  EXPECT_EQ(description.tokenizer().tokens_size(), target.model->config().vocab_size);
  EXPECT_EQ(description.tokenizer().merges_size(), static_cast<int>(target.model->tokenizer().merges.size()));
}

constexpr uint64_t kMaxTries = 50;

// A request's ids and usage with `draft_seed`'s tiny model drafting; 0: nobody drafts.
std::pair<std::vector<TokenId>, v1::Usage> Generate(uint64_t draft_seed, float temperature) {
  std::unique_ptr<ServedDraft> draft;
  if (draft_seed != 0) draft = std::make_unique<ServedDraft>(WriteTinyModel({.seed = draft_seed}));
  ServedTarget target(ModelPath(), /*lookahead=*/4);
  if (draft != nullptr) {
    target.drafts->ConnectTo(draft->server->address());
    while (target.drafts->num_connected() == 0) std::this_thread::yield();
  }
  Router router(target);
  // The whole sequence may be over before a draft worker on a loaded machine has caught up with it: asked again then.
  std::vector<TokenId> tokens;
  for (uint64_t request_id = 1;; ++request_id) {
    router.Send(SubmitOf(request_id, kPrompt, 480, temperature));
    const Heard& lane = router.AwaitEnd(request_id);
    EXPECT_TRUE(lane.finished);
    if (!lane.finished) return {lane.tokens, v1::Usage()};
    EXPECT_EQ(lane.num_accepted, lane.finished->usage().accepted_tokens());
    EXPECT_TRUE(request_id == 1 || lane.tokens == tokens);
    tokens = lane.tokens;
    if (draft == nullptr || lane.finished->usage().rounds() >= 5 || request_id == kMaxTries) {
      return {tokens, lane.finished->usage()};
    }
  }
}

TEST(TargetService, GivesTheSameTokensWithADraftWorker) {
  for (float temperature : {0.0f, 0.8f}) {
    const auto [plain, plain_usage] = Generate(0, temperature);
    EXPECT_EQ(plain_usage.rounds(), 0u);
    EXPECT_EQ(plain_usage.rounds_by_accepted_size(), 0);
    // The target's own model drafts: everything is accepted.
    const auto [same, same_usage] = Generate(1, temperature);
    EXPECT_EQ(same, plain);
    EXPECT_GE(same_usage.rounds(), 5u);
    const auto& by_accepted = same_usage.rounds_by_accepted();
    uint32_t num_rounds = 0, num_accepted = 0;
    for (int j = 0; j < by_accepted.size(); ++j) {
      num_rounds += by_accepted[j];
      num_accepted += by_accepted[j] * static_cast<uint32_t>(j);
    }
    EXPECT_EQ(num_rounds, same_usage.rounds());
    EXPECT_EQ(num_accepted, same_usage.accepted_tokens());
    EXPECT_EQ(same_usage.accepted_tokens(), same_usage.draft_tokens());
    // A stranger drafts: next to nothing is.
    const auto [other, other_usage] = Generate(2, temperature);
    EXPECT_EQ(other, plain);
    EXPECT_GE(other_usage.rounds(), 5u);
    EXPECT_LT(other_usage.accepted_tokens(), other_usage.draft_tokens());
  }
}

TEST(TargetService, SurvivesTheLossOfItsDraftWorker) {
  const std::vector<TokenId> plain = Generate(0, 0).first;
  auto draft = std::make_unique<ServedDraft>(ModelPath());
  ServedTarget target(ModelPath(), /*lookahead=*/4);
  target.drafts->ConnectTo(draft->server->address());
  while (target.drafts->num_connected() == 0) std::this_thread::yield();
  Router router(target);
  router.Send(SubmitOf(1, kPrompt, 480));
  while (router.heard[{1, 0}].tokens.size() < 40) ASSERT_TRUE(router.Read());
  draft.reset();
  EXPECT_EQ(router.AwaitEnd(1).tokens, plain);
  EXPECT_TRUE((router.heard[{1, 0}].finished));
}

}  // namespace
}  // namespace outrider
