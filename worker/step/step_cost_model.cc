#include "worker/step/step_cost_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace outrider {
namespace {

// An average follows the last ten or so steps, and more quickly while there are fewer.
constexpr double kWeightMin = 0.1;

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

  num_known_ = 0;
  for (const Bucket& known : buckets_) {
    if (known.num_samples > 0) points_[num_known_++] = {known.num_rows, known.milliseconds};
  }
  for (int i = num_known_ - 2; i >= 0; --i) {
    points_[i].milliseconds = std::min(points_[i].milliseconds, points_[i + 1].milliseconds);
  }
}

int StepCostModel::most_rows() const {
  return num_known_ == 0 ? 0 : static_cast<int>(points_[num_known_ - 1].num_rows);
}

double StepCostModel::EstimateMs(int num_rows) const {
  if (num_known_ == 0) return 0;
  const Point& first = points_[0];
  if (num_known_ == 1) return first.milliseconds * std::max(1.0, num_rows / first.num_rows);
  // The segment around num_rows, or the nearest one.
  int i = 1;
  while (i < num_known_ - 1 && points_[i].num_rows < num_rows) ++i;
  const Point &a = points_[i - 1], &b = points_[i];
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
