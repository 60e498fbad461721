#include "worker/step/step_cost_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace outrider {
namespace {

// An average follows the last ten or so steps, and more quickly while there are fewer.
constexpr double kWeightMin = 0.1;
// Before so many samples a bucket is taken to cost at most what its neighbours say: the first step of a size may be the
// one that was interrupted, and what looks dear is not tried again.
constexpr int kSamplesTrusted = 4;

}  // namespace

// Four buckets a power of two: 1, 2, 3, 4, 5, 6, 7, 8, 9-10, 11-12, 13-14, 15-16, 17-20, ...
int StepCostModel::BucketOf(int num_rows) {
  const unsigned rows = static_cast<unsigned>(std::max(num_rows, 1)) - 1;
  if (rows < 8) return static_cast<int>(rows);
  const int log2 = std::bit_width(rows) - 1;
  const int quarter = static_cast<int>(rows >> (log2 - 2)) & 3;
  return std::min(8 + (log2 - 3) * 4 + quarter, kNumBuckets - 1);
}

void StepCostModel::Observe(int num_rows, double milliseconds) {
  if (!(milliseconds > 0) || !std::isfinite(milliseconds) || num_rows < 1) return;
  Bucket& bucket = buckets_[BucketOf(num_rows)];
  ++bucket.num_samples;
  const double weight = std::max(kWeightMin, 1.0 / bucket.num_samples);
  // One interrupted step does not count for more than a few: the machine has other things to do at times.
  if (bucket.num_samples > 3) milliseconds = std::min(milliseconds, 4 * bucket.milliseconds);
  bucket.num_rows += weight * (num_rows - bucket.num_rows);
  bucket.milliseconds += weight * (milliseconds - bucket.milliseconds);

  std::array<Point, kNumBuckets> often;  // seen
  size_t num_often = 0;
  for (const Bucket& known : buckets_) {
    if (known.num_samples >= kSamplesTrusted) often[num_often++] = {known.num_rows, known.milliseconds};
  }
  const absl::Span<Point> trusted(often.data(), num_often);
  NeverFall(trusted);
  num_known_ = 0;
  for (const Bucket& known : buckets_) {
    if (known.num_samples == 0) continue;
    double known_ms = known.milliseconds;
    if (!trusted.empty() && known.num_samples < kSamplesTrusted)
      known_ms = std::min(known_ms, On(trusted, known.num_rows));
    points_[num_known_++] = {known.num_rows, known_ms};
  }
  NeverFall({points_.data(), static_cast<size_t>(num_known_)});
}

void StepCostModel::NeverFall(absl::Span<Point> points) {
  for (size_t i = points.size(); i-- > 1;) {
    points[i - 1].milliseconds = std::min(points[i - 1].milliseconds, points[i].milliseconds);
  }
}

int StepCostModel::most_rows() const {
  return num_known_ == 0 ? 0 : static_cast<int>(points_[num_known_ - 1].num_rows);
}

double StepCostModel::EstimateMs(int num_rows) const {
  return num_known_ == 0 ? 0 : On(absl::MakeConstSpan(points_).first(num_known_), num_rows);
}

double StepCostModel::On(absl::Span<const Point> points, double num_rows) {
  const Point& first = points[0];
  if (points.size() == 1) return first.milliseconds * std::max(1.0, num_rows / first.num_rows);
  // The segment around num_rows, or the nearest one.
  size_t i = 1;
  while (i < points.size() - 1 && points[i].num_rows < num_rows) ++i;
  const Point &a = points[i - 1], &b = points[i];
  const double slope = (b.milliseconds - a.milliseconds) / (b.num_rows - a.num_rows);
  const double estimate = a.milliseconds + slope * (num_rows - a.num_rows);
  // Fewer rows than any seen cost at least their share.
  return std::max(estimate, first.milliseconds * std::min(1.0, num_rows / first.num_rows));
}

int StepCostModel::RowsWithin(double milliseconds, int num_rows_max) const {
  if (!known()) return std::max(1, std::min(kRowsUnmeasured, num_rows_max));
  int low = 1, high = std::max(1, std::min(num_rows_max, std::max(2 * most_rows(), kRowsUnmeasured)));
  while (low < high) {
    const int middle = low + (high - low + 1) / 2;
    if (EstimateMs(middle) <= milliseconds) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

}  // namespace outrider
