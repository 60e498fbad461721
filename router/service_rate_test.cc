#include "router/service_rate.h"

#include <gtest/gtest.h>

namespace outrider::router {
namespace {

using std::chrono::milliseconds;
constexpr TimePoint kStart{};

TEST(ServiceRate, MeasuresOnlyWhileSomebodyWaits) {
  ServiceRate rate;
  TimePoint now = kStart;
  for (int i = 0; i < 100; ++i) rate.Served(1000, milliseconds(10), now += milliseconds(100));
  EXPECT_FALSE(rate.TokensPerSecond(0, now).has_value());
  rate.SetBusy(true, now);
  for (int i = 0; i < 40; ++i) rate.Served(50, milliseconds(200), now += milliseconds(100));
  ASSERT_TRUE(rate.TokensPerSecond(0, now).has_value());
  EXPECT_NEAR(*rate.TokensPerSecond(0, now), 500, 25);
  rate.SetBusy(false, now);
  const double before = *rate.TokensPerSecond(0, now);
  now += std::chrono::hours(1);
  EXPECT_EQ(*rate.TokensPerSecond(0, now), before);
}

TEST(ServiceRate, GuessesByPlacesAndServiceTimeUntilItHasMeasured) {
  ServiceRate rate;
  EXPECT_FALSE(rate.TokensPerSecond(16, kStart).has_value());
  for (int i = 0; i < 10; ++i) rate.Served(50, milliseconds(500), kStart);
  EXPECT_NEAR(*rate.TokensPerSecond(16, kStart), 16 * 50 / 0.5, 1);
  rate.SetBusy(true, kStart);
  TimePoint now = kStart;
  for (int i = 0; i < 40; ++i) rate.Served(50, milliseconds(500), now += milliseconds(100));
  EXPECT_NEAR(*rate.TokensPerSecond(16, now), 500, 25);
}

TEST(ServiceRate, ForgetsWhatIsOld) {
  ServiceRate rate;
  TimePoint now = kStart;
  rate.SetBusy(true, now);
  for (int i = 0; i < 300; ++i) rate.Served(100, milliseconds(1), now += milliseconds(100));
  EXPECT_NEAR(*rate.TokensPerSecond(0, now), 1000, 20);
  for (int i = 0; i < 300; ++i) rate.Served(10, milliseconds(1), now += milliseconds(100));
  EXPECT_NEAR(*rate.TokensPerSecond(0, now), 100, 20);
}

TEST(ServiceRate, SaysNothingFromFewRequestsOrOfAStandstill) {
  ServiceRate rate;
  TimePoint now = kStart;
  rate.SetBusy(true, now);
  for (int i = 0; i < 5; ++i) rate.Served(10, milliseconds(500), now += milliseconds(200));
  EXPECT_FALSE(rate.TokensPerSecond(0, now).has_value()) << "the short ones of a first batch";
  for (int i = 0; i < 20; ++i) rate.Served(10, milliseconds(500), now += milliseconds(10));
  EXPECT_TRUE(rate.TokensPerSecond(0, now).has_value());
  EXPECT_FALSE(rate.TokensPerSecond(0, now + std::chrono::seconds(20)).has_value());
}

TEST(ServiceRate, KnowsHowLongARequestLasts) {
  ServiceRate rate;
  EXPECT_EQ(rate.MeanServiceTime(), Duration::zero());
  for (int i = 0; i < 1000; ++i) rate.Served(1, milliseconds(i % 2 == 0 ? 100 : 300), kStart);
  EXPECT_NEAR(ToMillis(rate.MeanServiceTime()), 200, 2);
}

}  // namespace
}  // namespace outrider::router
