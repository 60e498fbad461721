// What clients of the benchmark do, and what they saw: streams that start at given times, whether or not those before
// have ended, over gRPC (grpc_streams.h) or HTTP (http_streams.h).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "benchmarks/edge/paced_output.h"

namespace outrider::edge {

struct StreamLoad {
  std::vector<Duration> starts;  // from the begin of the load, not falling
  OutputPace pace;
  int num_prompt_tokens = 32;
  uint32_t max_tokens = 4;
  // Clients read one message and nothing more.
  bool stop_reading = false;
  // Streams that are open then are cancelled, from the begin of the load. Zero: none is.
  Duration cancel_after{};
};

struct StreamFigures {
  std::vector<double> first_ms;  // from a stream's start to its first message
  std::vector<double> gap_ms;    // between messages with tokens
  std::vector<double> late_ms;   // how late streams were started
  int num_complete = 0;          // with every token and an end
  int num_cancelled = 0;
  std::map<std::string, int> failures;  // all others, by what happened

  int num_failed() const;
  // "3 x UNAVAILABLE: ..."; empty if there is none.
  std::string WhatFailed() const;
};

// Starts at random times (Poisson) at `rate` a second in the mean, for `seconds`.
std::vector<Duration> RandomStarts(double rate, double seconds, uint64_t seed);
// `count` starts, evenly over `seconds`.
std::vector<Duration> EvenStarts(int count, double seconds);

double Milliseconds(Duration duration);
// By the nearest rank; 0 of nothing.
double Quantile(std::vector<double> values, double q);

}  // namespace outrider::edge
