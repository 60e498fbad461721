// StepCostModel: how long a step takes by its number of rows, from what was measured.
//
// Rows fall into buckets (1, 2, ... 8, then four to a power of two, each ending with a multiple of its width: products
// go in tiles of rows and cost in stairs, and the batch that fills its last tile must not be averaged with the one that
// begins another); each keeps an exponential average. Between buckets it interpolates, below the first and beyond the
// last it goes on with the nearest slope. More rows never cost less: a bucket counts as at most what a later one took.
// One that was seen a few times only counts as at most what those seen more often say of it.
//
// Thread safety: none.
#pragma once

#include <array>

#include "absl/types/span.h"

namespace outrider {

class StepCostModel {
 public:
  // Takes note of a step of num_rows >= 1 rows. Times that are not positive and finite are ignored.
  void Observe(int num_rows, double milliseconds);

  // Whether anything was measured; without, EstimateMs is 0.
  bool known() const { return num_known_ > 0; }
  double EstimateMs(int num_rows) const;
  // The most rows measured; 0 before.
  int most_rows() const;

  // The most rows, at most num_rows_max, whose step is thought to last no longer than `milliseconds`. Grows at most
  // twofold beyond what was measured; kRowsUnmeasured before the first measurement. At least 1.
  int RowsWithin(double milliseconds, int num_rows_max) const;

  static constexpr int kRowsUnmeasured = 64;

 private:
  static constexpr int kNumBuckets = 64;
  struct Bucket {
    double num_rows = 0;  // average of those seen
    double milliseconds = 0;
    int num_samples = 0;
  };
  struct Point {
    double num_rows = 0;
    double milliseconds = 0;
  };
  static int BucketOf(int num_rows);
  static void NeverFall(absl::Span<Point> points);
  // The curve through points, at least one, at num_rows.
  static double On(absl::Span<const Point> points, double num_rows);

  std::array<Bucket, kNumBuckets> buckets_;
  std::array<Point, kNumBuckets> points_;  // the first num_known_: known buckets, times not falling
  int num_known_ = 0;
};

}  // namespace outrider
