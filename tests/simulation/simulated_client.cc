#include "tests/simulation/simulated_client.h"

#include <algorithm>
#include <utility>

#include "tests/simulation/fake_model.h"
#include "tests/simulation/scenario.pb.h"
#include "tests/simulation/simulated_router.h"
#include "worker/rpc/proto_conversions.h"

namespace outrider::simulation {
namespace {

constexpr int kClientWindow = 4;
// Without one a client would wait for ever for a router whose machine is gone.
constexpr Duration kKeepalive = std::chrono::seconds(10);

bool IsRetriable(absl::StatusCode code) {
  return code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kResourceExhausted;
}

}  // namespace

SimulatedClient::SimulatedClient(World& world, Process& host, Process& router, int index, Options options)
    : world_(world), host_(host), router_(router), index_(index), options_(std::move(options)) {
  world_.queue.At(options_.start, &host_, [this] { Send(); });
}

void SimulatedClient::Send() {
  world_.Say(host_, "request",
             {{"client", index_},
              {"prompt", options_.request.prompt_token_ids_size()},
              {"max_tokens", options_.request.max_tokens()},
              {"choices", options_.request.n()}});
  choices_.resize(std::max<uint32_t>(1, options_.request.n()));
  stream_ = world_.network.Connect(
      host_, router_, router_.life, kInferenceService,
      {.keepalive = kKeepalive, .window = kClientWindow, .reads_by_hand = options_.read_every.has_value()});
  stream_->on_open = [this] {
    const auto call = std::make_shared<ClientCall>();
    options_.request.SerializeToString(call->mutable_request());
    if (options_.deadline.has_value()) {
      const Duration left = options_.start + *options_.deadline - world_.queue.now();
      call->set_deadline_ms(static_cast<uint32_t>(
          std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::milliseconds>(left).count())));
    }
    stream_->Send(call);
    if (options_.read_every.has_value()) ReadLater();
  };
  stream_->on_message = [this](const Message& message) {
    OnResponse(static_cast<const v1::GenerateResponse&>(*message));
  };
  stream_->on_closed = [this](const absl::Status& status) {
    if (outcome_ != Outcome::kOpen) return;
    if (status.ok()) {
      for (const Choice& choice : choices_) {
        if (!choice.ended) return Wrong("the stream ended as OK, but not every choice has its end");
      }
      return End(Outcome::kComplete, status);
    }
    if (status.code() == absl::StatusCode::kCancelled) {
      // The router cuts those who do not read.
      if (!options_.read_every.has_value()) Wrong("was cut though it reads");
      return End(Outcome::kCancelled, status);
    }
    if (!request_name().empty() && status.message() == "connection reset by peer" && !world_.router_may_break_streams) {
      Wrong("lost its stream, though its router was neither killed nor cut off");
    }
    if (status.code() == absl::StatusCode::kDeadlineExceeded) return End(Outcome::kDeadline, status);
    End(IsRetriable(status.code()) ? Outcome::kRetriable : Outcome::kPermanent, status);
  };
  if (options_.vanish_after.has_value()) {
    world_.queue.At(options_.start + *options_.vanish_after, &host_, [this] {
      if (outcome_ != Outcome::kOpen) return;
      stream_->Close(absl::CancelledError("the client went away"));
      End(Outcome::kCancelled, absl::CancelledError("the client went away"));
    });
  }
  if (options_.deadline.has_value()) {
    world_.queue.At(options_.start + *options_.deadline, &host_, [this] {
      if (outcome_ != Outcome::kOpen) return;
      stream_->Close(absl::DeadlineExceededError("the client's deadline"));
      End(Outcome::kDeadline, absl::DeadlineExceededError("the client's deadline"));
    });
  }
}

void SimulatedClient::ReadLater() {
  world_.queue.After(*options_.read_every, &host_, [this] {
    if (outcome_ != Outcome::kOpen) return;
    stream_->Read();
    ReadLater();
  });
}

void SimulatedClient::OnResponse(const v1::GenerateResponse& response) {
  if (outcome_ != Outcome::kOpen) return;
  if (response.has_started()) return OnStarted(response.started());
  if (started_.request_id().empty()) return Wrong("got something before Started");
  if (response.has_delta()) return OnDelta(response.delta());
  OnFinished(response.finished());
}

