#include "router/request_lifecycle.h"

#include <gtest/gtest.h>

#include <string>

#include "router/testing/byte_tokenizer.h"

namespace outrider::router {
namespace {

using std::chrono::milliseconds;
constexpr TimePoint kStart{};

template <typename T>
std::vector<T> Of(const Commands& commands) {
  std::vector<T> found;
  for (const Command& command : commands) {
    if (const T* one = std::get_if<T>(&command)) found.push_back(*one);
  }
  return found;
}

int64_t CountOf(const Commands& commands, Report::Kind kind) {
  int64_t count = 0;
  for (const Report& report : Of<Report>(commands)) count += report.kind == kind;
  return count;
}

// A lifecycle with a client that reads at once unless told, and a record of everything commanded.
class Driver {
 public:
  explicit Driver(uint32_t max_tokens = 8, uint32_t num_choices = 1, size_t max_buffer_bytes = 1 << 20,
                  std::optional<TimePoint> deadline = std::nullopt)
      : lifecycle({.request_name = "req-1",
                   .arrival = kStart,
                   .deadline = deadline,
                   .max_stream_buffer_bytes = max_buffer_bytes}) {
    ResolvedRequest request;
    request.prompt_token_ids = {1, 2, 3};
    request.sampling.max_tokens = max_tokens;
    request.sampling.end_token_ids = {99};
    request.num_choices = num_choices;
    lifecycle.Prepare(std::move(request), {.key = {.model = "m", .tokenizer_fingerprint = "t"}, .name = "m"});
  }

  void Arrive() {
    lifecycle.OnArrived(0, commands);
    Settle();
  }
  void Start(uint64_t attempt_id, const std::string& numerics_id = "n") {
    lifecycle.OnStart({.group_id = "g", .incarnation = 1, .numerics_id = numerics_id}, attempt_id, now, commands);
    Settle();
  }
  void Tokens(uint64_t attempt_id, uint32_t first, std::vector<TokenId> token_ids, uint32_t lane = 0) {
    lifecycle.OnTokens(attempt_id, lane, first, token_ids, {}, now, commands);
    Settle();
  }
  void Finished(uint64_t attempt_id, uint32_t lane = 0) {
    const LaneUsage usage{.output_tokens = static_cast<uint32_t>(lifecycle.relay().output_token_ids(lane).size())};
    lifecycle.OnLaneFinished(attempt_id, lane, EndReason::kLength, usage, 1, now, commands);
    Settle();
  }
  void Failed(uint64_t attempt_id, const absl::Status& status) {
    lifecycle.OnLaneFailed(attempt_id, status, now, commands);
    Settle();
  }
  void Lost(uint64_t attempt_id) {
    lifecycle.OnTargetLost(attempt_id, absl::UnavailableError("group g was lost"), now, commands);
    Settle();
  }
  // Carries out what the client's side was commanded.
  void Settle() {
    for (; num_settled_ < commands.size(); ++num_settled_) {
      const Command command = commands[num_settled_];
      bool written = std::holds_alternative<WriteStarted>(command);
      if (const WriteEvent* write = std::get_if<WriteEvent>(&command)) {
        const ClientEvent& event = lifecycle.event();
        ids.insert(ids.end(), event.token_ids.begin(), event.token_ids.end());
        num_ends += event.end.has_value();
        if (event.end.has_value()) last_usage = event.end->usage;
        written = !write->last;
        finished |= write->last;
      }
      if (const FinishCall* finish = std::get_if<FinishCall>(&command)) {
        EXPECT_FALSE(finished) << "a second end";
        finished = true;
        status = finish->status;
      }
      if (written) {
        EXPECT_FALSE(finished) << "a write after the end";
        if (reads) {
          lifecycle.OnWriteDone(true, commands);
        } else {
          EXPECT_FALSE(unread_write) << "two writes at once";
          unread_write = true;
        }
      }
    }
  }
  // What is charged and not released.
  int64_t Held() const {
    int64_t held = 0;
    for (const ReleaseLoad& release : Of<ReleaseLoad>(commands)) held -= release.load.num_tokens;
    return held;
  }

