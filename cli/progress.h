// Progress of something long on standard error: a bar in place on a terminal, a plain line now and then otherwise.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"

namespace outrider {

enum class ProgressUnit { kCount, kBytes };

// "requests  42% [########            ] 42/100, 3.1/s, 19 s left", at most `width` columns; bytes as "12.3/98.0 MB, 5.4
// MB/s". The bar goes first where there is no room, the label last. Pure.
std::string ProgressBar(const std::string& label, ProgressUnit unit, int64_t done, int64_t total, double elapsed_s,
                        int width);
// The same without a bar, for logs.
std::string ProgressLine(const std::string& label, ProgressUnit unit, int64_t done, int64_t total, double elapsed_s);

// Thread safety: none.
class Progress {
 public:
  // `total` > 0. On a terminal it is drawn ten times a second at most, elsewhere told every 10 s. `silent`: nothing is
  // ever shown.
  Progress(std::string label, ProgressUnit unit, int64_t total, bool silent = false);
  // As Finish.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Update(int64_t done);
  // Takes the bar away; a line that was told in plain stays.
  void Finish();

 private:
  const std::string label_;
  const ProgressUnit unit_;
  const int64_t total_;
  const bool silent_;
  const bool on_terminal_;
  const TimePoint started_;
  TimePoint shown_at_;
  bool drawn_ = false;
};

}  // namespace outrider