void SimulatedClient::OnStarted(const v1::Started& started) {
  if (!started_.request_id().empty()) return Wrong("started twice");
  started_ = started;
  const v1::GenerateRequest& request = options_.request;
  if (!std::equal(started.prompt_token_ids().begin(), started.prompt_token_ids().end(),
                  request.prompt_token_ids().begin(), request.prompt_token_ids().end())) {
    Wrong("was told another prompt");
  }
  if (request.has_seed() && started.seed() != request.seed()) Wrong("was told another seed");
  OracleRequest oracle;
  oracle.prompt.assign(request.prompt_token_ids().begin(), request.prompt_token_ids().end());
  oracle.stop.assign(request.stop().begin(), request.stop().end());
  oracle.numerics_id = started.numerics_id();
  oracle.params.max_tokens = static_cast<int>(request.max_tokens());
  oracle.params.min_tokens = static_cast<int>(request.min_tokens());
  oracle.params.seed = started.seed();
  oracle.params.num_logprobs = request.has_num_logprobs() ? request.num_logprobs() : -1;
  if (request.has_repetition_penalty()) oracle.params.repetition_penalty = request.repetition_penalty();
  oracle.params.stop_token_ids.assign(request.stop_token_ids().begin(), request.stop_token_ids().end());
  if (!request.ignore_eos()) oracle.params.end_token_ids = {kEndToken};
  for (size_t i = 0; i < choices_.size(); ++i) {
    oracle.params.lane = static_cast<uint32_t>(i);
    choices_[i].expected = Answer(oracle);
  }
}

void SimulatedClient::OnDelta(const v1::Delta& delta) {
  if (delta.choice_index() >= choices_.size()) return Wrong("got a choice that it did not ask for");
  Choice& choice = choices_[delta.choice_index()];
  if (choice.ended) return Wrong("choice ", delta.choice_index(), " goes on after its end");
  const OracleAnswer& expected = choice.expected;
  const bool wants_logprobs = options_.request.has_num_logprobs() && options_.request.num_logprobs() >= 0;
  if (delta.logprobs_size() != (wants_logprobs ? delta.token_ids_size() : 0)) {
    return Wrong("got ", delta.logprobs_size(), " logprobs with ", delta.token_ids_size(), " ids");
  }
  for (int i = 0; i < delta.token_ids_size(); ++i, ++choice.num_ids) {
    if (choice.num_ids >= expected.ids.size()) {
      return Wrong("choice ", delta.choice_index(), " has more ids than plain decoding gives: ", expected.ids.size());
    }
    if (delta.token_ids(i) != expected.ids[choice.num_ids]) {
      return Wrong("choice ", delta.choice_index(), " has id ", delta.token_ids(i), " at output token ", choice.num_ids,
                   " where plain decoding has ", expected.ids[choice.num_ids]);
    }
    if (wants_logprobs && delta.logprobs(i).logprob() != expected.logprobs[choice.num_ids]) {
      return Wrong("choice ", delta.choice_index(), " has another logprob at output token ", choice.num_ids);
    }
  }
  num_tokens_ += delta.token_ids_size();
  choice.text += delta.text();
  if (expected.text.compare(0, choice.text.size(), choice.text) != 0) {
    Wrong("choice ", delta.choice_index(), " says \"", choice.text, "\", plain decoding \"", expected.text, "\"");
  }
}

void SimulatedClient::OnFinished(const v1::Finished& finished) {
  if (finished.choice_index() >= choices_.size()) return Wrong("got the end of a choice that it did not ask for");
  Choice& choice = choices_[finished.choice_index()];
  if (std::exchange(choice.ended, true)) return Wrong("choice ", finished.choice_index(), " ended twice");
  num_accepted_ += finished.usage().accepted_tokens();
  const OracleAnswer& expected = choice.expected;
  const auto name = [&] { return absl::StrCat("choice ", finished.choice_index()); };
  if (choice.num_ids != expected.ids.size()) {
    return Wrong(name(), " ended after ", choice.num_ids, " of ", expected.ids.size(), " ids");
  }
  if (choice.text != expected.text)
    return Wrong(name(), " ended with text \"", choice.text, "\" of \"", expected.text, "\"");
  if (finished.finish_reason() != FinishReasonToProto(expected.reason) ||
      finished.stop_string() != expected.stop_string) {
    return Wrong(name(), " ended for reason ", static_cast<int>(finished.finish_reason()), ", not ",
                 static_cast<int>(FinishReasonToProto(expected.reason)));
  }
  if (finished.usage().output_tokens() != choice.num_ids ||
      finished.usage().prompt_tokens() != static_cast<uint32_t>(options_.request.prompt_token_ids_size())) {
    return Wrong(name(), " is charged ", finished.usage().prompt_tokens(), " + ", finished.usage().output_tokens(),
                 " tokens, of ", options_.request.prompt_token_ids_size(), " + ", choice.num_ids);
  }
}

void SimulatedClient::End(Outcome outcome, absl::Status status) {
  if (outcome_ != Outcome::kOpen) return Wrong("ended twice");
  outcome_ = outcome;
  status_ = std::move(status);
  ended_at_ = world_.queue.now();
  world_.Say(host_, "outcome",
             {{"client", index_},
              {"outcome", static_cast<int64_t>(outcome)},
              {"code", static_cast<int64_t>(status_.code())},
              {"tokens", num_tokens_}});
  if (!status_.ok()) world_.trace.Note(world_.queue.now(), host_.name, status_.message());
}

}  // namespace outrider::simulation
