#include "cli/arrival_process.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

namespace outrider {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

uint64_t Seed() {
  const char* const given = std::getenv("OUTRIDER_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::fprintf(stderr, "OUTRIDER_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

std::vector<double> Gaps(const std::vector<double>& times) {
  std::vector<double> gaps;
  for (size_t i = 0; i < times.size(); ++i) gaps.push_back(times[i] - (i == 0 ? 0 : times[i - 1]));
  return gaps;
}

// Greatest distance of two samples' distributions (Kolmogorov-Smirnov), by counting at every value: slow and plain.
double Distance(std::vector<double> a, std::vector<double> b) {
  double distance = 0;
  std::vector<double> all = a;
  all.insert(all.end(), b.begin(), b.end());
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  for (const double x : all) {
    const auto share = [x](const std::vector<double>& v) {
      return static_cast<double>(std::upper_bound(v.begin(), v.end(), x) - v.begin()) / static_cast<double>(v.size());
    };
    distance = std::max(distance, std::abs(share(a) - share(b)));
  }
  return distance;
}

// Two samples of n of one distribution are farther apart than this once in 10^9: sqrt(-ln(alpha / 2) / n).
double DistanceBound(double n) { return std::sqrt(-std::log(0.5e-9) / n); }

TEST(ArrivalProcess, GapsOfAPoissonProcessAreExponential) {
  const uint64_t seed = Seed();
  constexpr int kCount = 20000;
  const auto gaps = Gaps(ArrivalTimes({.request_rate = 4, .seed = seed}, kCount));
  std::mt19937_64 random(seed + 1);
  std::vector<double> reference;
  for (int i = 0; i < kCount; ++i) reference.push_back(-std::log1p(-std::generate_canonical<double, 53>(random)) / 4);
  EXPECT_LT(Distance(gaps, reference), DistanceBound(kCount));
}

TEST(ArrivalProcess, BurstinessIsTheShapeOfAGammaDistribution) {
  const uint64_t seed = Seed();
  constexpr int kCount = 20000;
  constexpr int kShape = 3;
  const auto gaps = Gaps(ArrivalTimes({.request_rate = 4, .burstiness = kShape, .seed = seed}, kCount));
  // A gamma variable of whole shape is the sum of so many exponential ones.
  std::mt19937_64 random(seed + 1);
  std::vector<double> reference, other_shape;
  for (int i = 0; i < kCount; ++i) {
    double sum = 0;
    for (int k = 0; k < kShape; ++k) sum -= std::log1p(-std::generate_canonical<double, 53>(random)) / (4 * kShape);
    reference.push_back(sum);
    other_shape.push_back(-std::log1p(-std::generate_canonical<double, 53>(random)) / 4);
  }
  EXPECT_LT(Distance(gaps, reference), DistanceBound(kCount));
  EXPECT_GT(Distance(gaps, other_shape), DistanceBound(kCount));  // the check can fail
}

TEST(ArrivalProcess, LastArrivalIsAtTheRateWhateverTheSeed) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto times = ArrivalTimes({.request_rate = 5, .burstiness = 0.3, .seed = seed}, 100);
    EXPECT_NEAR(times.back(), 20, 1e-9);
    EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
  }
  EXPECT_EQ(ArrivalTimes({.request_rate = 5, .seed = 1}, 9), ArrivalTimes({.request_rate = 5, .seed = 1}, 9));
  EXPECT_NE(ArrivalTimes({.request_rate = 5, .seed = 1}, 9), ArrivalTimes({.request_rate = 5, .seed = 2}, 9));
}

TEST(ArrivalProcess, InfiniteRateIsAllAtOnceAndInfiniteBurstinessIsEven) {
  EXPECT_EQ(ArrivalTimes({}, 3), (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(ArrivalTimes({.request_rate = 2, .burstiness = kInfinity}, 3), (std::vector<double>{0.5, 1, 1.5}));
  EXPECT_TRUE(ArrivalTimes({}, 0).empty());
}

TEST(ArrivalProcess, RampsGoFromStartToEnd) {
  ArrivalOptions options{
      .burstiness = kInfinity, .ramp = ArrivalOptions::Ramp::kLinear, .ramp_start = 1, .ramp_end = 5};
  EXPECT_EQ(RequestRate(options, 0, 5), 1);
  EXPECT_EQ(RequestRate(options, 2, 5), 3);
  EXPECT_EQ(RequestRate(options, 4, 5), 5);
  const std::vector<double> times = ArrivalTimes(options, 5);
  double now = 0;
  for (int i = 0; i < 5; ++i) EXPECT_NEAR(times[i], now += 1.0 / (1 + i), 1e-12);
  options.ramp = ArrivalOptions::Ramp::kExponential;
  options.ramp_end = 16;
  EXPECT_NEAR(RequestRate(options, 2, 5), 4, 1e-12);
  EXPECT_EQ(RequestRate(options, 0, 1), 1);
}

TEST(ArrivalProcess, RefusesWhatNoProcessHas) {
  const auto message = [](const ArrivalOptions& options) { return std::string(ValidateArrivals(options).message()); };
  EXPECT_EQ(message({.request_rate = 0}), "--request-rate 0 is out of range; it takes more than 0, and inf");
  EXPECT_NE(message({.request_rate = std::nan("")}), "");
  EXPECT_NE(message({.burstiness = -1}).find("--burstiness -1"), std::string::npos);
  using Ramp = ArrivalOptions::Ramp;
  EXPECT_NE(message({.request_rate = 2, .ramp = Ramp::kLinear, .ramp_start = 1, .ramp_end = 2}).find("not both"),
            std::string::npos);
  EXPECT_NE(message({.ramp = Ramp::kLinear, .ramp_start = 0, .ramp_end = 2}).find("--ramp-up-start-rps 0"),
            std::string::npos);
  EXPECT_NE(message({.ramp = Ramp::kLinear, .ramp_start = 3, .ramp_end = 2}).find("--ramp-up-end-rps 2"),
            std::string::npos);
  EXPECT_EQ(message({.ramp = Ramp::kExponential, .ramp_start = 3, .ramp_end = 3}), "");
}

}  // namespace
}  // namespace outrider