  RequestLifecycle lifecycle;
  Commands commands;
  TimePoint now = kStart;
  bool reads = true;
  bool unread_write = false;
  std::vector<TokenId> ids;
  int num_ends = 0;
  LaneUsage last_usage;
  bool finished = false;
  absl::Status status;

 private:
  size_t num_settled_ = 0;
};

TEST(RequestLifecycle, AsksForAGroupOfItsModelAndItsLoad) {
  Driver call(/*max_tokens=*/8, /*num_choices=*/2);
  call.Arrive();
  const auto routes = Of<RouteCall>(call.commands);
  ASSERT_EQ(routes.size(), 1);
  ASSERT_TRUE(routes[0].request.needs.has_value());
  EXPECT_EQ(routes[0].request.needs->num_lanes, 2);
  EXPECT_EQ(routes[0].request.needs->num_tokens, 3 + 2 * 8);
  EXPECT_EQ(routes[0].request.needs->num_context_tokens, 11);
  EXPECT_EQ(routes[0].request.needs->numerics_id, "");
  EXPECT_EQ(routes[0].request.kind, RouteKind::kNew);
}

TEST(RequestLifecycle, WaitsUnpreparedWithAnEstimate) {
  RequestLifecycle lifecycle({.arrival = kStart});
  Commands commands;
  lifecycle.OnArrived(77, commands);
  const auto routes = Of<RouteCall>(commands);
  ASSERT_EQ(routes.size(), 1);
  EXPECT_FALSE(routes[0].request.needs.has_value());
  EXPECT_EQ(routes[0].request.num_tokens, 77);
}

TEST(RequestLifecycle, StreamsAndEndsOnce) {
  Driver call(/*max_tokens=*/3);
  call.Arrive();
  call.Start(10);
  EXPECT_EQ(Of<SubmitAttempt>(call.commands).at(0).attempt, 1);
  call.Tokens(10, 0, {5, 6});
  call.Tokens(10, 2, {7});
  EXPECT_FALSE(call.finished);
  call.Finished(10);
  EXPECT_EQ(call.ids, (std::vector<TokenId>{5, 6, 7}));
  EXPECT_EQ(call.num_ends, 1);
  EXPECT_TRUE(call.finished);
  EXPECT_TRUE(call.status.ok());
  EXPECT_EQ(call.Held(), -(3 + 3));
  EXPECT_EQ(Of<ForgetAttempt>(call.commands).size(), 1);
  EXPECT_TRUE(Of<CancelAttempt>(call.commands).empty());
}

TEST(RequestLifecycle, GoesOnElsewhereWithWhatWasDelivered) {
  Driver call(/*max_tokens=*/4);
  call.Arrive();
  call.Start(10);
  call.Tokens(10, 0, {5, 6});
  call.Lost(10);
  const auto routes = Of<RouteCall>(call.commands);
  ASSERT_EQ(routes.size(), 2);
  EXPECT_EQ(routes[1].request.kind, RouteKind::kReplay);
  EXPECT_EQ(routes[1].request.needs->numerics_id, "n");
  EXPECT_EQ(routes[1].request.needs->num_tokens, 3 + 2);
  call.Start(11);
  EXPECT_EQ(Of<SubmitAttempt>(call.commands).at(1).attempt, 2);
  // The group repeats what it was given, then goes on.
  call.Tokens(11, 1, {6, 7, 8});
  call.Finished(11);
  EXPECT_EQ(call.ids, (std::vector<TokenId>{5, 6, 7, 8}));
  EXPECT_EQ(call.last_usage.output_tokens, 4);
  EXPECT_EQ(call.num_ends, 1);
  EXPECT_TRUE(call.finished && call.status.ok());
}

TEST(RequestLifecycle, RefusesEventsOfAnAttemptThatWasLostAndCountsThem) {
  Driver call(/*max_tokens=*/4);
  call.Arrive();
  call.Start(10);
  call.Tokens(10, 0, {5});
  call.Lost(10);
  call.Start(11);
  call.Tokens(10, 1, {66});
  call.Finished(10);
  call.Lost(10);
  EXPECT_EQ(CountOf(call.commands, Report::Kind::kStaleEvent), 3);
  call.Tokens(11, 1, {6});
  EXPECT_EQ(call.ids, (std::vector<TokenId>{5, 6}));
  EXPECT_EQ(Of<RouteCall>(call.commands).size(), 2);
}

TEST(RequestLifecycle, EndsByItselfWhatLackedOnlyTheGroupsWord) {
  Driver call(/*max_tokens=*/2);
  call.Arrive();
  call.Start(10);
  call.Tokens(10, 0, {5, 6});
  call.Lost(10);
  EXPECT_EQ(Of<RouteCall>(call.commands).size(), 1);
  EXPECT_TRUE(call.finished && call.status.ok());
  EXPECT_EQ(call.num_ends, 1);
}

TEST(RequestLifecycle, ASubmissionThatWentNowhereIsNoAttempt) {
  Driver call;
  call.Arrive();
  for (uint64_t attempt_id = 10; attempt_id < 20; ++attempt_id) {
    call.Start(attempt_id);
    call.lifecycle.OnSubmitRefused(call.now, call.commands);
  }
  EXPECT_EQ(Of<HoldGroup>(call.commands).size(), 10);
  EXPECT_EQ(Of<RouteCall>(call.commands).size(), 11);
  call.Start(20);
  EXPECT_EQ(Of<SubmitAttempt>(call.commands).back().attempt, 1);
  EXPECT_FALSE(call.finished);
}

TEST(RequestLifecycle, PassesOnWhatCanNotBeTriedAgain) {
  Driver call;
  call.Arrive();
  call.Start(10);
  call.Failed(10, absl::InvalidArgumentError("no"));
  EXPECT_EQ(call.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Of<CancelAttempt>(call.commands).size(), 1);
  EXPECT_EQ(call.Held(), -(3 + 8));
}

TEST(RequestLifecycle, SaysWhyTheAttemptBeforeEndedWhenNobodyTakesItAgain) {
  Driver call;
  call.Arrive();
  call.Start(10);
  call.Tokens(10, 0, {5});
  call.Lost(10);
  call.lifecycle.OnRefused(absl::UnavailableError("nobody"), call.commands);
  call.Settle();
  EXPECT_EQ(call.status.message(), "group g was lost after 1 output tokens; then nobody");
  EXPECT_EQ(call.ids, (std::vector<TokenId>{5}));
}

TEST(RequestLifecycle, IsNamedWhereItIsQuarantined) {
  Driver call;
  call.Arrive();
  call.Start(10);
  call.Lost(10);
  call.lifecycle.OnRefused(absl::InternalError("the request is quarantined"), call.commands);
  call.Settle();
  EXPECT_EQ(call.status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(call.status.message().find("request req-1: the request is quarantined"), absl::string_view::npos);
}

TEST(RequestLifecycle, AnEndThatNeverLeftIsNoEnd) {
  Driver call(8, 1, 1 << 20, kStart + milliseconds(100));
  call.Arrive();
  call.Start(10);
  // The client reads nothing: the last message and the end with it wait in the transport until the deadline.
  call.Tokens(10, 0, {5});
  call.Finished(10);
  ASSERT_TRUE(call.finished && call.lifecycle.end_status().ok());
  call.now = kStart + milliseconds(100);
  call.lifecycle.OnClientGone(call.now, call.commands);
  EXPECT_EQ(call.lifecycle.end_status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(RequestLifecycle, AClientThatGoesFreesTheGroupAndTheQueue) {
  for (const bool late : {false, true}) {
    Driver call(8, 1, 1 << 20, kStart + milliseconds(100));
    call.Arrive();
    call.Start(10);
    call.Tokens(10, 0, {5});
    call.now = kStart + milliseconds(late ? 99 : 80);
    call.lifecycle.OnClientGone(call.now, call.commands);
    call.Settle();
    EXPECT_EQ(call.status.code(), late ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kCancelled);
    EXPECT_EQ(Of<CancelAttempt>(call.commands).size(), 1);
    EXPECT_EQ(Of<WithdrawCall>(call.commands).size(), 1);
    // A start that was on its way is given back.
    const int64_t held = call.Held();
    call.Start(11);
    EXPECT_EQ(Of<SubmitAttempt>(call.commands).size(), 1);
    EXPECT_EQ(call.Held(), held - (3 + 7));
  }
}

TEST(RequestLifecycle, CutsAClientThatDoesNotReadAndThenItsConnection) {
  Driver call(/*max_tokens=*/1000, 1, /*max_buffer_bytes=*/100);
  call.reads = false;
  call.Arrive();
  call.Start(10);
  for (uint32_t i = 0; i < 40 && !call.lifecycle.ending(); ++i) call.Tokens(10, i, {5});
  EXPECT_TRUE(call.lifecycle.ending());
  EXPECT_EQ(CountOf(call.commands, Report::Kind::kStreamCut), 1);
  EXPECT_EQ(Of<CancelAttempt>(call.commands).size(), 1);
  ASSERT_EQ(Of<SetTimer>(call.commands).size(), 1);
  EXPECT_EQ(Of<SetTimer>(call.commands)[0].after, kLingerMax);
  EXPECT_FALSE(call.finished);
  call.lifecycle.OnTimer(call.commands);
  EXPECT_EQ(Of<CutClient>(call.commands).size(), 1);
  call.lifecycle.OnWriteDone(true, call.commands);
  call.Settle();
  EXPECT_EQ(call.status.code(), absl::StatusCode::kResourceExhausted);
}

TEST(RequestLifecycle, JoinsWhatComesDuringAWrite) {
  Driver call;
  call.reads = false;
  call.Arrive();
  call.Start(10);
  call.Tokens(10, 0, {5});
  call.Tokens(10, 1, {6});
  call.Tokens(10, 2, {7});
  EXPECT_EQ(Of<WriteStarted>(call.commands).size(), 1);
  EXPECT_TRUE(Of<WriteEvent>(call.commands).empty());
  call.reads = true;
  call.lifecycle.OnWriteDone(true, call.commands);
  call.Settle();
  EXPECT_EQ(Of<WriteEvent>(call.commands).size(), 1);
  EXPECT_EQ(call.ids, (std::vector<TokenId>{5, 6, 7}));
}

TEST(RequestLifecycle, EndsARequestWhoseGroupBreaksTheProtocol) {
  Driver call;
  call.Arrive();
  call.Start(10);
  call.Tokens(10, 5, {5});
  EXPECT_EQ(call.status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(CountOf(call.commands, Report::Kind::kProtocolBroken), 1);
  EXPECT_EQ(Of<CancelAttempt>(call.commands).size(), 1);
}

TEST(RequestLifecycle, ReleasesALaneWhenItEnds) {
  Driver call(/*max_tokens=*/4, /*num_choices=*/2);
  call.Arrive();
  call.Start(10);
  call.Tokens(10, 0, {5, 5, 5, 5}, 0);
  call.Finished(10, 0);
  EXPECT_EQ(call.Held(), -4);
  call.Lost(10);
  EXPECT_EQ(call.Held(), -(3 + 8));
  EXPECT_EQ(Of<RouteCall>(call.commands).back().request.needs->num_lanes, 1);
}

TEST(RequestLifecycle, NamesEachLifeOfAGroupItWasLostOnOnce) {
  Driver call(/*max_tokens=*/8);
  call.Arrive();
  call.now = kStart + milliseconds(5);
  call.Start(10);
  call.Tokens(10, 0, {5});
  call.Lost(10);
  call.Start(11);
  call.Failed(11, absl::UnavailableError("the epoch ended"));
  const auto routes = Of<RouteCall>(call.commands);
  ASSERT_EQ(routes.size(), 3);
  EXPECT_EQ(routes[0].request.since, kStart);
  EXPECT_EQ(routes[1].request.since, kStart + milliseconds(5));
  ASSERT_EQ(routes[2].request.lost_on.size(), 1);
  EXPECT_EQ(routes[2].request.lost_on[0].group_id, "g");
  call.Start(12);
  call.Lost(12);
  EXPECT_EQ(call.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(call.status.message().find("attempt 3 of 3"), absl::string_view::npos) << call.status;
}

TEST(RequestLifecycle, IsHandedOverWithoutUsingUpItsReplays) {
  Driver call(/*max_tokens=*/100);
  call.Arrive();
  for (uint64_t attempt_id = 10; attempt_id < 20; ++attempt_id) {
    call.Start(attempt_id);
    call.Tokens(attempt_id, static_cast<uint32_t>(attempt_id - 10), {5});
    call.lifecycle.OnHandOver(attempt_id, call.now, call.commands);
    EXPECT_EQ(Of<RouteCall>(call.commands).back().request.kind, RouteKind::kHandOver);
    EXPECT_EQ(Of<CancelAttempt>(call.commands).back().attempt_id, attempt_id);
  }
  EXPECT_EQ(call.ids.size(), 10);
  EXPECT_TRUE(Of<RouteCall>(call.commands).back().request.lost_on.empty());
  call.Start(20);
  call.Lost(20);
  EXPECT_FALSE(call.finished);
  EXPECT_EQ(Of<RouteCall>(call.commands).back().request.kind, RouteKind::kReplay);
}

TEST(RequestLifecycle, StaysWithADrainingGroupAfterTooManyHandOvers) {
  Driver call(/*max_tokens=*/100);
  call.Arrive();
  for (int i = 0; i <= kMaxHandOvers; ++i) {
    call.Start(10 + i);
    call.lifecycle.OnHandOver(10 + i, call.now, call.commands);
  }
  EXPECT_EQ(CountOf(call.commands, Report::Kind::kHandedOver), kMaxHandOvers);
  call.Tokens(10 + kMaxHandOvers, 0, {5});
  EXPECT_EQ(call.ids, (std::vector<TokenId>{5}));
}

TEST(RequestLifecycle, CarriesPriorityAndDeadlineAndAFingerprintWithoutTheSeed) {
  const auto request_of = [](uint64_t seed, TokenId token) {
    RequestLifecycle lifecycle({.arrival = kStart, .deadline = kStart + milliseconds(9), .priority = 3});
    ResolvedRequest request;
    request.prompt_token_ids = {1, token};
    request.sampling.seed = seed;
    lifecycle.Prepare(std::move(request), {});
    Commands commands;
    lifecycle.OnArrived(0, commands);
    return Of<RouteCall>(commands).at(0).request;
  };
  EXPECT_EQ(request_of(1, 2).priority, 3);
  EXPECT_EQ(request_of(1, 2).deadline, kStart + milliseconds(9));
  EXPECT_EQ(request_of(1, 2).needs->fingerprint, request_of(2, 2).needs->fingerprint);
  EXPECT_NE(request_of(1, 2).needs->fingerprint, request_of(1, 3).needs->fingerprint);
}

TEST(RequestLifecycle, GivesItsClientWhatThereIsWhenTheRouterEnds) {
  Driver call;
  call.Arrive();
  call.Start(10);
  call.reads = false;
  call.Tokens(10, 0, {5});
  call.Tokens(10, 1, {6});
  call.lifecycle.OnShutdown(absl::UnavailableError("shutting down"), call.commands);
  EXPECT_EQ(Of<CancelAttempt>(call.commands).size(), 1);
  EXPECT_EQ(Of<WithdrawCall>(call.commands).size(), 1);
  call.reads = true;
  call.lifecycle.OnWriteDone(true, call.commands);
  call.Settle();
  EXPECT_EQ(call.ids, (std::vector<TokenId>{5, 6}));
  EXPECT_EQ(call.status.code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace outrider::router
