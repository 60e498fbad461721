// Trace is what happened in a simulation, event by event: always a hash of it, and lines of text if somebody reads.
//
// Two runs of one seed have equal hashes, or the simulation depends on something that is not in the seed.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <string>

#include "absl/strings/string_view.h"
#include "base/clock.h"

namespace outrider::simulation {

class Trace {
 public:
  struct Field {
    const char* name;
    int64_t value;
  };

  explicit Trace(std::ostream* out = nullptr) : out_(out) {}

  // `process` and `what` are for readers; what counts is in the fields and the process's number.
  void Add(TimePoint now, int process_index, absl::string_view process, const char* what,
           std::initializer_list<Field> fields = {});
  // Words besides, for readers only.
  void Note(TimePoint now, absl::string_view process, absl::string_view words);

  bool has_reader() const { return out_ != nullptr; }
  uint64_t hash() const { return hash_; }
  int64_t num_entries() const { return num_entries_; }

 private:
  void Mix(uint64_t value) {
    hash_ = (hash_ ^ value) * 0x9e3779b97f4a7c15u;
    hash_ ^= hash_ >> 29;
  }

  std::ostream* const out_;
  uint64_t hash_ = 1;
  int64_t num_entries_ = 0;
};

}  // namespace outrider::simulation
