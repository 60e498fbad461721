#include "cli/child_watch.h"

namespace outrider {

void ChildWatch::Heard(Answer answer, TimePoint now) {
  if (now - looked_at_ > options_.silence_max / 2) good_at_ = now;
  looked_at_ = now;
  if (answer == Answer::kLive || answer == Answer::kReady) {
    good_at_ = now;
    answered_ = true;
  }
  if (answer != Answer::kReady) {
    ready_since_.reset();
  } else if (!ready_since_) {
    ready_since_ = now;
  }
  hangs_ = now - good_at_ > (answered_ ? options_.silence_max : options_.start_max);
}

}  // namespace outrider
