// The figures of a run: of each its median over the rounds with the least and the most, and what it should be.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace outrider::edge {

struct Figure {
  std::string name;
  std::string unit;
  std::vector<double> values;          // one a round
  std::optional<double> goal_at_most;  // of the median
};

class Report {
 public:
  // One more round's value of a figure, which keeps the place of its first.
  void Add(const std::string& name, const std::string& unit, double value,
           std::optional<double> goal_at_most = std::nullopt);
  // What the figures mean nothing without: requests that failed, clients that were late.
  void Note(const std::string& text) { notes_.push_back(text); }

  std::string ToText() const;
  // {"figures": [{"name", "unit", "median", "least", "most", "rounds", "goal_at_most", "met"}], "notes": []}
  std::string ToJson() const;

 private:
  std::vector<Figure> figures_;
  std::vector<std::string> notes_;
};

}  // namespace outrider::edge
