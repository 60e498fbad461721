#include "tests/simulation/trace.h"

#include <cstdio>

namespace outrider::simulation {
namespace {

void PrintHead(std::ostream& out, TimePoint now, absl::string_view process) {
  char head[64];
  std::snprintf(head, sizeof(head), "%12.3f ms  %-14.*s ", ToMillis(now - TimePoint{}),
                static_cast<int>(process.size()), process.data());
  out << head;
}

}  // namespace

void Trace::Add(TimePoint now, int process_index, absl::string_view process, const char* what,
                std::initializer_list<Field> fields) {
  ++num_entries_;
  Mix(static_cast<uint64_t>(now.time_since_epoch().count()));
  Mix(static_cast<uint64_t>(process_index));
  for (const char* c = what; *c != 0; ++c) Mix(static_cast<uint64_t>(*c));
  for (const Field& field : fields) Mix(static_cast<uint64_t>(field.value));
  if (out_ == nullptr) return;
  PrintHead(*out_, now, process);
  *out_ << what;
  for (const Field& field : fields) *out_ << "  " << field.name << " " << field.value;
  *out_ << "\n";
}

void Trace::Note(TimePoint now, absl::string_view process, absl::string_view words) {
  if (out_ == nullptr) return;
  PrintHead(*out_, now, process);
  *out_ << "  # " << std::string(words) << "\n";
}

}  // namespace outrider::simulation
