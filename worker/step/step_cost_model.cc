#include "worker/step/step_cost_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace outrider {
namespace {

// An average follows the last ten or so steps, and more quickly while there are fewer.
constexpr double kWeightMin = 0.1;

}  // namespace

// Four buckets a power of two: 1, 2, 3, 4, 5, 6, 7, 8-9, 10-11, 12-13, 14-15, 16-19, ...
int StepCostModel::BucketOf(int num_rows) {
  const unsigned rows = static_cast<unsigned>(std::max(num_rows, 1));
  if (rows < 8) return static_cast<int>(rows) - 1;
  const int log2 = std::bit_width(rows) - 1;
  const int quarter = static_cast<int>(rows >> (log2 - 2)) & 3;
  return std::min(7 + (log2 - 3) * 4 + quarter, kNumBuckets - 1);
}

void StepCostModel::Observe(int num_rows, double milliseconds) {
  if (!(milliseconds > 0) || !std::isfinite(milliseconds) || num_rows < 1) return;
  Bucket& bucket = buckets_[BucketOf(num_rows)];
  if (bucket.num_samples == 0) ++num_known_;
  ++bucket.num_samples;
  const double weight = std::max(kWeightMin, 1.0 / bucket.num_samples);
  // One interrupted step does not count for more than a few: the machine has other things to do at times.
  if (bucket.num_samples > 3) milliseconds = std::min(milliseconds, 4 * bucket.milliseconds);
  bucket.num_rows += weight * (num_rows - bucket.num_rows);
  bucket.milliseconds += weight * (milliseconds - bucket.milliseconds);
}

bool StepCostModel::known(int num_rows) const { return buckets_[BucketOf(num_rows)].num_samples > 0; }

int StepCostModel::most_rows() const {
  for (int i = kNumBuckets - 1; i >= 0; --i) {
    if (buckets_[i].num_samples > 0) return static_cast<int>(buckets_[i].num_rows);
  }
  return 0;
}

double StepCostModel::EstimateMs(int num_rows) const {
  // Known buckets as points, times made non-decreasing; the segment around num_rows, or the nearest one.
  const Bucket* before = nullptr;
  double x0 = 0, y0 = 0, x1 = 0, y1 = 0;
  int num_points = 0;
  double highest = 0;
  for (const Bucket& bucket : buckets_) {
    if (bucket.num_samples == 0) continue;
    highest = std::max(highest, bucket.milliseconds);
    x0 = x1, y0 = y1;
    x1 = bucket.num_rows, y1 = highest;
    ++num_points;
    if (before != nullptr && x1 >= num_rows) break;
    before = &bucket;
  }
  if (num_points == 0) return 0;
  if (num_points == 1) return num_rows <= x1 ? y1 : y1 * num_rows / x1;
  const double estimate = y0 + (y1 - y0) / (x1 - x0) * (num_rows - x0);
  // Fewer rows than any seen cost at least their share.
  if (num_rows < x0) return std::max(estimate, y0 * num_rows / x0);
  return estimate;
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
