#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/rope/rope.h"

namespace outrider::kernels {
namespace {

constexpr double kTwoPi = 6.283185307179586476925286766559;

bool ParamsAreValid(const RopeParams& params) {
  if (params.rotary_dim < 2 || params.rotary_dim % 2 != 0) return false;
  if (!(params.base > 0) || !(params.factor > 0) || !std::isfinite(params.attention_factor)) return false;
  switch (params.scaling) {
    case RopeScaling::kNone:
    case RopeScaling::kLinear:
      return true;
    case RopeScaling::kLlama3:
      return params.low_freq_factor > 0 && params.high_freq_factor > params.low_freq_factor &&
             params.original_context > 0;
    case RopeScaling::kYarn:
      return params.beta_fast > 0 && params.beta_slow > 0 && params.original_context > 0;
    case RopeScaling::kFactors:
      return params.factors.size() == static_cast<size_t>(params.rotary_dim / 2) &&
             std::all_of(params.factors.begin(), params.factors.end(), [](float f) { return f > 0; });
  }
  return false;
}

double Llama3Frequency(const RopeParams& params, double frequency) {
  const double wavelength = kTwoPi / frequency;
  if (wavelength > params.original_context / params.low_freq_factor) return frequency / params.factor;
  if (wavelength < params.original_context / params.high_freq_factor) return frequency;
  const double smooth = (params.original_context / wavelength - params.low_freq_factor) /
                        (params.high_freq_factor - params.low_freq_factor);
  return (1 - smooth) * frequency / params.factor + smooth * frequency;
}

// The pair (a real number) that turns `num_rotations` times in the original context.
double YarnPairOf(const RopeParams& params, double num_rotations) {
  return params.rotary_dim * std::log(params.original_context / (num_rotations * kTwoPi)) / (2 * std::log(params.base));
}

double YarnFrequency(const RopeParams& params, int pair, double frequency) {
  double low = YarnPairOf(params, params.beta_fast);
  double high = YarnPairOf(params, params.beta_slow);
  if (params.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, params.rotary_dim - 1.0);
  if (low == high) high += 0.001;
  const double interpolated_share = std::clamp((pair - low) / (high - low), 0.0, 1.0);
  return frequency / params.factor * interpolated_share + frequency * (1 - interpolated_share);
}

}  // namespace

std::vector<double> RopeFrequencies(const RopeParams& params) {
  if (!ParamsAreValid(params)) return {};
  std::vector<double> frequencies(static_cast<size_t>(params.rotary_dim / 2));
  for (int pair = 0; pair < params.rotary_dim / 2; ++pair) {
    double frequency = std::pow(params.base, -2.0 * pair / params.rotary_dim);
    switch (params.scaling) {
      case RopeScaling::kNone:
        break;
      case RopeScaling::kLinear:
        frequency /= params.factor;
        break;
      case RopeScaling::kLlama3:
        frequency = Llama3Frequency(params, frequency);
        break;
      case RopeScaling::kYarn:
        frequency = YarnFrequency(params, pair, frequency);
        break;
      case RopeScaling::kFactors:
        frequency /= params.factors[static_cast<size_t>(pair)];
        break;
    }
    frequencies[static_cast<size_t>(pair)] = frequency;
  }
  return frequencies;
}

KernelError RopeTable::Create(const RopeParams& params, int max_positions, RopeTable* out) {
  if (max_positions < 1) return KernelError::kInvalidShape;
  const std::vector<double> frequencies = RopeFrequencies(params);
  if (frequencies.empty()) return KernelError::kInvalidShape;

  RopeTable table;
  table.num_pairs_ = params.rotary_dim / 2;
  table.max_positions_ = max_positions;
  table.layout_ = params.layout;
  const auto fill = [&](int num_steps, double step, double factor, std::vector<double>* cos, std::vector<double>* sin) {
    for (int i = 0; i < num_steps; ++i) {
      for (const double frequency : frequencies) {
        cos->push_back(factor * std::cos(i * step * frequency));
        sin->push_back(factor * std::sin(i * step * frequency));
      }
    }
  };
  const int num_high = (max_positions + kLowPositions - 1) / kLowPositions;
  fill(num_high, kLowPositions, params.attention_factor, &table.high_cos_, &table.high_sin_);
  fill(kLowPositions, 1, 1.0, &table.low_cos_, &table.low_sin_);
  *out = std::move(table);
  return KernelError::kOk;
}

void RopeTable::CosSin(int position, float* cos, float* sin) const {
  const size_t high = static_cast<size_t>(position / kLowPositions) * static_cast<size_t>(num_pairs_);
  const size_t low = static_cast<size_t>(position % kLowPositions) * static_cast<size_t>(num_pairs_);
  for (size_t p = 0; p < static_cast<size_t>(num_pairs_); ++p) {
    const double c = high_cos_[high + p] * low_cos_[low + p] - high_sin_[high + p] * low_sin_[low + p];
    const double s = high_sin_[high + p] * low_cos_[low + p] + high_cos_[high + p] * low_sin_[low + p];
    cos[p] = static_cast<float>(c);
    sin[p] = static_cast<float>(s);
  }
}

}  // namespace outrider::kernels
