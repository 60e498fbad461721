#include "cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/terminal.h"

namespace outrider {
namespace {

constexpr Duration kDrawInterval = std::chrono::milliseconds(100);
constexpr Duration kTellInterval = std::chrono::seconds(10);
constexpr int kBarMax = 30;
constexpr int kBarMin = 5;

std::string Remaining(double seconds) {
  if (!(seconds < 360000)) return "";
  const int64_t whole = static_cast<int64_t>(std::ceil(seconds));
  if (whole < 100) return absl::StrCat(", ", whole, " s left");
  if (whole < 6000) return absl::StrFormat(", %d:%02d left", whole / 60, whole % 60);
  return absl::StrFormat(", %d:%02d:%02d left", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string Figures(ProgressUnit unit, int64_t done, int64_t total, double elapsed_s) {
  const double rate = elapsed_s > 0 ? static_cast<double>(done) / elapsed_s : 0;
  const std::string left = rate > 0 && done < total ? Remaining(static_cast<double>(total - done) / rate) : "";
  if (unit == ProgressUnit::kBytes) {
    return absl::StrFormat("%.1f/%.1f MB, %.1f MB/s%s", static_cast<double>(done) / 1e6,
                           static_cast<double>(total) / 1e6, rate / 1e6, left);
  }
  return absl::StrFormat("%d/%d, %.1f/s%s", done, total, rate, left);
}

int Percent(int64_t done, int64_t total) {
  return total <= 0 ? 0 : static_cast<int>(100.0 * static_cast<double>(done) / static_cast<double>(total));
}

}  // namespace

std::string ProgressLine(const std::string& label, ProgressUnit unit, int64_t done, int64_t total, double elapsed_s) {
  return absl::StrFormat("%s %d%% %s", label, Percent(done, total), Figures(unit, done, total, elapsed_s));
}

std::string ProgressBar(const std::string& label, ProgressUnit unit, int64_t done, int64_t total, double elapsed_s,
                        int width) {
  const std::string figures = Figures(unit, done, total, elapsed_s);
  const std::string head = absl::StrFormat("%s %3d%%", label, Percent(done, total));
  const int room = width - static_cast<int>(head.size() + figures.size()) - 4;  // " [" and "] "
  std::string line;
  if (room >= kBarMin) {
    const int bar = std::min(room, kBarMax);
    const double share = total <= 0 ? 0 : std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    const int full = static_cast<int>(share * bar);
    line = absl::StrCat(head, " [", std::string(static_cast<size_t>(full), '#'),
                        std::string(static_cast<size_t>(bar - full), ' '), "] ", figures);
  } else if (static_cast<int>(head.size() + figures.size()) + 1 <= width) {
    line = absl::StrCat(head, " ", figures);
  } else {
    line = figures;
  }
  return line.substr(0, static_cast<size_t>(std::max(0, width)));
}

Progress::Progress(std::string label, ProgressUnit unit, int64_t total, bool silent)
    : label_(std::move(label)),
      unit_(unit),
      total_(total),
      silent_(silent),
      on_terminal_(IsTerminal(STDERR_FILENO)),
      started_(std::chrono::steady_clock::now()),
      shown_at_(started_) {}

Progress::~Progress() { Finish(); }

void Progress::Update(int64_t done) {
  if (silent_) return;
  const TimePoint now = std::chrono::steady_clock::now();
  if (now - shown_at_ < (on_terminal_ ? kDrawInterval : kTellInterval)) return;
  shown_at_ = now;
  const double elapsed_s = std::chrono::duration<double>(now - started_).count();
  if (on_terminal_) {
    std::fprintf(stderr, "\r%s\x1b[K",
                 ProgressBar(label_, unit_, done, total_, elapsed_s, TerminalWidth(STDERR_FILENO) - 1).c_str());
    drawn_ = true;
  } else {
    std::fprintf(stderr, "%s\n", ProgressLine(label_, unit_, done, total_, elapsed_s).c_str());
  }
}

void Progress::Finish() {
  if (drawn_) std::fprintf(stderr, "\r\x1b[K");
  drawn_ = false;
}

}  // namespace outrider
