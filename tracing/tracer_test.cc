#include "tracing/tracer.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace outrider {
namespace {

class NoSink final : public SpanSink {
 public:
  void Add(std::vector<TraceSpan>) override {}
};

TEST(Tracer, GivesEveryRequestAndEverySpanAnIdOfItsOwn) {
  Tracer tracer(std::make_unique<NoSink>(), 1, {1, 2});
  Tracer other(std::make_unique<NoSink>(), 1);
  std::set<std::string> traces;
  std::set<SpanId> spans = {0};
  for (int i = 0; i < 1000; ++i) {
    for (Tracer* t : {&tracer, &other}) {
      const TraceContext context = t->Enter(std::nullopt);
      EXPECT_TRUE(traces.insert(ToHex(context.trace)).second);
      EXPECT_EQ(context.span, 0u);
      EXPECT_TRUE(context.sampled);
      EXPECT_TRUE(spans.insert(t->NewSpanId()).second);
    }
  }
}

TEST(Tracer, KeepsTheClientsTraceAndItsChoice) {
  Tracer all(std::make_unique<NoSink>(), 1, {1, 2});
  Tracer none(std::make_unique<NoSink>(), 0, {1, 2});
  const TraceContext wanted{.trace = {3, 4}, .span = 5, .sampled = true};
  const TraceContext unwanted{.trace = {3, 4}, .span = 5, .sampled = false};
  EXPECT_EQ(none.Enter(wanted), wanted);
  EXPECT_EQ(all.Enter(unwanted), unwanted);
  EXPECT_FALSE(none.Enter(std::nullopt).sampled);
}

TEST(Tracer, RecordsAboutTheShareThatIsAskedFor) {
  Tracer tracer(std::make_unique<NoSink>(), 0.25, {7, 8});
  int num_sampled = 0;
  constexpr int kRequests = 10000;
  for (int i = 0; i < kRequests; ++i) num_sampled += tracer.Enter(std::nullopt).sampled;
  // Binomial: 2500 with a deviation of 43; the ids are the same in every run.
  EXPECT_NEAR(num_sampled, 2500, 6 * 43);
}

TEST(Tracer, ChoosesByTheTraceAloneAndMoreWithAHigherRatio) {
  const TraceId id{.high = 1, .low = uint64_t{1} << 63};  // in the middle
  EXPECT_FALSE(IsSampled(id, 0.5));
  EXPECT_TRUE(IsSampled(id, 0.5001));
  EXPECT_TRUE(IsSampled({.high = 1, .low = 0}, 1e-9));
  EXPECT_FALSE(IsSampled({.high = 1, .low = 0}, 0));
  EXPECT_TRUE(IsSampled({.high = 1, .low = ~uint64_t{0}}, 1));
  EXPECT_FALSE(IsSampled({.high = 1, .low = ~uint64_t{0}}, 0.999999));
}

TEST(WallClock, KeepsDistances) {
  const TimePoint steady = TimePoint() + std::chrono::hours(5);
  const auto wall = std::chrono::system_clock::from_time_t(1'700'000'000);
  const WallClock clock(steady, wall);
  EXPECT_EQ(clock.UnixNanos(steady), 1'700'000'000'000'000'000);
  EXPECT_EQ(clock.UnixNanos(steady - std::chrono::microseconds(3)), 1'700'000'000'000'000'000 - 3000);
}

}  // namespace
}  // namespace outrider
